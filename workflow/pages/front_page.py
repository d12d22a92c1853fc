"""The study's front page: what was run, what came out, and a link to every notebook's page.

A reviewer opens one file from disk and has to see at a glance whether to trust it. So the page says first whether all
stages are done, by the state that each one's receipt proves; every number and every sentence on it is read from files
that the notebooks wrote; and it ends with what identifies the run: data, parameters, versions, machine, time.
"""

import json
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

import pandas as pd

from emosafe_lib.evaluation.claims import STATEMENTS
from emosafe_lib.evaluation.metrics import METRIC_TITLES
from emosafe_lib.study import csv_files, files, paths, pictures, stage
from emosafe_lib.study.errors import EmosafeError, StageError
from emosafe_lib.study.parameters import StudyParams, load_model
from emosafe_lib.study.taxonomy import TASKS
from workflow.pages import rendering
from workflow.pages.rendering import fill
from workflow.receipts import is_current

ANALYSIS = "05_scaling_analysis"
MARKS = {"supported": "✓", "contradicted": "✗", "cannot tell": "?"}


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


def read_json(path: Path) -> dict:
    """A JSON file's content; {} where it is not there."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def opening(study: StudyParams, base: Path, stages: list[tuple]) -> str:
    """Title, what was studied in four numbers, a warning that names every stage not done, and what this is not."""
    card = read_json(base / "data_card.json")
    models = {model for _, model, _, _ in stages if model}
    waiting = [f"{name} {model or ''}".strip() + f" ({word})" for name, model, word, _ in stages if word != "done"]
    facts = [
        (f"{card.get('rows', 0):,}", "rows of data"),
        (f"{sum(card.get('safety', {}).get('test', {}).values()):,}", "test rows"),
        (len(models), "model" if len(models) == 1 else "models"),
        (f"{len(stages) - len(waiting)} of {len(stages)}", "stages done"),
    ]
    title = study.title or study.name
    return fill("opening.html", name=study.name, title=title, facts=facts, open=waiting, stages=len(stages))


def results_section(base: Path) -> str:
    """The main figure with its reading and the headline table of notebook 05, or that there are none yet."""
    folder = base / ANALYSIS
    if not (folder / "headline.csv").is_file():
        return fill("results.html", scores=[])
    level = read_json(folder / "manifest.json")["parameters"]["analysis"]["confidence"]
    return fill(
        "results.html",
        analysis=ANALYSIS,
        rows=rows_scored(csv_files.read_csv(base / "results.csv")),
        confidence=f"{level:.0%}",
        **headline_table(csv_files.read_csv(folder / "headline.csv")),
        **figure(folder / "figures" / "score_by_size.png", "Macro-F1 against model size, a panel a task"),
    )


def rows_scored(numbers: pd.DataFrame) -> str:
    """How many test rows the headline scores of `results.csv` rest on; two numbers where one task was asked fewer."""
    heads = numbers[(numbers["metric"] == "macro_f1") & (numbers["variant"] == "")]
    return " and ".join(f"{rows:,}" for rows in dict.fromkeys(heads["n"].astype(int)))


def headline_table(numbers: pd.DataFrame) -> dict:
    """The headline table: its tasks, those that were not asked, the titles of a task's columns, and a block a model of a
    line a setting.

    Where pooled and within-source scores are the same in every line, as with a single source, the second is left out
    and the page says so.
    """
    tasks = [task for task in TASKS if f"{task} macro_f1" in numbers]
    same = all((numbers[f"{t} macro_f1"] == numbers[f"{t} within_source_macro_f1"]).all() for t in tasks)
    names = [name for name in METRIC_TITLES if not (same and name == "within_source_macro_f1")]
    columns = [f"{task} {name}" for task in tasks for name in names]
    blocks = [
        (model, [(line["setting"], [score(line[column]) for column in columns]) for line in lines])
        for model, lines in groupby(numbers.to_dict("records"), key=lambda line: line["model"])
    ]
    found = {"tasks": tasks, "not_asked": [task for task in TASKS if task not in tasks], "one_source": same}
    return found | {"scores": [METRIC_TITLES[name] for name in names], "blocks": blocks}


def score(cell: object) -> tuple[str, str, str]:
    """`value [low, high] *` as value, interval and star; the apostrophe that disarms a spreadsheet falls away."""
    value, _, rest = str(cell).removeprefix("'").partition(" [")
    interval, _, star = rest.partition("]")
    return value, interval, star


def figure(path: Path, description: str) -> dict:
    """A figure as an address within the page, and its reading; an empty address where it is not there."""
    text = path.with_suffix(".txt")
    return {
        "picture": pictures.data_address(path.read_bytes()) if path.is_file() else "",
        "reading": text.read_text(encoding="utf-8").strip() if text.is_file() else "",
        "description": description,
        "figure": f"figures/{path.stem}",
    }


def claims_section(base: Path) -> str:
    """The paper's claims with their verdicts, and beside them what others have published, marked as such."""
    claims, anchors = read_json(base / "claims.json"), base / ANALYSIS / "anchors.csv"
    published = csv_files.read_csv(anchors).to_dict("records") if anchors.is_file() else []
    return fill(
        "claims.html", claims=[claims[name] for name in claims_in_order(claims)], marks=MARKS, anchors=published
    )


def claims_in_order(claims: dict) -> list[str]:
    """The names in `claims.json`, a ladder after the other, each in the order of the paper's findings."""
    order = list(STATEMENTS)
    return sorted(claims, key=lambda name: (name.partition("@")[2], order.index(name.partition("@")[0])))


def stages_section(base: Path, stages: list[tuple]) -> str:
    """Every stage with its state, time and peak memory, linked to its page."""
    return fill("stages.html", stages=[stage_line(base, *each) for each in stages])


def stage_line(base: Path, name: str, model: str | None, word: str, facts: dict) -> dict:
    """One line of the table of stages; what its manifest does not say is an empty cell."""
    page = f"{model}/{name}/{name}.html" if model else f"{name}/{name}.html"
    return {
        "name": name,
        "model": model or "",
        "page": page if (base / page).is_file() else "",
        "state": word,
        "seconds": f"{facts['seconds']:,.0f}" if "seconds" in facts else "",
        "memory": f"{facts['peak_memory_mb']:,}" if facts else "",
    }


def identity_section(base: Path, stages: list[tuple]) -> str:
    """What identifies the run: data, time, machine, versions and parameters, each as the stages recorded it."""
    card, manifests = read_json(base / "data_card.json"), [facts for *_, facts in stages if facts]
    versions = dict(max(manifests, key=lambda facts: facts["finished"], default={}).get("versions", {}))
    finished = sorted(facts["finished"] for facts in manifests)
    parameters: dict = {}
    for facts in manifests:
        parameters |= {key: value for key, value in facts["parameters"].items() if key != "model"}
    return fill(
        "identity.html",
        data=data_line(card),
        sha256=card.get("sha256", ""),
        finished=" to ".join(moment[:16].replace("T", " ") for moment in finished[:: max(1, len(finished) - 1)]),
        minutes=f"{sum(facts['seconds'] for facts in manifests) / 60:,.1f}",
        machine=", ".join(versions.pop(key) for key in ("machine", "system") if key in versions),
        cpus=versions.pop("cpus", "?"),
        versions=", ".join(f"{name} {version}" for name, version in versions.items()),
        parameters=json.dumps(parameters, indent=1, sort_keys=True),
    )


def data_line(card: dict) -> str:
    """How many rows of which origin, and of how many sources."""
    origins = ("human", "synthetic", "reinterpreted")
    counts = ", ".join(f"{card[f'rows_{name}']:,} {name}" for name in origins if card.get(f"rows_{name}"))
    sources = len(card.get("sources", {}))
    return f"{card.get('rows', 0):,} rows ({counts}) of {sources} source{'' if sources == 1 else 's'}"


def write_index(study: StudyParams, models: Sequence[str] = ()) -> Path:
    """Write `outputs/<study>/index.html` of a run about `models` from what is on disk, by rename; returns its path."""
    base = paths.outputs_root() / study.name
    if not base.is_dir():
        raise StageError(f"outputs/{study.name}", "is not there", f"run `make study STUDY={study.name}`")
    run = list(models or study.models)
    stages = [(*pair, *state(study, *pair, run)) for pair in expected_stages(study, models_of(study, base, run))]
    sections = (opening(study, base, stages), results_section(base), claims_section(base))
    content = "".join((*sections, stages_section(base, stages), identity_section(base, stages)))
    with files.replacing(base / "index.html") as partial:
        partial.write_text(rendering.shell(f"{study.name} study", content), encoding="utf-8")
    return base / "index.html"
