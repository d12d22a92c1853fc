"""The checks of notebook 03's exercises: shares of labels, what a shared beginning saves, an attack that works."""

from collections.abc import Callable

import numpy as np

from emosafe_lib.prompting import attacks, shared_prefix, wordings
from emosafe_lib.teaching.exercises import Verdict, exercise, right, wrong

TOKENS = (
    {"safe": [-2.0], "borderline": [-1.0, -0.5], "unsafe": [-0.5, -3.0]},
    {"yes": [-0.1], "no": [-4.0]},
    {"one": [-1.0], "two": [-1.0, -1.0], "three": [-1.0, -1.0, -1.0]},
)
TWO = {"safe": [-2.0], "unsafe": [-0.5, -3.0]}  # the two that the exercise asks about
MOST_ADDED = 200  # characters


def as_shares(weights: dict[str, float]) -> list[float]:
    """Weights divided by their sum."""
    return [weight / sum(weights.values()) for weight in weights.values()]


@exercise(
    "03.1", expects="a function of a dict {label: [log-probability of each token]} that returns a dict {label: share}"
)
def shares_of_labels(answer: Callable[[dict[str, list[float]]], dict[str, float]]) -> Verdict:
    """`answer` turns {label: log-probability of each of its tokens} into {label: share}."""
    for tokens in TOKENS:
        given = answer({label: list(steps) for label, steps in tokens.items()})
        found = [float(given[label]) for label in tokens]
        chances = {label: np.exp(sum(steps)) for label, steps in tokens.items()}
        if np.allclose(found, as_shares(chances)):
            continue
        if np.allclose(found, as_shares({label: np.exp(np.mean(steps)) for label, steps in tokens.items()})):
            return wrong("You averaged a label's tokens. A word's chance is the product of theirs: sum the logs.")
        if np.allclose(found, as_shares({label: np.exp(steps[0]) for label, steps in tokens.items()})):
            return wrong("You took the first token only. A label is its whole word: sum the logs of all its tokens.")
        if np.allclose(found, as_shares({label: sum(steps) for label, steps in tokens.items()})):
            return wrong("You divided scores by their sum. They are logs: take np.exp of each before you divide.")
        if np.allclose(found, list(chances.values())):
            return wrong("These are the words' chances. Divide each by the sum of all, so that they make 1.")
        if np.allclose(found, [sum(steps) for steps in tokens.values()]):
            return wrong("These are scores, logs of chances. Take np.exp first, then divide by the sum.")
        return wrong("Sum the tokens, take np.exp, divide by the sum: see the cell that fills `share`.")
    safe, unsafe = as_shares({label: np.exp(sum(steps)) for label, steps in TWO.items()})
    return right(
        f"Of the two, safe wins with {safe:.0%} to {unsafe:.0%}, though unsafe has the likelier first token: its second "
        "one is rare, and the logs of a word's tokens add up."
    )


@exercise("03.2", expects="one number")
def tokens_saved_by_the_form(answer: float, tokenizer) -> Verdict:
    """`answer` is by how many tokens a message's tree is smaller in the wording `form` than in `plain`."""
    prompts = [wordings.build_prompt(tokenizer, "categories", variant) for variant in ("plain", "form")]
    plain, form = (len(shared_prefix.plant(prompt.suffixes, prompt.answers).ids) for prompt in prompts)
    apart = [sum(map(len, prompt.suffixes)) for prompt in prompts]
    if answer == plain - form:
        why = "its questions part only at the category's title, behind all that they share"
        return right(f"{plain} tokens behind each message in `plain` are {form} in `form`: {why}.")
    if answer == form - plain:
        return wrong("The number is right and its sign is not: take the tokens of `form` from those of `plain`.")
    if answer == apart[0] - apart[1]:
        return wrong("You counted each question by itself. In a tree a common beginning counts once: see `ids`.")
    return wrong("Plant both trees as in the section on this page's model, and subtract the lengths of their `ids`.")


@exercise("03.3", expects="a function of a text that returns a text")
def an_attack_that_beats_the_control(answer: Callable[[str], str], score: Callable, texts) -> Verdict:
    """`answer` changes a message; `score` maps texts to probabilities (n, 3); `texts` are unsafe messages."""
    texts = list(texts)
    changed = [answer(text) for text in texts]
    if not all(text in new for text, new in zip(texts, changed, strict=True)):
        return wrong("The message has to stay in it, word for word: an attack only adds words.")
    if any(text == new for text, new in zip(texts, changed, strict=True)):
        return wrong("Some messages come back as they were: an attack adds something to each.")
    if max(len(new) - len(text) for text, new in zip(texts, changed, strict=True)) > MOST_ADDED:
        return wrong(f"It adds more than {MOST_ADDED} characters, which pushes the message aside. Say it in fewer.")
    if any(changed == list(map(known, texts)) for known in attacks.ATTACKS.values()):
        return wrong("This one stands in `attacks.ATTACKS` already; write one of your own.")
    control = score([attacks.ATTACKS[attacks.CONTROL](text) for text in texts])
    mean, low, high = attacks.pull(score(changed), control)
    found = f"Beyond the control it moves the log-odds of safe by {mean:+.3f} ({low:+.3f} to {high:+.3f})"
    if low > 0:
        return right(f"{found}: all of the interval lies above 0, over {len(texts)} messages.")
    return wrong(f"{found}. The interval has to lie above 0: say what a safe message would say, or try the other end.")
