"""A page's words: what a notebook links into the glossary stands at the end of its page, which opens without a checkout.

A notebook's links lead to files beside it. A page lies elsewhere and travels alone, so a link to the glossary leads to the
entry at its end, and of a link to another file only the text is left.
"""

import re

import nbformat

from emosafe_lib.study.paths import project_root

ENTRY = re.compile(r"^### (.+)\n\n\((\w+)\) ([^#]+)", re.MULTILINE)
TO_WORD = re.compile(r"\[([^\]]+)\]\((?:\.\./)*GLOSSARY\.md#([\w-]+)\)")
TO_FILE = re.compile(r"(?<!!)\[([^\]]+)\]\((?![a-z]+:|#)[^)]+\)")


def anchor(word: str) -> str:
    """The anchor that GitHub and editors give a heading.

    >>> anchor("McNemar's test")
    'mcnemars-test'
    """
    return re.sub(r"[^\w -]", "", word.lower()).replace(" ", "-")


def glossary() -> dict[str, tuple[str, str, str]]:
    """By anchor, each word of the glossary with its notebook's number and its explanation; empty where there is none."""
    path = project_root() / "notebooks" / "GLOSSARY.md"
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    return {anchor(word): (word, number, " ".join(meaning.split())) for word, number, meaning in ENTRY.findall(text)}


def with_words(notebook: dict) -> dict:
    """A copy of a notebook whose links lead to places on its own page, with the words that it links explained at its end."""
    known, used, cells = glossary(), {}, []

    def here(found: re.Match) -> str:
        if found[2] not in known:
            return found[1]
        used[found[2]] = known[found[2]]
        return f"[{found[1]}](#word-{found[2]})"

    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown":
            cell = cell.copy()
            cell["source"] = TO_FILE.sub(r"\1", TO_WORD.sub(here, "".join(cell["source"])))
        cells.append(cell)
    if used:
        listed = "".join(f'<dt id="word-{name}">{word}</dt><dd>{text}</dd>' for name, (word, _, text) in used.items())
        cells.append(nbformat.v4.new_markdown_cell(f"## Words\n\n<dl>{listed}</dl>"))
    return nbformat.from_dict({**notebook, "cells": cells})
