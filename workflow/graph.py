"""The jobs of a study as a graph, read from Snakemake's own plan, and the longest way through it."""

import re
import subprocess
import sys
from functools import cache
from typing import NamedTuple

from emosafe_lib.study import stage as stages
from emosafe_lib.study.errors import StageError
from emosafe_lib.study.parameters import load_study
from emosafe_lib.study.paths import project_root
from workflow.engine import snakemake_arguments

RULES = {name.partition("_")[2]: name for name in stages.STAGES}
DOT_NODE = re.compile(r'^\s*(\d+)\[label = "(.*?)".*style="([^"]*)"', re.MULTILINE)
DOT_EDGE = re.compile(r"^\s*(\d+) -> (\d+)", re.MULTILINE)


class Job(NamedTuple):
    """One node of the graph."""

    stage: str
    model: str
    runs_now: bool

    @property
    def label(self) -> str:
        """How progress lines name it."""
        return f"{self.stage} {self.model}".strip()


class Graph(NamedTuple):
    """Jobs by Snakemake's number, and for each the numbers of those that it waits for."""

    jobs: dict[int, Job]
    needs: dict[int, list[int]]


def graph_of(study: str, models: list[str], cores: int) -> Graph:
    """The jobs of a study as Snakemake sees them, those that would run now marked.

    Raises
    ------
    StageError : Snakemake refuses the study
    """
    from workflow.runner import what_to_run

    told = snakemake_arguments(project_root(), cores, study=study, models=",".join(models))
    command = [sys.executable, "-m", "snakemake", *told, *what_to_run(load_study(study), models), "--dag"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise StageError("plan", f"Snakemake refused the study ({last[:200]})", "see `make study`")
    return read_dot(done.stdout)


def read_dot(text: str) -> Graph:
    """The graph in Snakemake's dot output, without the rule that only gathers."""
    jobs = {}
    for number, label, style in DOT_NODE.findall(text):
        rule, _, wildcards = label.partition("\\n")
        if rule != "all":
            jobs[int(number)] = Job(RULES.get(rule, rule), wildcards.removeprefix("model: "), "dashed" not in style)
    needs = {number: [] for number in jobs}
    for first, second in DOT_EDGE.findall(text):
        if int(second) in needs:
            needs[int(second)].append(int(first))
    return Graph(jobs, needs)


def critical_path(graph: Graph, hours: dict[Job, float]) -> tuple[list[Job], float]:
    """The chain of jobs that takes longest, and its hours: no number of machines makes the study faster than it."""

    @cache
    def longest(number: int) -> tuple[float, tuple[int, ...]]:
        before = max((longest(other) for other in graph.needs[number]), default=(0.0, ()))
        return before[0] + hours.get(graph.jobs[number], 0.0), (*before[1], number)

    total, chain = max((longest(number) for number in graph.jobs), default=(0.0, ()))
    return [graph.jobs[number] for number in chain], total


def drawing(graph: Graph) -> list[str]:
    """The graph as lines, level by level; jobs of one notebook stand together."""

    @cache
    def level(number: int) -> int:
        return 1 + max((level(other) for other in graph.needs[number]), default=0)

    lines = []
    for depth in sorted({level(number) for number in graph.jobs}):
        here = [graph.jobs[number] for number in graph.jobs if level(number) == depth]
        for stage in dict.fromkeys(job.stage for job in here):
            models = [job.model for job in here if job.stage == stage and job.model]
            lines.append(f"  {depth}. {stage}" + (f" × {len(models)}: {', '.join(models)}" if models else ""))
    return lines
