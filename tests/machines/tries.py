"""What every simulated machine is asked, in a process of its own: to measure, to train a little and to classify.

Prints one line of JSON: for each precision "measured" or the reason why not, the outcomes of three rows, and what the
machine looks like from inside. An exception that gets out ends the process, and fails the test. An argument is the
number of cores that the machine is said to have.
"""

import json
import os
import sys
import tempfile
from pathlib import Path

import tiny_models


def measured(model) -> dict:
    """What became of each precision: "measured", or the reason why not."""
    from emosafe_lib.ondevice import measure

    measure.MOST_SECONDS, measure.LENGTHS = 0.001, (8,)
    found = measure.hindrances(model)
    for dtype in (dtype for dtype, reason in found.items() if not reason):
        for rows in measure.measure_in_turn(model, [dtype]):
            found[dtype] = rows[0]["reason"] or "measured"
    return found


def classified(model, home: Path) -> list[str]:
    """The outcomes of three rows, by a classifier trained and exported here, in the runtime that it takes by itself."""
    from emosafe_lib.finetuning import finetune
    from emosafe_lib.ondevice import classify, export
    from emosafe_lib.study.taxonomy import TASKS

    rows, study = tiny_models.make_rows(), tiny_models.study_params(epochs=1.0)
    results = {task: finetune.finetune(model, study, rows, task, 0, home / "runs") for task in TASKS}
    folder = export.export(model, results, rows, study.finetuning.max_length, home / "exported")
    return [row["outcome"] for row in classify.Classifier(folder).classify(rows["text"].head(3))]


def main() -> None:
    """Do all of it on the tiny LLaMA."""
    if sys.argv[1:]:
        os.cpu_count = lambda: int(sys.argv[1])
    from emosafe_lib.models import backbone, precision

    with tempfile.TemporaryDirectory() as home:
        tiny_models.make_llama(Path(home) / "llama")
        backbone.ASSETS = Path(home)
        model = tiny_models.model_params(device="cpu")
        threads = precision.use_threads(model)
        outcomes = classified(model, Path(home))
        loaded = sys.modules.get("bitsandbytes") is not None
        found = measured(model)
    facts = {"bf16": precision.half_precision(), "threads": threads, "cpus": os.cpu_count(), "bitsandbytes": loaded}
    print(json.dumps({"measured": found, "outcomes": outcomes, "facts": facts}))


if __name__ == "__main__":
    main()
