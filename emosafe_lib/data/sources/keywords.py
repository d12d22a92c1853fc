"""Keyword rules for prompts whose upstream category joins two of ours, such as drugs and weapons.

The rules only ever split a category that people assigned; they never find a category by themselves. What they decide is
weak, and where they decide nothing, both categories stay unknown. A prompt has one upstream category even if it touches
two of ours: where its words name drugs or weapons and its category is another, those two are unknown as well, not absent.
So is what its subject may well mean besides (`BESIDE`): no list says which violence is planned as a crime, which crime is
violent, or for which of both somebody asks about a weapon.
"""

import re

SUBSTANCES = re.compile(
    r"\b(drugs?|cocaine|heroin|meth(amphetamines?)?|crystal meth|opioids?|fentanyl|marijuana|cannabis|weed|lsd|mdma|"
    r"ecstasy|ketamine|steroids?|narcotics?|pills?|prescriptions?|painkillers?|xanax|adderall|alcohol|liquor|beer|vodka|"
    r"cigarettes?|tobacco|vap(e|es|ing)|ghb|crack|hallucinogens?|psychedelics?|mushrooms?|overdose|dope|stoned|morphine|"
    r"codeine|opium|oxycodone|nitazenes?|isotonitazene)\b",
    re.IGNORECASE,
)
WEAPONS = re.compile(
    r"\b(guns?|firearms?|pistols?|rifles?|handguns?|shotguns?|ammunition|ammo|bullets?|silencers?|bombs?|explosives?|"
    r"grenades?|weapons?|dynamite|molotov|ied|landmines?|missiles?|nerve agents?|sarin|anthrax|ricin|chemical weapons?|"
    r"switchblades?|brass knuckles|ak-?47|ar-?15|glock|napalm|thermite|tnt|c4|shoot(ing|er)?|warheads?)\b",
    re.IGNORECASE,
)


# What an upstream category with this subject leaves unasked, though it may well be meant.
BESIDE = {
    "weapons": ("criminal_planning", "violence_hate"),
    "drugs": ("criminal_planning",),
    "violence": ("criminal_planning",),
    "crime of any kind": ("violence_hate",),
    "privacy and property": ("criminal_planning",),
}


def substances_or_weapons(text: str) -> tuple[str, ...]:
    """Which of the two categories the words of a prompt name: none, one or both."""
    found = (("guns_illegal_weapons", WEAPONS), ("regulated_substances", SUBSTANCES))
    return tuple(name for name, words in found if words.search(text))


def split(text: str) -> dict[str, tuple[str, ...]]:
    """Fields of a `Record` whose upstream category holds drugs or weapons among other things."""
    return {"inferred": substances_or_weapons(text)}


def split_in_two(text: str) -> dict[str, tuple[str, ...]]:
    """Fields of a `Record` whose upstream category holds drugs and weapons only; no word found leaves both open."""
    named = substances_or_weapons(text)
    return {"inferred": named} if named else {"unsure": ("guns_illegal_weapons", "regulated_substances")}


def leave_open(text: str) -> dict[str, tuple[str, ...]]:
    """Fields of a `Record` whose upstream category is another one: what the words name all the same is unknown."""
    return {"unsure": substances_or_weapons(text)}


def open_beside(subject: str, fields: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """The same fields of a `Record`, with what its upstream category's subject leaves unasked unknown.

    `subject` is a key of `BESIDE`, or "drugs or weapons", told apart by the fields; any other leaves nothing open.
    """
    if subject == "drugs or weapons":
        named = fields.get("inferred") or ("guns_illegal_weapons",)  # where words tell nothing, it may be weapons
        subject = "weapons" if "guns_illegal_weapons" in named else "drugs"
    return fields | {"unsure": (*fields.get("unsure", ()), *BESIDE.get(subject, ()))}
