"""Every behaviour of a chat server, for both of its users: how many requests it gets, what becomes of them, how it ends.

`server_behaviours.md` beside this file holds what was measured; each test measures again and compares. Run this file as
a program to write the table anew:  PYTHONPATH=.:tests/helpers python tests/models/test_server_behaviours.py
"""

import json
import re
import tempfile
from collections import Counter
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
from augment_cases import live, text_of
from augment_cases import rows as parents
from chat_server import MODEL, ChatServer
from prompting import make_rows, model_params, settings
from server_behaviours import TABLE
from tenacity import wait_none

from emosafe_lib.augment import reinterpretation
from emosafe_lib.models import client
from emosafe_lib.prompting import answers, backends, figures, scoring
from emosafe_lib.study.errors import EmosafeError

KEY, CANARY = "sk-canary-key-000000", "zebracanary"
REPORT = Path(__file__).with_name("server_behaviours.md")
ROWS = make_rows(6).assign(text=lambda rows: [f"note {n % 6} {CANARY}" for n in range(len(rows))])
PARTS = {split: ROWS[ROWS["split"] == split].reset_index(drop=True) for split in ("validation", "test")}
HEAD = (
    "behaviour",
    "prompting: requests",
    "outcomes",
    "right",
    "exit",
    "augmentation: requests",
    "outcomes",
    "bill",
    "exit",
)
COLUMNS = f"| {' | '.join(HEAD)} |\n|{'---|' * len(HEAD)}"


def hurry(monkeypatch) -> None:
    """A key that is a canary, no waiting between tries, and three failures in a row are enough."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setattr(client, "BACK_OFF", wait_none())
    monkeypatch.setattr(client, "FAILURES_IN_A_ROW", 3)


@pytest.fixture(autouse=True)
def hurried(monkeypatch):
    """All tests here."""
    hurry(monkeypatch)


def counted(outcomes) -> str:
    """Outcomes and how often."""
    return ", ".join(f"{n} {name}" for name, n in sorted(Counter(outcomes).items())) or "none"


def how_it_ended(work) -> tuple[object, str]:
    """What `work` returns, and the line of the error that ends it: exit status 1. Any other error is a bug."""
    try:
        return work(), ""
    except EmosafeError as error:
        assert "\n" not in str(error)
        line = re.sub(r"until [-\d]+ [:\d]+ UTC", "until [an hour from now]", str(error))
        return None, re.sub(r"unclear-\w{12}", "unclear-[digest]", line)


def no_canary(*said: str) -> None:
    """Neither the key nor the message."""
    assert not any(canary in part.lower() for part in said for canary in (KEY, CANARY))


def prompted(name: str, folder: Path) -> list[str]:
    """Notebook 03 in short: twelve rows and the three inputs without content, calibration, predictions, figures."""
    limits = client.Limits(concurrency=1, attempts=2, attempt_seconds=TABLE[name].patience)
    with ChatServer(TABLE[name].answer) as server:
        params = model_params(name="served", weights="hub", path=MODEL, backend="openai", base_url=server.url)
        backend = backends.open_backend(params)
        backend.client.limits = limits

        def work():
            asked = scoring.pose(backend, settings(), ROWS, "safety", "zero-shot", "plain")
            scored = {part: scoring.score_rows(backend, asked, rows, folder) for part, rows in PARTS.items()}
            bias = answers.content_free_bias(backend, asked)
            fitted = answers.calibrate(scored["validation"], PARTS["validation"], bias)
            table = answers.predictions_of(scored["test"], fitted)
            chances = answers.calibrated(scored["test"], fitted)
            points = answers.reliability(chances, PARTS["test"], "safety", scored["test"].outcomes)
            figures.reliability_diagram(points.assign(task="safety", way="calibrated"))
            figures.prompt_spread(answers.scores_by_wording(table, PARTS["test"]))
            plt.close("all")
            return table

        table, line = how_it_ended(work)
        no_canary(line, " ".join(backend.notes), backend.kind, "" if table is None else table.to_json())
        no_canary(*(path.read_bytes().decode("latin-1") for path in folder.rglob("*.npz")))
        if table is None:
            return [str(len(server.seen)), line.partition(": ")[2], "", "1"]
        hits = [label == [level] for label, level in zip(table["label"], PARTS["test"]["safety"], strict=True)]
        notes = re.sub(r"-\w{12} ", "-[digest] ", "".join(f"; {note}" for note in backend.notes))
        return [str(len(server.seen)), counted(table["outcome"]) + notes, f"{sum(hits)} of {len(hits)}", "0"]


def augmented(name: str, folder: Path) -> list[str]:
    """Notebook 02 in short: six re-interpretations."""
    texts = [f"{text_of(n)} {CANARY}" for n in range(6)]
    with ChatServer(TABLE[name].answer, idempotent=False) as server:
        patience = TABLE[name].patience
        limits = {"concurrency": 1, "attempts": 2, "attempt_seconds": patience, "deadline_seconds": 120.0}
        params = live(server.url, **limits, max_cost_usd=1.0)
        made, line = how_it_ended(lambda: reinterpretation.reinterpret(parents(6).assign(text=texts), params, folder))
        kept = [json.loads(row) for path in folder.glob("*.jsonl") for row in path.read_text().splitlines()]
        no_canary(line, json.dumps([{k: v for k, v in row.items() if k != "content"} for row in kept]))
        if made is None:
            return [str(len(server.seen)), line.partition(": ")[2], "", "1"]
        no_canary(json.dumps(made.card))
        named = {re.sub(r"-\w{12}$", "-[digest]", model) for model in made.card["models_answered"]}
        models = [f"; answered by {model}" for model in sorted(named - {"", MODEL})]
        outcomes = Counter({"accepted": made.card["accepted"]} | made.card["rejected"])
        bill = f"{made.card['cost_usd']:.3f}" + (f", {n} doubted" if (n := made.card["usage_doubted"]) else "")
        return [str(len(server.seen)), counted((+outcomes).elements()) + "".join(models), bill, "0"]


def measured(name: str, folder: Path) -> str:
    """The table's line of a behaviour."""
    cells = [name, *prompted(name, folder / "p"), *augmented(name, folder / "a")]
    return f"| {' | '.join(cell.replace('|', '/').replace('<', '&lt;') for cell in cells)} |"


def test_the_table_is_large_enough():
    assert len(TABLE) >= 80 and REPORT.read_text().count("\n|") == len(TABLE) + 2


@pytest.mark.parametrize("name", TABLE)
def test_a_behaviour_is_met_as_the_table_says(name, tmp_path):
    line = measured(name, tmp_path)
    print(line)
    assert line in REPORT.read_text().splitlines()


def write_report() -> None:
    """Measure all behaviours and write the table."""
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as home:
        hurry(patch)
        lines = [measured(name, Path(home) / str(n)) for n, name in enumerate(TABLE)]
    title = "# What servers do, and what comes of it\n\nMeasured and written by `test_server_behaviours.py`; never edited.\n"
    REPORT.write_text(f"{title}\n{COLUMNS}\n" + "\n".join(lines) + "\n")


if __name__ == "__main__":
    write_report()
