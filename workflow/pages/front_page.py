"""The study's front page: what was run, what came out, and a link to every notebook's page.

A reviewer opens one file from disk and has to see at a glance what came out and whether to trust it. So the page answers
the study's question first, claim by claim, and says whether all stages are done, by the state that each one's receipt
proves. Every number and every sentence on it is read from files that the notebooks wrote, and it ends with what
identifies the run: data, parameters, versions, machine, time.
"""

import json
from collections import Counter
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

import pandas as pd

from emosafe_lib.evaluation.metrics import METRIC_TITLES
from emosafe_lib.study import csv_files, files, paths, pictures
from emosafe_lib.study.errors import StageError
from emosafe_lib.study.optional import without_folders
from emosafe_lib.study.parameters import StudyParams
from emosafe_lib.study.stage import STAGES
from emosafe_lib.study.taxonomy import TASKS
from workflow.pages import answers, documents, rendering, states, way
from workflow.pages.rendering import fill
from workflow.receipts import read_or_empty

ANALYSIS = "05_scaling_analysis"
PAPER = "https://arxiv.org/abs/2509.04512"
SYNTHETIC = "Synthetic sample, written for this package"
NO_HEADLINE = {"ablation", "ablation_tasks", "budgets"}  # settings that ask for runs beside the headline table
MARKS = {"supported": "✓", "contradicted": "✗", "cannot tell": "?"}


def opening(study: StudyParams, base: Path, stages: list[tuple]) -> str:
    """The question, what answers it, the five claims in a line each, every stage not done and why, and what this is not."""
    card, claims = read_or_empty(base / "data_card.json"), answers.read_claims(base)
    models = {model for _, model, _, _ in stages if model}
    waiting = [
        (f"{name} {model or ''}".strip(), word, states.reason(study, name, model, word))
        for name, model, word, _ in stages
        if word != "done"
    ]
    facts = [
        (f"{card.get('rows', 0):,}", "rows of data"),
        (f"{sum(card.get('safety', {}).get('test', {}).values()):,}", "test rows"),
        (len(models), "model" if len(models) == 1 else "models"),
        (f"{len(stages) - len(waiting)} of {len(stages)}", "stages done"),
    ]
    lines = answers.lines_of(claims)
    return fill(
        "opening.html",
        name=study.name,
        title=study.title or study.name,
        origin=origin_line(card),
        facts=facts,
        open=by_reason(waiting),
        waiting=len(waiting),
        stages=len(stages),
        answer=figure(base / ANALYSIS / "figures" / "score_by_size.png", "")["reading"],
        claims=lines,
        summary=answers.summary(lines),
        marks=MARKS,
    )


def by_reason(waiting: list[tuple[str, str, str]]) -> list[tuple[str, str, list[str]]]:
    """Stages that are not done as (word, reason, names), those of one word and reason together."""
    found: dict[tuple[str, str], list[str]] = {}
    for name, word, reason in waiting:
        found.setdefault((word, reason), []).append(name)
    return [(*key, names) for key, names in found.items()]


def origin_line(card: dict) -> str:
    """Whether people wrote the messages that are scored; empty where nothing is merged yet."""
    human, synthetic = card.get("rows_human", 0), card.get("rows_synthetic", 0)
    if not human + synthetic:
        return ""
    if not synthetic:
        return "Human-authored messages"
    return f"Human-authored messages ({human:,}; {synthetic:,} more are synthetic)" if human else SYNTHETIC


def results_section(base: Path) -> str:
    """The main figure with its reading and the headline table of notebook 05, or that there are none yet."""
    folder = base / ANALYSIS
    if not (folder / "headline.csv").is_file() or not (base / "results.csv").is_file():
        return fill("results.html", scores=[])
    level = read_or_empty(folder / "manifest.json").get("parameters", {}).get("analysis", {}).get("confidence")
    table = headline_table(csv_files.read_csv(folder / "headline.csv"))
    return fill(
        "results.html",
        analysis=ANALYSIS,
        apart=settings_apart(base, [model for model, _ in table["blocks"]]),
        rows=rows_scored(csv_files.read_csv(base / "results.csv")),
        confidence=f"{level:.0%}" if level else "confidence",
        **table,
        **figure(folder / "figures" / "score_by_size.png", "Macro-F1 against model size, a panel a task"),
    )


def settings_apart(base: Path, models: Sequence[str]) -> list[str]:
    """The models whose settings are not those of most, such as by `model_caps`: `name (finetuning.epochs 1.0, …)`."""
    settings = {model: headline_settings(base, model) for model in models}
    usual = {
        name: Counter(own[name] for own in settings.values() if name in own).most_common(1)[0][0]
        for name in sorted(set().union(*settings.values()))
    }
    apart = {
        model: [f"{name} {own[name]}" for name in usual if own.get(name, usual[name]) != usual[name]]
        for model, own in settings.items()
    }
    return [f"{model} ({', '.join(told)})" for model, told in apart.items() if told]


def headline_settings(base: Path, model: str) -> dict[str, str]:
    """How a model was prompted and trained for the headline table, by the dotted names of the settings, as its stages
    recorded them; `all` where nothing limits a number.
    """
    recorded = [read_or_empty(path).get("parameters", {}) for path in sorted((base / model).glob("*/manifest.json"))]
    return {
        f"{section}.{name}": "all" if value is None else json.dumps(value)
        for parameters in recorded
        for section in ("prompting", "finetuning")
        for name, value in parameters.get(section, {}).items()
        if name not in NO_HEADLINE
    }


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
    claims, anchors = answers.read_claims(base), base / ANALYSIS / "anchors.csv"
    published = csv_files.read_csv(anchors).to_dict("records") if anchors.is_file() else []
    return fill(
        "claims.html", claims=[claims[name] for name in answers.claims_in_order(claims)], marks=MARKS, anchors=published
    )


def stages_section(base: Path, stages: list[tuple]) -> str:
    """Every stage with its state, time and peak memory, linked to its page, and what stages had to do without."""
    gaps = [
        (f"{name} {model or ''}".strip(), gap["name"], without_folders(gap["reason"]))
        for name, model, _, facts in stages
        for gap in facts.get("not_measured", [])
    ]
    return fill("stages.html", stages=[stage_line(base, *each) for each in stages], names=list(STAGES), gaps=gaps)


def stage_line(base: Path, name: str, model: str | None, word: str, facts: dict) -> dict:
    """One line of the table of stages; what its manifest does not say is an empty cell."""
    page = way.page_of(name, model)
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
    card, manifests = read_or_empty(base / "data_card.json"), [facts for *_, facts in stages if facts]
    versions = dict(max(manifests, key=lambda facts: facts["finished"], default={}).get("versions", {}))
    finished = sorted(facts["finished"] for facts in manifests)
    return fill(
        "identity.html",
        data=data_line(card),
        sha256=card.get("sha256", ""),
        finished=" to ".join(moment[:16].replace("T", " ") for moment in finished[:: max(1, len(finished) - 1)]),
        minutes=f"{sum(facts['seconds'] for facts in manifests) / 60:,.1f}",
        machine=", ".join(versions.pop(key) for key in ("machine", "system") if key in versions),
        cpus=versions.pop("cpus", "?"),
        versions=", ".join(f"{name} {version}" for name, version in versions.items()),
        parameters=json.dumps(recorded_parameters(stages), indent=1, sort_keys=True),
    )


def recorded_parameters(stages: list[tuple]) -> dict:
    """Each section of the parameters as the stages recorded it, by models where `model_caps` gave them different ones."""
    found: dict[str, dict[str, tuple]] = {}
    for _, model, _, facts in stages:
        for section, settings in facts.get("parameters", {}).items():
            if section != "model":
                alike = found.setdefault(section, {}).setdefault(json.dumps(settings, sort_keys=True), (settings, []))
                alike[1].append(model or "the study")
    return {
        section: {", ".join(dict.fromkeys(models)): settings for settings, models in kinds.values()}
        if len(kinds) > 1
        else next(iter(kinds.values()))[0]
        for section, kinds in found.items()
    }


def data_line(card: dict) -> str:
    """How many rows of which origin, and of how many sources."""
    origins = ("human", "synthetic", "reinterpreted")
    counts = ", ".join(f"{card[f'rows_{name}']:,} {name}" for name in origins if card.get(f"rows_{name}"))
    sources = len(card.get("sources", {}))
    return f"{card.get('rows', 0):,} rows ({counts}) of {sources} source{'' if sources == 1 else 's'}"


def others_beside(base: Path) -> list[str]:
    """The other studies whose front pages stand beside this one."""
    found = sorted(path.parent.name for path in base.parent.glob("[!.]*/index.html"))
    return [name for name in found if name != base.name]


def page(study: StudyParams, models: Sequence[str] = (), others: Sequence[str] | None = None) -> str:
    """The front page of a run about `models`, from what is on disk; it links to the studies `others`, those beside it
    where they are not given.
    """
    base, run = paths.outputs_root() / study.name, list(models or study.models)
    pairs = states.expected_stages(study, states.models_of(study, base, run))
    stages = [(*pair, *states.state(study, *pair, run)) for pair in pairs]
    sections = (opening(study, base, stages), results_section(base), stages_section(base, stages))
    content = "".join((*sections, claims_section(base), identity_section(base, stages)))
    links = [("Paper", PAPER), *documents.links(base)]
    links += [
        (f"Study {name}", f"../{name}/index.html") for name in (others_beside(base) if others is None else others)
    ]
    return rendering.shell(f"{study.name} study", content, links)


def write_index(study: StudyParams, models: Sequence[str] = (), others: Sequence[str] | None = None) -> Path:
    """Write `outputs/<study>/index.html` by rename, with the pages that it leads to: README, glossary, and one for each
    stage that has none. `models` and `others` are what `page` takes. Returns its path.
    """
    base = paths.outputs_root() / study.name
    if not base.is_dir():
        raise StageError(f"outputs/{study.name}", "is not there", f"run `make study STUDY={study.name}`")
    documents.write(base)
    run = list(models or study.models)
    for name, model in states.expected_stages(study, states.models_of(study, base, run)):
        executed = paths.stage_folder(study.name, name, model) / f"{name}.ipynb"
        if not executed.is_file():
            word, _ = states.state(study, name, model, run)
            reason = states.reason(study, name, model, word)
            if not executed.is_file():  # a run beside may have published it since
                documents.write_missing(study, name, model, word, reason)
    with files.replacing(base / "index.html") as partial:
        partial.write_text(page(study, models, others), encoding="utf-8")
    return base / "index.html"
