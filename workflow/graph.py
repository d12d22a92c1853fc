"""The jobs of a study as a graph, read from Snakemake's own plan, and the longest way through it."""

import re
import subprocess
import sys
from typing import NamedTuple

from networkx import DiGraph, dag_longest_path, topological_generations

from emosafe_lib.study import stage as stages
from emosafe_lib.study.errors import StageError
from emosafe_lib.study.parameters import load_study
from emosafe_lib.study.paths import project_root
from workflow.snakemake_run import snakemake_arguments
from workflow.study_run import what_to_run

RULES = {name.partition("_")[2]: name for name in stages.STAGES}
MOMENT = 1e-9  # hours: of two ways that take equally long the one with more jobs is shown, measured or not
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


def graph_of(study: str, models: list[str], cores: int) -> DiGraph:
    """The jobs of a study as Snakemake sees them, those that would run now marked.

    Nodes are `Job`s in Snakemake's order; an edge leads from a job to one that waits for it.

    Raises
    ------
    StageError : Snakemake refuses the study
    """
    told = snakemake_arguments(project_root(), cores, study=study, models=",".join(models))
    command = [sys.executable, "-m", "snakemake", *told, *what_to_run(load_study(study), models), "--dag"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise StageError("plan", f"Snakemake refused the study ({last[:200]})", "see `make study`")
    return read_dot(done.stdout)


def read_dot(text: str) -> DiGraph:
    """The graph in Snakemake's dot output, without the rule that only gathers."""
    jobs = {}
    for number, label, style in DOT_NODE.findall(text):
        rule, _, wildcards = label.partition("\\n")
        if rule != "all":
            jobs[number] = Job(RULES.get(rule, rule), wildcards.removeprefix("model: "), "dashed" not in style)
    graph = DiGraph()
    graph.add_nodes_from(jobs.values())
    graph.add_edges_from((jobs[a], jobs[b]) for a, b in DOT_EDGE.findall(text) if a in jobs and b in jobs)
    return graph


def critical_path(graph: DiGraph, hours: dict[Job, float]) -> tuple[list[Job], float]:
    """The chain of jobs that takes longest, and its hours: no number of machines makes the study faster than it."""
    weights = {job: hours.get(job, 0.0) + MOMENT for job in graph}
    timed = DiGraph()  # networkx weighs edges, so an edge weighs what the job before it takes
    timed.add_weighted_edges_from((job, after, weights[job]) for job, after in graph.edges)
    timed.add_weighted_edges_from((job, "end", weights[job]) for job in graph if not graph.out_degree(job))
    chain = dag_longest_path(timed)[:-1]
    return chain, sum((hours.get(job, 0.0) for job in chain), 0.0)


def drawing(graph: DiGraph) -> list[str]:
    """The graph as lines, level by level; jobs of one notebook stand together."""
    lines = []
    for depth, level in enumerate(map(set, topological_generations(graph)), start=1):
        here = [job for job in graph if job in level]
        for stage in dict.fromkeys(job.stage for job in here):
            models = [job.model for job in here if job.stage == stage and job.model]
            lines.append(f"  {depth}. {stage}" + (f" × {len(models)}: {', '.join(models)}" if models else ""))
    return lines
