"""The committed reference run: what somebody who runs nothing can read and check.

`make reference` runs the sample study, and the real one where its data is at hand, and copies what a reviewer needs:
executed notebooks, pages, tables, the main figures and manifests; no rows, no predictions, no weights. A copy is made
beside and looked through before it takes the old one's place: no eight words in a row of a real message, no folder of this
machine, no link that leads nowhere, and few enough bytes for a repository. README's table is written from the copy, not by
hand.
"""

import html
import json
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import unquote

import pandas as pd

from emosafe_lib.data import merge
from emosafe_lib.data.sources import registry
from emosafe_lib.study import csv_files, files, paths, rows
from emosafe_lib.study.errors import StageError
from emosafe_lib.study.parameters import StudyParams, load_study
from emosafe_lib.study.paths import ASSETS, project_root
from emosafe_lib.study.taxonomy import TASKS
from workflow.pages import answers, documents, front_page, rendering, states
from workflow.study_run import run_study

MAX_BYTES = 25_000_000
MAX_PAGE_BYTES = 3_000_000
KEPT = {".csv", ".json", ".txt"}
FIGURES = "05_scaling_analysis/figures"
SHINGLE_WORDS = 8
BEGIN, END = "<!-- reference:begin -->", "<!-- reference:end -->"
NOTHING_YET = "The reference run has not been made yet: `make reference` makes it and fills this place."
WORD = re.compile(r"[^\W_]+")
PICTURE = re.compile(r"[A-Za-z0-9+/=\n\\]{400,}")
LINK = re.compile(r'(?:href|src)="([^"#][^"]*)"')
FOLDER = re.compile(r"(?<![\w.:/<-])/(?:home|root|Users|tmp|work|var|opt|mnt|srv|usr)/[\w.-]+")
SHOWN_SETTINGS = ("zero-shot", "few-shot", "fine-tuned", "baseline")
COLUMNS = [(task, setting) for task in TASKS for setting in SHOWN_SETTINGS[:-1]]


def folder() -> Path:
    """Where the reference run stands: always in the checkout, wherever other outputs go."""
    return project_root() / "outputs" / "reference"


def make(studies: Sequence[str], cores: int) -> list[Path]:
    """Bring studies up to date, copy them to `outputs/reference/`, and write README's block from the copies.

    `studies` are names; where empty, the sample study, and the real one if its data is at hand.

    Raises
    ------
    StageError : a study failed, or its copy may not be published; the reference stays as it was
    """
    names = list(studies or filter(has_data, ("sample", "real")))
    for name in names:
        if run_study(name, [], cores) != 0:
            raise StageError(name, "did not finish, so the reference stays as it was", "see the lines above")
    made = copy([load_study(name) for name in names])
    write_readme()
    return made


def has_data(name: str) -> bool:
    """Whether every file of a study's sources is there, fetched by `make data` or in `EMOSAFE_DATA_DIR`."""
    return not registry.missing(merge.chosen_sources(load_study(name).data))


def copy(studies: Sequence[StudyParams]) -> list[Path]:
    """Copy the readable part of finished studies to `outputs/reference/<study>/`; returns the folders. All are looked
    through before the first takes an earlier one's place.

    Raises
    ------
    StageError : a stage has not run or lacks a figure, a copy holds what may not be published, or together they are too
        large; the earlier ones stay
    """
    named = {study.name: study for study in studies}  # one may be given by its name and by its path
    with ExitStack() as together:
        partials = [together.enter_context(copying(study, list(named))) for study in named.values()]
        refuse_weight([*partials, *(path for path in folder().glob("[!.]*") if path.name not in named)])
    return [folder() / name for name in named]


@contextmanager
def copying(study: StudyParams, together: Sequence[str]) -> Iterator[Path]:
    """A study's copy, looked through, which takes the earlier one's place behind the block if that does not raise. Its
    front page leads to the copies of other studies, those that stand there and those that are made `together` with it.
    """
    base, target = paths.outputs_root() / study.name, folder() / study.name
    others = sorted({*together, *(path.name for path in finished_copies())} - {study.name})
    front_page.write_index(study, others=others)
    try:
        with files.replacing(target) as partial:
            for name in readable(study):
                (partial / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(base / name, partial / name)
            refuse_private(partial)
            refuse_texts(partial, real_texts(base, study))
            refuse_dead_links(partial, [f"../{name}/index.html" for name in others])
            yield partial
    finally:
        front_page.write_index(study)  # which leads to the studies beside it, not to other copies


def readable(study: StudyParams) -> list[str]:
    """Names below `outputs/<study>/` that belong to the copy: what manifests name and a reader can open, and the pages.

    Pictures are kept of notebook 05 alone; every other figure stands in its page already.
    """
    base, names = paths.outputs_root() / study.name, ["index.html", documents.README, documents.GLOSSARY]
    for name, model in states.expected_stages(study, study.models):
        word, facts = states.state(study, name, model)
        if word not in ("done", "stale"):
            raise StageError(
                f"{name} {model or ''}".strip(), f"is {word}", f"run `make study STUDY={study.name}` first"
            )
        refuse_gaps(f"{name} {model or ''}".strip(), facts["not_measured"])
        place = f"{model}/{name}" if model else name
        names += [f"{place}/{file}" for file in (f"{name}.ipynb", f"{name}.html", "manifest.json")]
        names += [file for file in facts["outputs"] if is_readable(file)]
    return [name for name in dict.fromkeys(names) if (base / name).is_file()]


def refuse_gaps(stage: str, gaps: list[dict]) -> None:
    """StageError if a stage lacks a figure, a check or its ONNX graphs: a fault on any machine that makes a reference, where
    a precision, a peer or a runtime may be what the machine lacks.
    """
    lost = [gap["name"] for gap in gaps if gap["kind"] in ("figure", "check") or gap["name"] == "ONNX graphs"]
    if lost:
        raise StageError(stage, f"lacks {', '.join(lost)}", "its manifest says why; run it again once that is mended")


def is_readable(file: str) -> bool:
    """Whether a stage's output belongs to the copy; the configuration files of an exported model do not."""
    path = Path(file)
    return (path.suffix in KEPT and "classifier" not in path.parts) or file.startswith(FIGURES)


def texts_of_page(place: Path) -> Iterable[tuple[Path, str]]:
    """Every text file of a folder with its content, pictures taken out."""
    for path in sorted(path for path in place.rglob("*") if path.is_file() and path.suffix != ".png"):
        yield path.relative_to(place), PICTURE.sub("", path.read_text(encoding="utf-8"))


def refuse_private(place: Path) -> None:
    """StageError if a file holds a key, an address or a folder of this machine; it names the file and the kind."""
    own = {str(project_root()), str(paths.outputs_root()), str(Path.home())} - {"/"}  # a container's home may be /
    for name, text in texts_of_page(place):
        found = [kind for kind, pattern in rendering.PRIVATE if pattern.search(text)]
        found += ["a folder of this machine"] if FOLDER.search(text) or any(path in text for path in own) else []
        if found:
            raise StageError(name, f"holds {found[0]}, so it is not published", "remove it and run the stage again")


def real_texts(base: Path, study: StudyParams) -> list[str]:
    """The texts of a finished study's rows that people wrote, or that a language model made from such a text.

    What the offline templates tell anew takes no word from its parent; their words are this package's own, on whose
    messages pages show them.
    """
    tables = [
        base / name for name in ("01_data_merge/rows.parquet", "02_chatgpt_augmentation/reinterpretations.parquet")
    ]
    merged = rows.read_rows(*tables)
    human = merged["origin"] == "human"
    told = merged["parent_id"].isin(merged.loc[human, "id"]) & (study.augmentation.provider != "template")
    return merged.loc[human | told, "text"].tolist()


def shingles(text: str) -> set[str]:
    """All runs of `SHINGLE_WORDS` words, in small letters, whatever stands between them."""
    plain = html.unescape(TAG_OR_ESCAPE.sub(" ", text)).lower()
    words = WORD.findall(plain)
    return {" ".join(words[i : i + SHINGLE_WORDS]) for i in range(len(words) - SHINGLE_WORDS + 1)}


TAG_OR_ESCAPE = re.compile(r"<[^>]*>|\\+[nrt\"]|\\+u[0-9a-f]{4}")


def refuse_texts(place: Path, texts: Iterable[str]) -> None:
    """StageError if eight words in a row of a real message stand in a file and not in this package's own sources."""
    private = set().union(*(shingles(text) for text in texts)) - own_words()
    for name, text in texts_of_page(place):
        if private & shingles(text):
            raise StageError(name, "holds words of a real message, so it is not published", "mask them with rows.shown")


def own_words() -> set[str]:
    """The shingles of what this package says itself: its documents, its notebooks, its code and its sample."""
    root = project_root()
    said = [*root.glob("*.md"), *root.glob("notebooks/*.md"), *root.glob("notebooks/*.ipynb")]
    said += [*ASSETS.parent.rglob("*.py"), *Path(__file__).parent.rglob("*.py")]
    said += list(rendering.FOLDER.iterdir())
    said += [path for kind in ("json", "jsonl", "md") for path in ASSETS.glob(f"s*/*.{kind}")]
    return set().union(*(shingles(path.read_text(encoding="utf-8")) for path in said))


def refuse_dead_links(place: Path, known: Sequence[str] = ()) -> None:
    """StageError if a page links to a file that is not in the folder; `known` are links that lead out of it on purpose."""
    for name, text in texts_of_page(place):
        if name.suffix != ".html":
            continue
        for link in LINK.findall(text):
            local = not re.match(r"[a-z]+:", link) and link not in known
            target = (place / name.parent / unquote(html.unescape(link).split("#")[0])).resolve()
            if local and not (target.is_relative_to(place.resolve()) and target.is_file()):
                raise StageError(name, f"links to {link}, which is not copied", "link to copied files only")


def refuse_weight(places: Iterable[Path]) -> None:
    """StageError if a page, or all copies together, are too large."""
    sizes = {path: path.stat().st_size for place in places for path in place.rglob("*") if path.is_file()}
    for path in (path for path in sizes if path.suffix == ".html" and sizes[path] > MAX_PAGE_BYTES):
        raise StageError(path.name, f"is {sizes[path]} bytes", f"keep a page under {MAX_PAGE_BYTES}")
    if sum(sizes.values()) > MAX_BYTES:
        raise StageError("outputs/reference", f"would be {sum(sizes.values())} bytes", f"keep it under {MAX_BYTES}")


def finished_copies() -> list[Path]:
    """The studies of the committed reference, the sample first."""
    found = [path.parent for path in folder().glob("[!.]*/index.html")]
    return sorted(found, key=lambda path: (path.name != "sample", path.name))


def readme_block() -> str:
    """README's section on the reference run, from its CSV and JSON files alone; one sentence where there is none."""
    copies = finished_copies()
    if not copies:
        return NOTHING_YET
    template = rendering.TEMPLATES.get_template("reference.md")
    return template.render(studies=[study_facts(place) for place in copies], claims=verdicts(copies))


def study_facts(place: Path) -> dict:
    """What README says of one study: where its page and main figure are, the figure's reading, and the scores."""
    card = json.loads((place / "data_card.json").read_text(encoding="utf-8"))
    numbers, picture = csv_files.read_csv(place / "results.csv"), place / FIGURES / "score_by_size.png"
    found = picture.is_file()
    return {
        "name": place.name,
        "rows": f"{card['rows']:,}",
        "sources": len(card["sources"]),
        "picture": f"{FIGURES}/{picture.name}" if found else "",
        "reading": picture.with_suffix(".txt").read_text(encoding="utf-8").strip() if found else "",
        "columns": [f"{task}, {setting}" for task, setting in COLUMNS],
        "scores": score_lines(numbers),
        "scored": front_page.rows_scored(numbers),
    }


def score_lines(numbers: pd.DataFrame) -> list[list[str]]:
    """Each model's name and its macro-F1 by task and setting, a baseline's in the first column of its task."""
    head = numbers[(numbers["variant"] == "") & (numbers["category"] == "") & numbers["setting"].isin(SHOWN_SETTINGS)]
    scores = head.pivot_table(index=["model", "task", "setting"], columns="metric", values="value", sort=False)
    lines = []
    for model in dict.fromkeys(head["model"]):
        cells = [score_text(scores, model, task, setting) for task, setting in COLUMNS]
        if all(cell == "–" for cell in cells):
            cells = [score_text(scores, model, t, "baseline") if s == SHOWN_SETTINGS[0] else "" for t, s in COLUMNS]
        lines.append([model, *cells])
    return lines


def score_text(scores: pd.DataFrame, model: str, task: str, setting: str) -> str:
    """One cell of `score_lines`: `pooled / within sources`, once where they are the same."""
    if (model, task, setting) not in scores.index:
        return "–"
    pair = scores.loc[(model, task, setting), ["macro_f1", "within_source_macro_f1"]]
    words = ["undefined" if pd.isna(value) else f"{value:.3f}" for value in pair]
    return words[0] if words[0] == words[1] else " / ".join(words)


def verdicts(copies: Sequence[Path]) -> list[list[str]]:
    """Each of the paper's claims on the first ladder and its verdicts in every study, by the paper's words and by ours."""
    found = [json.loads((place / "claims.json").read_text(encoding="utf-8")) for place in copies]
    names = answers.on_first_ladder(found[0])
    return [[found[0][name]["claim"], *(verdict_text(each.get(name, {})) for each in found)] for name in names]


def verdict_text(claim: dict) -> str:
    """A claim's verdict, after the one by the paper's own words where that is another."""
    both = [(claim.get("paper") or claim).get("verdict", "–"), claim.get("verdict", "–")]
    return " / ".join(dict.fromkeys(both))


def write_readme(path: Path | None = None) -> None:
    """Put `readme_block` between README's two markers, by rename; StageError if a marker is missing."""
    path = path or project_root() / "README.md"
    text = path.read_text(encoding="utf-8")
    if BEGIN not in text or END not in text.split(BEGIN)[1]:
        raise StageError(path.name, "lacks the reference's markers", f"put {BEGIN} and {END} on lines of their own")
    before, rest = text.split(BEGIN, 1)
    with files.replacing(path) as partial:
        partial.write_text(f"{before}{BEGIN}\n{readme_block()}\n{END}{rest.split(END, 1)[1]}", encoding="utf-8")
