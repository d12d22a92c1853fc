"""When a stage counts as done: its receipt fits its manifest, and its manifest fits the files on disk."""

import json
from collections.abc import Sequence
from pathlib import Path

from emosafe_lib.study import files, paths
from emosafe_lib.study import stage as stages
from emosafe_lib.study.errors import StageError
from emosafe_lib.study.parameters import StudyParams, load_model
from workflow.digests import stage_digest

RECEIPT, PROOF = "receipt.json", ".receipt.json"
INDEXED = ".index.json"  # written once index.html is; Snakemake removes what it is told of, and that page shall stay


def manifest_text(folder: Path) -> str:
    """A stage's manifest as it lies on disk, empty where there is none."""
    path = folder / "manifest.json"
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def check_manifest(folder: Path, before: str, where: object) -> dict:
    """Read the manifest that the notebook wrote and hold it against the files on disk.

    `before` is its text before the notebook ran: times would not do, since a machine's clock may be set back.

    Raises
    ------
    StageError : it is absent, that of an earlier run, not one that `run.finish` writes, or names a file whose hash
        differs
    """
    text, remedy = manifest_text(folder), "end the notebook with run.finish()"
    if not text:
        raise StageError(where, "wrote no manifest", remedy)
    if text == before:
        raise StageError(where, "left the manifest of an earlier run", remedy)
    manifest = read_or_empty(folder / "manifest.json")
    if stages.MANIFEST - manifest.keys():
        raise StageError(where, "left a manifest that cannot be read", remedy)
    for name, digest in manifest["outputs"].items():
        target = paths.outputs_root() / manifest["study"] / name
        if not target.is_file() or files.file_sha256(target) != digest:
            raise StageError(where, f"{name} is not what the manifest says", "run again; nothing else may write there")
    return manifest


def intact(folder: Path, receipt: dict, by_content: bool = True) -> bool:
    """Whether a receipt was written for the manifest that lies there, and the notebook, page and outputs that the two name
    are on disk: those very ones, or, where not `by_content`, any of these names.

    A notebook that was run by hand leaves another manifest.
    """
    path = folder / "manifest.json"
    if not path.is_file() or files.file_sha256(path) != receipt["manifest"]:
        return False
    manifest = read_or_empty(path)
    base = folder.parents[1] if manifest.get("model") else folder.parent
    named = {folder / name: digest for name, digest in receipt["files"].items()}
    named |= {base / name: digest for name, digest in manifest.get("outputs", {}).items()}
    return all(
        each.is_file() and (not by_content or files.file_sha256(each) == digest) for each, digest in named.items()
    )


def finished_before(folder: Path, digest: str, after: Sequence[str]) -> bool:
    """Whether this stage has finished as it would now: same digest, nothing touched, no file of `after` newer.

    Snakemake removes the receipt of a stage that was not yet noted as done when the run was killed, or whose process
    was killed in its very last moments. The copy beside proves that the work is there.
    """
    proof = folder / PROOF
    if not proof.is_file() or any(Path(path).stat().st_mtime_ns > proof.stat().st_mtime_ns for path in after):
        return False
    receipt = read_or_empty(proof)
    return receipt.get("digest") == digest and intact(folder, receipt)


def read_or_empty(path: Path) -> dict:
    """A receipt, manifest or card, or an empty one where the file is absent or was cut short, as a power failure does it."""
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return facts if isinstance(facts, dict) else {}


def is_current(stage: str, study: StudyParams, model: str | None, models: Sequence[str]) -> bool:
    """Whether a stage's receipt, which must be there, was written for these parameters, this code and the manifest on
    disk, and no file that it speaks for has been removed since.
    """
    folder = paths.stage_folder(study.name, stage, model)
    receipt = read_or_empty(folder / RECEIPT)
    digest = stage_digest(stage, study, load_model(model) if model else None, models)
    return receipt.get("digest") == digest and intact(folder, receipt, by_content=False)


def outdated(study: StudyParams, models: Sequence[str], until: str = "") -> list[str]:
    """Receipts, of the stages up to `until`, that other parameters or other code left behind, or whose files are gone.

    Snakemake notices a change by its own notes alone, which it keeps by path: they are gone once a checkout or its
    outputs have moved, or `.snakemake` was removed. It would then take every receipt for a current one.
    """
    last, found = until or list(stages.STAGES)[-1], []
    for stage, facts in stages.STAGES.items():
        beside = facts["model"] and stages.STAGES[last]["model"] and stage != last
        for model in (models if facts["model"] else [None]) if stage <= last and not beside else []:
            receipt = paths.stage_folder(study.name, stage, model) / RECEIPT
            if model and not stages.concerns(stage, load_model(model)):
                continue
            if receipt.is_file() and not is_current(stage, study, model, models):
                found.append(str(receipt))
    return found
