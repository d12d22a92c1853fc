"""Turn an executed notebook into one page that opens from disk, shows no private text and runs no code.

nbconvert's default page loads scripts from other hosts. Here its `basic` template renders the cells, its
sanitiser drops what could run, and a page of our own holds them: no script, no remote reference, figures inline. Pages
are Jinja2 templates that escape whatever they are given; `Markup` stands around sanitised cells and filled templates only.
"""

import itertools
import re
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from io import BytesIO
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from emosafe_lib.study.errors import StageError
from emosafe_lib.study.paths import outputs_root, project_root
from emosafe_lib.study.pictures import data_address, shrink_base64
from emosafe_lib.study.yaml_files import SECRET_VALUE
from workflow.pages import way, words

FOLDER = Path(__file__).with_name("templates")
TEMPLATES = Environment(
    loader=FileSystemLoader(FOLDER),
    autoescape=select_autoescape(["html"]),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
PARTS = TEMPLATES.get_template("parts.html").module
WIDGET = "application/vnd.jupyter.widget-view+json"  # what is left of a progress bar would stand at 0 % for ever
KEPT_MIME = {"text/plain", "text/html", "text/markdown", "image/png", "image/jpeg"}
PICTURES = ("image/png", "image/jpeg")
KERNEL = {"name": "python3", "display_name": "Python 3", "language": "python"}
PRIVATE = (
    ("a key", SECRET_VALUE),
    ("a home path", re.compile(r"(?:/home/|/Users/|/root/|[A-Z]:\\+Users\\+)[\w.-]+")),
    ("an e-mail address", re.compile(r"\b[\w.+-]+@[\w-]+\.[a-z]{2,}\b", re.IGNORECASE)),
)
SAFE_TAGS = (
    "a abbr b blockquote br caption code dd details div dl dt em h1 h2 h3 h4 h5 h6 hr i kbd li ol p pre small span "
    "strong sub summary sup table tbody td tfoot th thead tr ul"
).split()
# Elements whose content is not prose: once their tags are stripped it would stand on the page as text.
SILENT = re.compile(r"<(style|script|title|template)\b.*?</\1\s*>", re.IGNORECASE | re.DOTALL)
REMOTE = re.compile(
    r"""(?:src|href|data|srcset)\s*=\s*["']?\s*(?:https?:)?//|@import|url\(\s*["']?(?:https?:)?//""", re.I
)
HEADING = re.compile(r"^#+\s+(.*)$", re.MULTILINE)
SECTION = re.compile(r'<h2 id="([^"]+)">(.*?)</h2>', re.DOTALL)
TABLE = re.compile(r"<table\b.*?</table>", re.DOTALL)
FIGURE = re.compile(r'<img\b[^>]*\bsrc="data:image/(?:png|jpeg);[^>]*>')
ASSIGNED = re.compile(r"^(\w+) *=", re.MULTILINE)
MARKUP = re.compile(r"(<pre\b.*?</pre>|<code\b.*?</code>|<[^>]*>)", re.DOTALL)
FORMULA = re.compile(r"\$\$([^$]+)\$\$|\$([^$\n]+)\$")
FORMULA_DPI, FORMULA_POINTS = 200, 10  # resolution, and matplotlib's letter size
KERNEL_FILE = re.compile(r"/[\w/.-]*/ipykernel_\d+/\d+\.py")
# The browser itself refuses whatever a page would load or run beyond its own style and figures.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def clean(notebook: dict, label: str = "notebook") -> None:
    """Drop what a reader does not need and a page must not carry: widgets, scripts, run metadata, absolute paths.

    Raises
    ------
    StageError : an output or source holds something private; it names the notebook by `label`, the cell and the kind,
        never the value
    """
    language = notebook["metadata"].get("language_info")
    notebook["metadata"] = {"kernelspec": dict(KERNEL)} | ({"language_info": language} if language else {})
    for number, cell in enumerate(notebook["cells"]):
        cell["metadata"] = {"tags": cell["metadata"]["tags"]} if cell["metadata"].get("tags") else {}
        if "outputs" in cell:
            cell["outputs"] = [each for each in cell["outputs"] if WIDGET not in each.get("data", {})]
        for output in cell.get("outputs", []):
            if "metadata" in output:
                output["metadata"] = alternative_texts(output["metadata"])
            for mime in set(output.get("data", {})) - KEPT_MIME:
                del output["data"][mime]
            if "image/png" in output.get("data", {}):
                output["data"]["image/png"] = shrink_base64(output["data"]["image/png"])
            hide_paths(output)
        refuse_private(cell, f"{label}, cell {number}")


def alternative_texts(metadata: dict) -> dict:
    """Of an output's metadata what a page needs: what its picture shows, for those who cannot see it."""
    found = {kind: metadata.get(kind) for kind in PICTURES}
    return {kind: {"alt": each["alt"]} for kind, each in found.items() if isinstance(each, dict) and each.get("alt")}


def hide_paths(output: dict) -> None:
    """Replace this machine's folders in text outputs, which warnings often show, by what they stand for."""
    folders = {str(outputs_root()): "outputs", str(project_root()): ".", sys.prefix: ".venv"}

    def short(value):
        text = KERNEL_FILE.sub("<cell>", "".join(value))
        for folder, name in sorted(folders.items(), key=lambda pair: -len(pair[0])):
            text = text.replace(folder + "/", "" if name == "." else name + "/").replace(folder, name)
        return text

    if "text" in output:
        output["text"] = short(output["text"])
    for mime, value in output.get("data", {}).items():
        if mime.startswith("text/"):
            output["data"][mime] = short(value)


def refuse_private(cell: dict, where: str) -> None:
    """Raise StageError if a cell's source or text outputs hold a key, a home path or an address."""
    texts = ["".join(cell["source"])]
    for output in cell.get("outputs", []):
        texts.append("".join(output.get("text", "")))
        texts += ["".join(value) for mime, value in output.get("data", {}).items() if mime.startswith("text/")]
        texts += [each["alt"] for each in output.get("metadata", {}).values()]
    for name, pattern in PRIVATE:
        if any(pattern.search(text) for text in texts):
            raise StageError(where, f"holds {name}, so the page is not published", "remove it and run again")


def describe_figures(notebook: dict) -> None:
    """Give every figure an alternative text of its own: its section, what it shows, and the sentence that reads it."""
    section, given = "notebook", set()
    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown":
            found = HEADING.findall("".join(cell["source"]))
            section = found[-1].strip("# ") if found else section
        for output, after in itertools.pairwise([*cell.get("outputs", []), {}]):
            for kind in PICTURES:
                if kind not in output.get("data", {}):
                    continue
                about = output.setdefault("metadata", {}).setdefault(kind, {})
                reading = "".join(after.get("data", {}).get("text/markdown", "")).strip()
                own = about.get("alt", "")
                said = [f"Figure: {section}", own, reading] if not own.startswith("Figure: ") else [own]
                about["alt"] = numbered(". ".join(text.rstrip(".") for text in said if text), given)


def numbered(text: str, given: set[str]) -> str:
    """A text that was not given before: with a number behind it where it would be the same."""
    number, told = 1, text
    while told in given:
        number += 1
        told = f"{text} ({number})"
    given.add(told)
    return told


def sanitise(element) -> str:
    """Keep the tags that prose, tables and highlighted code need; nbconvert's own list lacks headings."""
    return sanitised(element.decode() if isinstance(element, bytes) else str(element))


@cache
def sanitised(text: str) -> str:
    """HTML that `sanitise` lets through; kept, since what the rehearsal renders is most of what the page will hold."""
    import bleach

    attributes = {"*": ["class", "id"], "a": ["href"], "td": ["colspan", "rowspan"], "th": ["colspan", "rowspan"]}
    return bleach.clean(SILENT.sub("", text), tags=SAFE_TAGS, attributes=attributes, strip=True)


@cache
def exporter():
    """nbconvert's, for cells alone; kept, since it compiles its templates once."""
    from nbconvert import HTMLExporter

    made = HTMLExporter(template_name="basic", sanitize_html=True, filters={"clean_html": sanitise})
    made.exclude_input_prompt = made.exclude_output_prompt = True
    return made


def body(notebook: dict) -> str:
    """The notebook's cells as sanitised HTML."""
    describe_figures(notebook)
    converted, _ = exporter().from_notebook_node(words.with_words(with_parameters_once(notebook)))
    count = itertools.count(1)
    converted = FIGURE.sub(lambda found: PARTS.enlargeable(Markup(found.group()), f"figure-{next(count)}"), converted)
    converted = "".join(formulas(part) if not part.startswith("<") else part for part in MARKUP.split(converted))
    return TABLE.sub(lambda found: PARTS.scrollable(Markup(found.group()), "Table"), converted)


def with_parameters_once(notebook: dict) -> dict:
    """A copy without the cell of default parameters, where the runner has put the run's own behind it for every name."""
    named = {
        tag: set(ASSIGNED.findall("".join(cell["source"])))
        for cell in notebook["cells"]
        for tag in ("parameters", "injected-parameters")
        if tag in cell["metadata"].get("tags", [])
    }
    if not named.get("parameters") or not named["parameters"] <= named.get("injected-parameters", set()):
        return notebook
    kept = [cell for cell in notebook["cells"] if "parameters" not in cell["metadata"].get("tags", [])]
    return {**notebook, "cells": kept}


def formulas(text: str) -> str:
    """Text in which LaTeX between dollar signs has become a picture of the formula, since a page runs no script."""
    return FORMULA.sub(lambda found: formula(Markup(found.group(1) or found.group(2)).unescape()), text)


def formula(latex: str) -> str:
    """A formula drawn by matplotlib, its LaTeX as alternative text; as code where matplotlib cannot read it."""
    from matplotlib import rc_context
    from matplotlib.mathtext import math_to_image

    drawn = BytesIO()
    try:
        with rc_context({"font.size": FORMULA_POINTS}):
            depth = math_to_image(f"${latex}$", drawn, dpi=FORMULA_DPI, format="png", color="#1b2430")
    except ValueError:
        return PARTS.formula(latex, "", "")
    points = int.from_bytes(drawn.getvalue()[20:24], "big") * 72 / FORMULA_DPI  # a PNG keeps its height there
    size = f"height:{points / FORMULA_POINTS:.2f}em;vertical-align:{-depth / FORMULA_POINTS:.2f}em"
    return PARTS.formula(latex, data_address(drawn.getvalue()), size)


def sections_of(cells: str) -> list[tuple[str, str]]:
    """Id and title, as plain text, of each section of a notebook's sanitised cells."""
    found = SECTION.findall(cells)
    return [(Markup(name).unescape(), Markup(title).striptags().strip("¶ ")) for name, title in found]


def page(notebook: dict, manifest: dict) -> str:
    """One self-contained page for an executed notebook.

    Raises
    ------
    StageError : something in it would load from another host
    """
    name, model = manifest["stage"], manifest["model"]
    cells, finished = body(notebook), manifest["finished"][:16].replace("T", " ")
    content = fill("notebook.html", manifest=manifest, finished=finished, cells=Markup(cells))
    links = [(f"← Study {manifest['study']}", f"{way.home_of(model)}index.html")]
    return shell(f"{name} · {model}" if model else name, content, links, way.neighbours(name, model))


def shell(title: str, content: str, links: Sequence = (), ways: Mapping | None = None) -> str:
    """Wrap content, HTML already, into a complete page with our style; StageError if it refers to another host.

    `links` are (title, address) at the top; `ways` are `way.neighbours`, for a page that stands between others.
    """
    if REMOTE.search(re.sub(r'<a [^>]*href="https?://[^"]*"', "<a ", content)):
        raise StageError(title, "would load something from another host", "keep pages self-contained")
    sections = sections_of(content)
    facts = {"sections": sections if len(sections) > 2 else [], "links": links, "ways": ways or {}}
    return fill("page.html", title=title, content=Markup(content), policy=POLICY, **facts)


def fill(template: str, **facts: object) -> Markup:
    """A template of `templates/` filled with plain data."""
    return Markup(TEMPLATES.get_template(template).render(**facts))
