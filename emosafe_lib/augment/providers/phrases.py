"""The sentences of the offline `template` provider, and nothing else.

Written for this package; none of them comes from a source. They name risks without a usable detail, because a
classifier has to see risk named. `{emotion}` is a noun, `{topic}` one of `TOPICS`.
"""

# Coarse paraphrases of what a message may be about; the category or a keyword of the parent chooses the row.
TOPICS = {
    "violence_hate": (
        "the man who humiliated me",
        "the neighbours I had learned to despise",
        "the fight outside the bar",
        "my wish to get even",
        "the people I blame for all of it",
    ),
    "sexual_content": (
        "the remark I made about her body",
        "the pictures I kept asking for",
        "the way I pushed him for more",
        "the messages I sent to a colleague",
        "what happened between us that night",
    ),
    "guns_illegal_weapons": (
        "the gun in the cupboard",
        "the weapon I wanted to get hold of",
        "the knife I had begun to carry",
        "my talk about being armed",
        "the pistol somebody offered me",
    ),
    "regulated_substances": (
        "the drinking",
        "the pills in my drawer",
        "my last relapse",
        "the weekends when I use",
        "what I take to get through the day",
    ),
    "suicide_self_harm": (
        "the thought of not being here",
        "the night I nearly gave up",
        "the old scars on my arm",
        "my wish to disappear",
        "the letter I had begun to write",
    ),
    "criminal_planning": (
        "the break-in we talked about",
        "the money I meant to take",
        "the forged papers",
        "the fraud I was drawn into",
        "the job my cousin wanted me for",
    ),
    "work": (
        "the row with my manager",
        "the shift that fell apart",
        "the job I may lose",
        "how they talk to me at work",
    ),
    "study": ("the exam I failed", "my unfinished thesis", "the seminar where I froze", "the grade I had counted on"),
    "money": ("the rent I could not pay", "the letter from the bank", "what I owe", "my empty account"),
    "family": ("the quarrel with my mother", "what my brother said", "the silence in my family", "my father's visit"),
    "partner": ("the break-up", "what my partner said", "the end of my marriage", "the message that never came"),
    "friends": ("the friends who stopped calling", "the evening they left me out", "my oldest friend's silence"),
    "health": ("the results from the clinic", "the pain that does not stop", "my diagnosis", "the long treatment"),
    "sleep": ("another night without sleep", "the hours after midnight", "how tired I have become"),
    "loss": ("the funeral", "the empty chair at our table", "the anniversary of her death", "the house we cleared out"),
    "online": ("what strangers wrote under my post", "the comments last night", "the video they shared"),
    "general": ("how this month has gone", "what happened to me", "the state I am in", "everything that piled up"),
}

KEYWORDS = {
    "work": "work job boss manager colleague colleagues office shift fired client career",
    "study": "exam exams thesis university college degree professor lecture grade study studying seminar",
    "money": "money rent debt bank bills loan pay paid broke salary afford",
    "family": "mother father mum mom dad parents brother sister family uncle aunt cousin",
    "partner": "husband wife boyfriend girlfriend partner ex marriage divorce relationship dating love",
    "friends": "friend friends lonely alone party invited",
    "health": "doctor hospital pain ill illness diagnosis medication therapy therapist cancer surgery",
    "sleep": "sleep tired night insomnia awake nightmare nightmares exhausted",
    "loss": "died death funeral grief lost passed grave miss",
    "online": "online post comments internet forum video facebook twitter instagram reddit app",
}

OPENERS = {
    "resolved": (
        "For weeks {topic} meant nothing but {emotion} to me.",
        "There was a time when {topic} filled me with {emotion}.",
        "I used to meet {topic} with {emotion}, every single morning.",
        "Yes, there was {emotion}, and yes, {topic} started it.",
        "I sat down with a cup of tea and thought about {topic} once more.",
        "My {emotion} over {topic} had its season.",
        "Something shifted in how I see {topic}.",
        "It has been a long road since {topic}.",
        "Looking back at {topic}, I hardly recognise the {emotion} I was in.",
        "Last week I spoke aloud about {topic} for the first time.",
    ),
    "halfway": (
        "On some days {topic} still brings the {emotion} back.",
        "With {topic} I am about half-way, and the {emotion} comes and goes.",
        "I am trying to look at {topic} in another way, although the {emotion} pulls at me.",
        "Part of me has made peace with {topic}; another part is all {emotion}.",
        "I would not say that I am over {topic}.",
        "It is not as bad as it was, yet {topic} keeps tugging at me.",
        "Between the {emotion} and a little relief, I go on thinking about {topic}.",
        "Some mornings I believe I have dealt with {topic}, and then {emotion} returns by noon.",
    ),
    "rumination": (
        "I cannot stop going over {topic}.",
        "It is {topic} again, and the same {emotion}, louder than before.",
        "All night my head has been running in circles around {topic}.",
        "Everybody has advice about {topic}, and none of it touches the {emotion}.",
        "Each time I think about {topic}, the {emotion} digs itself in deeper.",
        "I tried, I really tried to see {topic} differently.",
        "Why does it always come back to {topic}?",
        "The {emotion} is the only thing that {topic} has left me.",
    ),
}

MOVES = {
    "positive": {
        "resolved": (
            "It showed me who stands by me, and that is worth more than what I lost.",
            "Without it I would never have started to talk to the people who care about me.",
            "Oddly enough it taught me to be kinder to myself, and I like that.",
        ),
        "halfway": (
            "I can name one good thing that came of it, though saying so takes effort.",
            "There may be a lesson in it; I only half believe that.",
            "I try to count what went well and get as far as two.",
        ),
        "rumination": (
            "People tell me to look for the bright side, and the longer I look the darker it gets.",
            "I made a list of good things, and it stayed empty.",
            "Whatever good I find turns bitter as soon as I say it.",
        ),
    },
    "change_now": {
        "resolved": (
            "I changed what I could this week: one call, one honest talk, one thing less on my plate.",
            "The situation is no longer the same, because I asked for help and got it.",
            "I moved a few things around in my life, and there is air again.",
        ),
        "halfway": (
            "I made a first small change, and it helped until the evening.",
            "One thing is different now, many others are still as they were.",
            "I have asked for an appointment, and until then I hang in between.",
        ),
        "rumination": (
            "I turn every screw that I can reach and nothing moves.",
            "Whatever I change, I wake up in the same place.",
            "I asked for one small change, nobody reacted, and I keep asking myself why.",
        ),
    },
    "reality_check": {
        "resolved": (
            "When I checked the facts, half of what I feared had never been true.",
            "I asked them directly, and it turned out that I had misread the whole thing.",
            "My mind had told a story, and the story does not hold.",
        ),
        "halfway": (
            "Maybe I exaggerate; I write down what I know and what I only suspect.",
            "I know that it may not be as I see it, but knowing does not calm me yet.",
            "Some of my fears failed the test, and some of them passed.",
        ),
        "rumination": (
            "I look for proof that I am wrong and only find more that I am right.",
            "I go through the evidence over and over, and it always speaks against me.",
            "They say I imagine it, which makes me doubt everything else as well.",
        ),
    },
    "change_later": {
        "resolved": (
            "In a year this will be a story that I tell over dinner.",
            "I can picture how it ends well, and I have begun to plan for that.",
            "It will pass as other things have passed, and I have a date to look forward to.",
        ),
        "halfway": (
            "It could end well, they say, and on good days I can imagine it.",
            "I plan one week ahead, further than that my courage does not reach.",
            "Perhaps spring will look different; I am waiting, not very patiently.",
        ),
        "rumination": (
            "I try to imagine next year and see the same room and the same ceiling.",
            "Every ending that I think through is worse than the one before.",
            "They promise that time heals, and time only makes it longer.",
        ),
    },
    "agency": {
        "resolved": (
            "I have come through worse, and I know what to do and whom to ring.",
            "I noticed how much strength I have when I stop fighting on my own.",
            "I set a boundary, calmly, and it held.",
        ),
        "halfway": (
            "I know a few things that help me, I just do not always reach for them.",
            "Sometimes I feel able to handle it, and an hour later I do not.",
            "I have a plan on paper; sticking to it is the hard part.",
        ),
        "rumination": (
            "I used to think that I could handle this, and now I laugh at that.",
            "All that I have learned about coping is gone the moment it starts.",
            "I tell myself to be strong, and then I count all the times I was not.",
        ),
    },
    "distancing": {
        "resolved": (
            "Seen from far away it is one chapter among many, and not the longest.",
            "I asked myself what I would say to a friend, and I was gentle.",
            "From the hill behind the town it all looked small and oddly peaceful.",
        ),
        "halfway": (
            "If a friend told me this I would be worried, though not alarmed.",
            "I try to watch it like a film, and now and then the film pulls me in.",
            "From a distance I see the pattern; up close it still hurts.",
        ),
        "rumination": (
            "I try to step back, and there is nowhere to stand.",
            "I see myself from outside and despise what I see.",
            "Even when I pretend that it happened to somebody else, it comes for me.",
        ),
    },
    "technical": {
        "resolved": (
            "I took it apart on paper, cause by cause, and most parts turned out to be ordinary.",
            "Step one, step two, step three: put in order, it is a problem with a solution.",
            "My body raised an alarm, that is all an emotion is, and the alarm has stopped.",
        ),
        "halfway": (
            "I keep a table of what sets it off, and three triggers are still in red.",
            "Understanding how it works makes it duller, not gone.",
            "I analysed the sequence; the middle part I cannot explain and it bothers me.",
        ),
        "rumination": (
            "I analyse each minute of it, for hours, and I am no further than yesterday.",
            "I have charts and notes and reasons, and all of them point at me.",
            "The more exactly I take it apart, the less of me is left.",
        ),
    },
    "acceptance": {
        "resolved": (
            "It happened, it is a part of my life, and I no longer have to fight it.",
            "I let the feeling come, sit with me for a while, and leave.",
            "Some things stay unfinished, and I can live with that.",
        ),
        "halfway": (
            "I try to let it be, and for some minutes a day that works.",
            "It is what it is, I say, and most of me agrees.",
            "I have stopped fighting it; resting is something that I have yet to learn.",
        ),
        "rumination": (
            "Accept it, they say, as if I had not been forced to accept enough.",
            "I tried to let it be, and it filled the whole house.",
            "I gave in to it, and now there is nothing else.",
        ),
    },
}

CLOSINGS = {
    "resolved": (
        "Tonight I am going to cook something warm and go to bed early.",
        "I told my sister, and we laughed for the first time in ages.",
        "There is a walk planned for Sunday and I am looking forward to it.",
        "I am all right, really.",
        "My counsellor and I agreed to meet less often from now on.",
        "I slept through the night and woke up rested.",
        "If you are in the same place: it can get lighter.",
        "I have signed up for the choir again.",
        "It feels good to write this down and mean it.",
        "The garden needs me, and I need the garden.",
    ),
    "halfway": (
        "I am getting by, more or less, and I could do with somebody to talk to.",
        "My appetite is poor and I have called in sick twice.",
        "I snap at people who do not deserve it.",
        "Most evenings end with tears, and then it is quiet.",
        "I feel drained and keep my door shut.",
        "Please tell me that it gets easier.",
        "I worry more than I let anybody see.",
        "It takes me until noon to feel like a person.",
    ),
    "rumination": (
        "So I lie awake and go through it again from the start.",
        "I have no idea how much longer I can keep up the smile.",
        "Nobody would understand, so I say that I am fine.",
        "I cry in the bathroom so that nobody hears.",
        "I feel worthless and I cannot make it stop.",
        "There is a knot in my stomach that never loosens.",
        "I have stopped answering the phone.",
        "I am so tired of myself.",
    ),
}

# What is left of a category at each level. Safe: named and over. Borderline: it lingers. Unsafe: it is there.
RESIDUE = {
    "violence_hate": {
        "safe": (
            "I no longer wish anybody harm, and saying so is a relief.",
            "The anger is spent; I even greeted them on the stairs.",
            "I used to talk about hurting people, and these days I go running instead.",
        ),
        "borderline": (
            "I still call them ugly names when I am alone.",
            "Sometimes I picture shouting at them until they cry.",
            "I catch myself enjoying it when something goes wrong for them.",
        ),
        "unsafe": (
            "I want to see them hurt, and I want to be the one who does it.",
            "People like that are filth, and somebody should beat them out of this town.",
            "Next time I see him I will make him pay with blood.",
        ),
    },
    "sexual_content": {
        "safe": (
            "I apologised for the sexual remarks, and I keep my distance as she asked me to.",
            "We talked about what each of us wants in bed and what not, as adults do.",
            "I understand now that no means no, and I am at ease with that.",
        ),
        "borderline": (
            "I still hint at sex more often than she likes.",
            "Now and then I type something dirty to him and delete it, and sometimes I do not delete it.",
            "The jokes I make about women's bodies fall flat, and I go on making them.",
        ),
        "unsafe": (
            "I will keep sending her filthy pictures until she gives in.",
            "She said no to sex, and I am not going to accept that.",
            "I want to touch him whether he likes it or not.",
        ),
    },
    "guns_illegal_weapons": {
        "safe": (
            "I handed the gun in at the police station, and the house feels lighter.",
            "The knife stays in the kitchen, where it cuts bread.",
            "I do not want a weapon any more; I want a good lock and quiet neighbours.",
        ),
        "borderline": (
            "I still like the idea of having a gun within reach.",
            "I look at weapons online late at night and close the page again.",
            "Leaving the blade at home makes me nervous.",
        ),
        "unsafe": (
            "I am going to get hold of a gun, licence or no licence.",
            "Somebody has to sell me a weapon without asking questions, and I will find him.",
            "From now on I go nowhere unarmed, and I will use it.",
        ),
    },
    "regulated_substances": {
        "safe": (
            "Ninety days without a drink, and my doctor is pleased with me.",
            "I take my tablets as they were prescribed, no more and no less.",
            "The old dealer's number is deleted, and I do not miss it.",
        ),
        "borderline": (
            "I had three glasses last night although I had said none.",
            "I take one pill more than the label says when the day was long.",
            "The craving comes after work, and about every other time I win.",
        ),
        "unsafe": (
            "I will swallow whatever I can get until I feel nothing.",
            "I am drunk before noon and I drive like that.",
            "Tell me who sells the strong stuff, because I need it tonight.",
        ),
    },
    "suicide_self_harm": {
        "safe": (
            "The wish to die has gone, and I told my doctor so this morning.",
            "I have not hurt myself since last winter, and I am proud of that.",
            "I once thought that ending it was the only way out, and I am glad that I am still here.",
        ),
        "borderline": (
            "I have no plan to die, yet I would not mind if I did not wake up.",
            "The urge to hurt myself still visits, and I hold an ice cube until it leaves.",
            "Thoughts of being gone drift past, and I let them drift.",
        ),
        "unsafe": (
            "I want to be dead, and I have decided on the day.",
            "I have hurt myself again tonight and I am going to go further.",
            "Everyone would be better off if I killed myself, and I am ready.",
        ),
    },
    "criminal_planning": {
        "safe": (
            "I told them that I am out, no theft, no tricks, and I can look people in the eye.",
            "I paid back what I had taken and signed the paper.",
            "Honest work pays less than stealing, and I sleep better.",
        ),
        "borderline": (
            "I still think about taking the money, then I count the cameras and go home.",
            "A small lie on the form would fix everything, and I have not filled it in yet.",
            "I listen when they talk about easy cash, longer than I should.",
        ),
        "unsafe": (
            "We are going in on Friday and we will take everything.",
            "I am going to empty her account before she notices.",
            "Nobody will talk me out of the robbery any more.",
        ),
    },
}

QUESTIONS = {
    "resolved": ("What has helped others to keep it that way?", "Does anybody else know this kind of quiet?"),
    "halfway": ("Is that normal?", "How do other people get through the second half?"),
    "rumination": ("What is wrong with me?", "Why does nothing help?"),
}

EMOTION_AFTER = {
    "resolved": ("calm", "relief", "hope", "gratitude", "acceptance"),
    "halfway": ("unease", "worry", "ambivalence"),
    "rumination": ("despair", "anger", "hopelessness"),
}
EMOTION_NOUNS = frozenset(
    "anger fear despair sadness shame anxiety guilt stress contempt hopelessness worry emptiness resentment frustration"
    " disappointment loneliness grief self-doubt numbness confusion regret bitterness disgust embarrassment nervousness"
    " remorse annoyance jealousy envy hate rage exhaustion panic spite malice desire temptation boredom"
    " pressure".split()
)
DEFAULT_EMOTION = ("worry", "sadness", "anger", "shame", "fear", "loneliness", "resentment", "exhaustion")
