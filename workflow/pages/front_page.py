"""The study's front page: what was run, what came out, and a link to every notebook's page.

A reviewer opens one file from disk and has to see at a glance whether to trust it. So the page says first whether all
stages are done, by the state that each one's receipt proves; every number and every sentence on it is read from files
that the notebooks wrote; and it ends with what identifies the run: data, parameters, versions, machine, time.
"""

import html
import json
import os
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

import pandas as pd

from emosafe_lib.study import paths, pictures, stage, tables
from emosafe_lib.study.errors import EmosafeError, StageError
from emosafe_lib.study.parameters import StudyParams, load_model
from emosafe_lib.study.taxonomy import TASKS
from workflow.pages import rendering

ANALYSIS = "05_scaling_analysis"
NOTE = (
    "A study package, not a clinical tool. The nano models are teaching models of a few million parameters; their "
    "numbers say nothing about LLaMA's. The pages speak of distress, violence and abuse; texts of real datasets are "
    "never shown."
)
MARKS = {"supported": "✓", "contradicted": "✗", "cannot tell": "?"}
SCORE_TITLES = {
    "macro_f1": "pooled",
    "within_source_macro_f1": "within sources",
    "over_source_name": "above the source's name",
}


def expected_stages(study: StudyParams, models: list[str]) -> list[tuple[str, str | None]]:
    """Every (stage, model) of a study in the order of the course; a model that a server answers for has no fine-tuning."""
    pairs = []
    for name, facts in stage.STAGES.items():
        pairs += [(name, model) for model in models if is_asked(name, model)] if facts["model"] else [(name, None)]
    return pairs


def is_asked(name: str, model: str) -> bool:
    """Whether a stage is run for a model; one whose parameter file has gone keeps its place on the page."""
    try:
        return stage.concerns(name, load_model(model))
    except EmosafeError:
        return True


def models_of(study: StudyParams, base: Path, models: Sequence[str] = ()) -> list[str]:
    """The run's models (the study's own where none are named), then any other that has a folder with a stage of it."""
    found = sorted(path.parent.name for path in base.glob("*/03_prompting_baselines"))
    return list(dict.fromkeys([*(models or study.models), *found]))


def state(study: StudyParams, name: str, model: str | None, models: Sequence[str] = ()) -> tuple[str, dict]:
    """What a stage's receipt proves for a run about `models`, and its manifest.

    The word is "done", "stale" (parameters or code have changed since), "failed" (the runner kept a notebook that did
    not finish; an earlier page still stands) or "not run"; the manifest is {} for the last two.
    """
    from workflow.receipts import is_current

    folder = paths.stage_folder(study.name, name, model)
    receipt, manifest = folder / "receipt.json", folder / "manifest.json"
    if not receipt.is_file() or not manifest.is_file():
        unfinished = paths.outputs_root() / study.name / "logs" / f"{name}-{model}.ipynb".replace("-None", "")
        return ("failed" if unfinished.is_file() else "not run"), {}
    facts = json.loads(manifest.read_text(encoding="utf-8"))
    try:
        current = is_current(name, study, model, models)
    except EmosafeError:
        current = False
    return ("done" if current else "stale"), facts


class Markup(str):
    """Text that is HTML already."""


def cell_html(value: object) -> str:
    """A cell's HTML; text is escaped, an undefined number is an empty cell."""
    if isinstance(value, Markup):
        return str(value)
    return "" if isinstance(value, float) and value != value else html.escape(str(value))


def table(header: list[str], rows: list[list[object]], caption: str, kind: str = "") -> str:
    """An HTML table whose first column heads its rows; cells are escaped unless they are already `Markup`."""
    head = "".join(f'<th scope="col">{html.escape(cell)}</th>' for cell in header)
    lines = [
        f'<tr><th scope="row">{cell_html(first)}</th>' + "".join(f"<td>{cell_html(cell)}</td>" for cell in rest)
        for first, *rest in rows
    ]
    body = "".join(f"{line}</tr>" for line in lines)
    return whole_table(f"<tr>{head}</tr>", body, caption, kind)


def whole_table(head: str, body: str, caption: str, kind: str = "") -> str:
    """A table in a region that scrolls by itself, so that the page never does sideways."""
    title = f"<caption>{html.escape(caption)}</caption>"
    made = f'<table class="{kind}">{title}<thead>{head}</thead><tbody>{body}</tbody></table>'
    return rendering.scrollable(made, caption)


def read_json(path: Path) -> dict:
    """A JSON file's content; {} where it is not there."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def opening(study: StudyParams, base: Path, stages: list[tuple]) -> str:
    """Title, what was studied in four numbers, a warning if a stage is not done, and what this is not."""
    card = read_json(base / "data_card.json")
    models = {model for _, model, _, _ in stages if model}
    done = sum(word == "done" for *_, word, _ in stages)
    facts = [
        (f"{card.get('rows', 0):,}", "rows of data"),
        (f"{sum(card.get('safety', {}).get('test', {}).values()):,}", "test rows"),
        (str(len(models)), "model" if len(models) == 1 else "models"),
        (f"{done} of {len(stages)}", "stages done"),
    ]
    tiles = "".join(f"<li><b>{html.escape(value)}</b> {html.escape(what)}</li>" for value, what in facts)
    return (
        f'<p class="kicker">emosafe · study {html.escape(study.name)}</p><h1>{html.escape(study.title or study.name)}</h1>'
        '<p class="lede">Does the ability to tell safe, borderline and unsafe messages apart grow with the size of a '
        f'language model?</p><ul class="facts">{tiles}</ul>{warning(stages)}<p class="note">{html.escape(NOTE)}</p>'
    )


def warning(stages: list[tuple]) -> str:
    """A banner that names every stage that is not done; nothing where all are."""
    open_ = [f"{name} {model or ''}".strip() + f" ({word})" for name, model, word, _ in stages if word != "done"]
    if not open_:
        return ""
    return (
        f'<p class="warning"><b>Not done, {len(open_)} of {len(stages)} stages:</b> {html.escape(", ".join(open_))}. '
        "What stands below may be older than the code and the parameters.</p>"
    )


def results_section(base: Path) -> str:
    """The main figure with its reading and the headline table of notebook 05, or that there are none yet."""
    folder = base / ANALYSIS
    if not (folder / "headline.csv").is_file():
        return "<h2>Results</h2><p>Notebook 05 has not finished, so there are no results yet.</p>"
    links = f'<a href="results.csv">every number</a>, <a href="{ANALYSIS}/{ANALYSIS}.html">how they were made</a>'
    return (
        "<h2>Results</h2>"
        + figure(folder / "figures" / "score_by_size.png", "Macro-F1 against model size, a panel a task")
        + headline(
            tables.read_csv(folder / "headline.csv"),
            read_json(folder / "manifest.json"),
            rows_scored(tables.read_csv(base / "results.csv")),
        )
        + f'<p class="links">As files: {links}.</p>'
    )


def rows_scored(numbers: pd.DataFrame) -> str:
    """How many test rows the headline scores of `results.csv` rest on; two numbers where one task was asked fewer."""
    heads = numbers[(numbers["metric"] == "macro_f1") & (numbers["variant"] == "")]
    return " and ".join(f"{rows:,}" for rows in dict.fromkeys(heads["n"].astype(int)))


def headline(numbers: pd.DataFrame, manifest: dict, rows: str) -> str:
    """The headline table: a block a model, a line a setting, and a group of columns a task; `manifest` is notebook 05's,
    `rows` says how many test rows were scored.

    Where pooled and within-source scores are the same in every line, as with a single source, the second is left out
    and the caption says so.
    """
    same = all((numbers[f"{t} macro_f1"] == numbers[f"{t} within_source_macro_f1"]).all() for t in TASKS)
    scores = [name for name in SCORE_TITLES if not (same and name == "within_source_macro_f1")]
    top = "".join(f'<th scope="colgroup" colspan="{len(scores)}">{task}</th>' for task in TASKS)
    under = "".join(f'<th scope="col">{html.escape(SCORE_TITLES[name])}</th>' for _ in TASKS for name in scores)
    head = (
        f'<tr><th scope="col" rowspan="2">model</th><th scope="col" rowspan="2">setting</th>{top}</tr><tr>{under}</tr>'
    )
    columns, body = [f"{task} {name}" for task in TASKS for name in scores], ""
    for model, lines in groupby(numbers.to_dict("records"), key=lambda line: line["model"]):
        lines = list(lines)
        first = f'<th scope="rowgroup" rowspan="{len(lines)}">{html.escape(model)}</th>'
        for number, line in enumerate(lines):
            cells = "".join(f"<td>{score_html(str(line[column]))}</td>" for column in columns)
            body += f'<tr>{first if number == 0 else ""}<th scope="row">{html.escape(line["setting"])}</th>{cells}</tr>'
    one = " There is one source, so the pooled score is the score within sources." if same else ""
    level = manifest["parameters"]["analysis"]["confidence"]
    note = (
        "<p>Only messages as their authors wrote them are scored; re-interpretations may train a model and never test it. "
        f"All scores rest on the same {rows} test rows. Each stands above its {level:.0%} interval, bootstrapped over "
        "groups of related texts. The last column of a task is the paired difference to a baseline that knows nothing but "
        f"the text's source; a star marks what Holm's correction leaves clear.{one}</p>"
    )
    return note + whole_table(head, body, "Macro-F1 by model and setting", "headline")


def score_html(text: str) -> str:
    """`value [low, high] *` with the interval in small type beneath the value; an apostrophe of `tables` falls away."""
    value, bracket, rest = html.escape(text.removeprefix("'")).partition(" [")
    interval, _, star = rest.partition("]")
    return f"<b>{value}</b>{star}<small>[{interval}]</small>" if bracket else value


def figure(path: Path, description: str) -> str:
    """A figure inside the page itself, with the reading that stands beside it as caption; nothing if it is not there."""
    if not path.is_file():
        return ""
    reading = path.with_suffix(".txt").read_text(encoding="utf-8").strip() if path.with_suffix(".txt").is_file() else ""
    numbers = f"{ANALYSIS}/figures/{path.stem}.csv"
    caption = f'{html.escape(reading)} <a href="{numbers}">Numbers behind the figure</a>.'
    picture = f'<img src="{pictures.data_address(path.read_bytes())}" alt="{html.escape(f"{description}. {reading}")}">'
    return f"<figure>{picture}<figcaption>{caption}</figcaption></figure>"


def claims_section(base: Path) -> str:
    """The paper's claims with their verdicts, a card a claim, and beside them what others have published."""
    claims = read_json(base / "claims.json")
    if not claims:
        return ""
    cards = "".join(claim_card(claims[name]) for name in claims_in_order(claims))
    return (
        "<h2>The paper's claims, checked</h2><p>Each verdict is computed from the prediction files, holds for the models "
        'that it names and for no others, and may be that the runs cannot tell. The numbers: <a href="claims.json">'
        f'claims.json</a>.</p><ul class="claims">{cards}</ul>{anchors(base / ANALYSIS / "anchors.csv")}'
    )


def claims_in_order(claims: dict) -> list[str]:
    """The names in `claims.json`, a ladder after the other, each in the order of the paper's findings."""
    from emosafe_lib.evaluation.claims import STATEMENTS

    order = list(STATEMENTS)
    return sorted(claims, key=lambda name: (name.partition("@")[2], order.index(name.partition("@")[0])))


def claim_card(claim: dict) -> str:
    """One claim: verdict in word, mark and colour, what the paper says, on which models, why, and how it was tested."""
    verdict = claim["verdict"]
    return (
        f'<li class="{verdict.replace(" ", "-")}"><p class="verdict"><span aria-hidden="true">{MARKS[verdict]}</span> '
        f"{verdict}</p><h3>{html.escape(claim['claim'])}</h3><p>{html.escape(claim.get('because', ''))}</p>"
        f'<p class="small">Models: {html.escape(claim["ladder"])}. Test: {html.escape(claim["test"])}.</p></li>'
    )


def anchors(path: Path) -> str:
    """Published numbers of other people on other data, marked as such and folded away."""
    if not path.is_file():
        return ""
    columns = ["data", "metric", "model", "value"]
    rows = tables.read_csv(path)[columns].values.tolist()
    caption = "Published by others, on other data: what is usual in the field; comparable with no number above"
    return f"<details><summary>Other people's numbers, on other data</summary>{table(columns, rows, caption)}</details>"


def stages_section(base: Path, stages: list[tuple]) -> str:
    """Every stage with its state, time and peak memory, linked to its page."""
    rows = []
    for name, model, word, facts in stages:
        page = f"{model}/{name}/{name}.html" if model else f"{name}/{name}.html"
        title = Markup(f'<a href="{page}">{html.escape(name)}</a>') if (base / page).is_file() else name
        badge = Markup(f'<span class="state {word.replace(" ", "-")}">{word}</span>')
        seconds = f"{facts['seconds']:,.0f}" if "seconds" in facts else ""
        rows.append([title, model or "", badge, seconds, f"{facts['peak_memory_mb']:,}" if facts else ""])
    done = "done: every cell ran, and the receipt matches today's parameters and code"
    header = ["notebook", "model", "state", "seconds", "peak memory, MB"]
    return "<h2>Notebooks</h2>" + table(header, rows, f"Stages of this study; {done}", "stages")


def identity_section(base: Path, stages: list[tuple]) -> str:
    """What identifies the run: data, time, machine, versions and parameters, each as the stages recorded it."""
    card, manifests = read_json(base / "data_card.json"), [facts for *_, facts in stages if facts]
    last = max(manifests, key=lambda facts: facts["finished"], default={})
    versions = dict(last.get("versions", {}))
    machine = ", ".join(versions.pop(key) for key in ("machine", "system") if key in versions)
    parameters: dict = {}
    for facts in manifests:
        parameters |= {key: value for key, value in facts["parameters"].items() if key != "model"}
    origins = ("human", "synthetic", "reinterpreted")
    counts = ", ".join(f"{card[f'rows_{name}']:,} {name}" for name in origins if card.get(f"rows_{name}"))
    sources = len(card.get("sources", {}))
    finished = sorted(facts["finished"] for facts in manifests)
    span = " to ".join(moment[:16].replace("T", " ") for moment in finished[:: max(1, len(finished) - 1)])
    rows = [
        ["data", f"{card.get('rows', 0):,} rows ({counts}) of {sources} source{'' if sources == 1 else 's'}"],
        ["data SHA-256", Markup(f"<code>{html.escape(card.get('sha256', ''))}</code>")],
        ["stages finished", f"{span} UTC"],
        ["computing time", f"{sum(facts['seconds'] for facts in manifests) / 60:,.1f} minutes, all stages added up"],
        ["machine", f"{machine}, {versions.pop('cpus', '?')} CPUs"],
        ["versions", ", ".join(f"{name} {version}" for name, version in versions.items())],
    ]
    dumped = html.escape(json.dumps(parameters, indent=1, sort_keys=True))
    return (
        "<h2>Identity of this run</h2>"
        + table(["what", "value"], rows, "Taken from the stages' manifests", "identity")
        + f"<details><summary>All parameters of this run</summary><pre>{dumped}</pre></details>"
    )


def write_index(study: StudyParams, models: Sequence[str] = ()) -> Path:
    """Write `outputs/<study>/index.html` of a run about `models` from what is on disk, by rename; returns its path."""
    base = paths.outputs_root() / study.name
    if not base.is_dir():
        raise StageError(f"outputs/{study.name}", "is not there", f"run `make study STUDY={study.name}`")
    run = list(models or study.models)
    stages = [(*pair, *state(study, *pair, run)) for pair in expected_stages(study, models_of(study, base, run))]
    parts = (opening(study, base, stages), results_section(base), claims_section(base))
    content = "".join((*parts, stages_section(base, stages), identity_section(base, stages)))
    target = base / "index.html"
    partial = base / ".index.html.partial"
    partial.write_text(rendering.shell(f"{study.name} study", content), encoding="utf-8")
    os.replace(partial, target)
    return target
