"""A toy checkout: the real runner and Snakefile over one-line notebooks, so that runner tests take seconds."""

import shutil
from pathlib import Path

import nbformat

from emosafe_lib.study import earlier
from emosafe_lib.study.stage import STAGES, begin, reads_all_models

ROOT = Path(__file__).resolve().parents[2]

STUDY = """
name: toy
data:
  sources: [emosafe_sample]
models: [nano-1, nano-2]
"""

BODY = {
    "01_data_merge": 'run.out("rows.txt").write_text("rows")',
    "02_chatgpt_augmentation": 'rows = run.use("01_data_merge/rows.txt")\nrun.out("more.txt").write_text("more")',
    "03_prompting_baselines": 'run.use("02_chatgpt_augmentation/more.txt")\nrun.out("p", at="model").write_text("p")',
    "04_lora_finetuning": 'run.use("02_chatgpt_augmentation/more.txt")\nrun.out("f.txt", at="model").write_text("f")',
    "05_scaling_analysis": 'run.out("results.csv", at="study").write_text("model,value\\n")',
    "06_on_device": "x = 1",
}


def notebook(stage: str, body: str, tags: list[str] | None = None, last: str = "run.finish()"):
    """A three-cell notebook of a stage around `body`."""
    model, models = STAGES[stage]["model"], reads_all_models(stage)
    names = 'study = "toy"' + ('\nmodel = "nano-1"' if model else "") + ("\nmodels = []" if models else "")
    parameters = nbformat.v4.new_code_cell(names)
    parameters.metadata["tags"] = ["parameters"]
    given = "study" + (", model" if model else "") + (", models=models" if models else "")
    opening = f'from emosafe_lib.study import stage\nrun = stage.begin("{stage}", {given})'
    middle = nbformat.v4.new_code_cell(body)
    middle.metadata["tags"] = tags or []
    cells = [
        nbformat.v4.new_markdown_cell(f"# {stage}"),
        parameters,
        nbformat.v4.new_code_cell(opening),
        middle,
        nbformat.v4.new_code_cell(last),
    ]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    return nbformat.v4.new_notebook(cells=cells, metadata=kernel)


def checkout(folder: Path) -> Path:
    """Build the toy checkout in an empty folder and return it."""
    (folder / "params" / "study").mkdir(parents=True)
    shutil.copytree(ROOT / "params" / "models", folder / "params" / "models")
    shutil.copy(ROOT / "workflow" / "Snakefile", folder / "Snakefile")
    (folder / "params" / "study" / "toy.yaml").write_text(STUDY)
    (folder / "notebooks").mkdir()
    for stage, body in BODY.items():
        write(folder, stage, body)
    return folder


def point_to(patch, root: Path) -> None:
    """Let the library use the checkout and the outputs below `root`."""
    patch.setenv("EMOSAFE_ROOT", str(root / "checkout"))
    patch.setenv("EMOSAFE_OUTPUTS", str(root / "outputs"))


def write(folder: Path, stage: str, body: str, **more) -> None:
    """Put one toy notebook into a toy checkout."""
    nbformat.write(notebook(stage, body, **more), folder / "notebooks" / f"{stage}.ipynb")


def finish_before(stage: str, models: tuple[str, ...] = ("nano-1",)) -> None:
    """Begin and finish, with no files, what a stage of the toy study cannot do without."""
    for name in earlier.AFTER[stage]:
        begin(name, "toy").finish()
    for name in earlier.READS.get(stage, ()):
        finish_before(name)
        for model in models:
            begin(name, "toy", model).finish()
