"""What makes two training runs the same run: digests of rows, parameters, base model and code.

Work on the same plan goes on where it stopped, finished work is returned as it is, and nothing made from other data,
parameters or code is ever mixed in.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from emosafe_lib.finetuning.objective import targets
from emosafe_lib.finetuning.plan import Plan
from emosafe_lib.models import checkpoints, precision
from emosafe_lib.models.precision import mixes_precision

RECIPE = {"epochs", "min_steps", "max_length", "early_stopping_patience", "class_weights"}
HERE, MODELS = Path(__file__).parent, Path(checkpoints.__file__).parent
# What decides the numbers of a run beside its rows and parameters; thresholds and metrics are computed from them anew.
CODE = (
    *(HERE / f"{name}.py" for name in ("plan", "network", "objective", "trainer", "finetune")),
    *(MODELS / f"{name}.py" for name in ("batching", "backbone", "precision", "quantization", "classifier")),
)


def identity_of(plan: Plan) -> dict:
    """Digests of what went in; two runs with the same identity are the same run."""
    rows = pd.concat([plan.train, plan.validation, plan.test])
    labels = [str(row) for row in np.hstack([targets(rows, plan.task)[0], targets(rows, plan.task)[1]])]
    recipe = plan.settings.model_dump_json(include=RECIPE) + plan.model.training.model_dump_json()
    ran_in = f"{precision.precision(plan.model)} {mixes_precision(plan.model)}"
    return {
        "data": checkpoints.text_digest(*rows["id"], *rows["text"], *labels),
        "parameters": checkpoints.text_digest(recipe, ran_in),
        "base": checkpoints.base_digest(plan.model),
        "code": checkpoints.code_digest(*CODE),
        "task": plan.task,
        "seed": plan.seed,
        "variant": plan.variant,
    }
