"""Pages beside a study's front page: README and glossary to read in a browser, and a page for each stage that has none.

A reviewer gets the folder of a study and nothing else, and a browser shows Markdown as it is typed. A stage that failed,
was never run or was run by hand has no page of its own; a link to it must still lead somewhere that says why.
"""

import re
from pathlib import Path

from markupsafe import Markup, escape

from emosafe_lib.study import files, paths
from emosafe_lib.study.parameters import StudyParams
from emosafe_lib.study.paths import project_root
from workflow.pages import rendering, way, words

README, GLOSSARY = "readme.html", "glossary.html"
REFERENCE = re.compile(r"<!-- reference:begin -->.*<!-- reference:end -->", re.DOTALL)
PICTURE = re.compile(r"^!\[[^\]]*\]\([^)]*\)\n", re.MULTILINE)
ANCHORED = re.compile(r'<h([1-6]) id="[^"]*">(.*?)</h\1>', re.DOTALL)
SEE_FRONT = "The committed runs have pages of their own in `outputs/reference/`."


def links(base: Path) -> list[tuple[str, str]]:
    """Title and address of the documents that stand beside a study's front page."""
    return [(title, name) for title, name in (("README", README), ("Glossary", GLOSSARY)) if (base / name).is_file()]


def write(base: Path) -> None:
    """Write README and glossary of the checkout, where it has them, as pages into a study's folder, by rename."""
    readme, known = project_root() / "README.md", words.glossary()
    if readme.is_file():
        put(base / README, "README", readme_page(readme.read_text(encoding="utf-8")))
    if known:
        put(base / GLOSSARY, "Glossary", rendering.fill("glossary.html", words=known))


def put(path: Path, title: str, content: str, home: str = "") -> None:
    """Write a page, by rename, that leads back to the front page; `home` is the way to its folder."""
    links = [("← Back to the study", f"{home}index.html")]
    with files.replacing(path) as partial:
        partial.write_text(rendering.shell(title, content, links), encoding="utf-8")


def readme_page(text: str) -> str:
    """README as sanitised HTML, without its pictures and without the reference run's tables, which the study may not be."""
    cell = {"cell_type": "markdown", "metadata": {}, "source": PICTURE.sub("", REFERENCE.sub(SEE_FRONT, text))}
    notebook = {"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": [cell | {"id": "readme"}]}
    return ANCHORED.sub(with_anchor, rendering.body(notebook))


def with_anchor(heading: re.Match) -> Markup:
    """A heading whose anchor is the one that links in Markdown mean."""
    title = Markup(heading[2]).striptags().strip("¶ ")
    return Markup(f'<h{heading[1]} id="{{}}">{escape(title)}</h{heading[1]}>').format(words.anchor(title))


def write_missing(study: StudyParams, name: str, model: str | None, word: str, reason: str) -> None:
    """Write, by rename, the page of a stage that has none: why, and the command that makes it."""
    folder = paths.stage_folder(study.name, name, model)
    command = f"make stage STAGE={name} STUDY={study.name}" + (f" MODELS={model}" if model else "")
    folder.mkdir(parents=True, exist_ok=True)
    content = rendering.fill("missing.html", stage=name, model=model, word=word, reason=reason, command=command)
    put(folder / f"{name}.html", f"{name} · {model}" if model else name, content, way.home_of(model))
