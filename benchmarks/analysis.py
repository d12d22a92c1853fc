"""How long do ten thousand resamples of a study take? All runs of five models, against scikit-learn in a loop.

The study has some 1,500 test rows, as many as the real one prompts, and most of its settings; labels and predictions are
made up. The peer is the plain way: write out the rows of a resample, let scikit-learn score them, take the next resample.
It computes fewer scores (none within sources). It is timed on a few resamples of every run and multiplied. Times are
processor seconds, since wall time on a shared machine measures its neighbours; both are kept.

    python benchmarks/analysis.py                          # writes benchmarks/results/analysis.json
    python benchmarks/analysis.py --resamples 500 --print
"""

import argparse
import os
import statistics
import sys
from functools import partial
from pathlib import Path

# A second thread that waits for the next small product in a loop would be counted as work.
os.environ["OPENBLAS_NUM_THREADS"] = "1"

import numpy as np
import pandas as pd

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).parent / "results" / "analysis.json"
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "helpers")]

import analysis_world  # noqa: E402
from reporting import clocked, machine, publish, ratio, rounds, versions  # noqa: E402
from scikit_scores import scores_by_scikit_learn  # noqa: E402

from emosafe_lib.evaluation import results  # noqa: E402
from emosafe_lib.evaluation.bootstrap import Bootstrap  # noqa: E402
from emosafe_lib.evaluation.metrics import Answers  # noqa: E402
from emosafe_lib.evaluation.results import Evidence  # noqa: E402
from emosafe_lib.study.parameters import AnalysisParams, load_model  # noqa: E402

ROWS, SOURCES = 3000, 20  # half of the rows are test
SKILLS = {"nano-1": 0.3, "nano-2": 0.8, "nano-3": 1.1, "nano-4": 1.3, "minilm": 1.8}
PEER_RESAMPLES, FEWEST_RESAMPLES = 3, 100  # the second is the least that a study may ask for
LIMIT_SECONDS = 60  # aimed at


def whole_study(resamples: int) -> Evidence:
    """A made-up study's runs, aligned with its test rows."""
    rows = analysis_world.made_up_rows(ROWS, sources=SOURCES)
    parts = [analysis_world.model_table(rows, name, skill, 100 * i) for i, (name, skill) in enumerate(SKILLS.items())]
    study = analysis_world.study(SKILLS).model_copy(update={"analysis": AnalysisParams(resamples=resamples)})
    models = {name: load_model(name) for name in SKILLS}
    return results.gather(study, models, analysis_world.SIZES, rows, pd.concat(parts))


def ours(evidence: Evidence) -> int:
    """Every score of every run on every resample; how many numbers that makes."""
    study, truth = evidence.study.analysis, evidence.truth
    bootstrap = Bootstrap(truth.group, study.resamples, study.seed)
    return sum(bootstrap.draws(bootstrap.measure(truth, answers)).size for answers in evidence.answers.values())


def peer(evidence: Evidence, resamples: int) -> None:
    """The same by rows written out and scikit-learn, on a few resamples."""
    bootstrap = Bootstrap(evidence.truth.group, resamples, evidence.study.analysis.seed)
    for answers in evidence.answers.values():
        for counts in bootstrap.counts:
            drawn = np.repeat(np.arange(len(answers.rows)), counts[bootstrap.codes[answers.rows]])
            written = Answers(answers.task, np.arange(len(drawn)), *(part[drawn] for part in columns(answers)))
            scores_by_scikit_learn(evidence.truth.at(answers.rows[drawn]), written)


def columns(answers: Answers) -> tuple[np.ndarray, ...]:
    """What an answer consists of, beside its row."""
    return answers.chosen, answers.probabilities, answers.usable


def benchmark(resamples: int, repeats: int) -> dict:
    """Both sides on one study, medians of so many rounds."""
    evidence = whole_study(resamples)
    peer(evidence, 1)  # imports and first calls belong to neither side
    ours(whole_study(FEWEST_RESAMPLES))
    sides = {"ours": partial(ours, evidence), "peer": partial(peer, evidence, PEER_RESAMPLES)}
    runs = rounds({side: partial(clocked, work) for side, work in sides.items()}, repeats)
    spent = {side: [processor for *_, processor in found] for side, found in runs.items()}
    spent["peer"] = [resamples / PEER_RESAMPLES * seconds for seconds in spent["peer"]]
    mine, theirs = (statistics.median(spent[side]) for side in ("ours", "peer"))
    row = {
        "case": f"{resamples} resamples of {len(evidence.answers)} runs on {len(evidence.truth)} test rows",
        "ours": round(mine, 2),
        "peer": round(theirs, 1),
        "peer_name": f"scikit-learn in a loop, {PEER_RESAMPLES} resamples timed and multiplied",
        "unit": "processor s",
        "ratio": round(ratio(spent["peer"], spent["ours"]), 1),
        "limit_share": None,
        "budget": LIMIT_SECONDS,
        "budget_share": round(mine / LIMIT_SECONDS, 3),
        "wall_seconds": round(statistics.median(clock for _, clock, _ in runs["ours"]), 1),
        "numbers": runs["ours"][0][0],
        "repeats": repeats,
    }
    packages = versions("python", "numpy", "scipy", "scikit-learn", "pandas")
    return {"machine": machine(), "versions": packages, "rows": [row]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--resamples", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--print", action="store_true", help="print instead of writing the result file")
    options = parser.parse_args()
    publish(benchmark(options.resamples, options.repeats), RESULTS, only_print=options.print)


if __name__ == "__main__":
    main()
