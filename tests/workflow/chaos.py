"""Kill a running study again and again at random moments, and count what must stay zero.

`python tests/workflow/chaos.py --kills 50` takes the six notebooks' real code on a reduced study (`REDUCED` says what is
reduced); the test suite runs a few kills on toy notebooks. Kernels, runners and whole process groups get SIGINT, SIGTERM
and SIGKILL, half of them at any moment and half just when a file appears, since that is where files break. After each
kill everything on disk is checked; a study that finishes is compared with an undisturbed run and begun anew.
"""

import argparse
import functools
import hashlib
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path

import pandas as pd
import psutil
import toy

from emosafe_lib.study.errors import EmosafeError
from workflow.receipts import PROOF, RECEIPT, intact

SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGKILL]
TARGETS = ["kernel", "runner", "group"]
CLEAN_UP_SECONDS, RUN_SECONDS = 60, 3600
SPAN_SHARE = 0.5

# Reduced against the sample study: 1 model of 5, 1 wording of 3, 40 rows to train on, 1 epoch, 20 test rows, texts of 32
# tokens, no ablation, 100 resamples. The notebooks, the runner, Snakemake and the library are the real ones.
REDUCED = """
name: reduced
data:
  sources: [emosafe_sample]
  max_class_share: 1.0
  balance_sources: false
augmentation: {max_rows: 20}
prompting:
  variants: [plain]
  evaluation_rows: 20
  validation_rows: 20
  max_text_tokens: 32
finetuning: {epochs: 1, train_rows: 40, evaluation_rows: 20, validation_rows: 20, max_length: 32, ablation: false}
analysis: {resamples: 100}
models: [nano-1]
"""

# Toy notebooks that take long enough to be hit, and write enough to be torn.
SLOW = "import time\nfor part in range(8):\n    time.sleep(0.1)\n    "
READ = 'rows = run.use(f"{}-{{part}}.txt").read_text()\n    '
WRITE = 'run.out(f"{}-{{part}}.txt").write_text({})'
TOY_BODY = {
    "01_data_merge": SLOW + WRITE.format("rows", 'f"row {part}\\n" * 50_000'),
    "02_chatgpt_augmentation": SLOW + READ.format("01_data_merge/rows") + WRITE.format("more", "rows * 2"),
    "03_prompting_baselines": SLOW + READ.format("02_chatgpt_augmentation/more") + WRITE.format("p", "rows.upper()"),
}


@dataclass
class World:
    """A checkout, where its outputs go, what is run, which files are compared, and the longest wait before a kill (s)."""

    root: Path
    outputs: Path
    study: str
    until: str
    compared: tuple[str, ...]
    span: float = 0.0

    @property
    def environment(self) -> dict:
        """What every process of this world inherits, and is found by."""
        return os.environ | {"EMOSAFE_ROOT": str(self.root), "EMOSAFE_OUTPUTS": str(self.outputs)}

    def fresh(self, name: str) -> "World":
        """The same world with empty outputs."""
        return replace(self, outputs=self.outputs.with_name(name))


@dataclass
class Count:
    """What was done, and what must stay zero."""

    kills: Counter = field(default_factory=Counter)
    exits: Counter = field(default_factory=Counter)
    finished_rounds: int = 0
    false_greens: list = field(default_factory=list)
    lost: list = field(default_factory=list)
    orphans: list = field(default_factory=list)
    corrupt: list = field(default_factory=list)
    different: list = field(default_factory=list)

    def faults(self) -> int:
        """How often something went wrong."""
        return sum(map(len, (self.false_greens, self.lost, self.orphans, self.corrupt, self.different)))

    def clean(self) -> bool:
        """Whether nothing went wrong."""
        return self.faults() == 0

    def as_json(self) -> dict:
        """The counts, the kills by target and signal, and every fault found."""
        faults = {name: getattr(self, name) for name in ("false_greens", "lost", "orphans", "corrupt", "different")}
        facts = {"kills": sum(self.kills.values()), "by_kind": dict(sorted(self.kills.items()))}
        facts |= {"exit_statuses": dict(sorted(self.exits.items())), "finished_rounds": self.finished_rounds}
        return facts | {name: len(found) for name, found in faults.items()} | {"faults": faults}


def toy_world(folder: Path) -> World:
    """Three toy notebooks of about a second each."""
    root = toy.checkout(folder / "toy")
    for stage, body in TOY_BODY.items():
        toy.write(root, stage, body)
    return World(root, folder / "undisturbed", "toy", "03_prompting_baselines", ("*.txt",))


def real_world(folder: Path) -> World:
    """The real notebooks on the reduced study."""
    root = folder / "checkout"
    for name in ("notebooks", "params"):
        shutil.copytree(toy.ROOT / name, root / name)
    shutil.copy(toy.ROOT / "workflow" / "Snakefile", root)
    (root / "params" / "study" / "reduced.yaml").write_text(REDUCED)
    compared = (
        "*.parquet",
        "data_card.json",
        "results.csv",
        "claims.json",
        "headline.csv",
        "ranks.csv",
        "comparisons.csv",
    )
    return World(root, folder / "undisturbed", "reduced", "", compared)


def start(world: World, log: Path) -> subprocess.Popen:
    """Begin or go on with the study in a process group of its own."""
    command = [sys.executable, "-m", "emosafe_lib.cli", "run", "study", "--study", world.study, "--models", "nano-1"]
    command += ["--until", world.until] if world.until else []
    options = {"stdin": subprocess.DEVNULL, "env": world.environment, "start_new_session": True}
    options["preexec_fn"] = lambda: signal.signal(
        signal.SIGINT, signal.SIG_DFL
    )  # ignored where we run in the background
    with open(log, "w") as stream:
        return subprocess.Popen(command, stdout=stream, stderr=stream, **options)


def processes(world: World) -> list[psutil.Process]:
    """All living processes that belong to a world, by the outputs folder in their environment."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("EMOSAFE_OUTPUTS") == str(world.outputs):
                found += [process] if process.status() != psutil.STATUS_ZOMBIE else []
        except psutil.Error:
            continue
    return [process for process in found if process.pid != os.getpid()]


def command_of(process: psutil.Process) -> str:
    """The command line, empty once the process is gone."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def files(world: World) -> int:
    """How many files there are below the outputs, while folders come and go."""
    return sum(len(names) for _, _, names in os.walk(world.outputs))


def wait_for_moment(world: World, run: subprocess.Popen, draw: random.Random) -> None:
    """Wait for a random time; in half of the cases then for the next file to appear, and a little longer."""
    pause, on_file = draw.uniform(0.1, world.span), draw.random() < 0.5
    deadline = time.monotonic() + pause
    while time.monotonic() < deadline and run.poll() is None:
        time.sleep(0.05)
    if on_file:
        before, deadline = files(world), time.monotonic() + world.span
        while files(world) == before and run.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(draw.uniform(0, 0.3))


def victims(world: World, run: subprocess.Popen, target: str, draw: random.Random) -> tuple[str, list[int]]:
    """The processes to kill: a kernel, one of the runner's processes, or (negative) the whole group.

    Where no kernel runs at the moment, the runner takes its place.
    """
    if target == "group":
        return target, [-run.pid]
    alive = {process.pid: command_of(process) for process in processes(world)}
    kernels = [pid for pid, command in alive.items() if "ipykernel_launcher" in command]
    if target == "kernel" and kernels:
        return target, [draw.choice(sorted(kernels))]
    runners = [pid for pid, command in alive.items() if "emosafe_lib.cli run" in command]
    return "runner", [draw.choice(sorted(runners) or [run.pid])]


def settle(world: World, count: Count) -> None:
    """Wait until every process of this world has ended by itself; those that do not are counted, and ended."""
    deadline = time.monotonic() + CLEAN_UP_SECONDS
    while (left := processes(world)) and time.monotonic() < deadline:
        time.sleep(0.2)
    for process in left:
        count.orphans.append(command_of(process)[:200])
        process.kill()


def finished(world: World) -> dict[str, dict]:
    """Stages with a receipt, or its copy, that holds: label -> receipt."""
    found = {}
    for path in [*world.outputs.rglob(PROOF), *world.outputs.rglob(RECEIPT)]:
        receipt = json.loads(path.read_text())
        if intact(path.parent, receipt):
            found[label_of(world, path.parent)] = receipt
    return found


def label_of(world: World, folder: Path) -> str:
    """How the runner names the stage of a folder."""
    model = "" if folder.parent == world.outputs / world.study else f" {folder.parent.name}"
    return folder.name + model


def unexecuted(notebook: dict) -> list[int]:
    """Code cells that never ran, or ended in an error; read here anew, since the runner's own check is what is tested."""
    wrong = []
    for number, cell in enumerate(notebook["cells"]):
        code = cell["cell_type"] == "code" and "".join(cell["source"]).strip()
        failed = any(output["output_type"] == "error" for output in cell.get("outputs", []))
        if code and (failed or not isinstance(cell["execution_count"], int)):
            wrong.append(number)
    return wrong


def pretended(world: World) -> list[str]:
    """Stages that a receipt calls done although their notebook did not run from end to end, or left no manifest."""
    found = []
    for folder in sorted({path.parent for path in [*world.outputs.rglob(PROOF), *world.outputs.rglob(RECEIPT)]}):
        notebook = folder / f"{folder.name}.ipynb"
        try:
            cells = unexecuted(json.loads(notebook.read_text()))
        except (OSError, ValueError, KeyError):
            cells = ["unreadable"]
        if cells or not (folder / "manifest.json").is_file():
            found.append(f"{label_of(world, folder)}: cells {cells}")
    return found


def look_through(world: World, count: Count, when: str) -> dict[str, dict]:
    """Read every published file; a receipt that does not hold or a file that cannot be read is corrupt, and a receipt of
    a notebook that did not run from end to end is a false green.
    """
    count.false_greens += [f"{when}: {stage}" for stage in pretended(world)]
    for path in sorted(world.outputs.rglob("*")):
        hidden = any(part.startswith(".") or part == "logs" for part in path.relative_to(world.outputs).parts)
        if not path.is_file() or hidden:
            continue
        try:
            if path.suffix in (".json", ".ipynb"):
                content = json.loads(path.read_text())
                if path.name == RECEIPT and not intact(path.parent, content):
                    raise ValueError("files differ from the receipt")
            elif path.suffix == ".parquet":
                pd.read_parquet(path)
            elif path.suffix == ".html" and "</html>" not in path.read_text()[-200:]:
                raise ValueError("cut page")
        except (ValueError, OSError, EmosafeError) as error:
            count.corrupt.append(f"{when}: {path.relative_to(world.outputs)}: {type(error).__name__}")
    return finished(world)


def results(world: World) -> dict[str, str]:
    """Content hashes of what is compared; tables by their cells."""
    found = {}
    for pattern in world.compared:
        for path in sorted((world.outputs / world.study).rglob(pattern)):
            name = str(path.relative_to(world.outputs))
            if any(part.startswith(".") for part in Path(name).parts):
                continue
            content = pd.read_parquet(path).to_json().encode() if path.suffix == ".parquet" else path.read_bytes()
            found[name] = hashlib.sha256(content).hexdigest()
    return found


def run_to_end(world: World, log: Path, count: Count) -> list[str]:
    """Let the study finish; its exit status must be 0. Returns the lines that it said."""
    run = start(world, log)
    code = run.wait(timeout=RUN_SECONDS)
    settle(world, count)
    said = log.read_text().splitlines()
    if code != 0:
        count.different.append(f"an undisturbed run ended with {code}: {' | '.join(said[-3:])[:300]}")
    return said


def repeated(before: dict[str, dict], said: list[str]) -> list[str]:
    """Stages that had finished and were begun again all the same."""
    begun = {line.removesuffix(": started").strip() for line in said if line.rstrip().endswith(": started")}
    return sorted(begun & set(before))


def compare(before: dict[str, dict], now: dict[str, dict], said: list[str], count: Count, when: str) -> None:
    """Count finished stages that were begun again, or whose receipt no longer holds."""
    count.lost += [f"{when}: {label}" for label in repeated(before, said)]
    count.lost += [f"{when}: {label} vanished" for label in sorted(before.keys() - now.keys())]


def torment(world: World, kills: int, seed: int, minutes: float = math.inf, say=print) -> Count:
    """Kill a world so often and count; the last round is left to finish and compared as well.

    Parameters
    ----------
    world : its outputs folder must be empty: an undisturbed run goes there first
    kills : how many signals to send; a run that ends before its signal counts as none
    seed : of moments, targets and signals
    minutes : no further kill after so long; the count says how many there were
    """
    draw, count, log = random.Random(seed), Count(), world.root / "run.log"
    began = time.monotonic()
    run_to_end(world, log, count)
    world.span = world.span or SPAN_SHARE * (time.monotonic() - began)
    expected, wanted = results(world), set(finished(world))
    rounds, before = 1, {}
    current = world.fresh("round-1")
    while sum(count.kills.values()) < kills and time.monotonic() - began < 60 * minutes:
        run = start(current, log)
        wait_for_moment(current, run, draw)
        number, target = draw.choice(SIGNALS), draw.choice(TARGETS)
        struck = False
        if run.poll() is None:
            target, pids = victims(current, run, target, draw)
            struck = strike(pids, number)
        code = run.wait(timeout=RUN_SECONDS)
        settle(current, count)
        when = f"kill {sum(count.kills.values()) + 1}, {target} {number.name}"
        now = look_through(current, count, when)
        compare(before, now, log.read_text().splitlines(), count, when)
        before = now
        if struck:
            count.kills[f"{target} {number.name}"] += 1
            count.exits[str(code)] += 1
            say(f"{when}: exit {code}, {len(before)} of {len(wanted)} stages finished, {count.faults()} faults so far")
        if code == 0 and set(before) != wanted:
            count.false_greens.append(when)
        if code == 0 or set(before) == wanted:
            finish_round(current, log, expected, before, count)
            rounds, before = rounds + 1, {}
            current = world.fresh(f"round-{rounds}")
    if current.outputs.exists():
        finish_round(current, log, expected, before, count)
    return count


def strike(pids: list[int], number: signal.Signals) -> bool:
    """Send a signal to processes or (negative) groups; False where they had ended already."""
    try:
        for pid in pids:
            os.killpg(-pid, number) if pid < 0 else os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def finish_round(world: World, log: Path, expected: dict, before: dict, count: Count) -> None:
    """Let a round finish, compare it with the undisturbed run, and clear it away."""
    said = run_to_end(world, log, count)
    compare(before, look_through(world, count, "finished"), said, count, "last run")
    found = results(world)
    count.different += sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    count.finished_rounds += 1
    shutil.rmtree(world.outputs)


def main() -> int:
    """Print the counts as JSON; 1 where one of them should be zero and is not."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--world", choices=["real", "toy"], default="real")
    parser.add_argument("--span", type=float, default=0.0, help="longest wait before a kill in seconds; 0: half a run")
    parser.add_argument("--minutes", type=float, default=math.inf, help="no further kill after so long")
    chosen = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="emosafe-chaos-") as folder:
        world = (real_world if chosen.world == "real" else toy_world)(Path(folder))
        world.span = chosen.span
        say = functools.partial(print, flush=True)
        count = torment(world, chosen.kills, chosen.seed, chosen.minutes, say)
    facts = {"world": chosen.world, "seed": chosen.seed, "seconds": round(time.monotonic() - began)}
    print(json.dumps(facts | count.as_json(), indent=1))
    return 0 if count.clean() else 1


if __name__ == "__main__":
    sys.exit(main())
