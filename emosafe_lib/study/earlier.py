"""What a stage needs of earlier ones, said before it loads anything, with the cell that makes it.

A student opens the notebook that interests them, which need not be the first. They learn in one line what is not there
yet, and what to type where they stand: `run_until` works in every kernel, whether or not its environment is on the path.
"""

import subprocess
import sys
from collections.abc import Sequence

from emosafe_lib.study.errors import StageError

# What a notebook cannot do without, and what it reads of as many models as there are.
AFTER = {
    "02_chatgpt_augmentation": ["01_data_merge"],
    "03_prompting_baselines": ["01_data_merge"],
    "04_lora_finetuning": ["01_data_merge", "02_chatgpt_augmentation"],
    "05_scaling_analysis": ["01_data_merge", "02_chatgpt_augmentation"],
    "06_on_device": ["01_data_merge"],
}
READS = {
    "05_scaling_analysis": ["03_prompting_baselines", "04_lora_finetuning"],
    "06_on_device": ["04_lora_finetuning"],
}


def run_until(stage: str, study: str = "sample", models: Sequence[str] = ()) -> None:
    """Bring a study up to date up to a stage, as `emosafe run study --until` does, and print what happens meanwhile.

    Parameters
    ----------
    stage : the last stage to run
    study, models : what `stage.begin` takes; the study's own models where none are named

    Raises
    ------
    StageError : a stage did not finish; the lines above say which, and why
    """
    command = [sys.executable, "-m", "emosafe_lib.cli", "run", "study", "--study", study, "--until", stage]
    command += ["--models", " ".join(models)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        for line in process.stdout:
            print(line, end="", flush=True)
    if process.returncode:
        raise StageError(stage, "did not finish", "the lines above say why")


def cell(stage: str, study: str, models: Sequence[str] = ()) -> str:
    """The line of Python that runs a stage from a notebook, in which `stage` is the module of that name."""
    given = [stage, study, *([list(models)] if models else [])]
    return f"stage.run_until({', '.join(map(repr, given))})".replace("'", '"')
