"""Is the merge linear, and what does it cost? 10 thousand to 1 million synthetic rows against the loop one writes first.

The peer is the plain way: pandas for the exact duplicates, one datasketch MinHash and one LSH query a row for the near
ones. It normalises less (no scrubbing, no quarantine, no balance), so the ratio is in its favour. Every run has a process
of its own, whose peak memory is what the operating system says.

    python benchmarks/merge.py                       # writes benchmarks/results/merge.json
    python benchmarks/merge.py --sizes 10000 --print
"""

import argparse
import itertools
import json
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from reporting import clocked, exponents, in_own_process, machine, publish, ratio, rounds, versions

from emosafe_lib.study.machine import peak_memory_mb

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).parent / "results" / "merge.json"
sys.path.insert(0, str(ROOT))

SIZES, WARM_ROWS = (10_000, 100_000, 1_000_000), 500
PEER_UP_TO = 100_000  # beyond, the loop needs tens of minutes
# By its title: the key of a figure, its unit, and the most that a million rows may take.
FIGURES = {"time": ("seconds", "s", 600), "peak memory": ("peak_mb", "MB", 4096)}
MOST_EXPONENT = 1.1
PEER = "pandas + datasketch loop"
VOCABULARY, WORDS, EXACT, NEAR = 50_000, 20, 0.03, 0.05
LEVELS = ("safe", "borderline", "unsafe")


def synthetic(n: int) -> pd.DataFrame:
    """n rows of words as frequent as English ones (Zipf-Mandelbrot), some of them copies.

    Of the copies some are in capitals, others have their last word changed.
    """
    from emosafe_lib.data.sources.base import RAW_COLUMNS

    random = np.random.default_rng(0)
    words = np.array([f"w{i}" for i in range(VOCABULARY)], dtype=object)
    lengths = random.poisson(WORDS, n).clip(4)
    weights = 1 / (np.arange(VOCABULARY) + 2.7) ** 1.07
    ranks = np.searchsorted(np.cumsum(weights / weights.sum()), random.random(lengths.sum()))
    drawn = words[ranks.clip(max=VOCABULARY - 1)]
    texts = [" ".join(part) for part in np.split(drawn, np.cumsum(lengths)[:-1])]
    for i in np.flatnonzero(random.random(n) < EXACT + NEAR):
        base = texts[random.integers(n)]
        copied = base.upper() if random.random() < EXACT / (EXACT + NEAR) else base.rsplit(" ", 1)[0] + " changed"
        texts[i] = copied
    none = (False,) * 6
    table = dict.fromkeys(RAW_COLUMNS, "") | {"origin": "human", "quality": "direct", "register": "comment"}
    rows = pd.DataFrame({"text": np.array(texts, dtype=object), "id": [f"r{i}" for i in range(n)]}, dtype=object)
    rows = rows.assign(**{name: value for name, value in table.items() if name not in ("text", "id")})
    rows["source"], rows["source_label"] = "emosafe_sample", "x"
    rows["safety"] = np.array(LEVELS, dtype=object)[random.integers(0, 3, n)]
    rows["categories"] = rows["category_known"] = [none] * n
    return rows[list(RAW_COLUMNS)]


def ours(rows: pd.DataFrame) -> int:
    """The package's merge, from raw rows to the data card; the number of groups."""
    from emosafe_lib.data import merge
    from emosafe_lib.study.parameters import DataParams

    data = DataParams(sources=["emosafe_sample"], balance_sources=False, max_class_share=1.0)
    return merge.choose_and_split(merge.prepare(rows, data), data).card["groups"]


def peer(rows: pd.DataFrame) -> int:
    """pandas and datasketch, one row after the other; the number of groups."""
    from datasketch import MinHash, MinHashLSH

    unique = rows.assign(key=rows["text"].str.lower().str.strip()).drop_duplicates("key")
    index, parent = MinHashLSH(threshold=0.7, num_perm=128), {}

    def root(node):
        while parent[node] != node:
            node = parent[node]
        return node

    for name, key in zip(unique["id"], unique["key"], strict=True):
        words = key.split()
        sketch = MinHash(num_perm=128)
        sketch.update_batch([part.encode() for part in {*words, *map(" ".join, itertools.pairwise(words))}])
        parent[name] = name
        for other in index.query(sketch):
            if sketch.jaccard(index_sketches[other]) >= 0.7:
                parent[root(name)] = root(other)
        index_sketches[name] = sketch
        index.insert(name, sketch)
    return len({root(name) for name in parent})


index_sketches: dict = {}


def one(which: str, n: int) -> dict:
    """Run one side on n rows in this process, behind a pass over a few that is not counted, since imports do not grow."""
    rows, side = synthetic(n), {"ours": ours, "peer": peer}[which]
    side(rows.head(WARM_ROWS))
    index_sketches.clear()
    groups, clock, processor = clocked(lambda: side(rows))
    spent = {"seconds": round(clock, 2), "cpu_seconds": round(processor, 2)}
    return spent | {"peak_mb": round(peak_memory_mb()), "groups": groups}


def line(case: str, mine: float, unit: str, theirs=None, times=None, budget: float | None = None) -> dict:
    """One row of the result file; `theirs` is what the peer takes, and `times` how often ours goes into that."""
    found = {"case": case, "ours": mine, "peer": theirs, "peer_name": "" if theirs is None else PEER, "unit": unit}
    found |= {"ratio": times, "limit_share": None}
    return found | ({"budget": budget, "budget_share": round(mine / budget, 4)} if budget else {})


def benchmark(sizes: list[int], repeats: int) -> dict:
    """All sizes, ours and, where it ends in reasonable time, the peer's, if it runs here at all: medians of so many rounds,
    and one run of ours alone where the peer takes too long.
    """
    from emosafe_lib.study.optional import not_measured, optional

    run, rows, mine = partial(in_own_process, __file__, "--one", OMP_NUM_THREADS="2"), [], {}
    for n in sizes:
        runs = {}
        if n <= PEER_UP_TO:
            with optional("peer", f"{PEER}, {n} rows"):
                runs = rounds({side: partial(run, side, "--sizes", n) for side in ("ours", "peer")}, repeats)
        runs = runs or {"ours": [run("ours", "--sizes", n)]}
        mine[n], theirs = (pd.DataFrame(runs.get(side, [])).median().to_dict() for side in ("ours", "peer"))
        print(n, mine[n], theirs, file=sys.stderr, flush=True)
        for title, (key, unit, limit) in FIGURES.items():
            each = [[found[key] for found in runs.get(side, [])] for side in ("peer", "ours")]
            times, budget = round(ratio(*each), 2) if theirs else None, limit if n == max(SIZES) else None
            rows.append(line(f"{n} rows, {title}", mine[n][key], unit, theirs.get(key), times, budget))
        counted = {"cpu_seconds": mine[n]["cpu_seconds"], "groups": mine[n]["groups"]}
        rows[-2] |= {"repeats": len(runs["ours"]), **counted, "peer_groups": theirs.get("groups")}
    if len(sizes) > 1:
        each = exponents(sizes, [mine[n]["cpu_seconds"] for n in sizes])
        last = line("exponent of time over rows, last two sizes", each[-1], "", budget=MOST_EXPONENT)
        rows.append(last | {"exponents": each})
    packages = versions("python", "numpy", "pandas", "scipy", "datasketch")
    return {"machine": machine(), "versions": packages, "rows": rows, "not_measured": not_measured()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--one", choices=["ours", "peer"], help=argparse.SUPPRESS)
    parser.add_argument("--print", action="store_true", help="print instead of writing the result file")
    options = parser.parse_args()
    if options.one:
        print(json.dumps(one(options.one, options.sizes[0])))
        return
    publish(benchmark(options.sizes, options.repeats), RESULTS, only_print=options.print)


if __name__ == "__main__":
    main()
