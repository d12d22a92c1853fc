"""A small made-up study for the tests of the analysis: labels without texts, and predictions whose skill is chosen."""

import numpy as np
import pandas as pd

from emosafe_lib.evaluation import calibration, metrics, predictions, results
from emosafe_lib.study.parameters import AnalysisParams, StudyParams, load_model, load_study
from emosafe_lib.study.rows import take
from emosafe_lib.study.taxonomy import SAFETY_LEVELS

SHA = "0" * 64
SIZES = {"nano-1": 100_000, "nano-2": 300_000, "nano-3": 1_000_000, "nano-4": 3_000_000, "minilm": 20_000_000}


def made_up_rows(n: int = 300, sources: int = 2, seed: int = 0) -> pd.DataFrame:
    """n rows of which about half are test; groups hold one or two rows; text is a word that tells the level or not."""
    random = np.random.default_rng(seed)
    level = random.integers(0, 3, n)
    source = random.integers(0, sources, n)
    categories = random.random((n, 6)) < 0.3
    known = np.ones((n, 6), bool)
    known[source == 0, 5] = False
    group = random.integers(0, int(n * 0.7), n)
    told = np.where(random.random(n) < 0.8, level, random.integers(0, 3, n))
    return pd.DataFrame(
        {
            "id": [f"r{i:04d}" for i in range(n)],
            "text": [f"word{k} and word{c}" for k, c in zip(told, categories.argmax(axis=1), strict=True)],
            "source": [f"source{s}" for s in source],
            "source_label": "made up",
            "emotion": None,
            "safety": [SAFETY_LEVELS[k] for k in level],
            "categories": (categories & known).tolist(),
            "category_known": known.tolist(),
            "group": [f"g{g}" for g in group],
            "split": np.array(["test", "train", "test", "validation"])[group % 4],
            "origin": "human",
            "parent_id": None,
        }
    )


def with_other_test_labels(rows: pd.DataFrame, level: str) -> pd.DataFrame:
    """The rows with every label of the test split turned, in both tasks; its texts all get one safety level."""
    test = rows["split"] == "test"
    pairs = zip(rows["categories"], test, strict=True)
    turned = [[not cell for cell in cells] if here else cells for cells, here in pairs]
    return rows.assign(safety=rows["safety"].where(~test, level), categories=turned)


def study(models=("nano-1", "nano-2", "nano-3", "nano-4", "minilm"), resamples: int = 200, **more) -> StudyParams:
    """The sample study's parameters with few resamples, no ablation, and chosen models."""
    sample = load_study("sample")
    finetuning = sample.finetuning.model_copy(update={"ablation": False})
    changes = {"models": list(models), "analysis": AnalysisParams(resamples=resamples), "finetuning": finetuning}
    return sample.model_copy(update=changes | more)


def safety_probabilities(levels: np.ndarray, skill: float, random) -> np.ndarray:
    """Probabilities (n, 3) that name the right level more often the larger `skill` is."""
    scores = random.normal(0, 1, (len(levels), 3))
    scores[np.arange(len(levels)), levels] += skill
    return calibration.apply_temperature(scores, 1.0)


def answers_of(rows: pd.DataFrame, skill: float, seed: int = 0, **options) -> list[pd.DataFrame]:
    """Predictions of both tasks for the test rows in one setting; `options` go to `predictions.make`."""
    test = take(rows, "test", originals_only=True)
    truth, random = metrics.truth_of(test), np.random.default_rng(seed)
    safety = safety_probabilities(truth.safety, skill, random)
    flags = 1 / (1 + np.exp(-(random.normal(-1, 1, (len(test), 6)) + skill * truth.categories)))
    return [
        predictions.make(test["id"], task, probabilities=values, **options)
        for task, values in (("safety", safety), ("categories", flags))
    ]


def model_table(rows: pd.DataFrame, model: str, skill: float, seed: int = 0) -> pd.DataFrame:
    """All runs that the sample study asks of a model, the better trained the more skilled."""
    parts = []
    for number, wording in enumerate(("plain", "guard", "careful")):
        parts += answers_of(rows, skill, seed + number, setting="zero-shot", variant=wording)
    parts += answers_of(rows, skill, seed + 10, setting="few-shot", variant="plain")
    parts += answers_of(rows, skill + 1, seed + 20, setting="fine-tuned")
    parts += answers_of(rows, skill + 0.5, seed + 30, setting="probe")
    return pd.concat(parts, ignore_index=True).assign(model=model)


def evidence(rows: pd.DataFrame, skills: dict[str, float], table: pd.DataFrame | None = None, **options):
    """Evidence of models with given skills, or of a given table."""
    here = study(models=list(skills), **options)
    if table is None:
        table = pd.concat([model_table(rows, name, skill, 100 * i) for i, (name, skill) in enumerate(skills.items())])
    models = {name: load_model(name) for name in skills}
    return results.gather(here, models, {name: SIZES.get(name, 10**9) for name in skills}, rows, table)


__all__ = ["SHA", "answers_of", "evidence", "made_up_rows", "model_table", "study"]
