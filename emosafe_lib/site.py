"""The study's front page: what was run, what came out, and a link to every notebook's page.

A reviewer opens one file from disk and has to see at a glance whether to trust it. So the page shows each stage with
the state that its receipt proves (done, stale, not run), and every number on it is read from the files that the
notebooks wrote.
"""

import html
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from emosafe_lib import render, stage
from emosafe_lib.errors import EmosafeError, StageError
from emosafe_lib.params import StudyParams, load_model, load_study, project_root

REFERENCE_SUFFIXES = {".html", ".ipynb", ".csv", ".json", ".png"}


def expected_stages(study: StudyParams, models: list[str]) -> list[tuple[str, str | None]]:
    """Every (stage, model) of a study in the order of the course."""
    pairs = []
    for name, facts in stage.STAGES.items():
        pairs += [(name, model) for model in models] if facts["model"] else [(name, None)]
    return pairs


def models_of(study: StudyParams, base: Path, models: Sequence[str] = ()) -> list[str]:
    """The run's models (the study's own where none are named), then any other that has a folder with a stage of it."""
    found = sorted(path.parent.name for path in base.glob("*/03_prompting_baselines"))
    return list(dict.fromkeys([*(models or study.models), *found]))


def state(study: StudyParams, name: str, model: str | None, models: Sequence[str] = ()) -> tuple[str, dict]:
    """What a stage's receipt proves for a run about `models`: ("done" | "stale" | "not run", manifest or {})."""
    from emosafe_lib.execute import stage_digest

    folder = stage.stage_folder(study.name, name, model)
    receipt, manifest = folder / "receipt.json", folder / "manifest.json"
    if not receipt.is_file() or not manifest.is_file():
        return "not run", {}
    facts = json.loads(manifest.read_text(encoding="utf-8"))
    try:
        digest = stage_digest(name, study, load_model(model) if model else None, models)
        current = json.loads(receipt.read_text(encoding="utf-8"))["digest"] == digest
    except EmosafeError:
        current = False
    return ("done" if current else "stale"), facts


def table(header: list[str], rows: list[list[object]], caption: str) -> str:
    """An HTML table; cells are escaped unless they are already `Markup`."""
    head = "".join(f'<th scope="col">{html.escape(cell)}</th>' for cell in header)
    lines = ["<tr>" + "".join(f"<td>{cell_html(cell)}</td>" for cell in row) + "</tr>" for row in rows]
    title = f"<caption>{html.escape(caption)}</caption>"
    return f"<table>{title}<thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"


class Markup(str):
    """Text that is HTML already."""


def cell_html(value: object) -> str:
    """A cell's HTML."""
    return str(value) if isinstance(value, Markup) else html.escape(str(value))


def stage_table(study: StudyParams, models: Sequence[str] = ()) -> str:
    """Every stage with its state, time and peak memory, linked to its page; `models` are the run's."""
    rows = []
    run = list(models or study.models)
    for name, model in expected_stages(study, models_of(study, stage.outputs_root() / study.name, run)):
        word, facts = state(study, name, model, run)
        page = f"{model}/{name}/{name}.html" if model else f"{name}/{name}.html"
        exists = (stage.outputs_root() / study.name / page).is_file()
        title = Markup(f'<a href="{page}">{html.escape(name)}</a>') if exists else name
        rows.append([title, model or "", word, facts.get("seconds", ""), facts.get("peak_memory_mb", "")])
    return table(["notebook", "model", "state", "seconds", "peak MB"], rows, "Stages of this study")


def results_section(base: Path) -> str:
    """The headline table and the main figure of notebook 05, or a sentence that says that there are none yet."""
    from emosafe_lib import tables

    folder = base / "05_scaling_analysis"
    if not (folder / "headline.csv").is_file():
        return "<h2>Results</h2><p>Notebook 05 has not finished, so there are no results yet.</p>"
    headline = tables.read_csv(folder / "headline.csv")
    rows = [["" if cell != cell else cell for cell in row] for row in headline.itertuples(index=False)]
    return (
        "<h2>Results</h2><p>Each cell is a value with its interval, bootstrapped over groups of related texts. "
        'All numbers: <a href="results.csv">results.csv</a>.</p>'
        + table(list(headline.columns), rows, "Macro-F1 by model and setting, pooled and within sources")
        + figure(folder / "figures" / "score_by_size.png", "Macro-F1 against model size, by task and setting")
    )


def figure(path: Path, description: str) -> str:
    """A figure inside the page itself, with its alternative text; nothing where the file is not there."""
    import base64

    if not path.is_file():
        return ""
    data = base64.b64encode(path.read_bytes()).decode()
    return f'<p><img src="data:image/png;base64,{data}" alt="{html.escape(description)}"></p>'


def claims_section(base: Path) -> str:
    """The paper's claims with their verdicts."""
    path = base / "claims.json"
    if not path.is_file():
        return ""
    claims = json.loads(path.read_text(encoding="utf-8"))
    rows = [[name, claim["verdict"], claim.get("because", ""), claim["test"]] for name, claim in claims.items()]
    header = ["claim", "verdict", "because", "how it was tested"]
    return "<h2>The paper's claims, checked on this ladder</h2>" + table(header, rows, "Verdicts")


def identity(study: StudyParams, base: Path) -> str:
    """What identifies the run: data, versions, machine."""
    card = (
        json.loads((base / "data_card.json").read_text(encoding="utf-8")) if (base / "data_card.json").is_file() else {}
    )
    manifest = base / "05_scaling_analysis" / "manifest.json"
    facts = json.loads(manifest.read_text(encoding="utf-8")) if manifest.is_file() else {"versions": {}, "finished": ""}
    rows = [
        [
            "rows",
            f"{card.get('rows', '–')} ({card.get('rows_human', 0)} human, {card.get('rows_synthetic', 0)} synthetic)",
        ],
        ["data SHA-256", card.get("sha256", "–")],
        ["finished", facts["finished"][:19]],
        ["versions", ", ".join(f"{name} {version}" for name, version in facts["versions"].items())],
    ]
    return table(["", ""], rows, "This run")


def write_index(study: StudyParams, models: Sequence[str] = ()) -> Path:
    """Write `outputs/<study>/index.html` of a run about `models` from what is on disk, by rename; returns its path."""
    base = stage.outputs_root() / study.name
    if not base.is_dir():
        raise StageError(f"outputs/{study.name}", "is not there", f"run `make study STUDY={study.name}`")
    content = (
        f"<h1>emosafe: {html.escape(study.title or study.name)}</h1>"
        '<p class="note">A study package, not a clinical tool. The nano models are teaching models of a few million '
        "parameters; their numbers say nothing about LLaMA's. The pages speak of distress, violence and abuse; texts "
        "of real datasets are never shown.</p>"
        + results_section(base)
        + claims_section(base)
        + "<h2>Notebooks</h2>"
        + stage_table(study, models)
        + "<h2>Identity</h2>"
        + identity(study, base)
    )
    target = base / "index.html"
    partial = base / ".index.html.partial"
    partial.write_text(render.shell(f"{study.name} study", content), encoding="utf-8")
    os.replace(partial, target)
    return target


def write_reference(cores: int) -> None:
    """Run the sample study, and the real one where its data is at hand, and copy what a reviewer needs to
    `outputs/reference/`: pages, notebooks, tables, figures and manifests, but no rows and no predictions.

    Raises
    ------
    StageError : a study failed
    """
    from emosafe_lib.execute import run_study

    for name in ["sample", *(["real"] if os.environ.get("EMOSAFE_DATA_DIR") else [])]:
        if run_study(name, [], cores) != 0:
            raise StageError(name, "did not finish, so the reference stays as it was", "see the lines above")
        copy_reference(load_study(name))


def copy_reference(study: StudyParams) -> Path:
    """Copy the readable part of a finished study to `outputs/reference/<study>/`; returns that folder."""
    base = stage.outputs_root() / study.name
    target = project_root() / "outputs" / "reference" / study.name
    shutil.rmtree(target, ignore_errors=True)
    for path in sorted(base.rglob("*")):
        hidden = any(part.startswith(".") or part == "logs" for part in path.relative_to(base).parts)
        if path.is_file() and path.suffix in REFERENCE_SUFFIXES and not hidden and path.name != "receipt.json":
            copy = target / path.relative_to(base)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
    return target
