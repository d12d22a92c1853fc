"""One hash over all of ours that a stage depends on: parameters, notebook, the code it reaches, data and weights.

Snakemake compares times; a change of content is what should run a stage again, and only the stages that read it.
"""

import ast
import hashlib
import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from emosafe_lib.study import stage as stages
from emosafe_lib.study.errors import StageError
from emosafe_lib.study.files import file_sha256, known_sha256
from emosafe_lib.study.parameters import ModelParams, StudyParams, load_model
from emosafe_lib.study.paths import ASSETS, project_root
from emosafe_lib.study.stage import STAGES, reads_all_models

# Registered sources whose file comes with the package: its hash stands in no registry.
SHIPPED_SOURCES = {
    "emosafe_sample": "sample/sample.jsonl",
    "emosafe_contrast": "sample/contrast.jsonl",
    "emosafe_helpline_sample": "sample/helpline.jsonl",
    "emosafe_contrast_pairs": "sample/contrast_pairs.jsonl",
}

# Models that a stage looks at whatever the run's are: the likeness of re-tellings, the 1B claim, the shapes of the plan.
ALSO_READ = {
    "02_chatgpt_augmentation": ("minilm",),
    "05_scaling_analysis": ("llama-1b",),
    "06_on_device": ("llama-1b", "llama-3b", "llama-8b", "llama-70b"),
}


def cells_of(notebook: Path) -> list[tuple[str, str, list[str]]]:
    """Type, source and tags of a notebook's cells: what running it depends on. Outputs that JupyterLab saved are no part.

    Raises
    ------
    StageError : the file is no notebook
    """
    try:
        cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
        return [
            (each["cell_type"], "".join(each["source"]), sorted(each.get("metadata", {}).get("tags", [])))
            for each in cells
        ]
    except (ValueError, KeyError, TypeError):  # as a merge leaves it that met a conflict
        raise StageError(f"notebooks/{notebook.name}", "is no notebook", "restore it, with git for example") from None


def code_modules(notebook: Path) -> list[Path]:
    """The library modules that a notebook imports, directly or through each other, in sorted order."""
    package = ASSETS.parent
    sources = [source for kind, source, _ in cells_of(notebook) if kind == "code"]
    todo = [name for source in sources for name in imported_names(source)]
    found: set[Path] = set()
    while todo:
        for path in module_files(package, todo.pop()) - found:
            found.add(path)
            todo += imported_names(path.read_text(encoding="utf-8"))
    return sorted(found)


@cache
def imported_names(source: str) -> tuple[str, ...]:
    """Dotted names below `emosafe_lib` that a piece of code imports; kept, since every stage reaches the same modules."""
    lines = [line for line in source.splitlines() if not line.lstrip().startswith(("%", "!"))]
    names = []
    try:
        tree = ast.parse("\n".join(lines))
    except SyntaxError:  # its cell will say so when it runs
        return ()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "emosafe_lib":
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names += [alias.name for alias in node.names if alias.name.split(".")[0] == "emosafe_lib"]
    return tuple(names)


def module_files(package: Path, dotted: str) -> set[Path]:
    """The files of a module; for a registry all modules beside it, since it imports them by name."""
    path = package.parent.joinpath(*dotted.split("."))
    if path.is_dir():
        return {path / "__init__.py"}
    if path.name == "registry":
        return set(path.parent.glob("*.py"))
    return {path.with_suffix(".py")} if path.with_suffix(".py").is_file() else set()


def reached_code_digest(stage: str) -> str:
    """One hash over the stage's notebook and every library module that it reaches."""
    notebook = project_root() / "notebooks" / f"{stage}.ipynb"
    digest = hashlib.sha256(json.dumps(cells_of(notebook)).encode())
    for path in code_modules(notebook):
        digest.update(f"{path.name}:{file_sha256(path)}\n".encode())
    return digest.hexdigest()


def digest_of_files(paths: Sequence[Path]) -> str:
    """Names and hashes of files; one that is not there is absent."""
    return "".join(f"{path.name}:{known_sha256(path) if path.is_file() else 'absent'}\n" for path in paths)


def source_digests(study: StudyParams) -> str:
    """What decides the raw rows of a study's sources: the hashes that the registry accepts, or, of files that no registry
    pins, their own. Whoever edits a file, or pulls another one, wants it merged again.
    """
    pinned = json.loads((ASSETS / "sources.json").read_text(encoding="utf-8"))
    accepted = {name: pinned[name]["files"] for name in sorted(study.data.sources) if name in pinned}
    shipped = [ASSETS / SHIPPED_SOURCES[name] for name in sorted(study.data.sources) if name in SHIPPED_SOURCES]
    own = [project_root() / source.file for source in study.data.own_sources]
    return json.dumps(accepted, sort_keys=True) + digest_of_files(shipped) + digest_of_files(own)


def asset_files(model: ModelParams) -> list[Path]:
    """The files of a model that comes with the package, and those beside its folder that say what it has read."""
    if model.weights != "assets":
        return []
    folders = {ASSETS / model.path, (ASSETS / model.path).parent} - {ASSETS}
    found = [path for folder in folders for path in folder.glob("*")]
    return sorted(path for path in found if path.is_file() and path.suffix != ".md")


def data_digests(stage: str, study: StudyParams, model: ModelParams | None, models: Sequence[str] = ()) -> str:
    """The hashes of the files, neither code nor outputs, that a stage reads; `models` as in `begin`."""
    read = [model] if model else []
    if reads_all_models(stage):
        read = [load_model(name) for name in models or study.models]
    weights = "".join(digest_of_files(asset_files(each)) for each in read)
    shapes = [load_model(name).model_dump(mode="json", exclude={"resources"}) for name in ALSO_READ.get(stage, ())]
    return weights + json.dumps(shapes) + (source_digests(study) if "data" in STAGES[stage]["sections"] else "")


def stage_digest(stage: str, study: StudyParams, model: ModelParams | None = None, models: Sequence[str] = ()) -> str:
    """One hash over all of ours that a stage depends on: its parameters, its notebook, the code it reaches, and the data
    and weights that come with the package or are the study's own.
    """
    chosen = stages.parameters_of(stage, study, model, models)
    content = json.dumps(chosen, sort_keys=True) + reached_code_digest(stage)
    content += data_digests(stage, study, model, models)
    return hashlib.sha256(content.encode()).hexdigest()
