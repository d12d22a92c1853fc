"""The way through a study's pages: where each stands, and which come before and after it.

A page is written when its stage ends, before the next one has begun. So it leads to pages of its own model, of which the
front page makes sure that they are there, and otherwise to the front page's list, where a notebook has a page a model.
"""

from emosafe_lib.study.errors import EmosafeError
from emosafe_lib.study.parameters import load_model
from emosafe_lib.study.stage import STAGES, concerns

SPELT = {"lora": "LoRA", "chatgpt": "ChatGPT"}


def page_of(name: str, model: str | None = None) -> str:
    """The address of a stage's page below `outputs/<study>/`."""
    return f"{model}/{name}/{name}.html" if model else f"{name}/{name}.html"


def titled(name: str) -> str:
    """A stage's name as a person says it.

    >>> titled("04_lora_finetuning")
    '04 LoRA finetuning'
    """
    return " ".join(SPELT.get(word, word) for word in name.split("_"))


def home_of(model: object) -> str:
    """The way from a stage's page to its study's folder."""
    return "../../" if model else "../"


def is_asked(name: str, model: str) -> bool:
    """Whether a stage is run for a model; one whose parameter file has gone keeps its place on every page."""
    try:
        return concerns(name, load_model(model))
    except EmosafeError:
        return True


def neighbours(name: str, model: str | None) -> dict[str, tuple[str, str]]:
    """Address, from this stage's page, and title of the pages before and after it: of the same model where both have one."""
    order = [each for each in STAGES if model is None or not STAGES[each]["model"] or is_asked(each, model)]
    place, home = order.index(name), home_of(model)

    def leads_to(other: str) -> tuple[str, str]:
        if not STAGES[other]["model"]:
            return home + page_of(other), titled(other)
        if model is None:
            return f"{home}index.html#{other}", f"{titled(other)}, a page a model"
        return home + page_of(other, model), f"{titled(other)}, {model}"

    found = {"previous": order[place - 1] if place else "", "next": "".join(order[place + 1 : place + 2])}
    return {word: leads_to(other) for word, other in found.items() if other}
