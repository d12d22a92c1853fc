"""An alarm for a purpose and a model's card: both from an export alone, both honest about what the export lacks."""

import json
import os
import pty
import shlex
import shutil
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import tiny_models
from test_a_tool import run
from test_classify import ROWS, RUN, exported  # noqa: F401 (a fixture)
from test_damaged_folders import whole  # noqa: F401 (a fixture)

from emosafe_lib import cli
from emosafe_lib.data.sources import registry
from emosafe_lib.finetuning.plan import make_plan
from emosafe_lib.models import close_calls
from emosafe_lib.ondevice import card_facts, classify, model_card, onnx_graphs
from emosafe_lib.study.parameters import load_study
from emosafe_lib.study.taxonomy import TASKS

CANARY = "danger threat 424242"


def answers(capsys, *given):
    """The results of `emosafe classify`, and the lines that it said."""
    assert cli.main(["classify", *map(str, given)]) == 0
    printed = capsys.readouterr()
    return [json.loads(line) for line in printed.out.splitlines()], printed.err.splitlines()


# --- alarms -----------------------------------------------------------------------------------------------------------


def test_an_export_holds_thresholds_that_do_on_validation_rows_what_they_say(exported):  # noqa: F811
    classifier = classify.Classifier(exported[0], runtime="torch", at=("recall", 0.6))
    rows = ROWS[ROWS["split"] == "validation"]
    raised = np.array([found["alarm"] for found in classifier.classify(rows["text"])])
    unsafe = (rows["safety"] == "unsafe").to_numpy()
    assert raised[unsafe].mean() >= 0.6
    assert (
        f"{raised[unsafe].mean():.2f} [" in classifier.alarm and f"{raised[~unsafe].mean():.2f} [" in classifier.alarm
    )


@pytest.mark.parametrize("runtime", ["torch", "onnx", "onnx-int8"])
def test_an_alarm_is_p_unsafe_from_a_threshold_on_and_the_level_stays(whole, capsys, runtime):  # noqa: F811
    given = ["--model", whole, "--runtime", runtime, "calm", "danger threat", "", "9 8 7"]
    plain, _ = answers(capsys, *given)
    found, said = answers(capsys, "--at", "recall=0.7", *given)
    assert found[2] == plain[2] and "alarm" not in found[2]
    for before, after in ((plain[place], found[place]) for place in (0, 1, 3)):
        assert after == before | {"alarm": before["level_probabilities"]["unsafe"] >= 0.5}
    assert said[1].startswith(
        "An alarm is raised where P(unsafe) is 0.5000 or more: on the model's validation rows this"
    )
    assert "found 0.75 [0.60, 0.86] of 40 unsafe messages, and alarmed about 0.05 [" in said[1]


def test_people_see_the_alarm_in_the_table(whole, capsys, monkeypatch):  # noqa: F811
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    assert cli.main(["classify", "--model", str(whole), "--at", "false-alarms=0.5", "calm"]) == 0
    head, row = capsys.readouterr().out.splitlines()
    assert head.split() == ["row", "level", "probability", "alarm", "categories"]
    assert row[head.index("alarm") :].split()[0] in ("ALARM", "-")


def test_close_calls_of_an_alarm_are_read_again_in_fp32(exported, monkeypatch):  # noqa: F811
    monkeypatch.setattr("emosafe_lib.ondevice.runtimes.half_precision", lambda: True)
    mixed, plain = (
        classify.Classifier(exported[0], runtime=name, at=("recall", 0.6)) for name in ("bf16+fp32", "torch")
    )
    close = list(plain.classify(ROWS["text"]))
    middle = sorted(row["level_probabilities"]["unsafe"] for row in close)[len(close) // 2]
    for each in (mixed, plain):
        each.parts["safety"].alarm = middle
    found = ([row["alarm"] for row in each.classify(ROWS["text"])] for each in (mixed, plain))
    assert next(found) == next(found)


def test_the_margin_of_an_alarm_is_no_larger_than_what_it_takes_to_cross_it():
    random, moved = np.random.default_rng(0), 0.3
    logits, shift = random.normal(0, 2, (500, 3)), random.uniform(-moved / 2, moved / 2, (500, 3))

    def chance(values):
        return (np.exp(values / 1.7) / np.exp(values / 1.7).sum(axis=1, keepdims=True))[:, -1]

    margin = close_calls.alarm_margins(logits, 1.7, 0.3)
    crossed = (chance(logits) >= 0.3) != (chance(logits + shift) >= 0.3)
    assert crossed.any() and (margin[crossed] <= moved).all()
    assert close_calls.alarm_margins(np.zeros((1, 3)), 1.0, 1 / 3) == pytest.approx(0)


@pytest.mark.parametrize(
    ("wish", "said"),
    [
        (
            "recall=0.99",
            "40 validation rows that are unsafe are too few for recall=0.99, which needs 100; ask for less",
        ),
        ("recall=0.976", "40 validation rows that are unsafe are too few for recall=0.976, which needs 42"),
        (
            "false-alarms=0.01",
            "60 validation rows that are not unsafe are too few for false-alarms=0.01, which needs 100",
        ),
    ],
)
def test_a_wish_beyond_the_validation_rows_is_refused_in_a_line_that_counts_them(whole, capsys, wish, said):  # noqa: F811
    assert cli.main(["classify", "--model", str(whole), "--at", wish, CANARY]) == 1
    printed = capsys.readouterr()
    assert not printed.out and said in printed.err.splitlines()[-1] and "424242" not in printed.err


@pytest.mark.parametrize(
    "wish",
    [
        "recall",
        "recall=",
        "recall=1",
        "recall=0",
        "recall=nan",
        "recall=inf",
        "recall=95",
        "precision=0.9",
        "=0.9",
        CANARY,
    ],
)
def test_a_wish_that_is_none_is_told_without_showing_it(capsys, wish):
    with pytest.raises(SystemExit, match="2"):
        cli.main(["classify", "--model", "M", "--at", wish, CANARY])
    said = capsys.readouterr().err
    assert "use recall=0.95 or false-alarms=0.1" in said and "424242" not in said and "precision" not in said


# --- the card ---------------------------------------------------------------------------------------------------------


def test_the_card_says_what_the_model_learned_from_what_it_is_worth_and_what_it_lacks(exported, capsys):  # noqa: F811
    assert cli.main(["classify", "--model", str(exported[0]), "--card"]) == 0
    printed = capsys.readouterr()
    told = printed.out
    assert not printed.err and "- training rows: 24 (20 human, 4 reinterpretation)" in told
    assert "- study: made (untitled)" in told and "- tasks: three levels and six risk categories" in told
    for title in ("What it was trained on", "Scores on test rows", "Known failures", "What it is not"):
        assert f"\n## {title}" in told
    assert "made  24 rows  human and reinterpretation  licence not stated" in told
    assert "Such requests are not in its study." in told and "which needs 20" in told
    assert model_card.WARNING in told and "unsafe messages labelled safe" in told
    levels = next(line for line in told.splitlines() if line.startswith("levels, macro-F1 "))
    assert "[" in levels and levels.endswith("9 rows")


def test_a_registered_source_stands_on_the_card_with_its_title_and_licence():
    ids = ["once", "met", "met", "met"]  # a row counts once, however often a pass meets it
    plan = SimpleNamespace(train=pd.DataFrame({"id": ids, "source": "emosafe_sample", "origin": "synthetic"}))
    (entry,) = card_facts.sources_of(plan, load_study("sample"))
    known = registry.registry()["emosafe_sample"]
    assert (entry["rows"], entry["licence"], entry["title"]) == (2, known.licence, known.title) and known.licence


def test_a_card_counts_rows_and_not_how_often_a_pass_meets_them():
    study = tiny_models.study_params(repeats={"rare": 3})
    plan = make_plan(tiny_models.model_params(), study, ROWS.assign(source="rare"), "safety", 0)
    train = ROWS[ROWS["split"] == "train"]
    rows = len(train)
    assert len(plan.train) == 3 * rows - 2 * (train["origin"] == "reinterpretation").sum()
    assert dict(card_facts.facts_of(plan, study, {}))["training rows"].startswith(f"{rows} (")
    assert [source["rows"] for source in card_facts.sources_of(plan, study)] == [rows]


def test_the_scores_of_a_card_are_those_of_the_runs_predictions(exported):  # noqa: F811
    from sklearn.metrics import f1_score

    table = exported[1]["safety"]
    truth = ROWS.set_index("id").loc[table["id"], "safety"]
    card = json.loads((exported[0] / model_card.CARD).read_text())
    (entry,) = (each for each in card["numbers"] if each["name"] == "levels, macro-F1")
    assert entry["value"] == pytest.approx(f1_score(truth, table["label"].str[0], average="macro"), abs=1e-6)
    assert (entry["part"], entry["rows"]) == ("scores", len(table)) and entry["low"] <= entry["value"] <= entry["high"]


def test_each_number_of_a_card_lies_in_its_interval_or_has_none(exported):  # noqa: F811
    numbers = json.loads((exported[0] / model_card.CARD).read_text())["numbers"]
    assert all(each["low"] is None or each["low"] <= each["value"] <= each["high"] for each in numbers)
    (distance,) = (each for each in numbers if each["name"].startswith("distance of its probabilities"))
    assert distance["value"] is not None and distance["low"] is None and distance["high"] is None


def test_no_card_holds_a_message(exported):  # noqa: F811
    text = (exported[0] / model_card.CARD).read_text()
    assert not any(message in text for message in ROWS["text"]) and "calm" not in text


def carded(whole, tmp_path, **changes):  # noqa: F811
    """A copy of an export with a card; `...` takes a key out of it."""
    folder = shutil.copytree(whole, tmp_path / "copy")
    digests = {path.parent.name: json.loads(path.read_text())["files"] for path in folder.glob("*/sealed.json")}
    card = {"format": 1, "weights": {task: files["model.safetensors"] for task, files in digests.items()}}
    card |= {"facts": [["model", "made"]], "sources": [], "numbers": []} | changes
    (folder / model_card.CARD).write_text(json.dumps({key: value for key, value in card.items() if value is not ...}))
    return folder


def test_what_a_card_lacks_it_says(whole, tmp_path, capsys):  # noqa: F811
    folder = carded(whole, tmp_path)
    for weights in folder.glob("*/model.*"):
        weights.unlink()
    assert cli.main(["classify", "--model", str(folder), "--card"]) == 0
    told = capsys.readouterr().out
    for missing in (
        "No test rows were scored.",
        "Such requests are not in its study.",
        "Its sources are not recorded.",
    ):
        assert missing in told
    assert "recall=0.95  none       " not in told and "not scored" in told and "0.97 [" in told


NUMBER = {"part": "scores", "name": "a", "value": 0.5, "low": 0.4, "high": 0.6, "rows": 9}
SOURCE = {"name": "a", "title": "", "origin": "human", "licence": "MIT", "restricted": "", "rows": 9}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"format": 2}, "format"),
        ({"weights": {"safety": "0" * 64, "categories": "0" * 64}}, "is the card of another model"),
        ({"weights": ...}, "weights"),
        *(
            ({"facts": value}, "facts")
            for value in ({}, None, [7], [["a"]], [["a", 7]], [["a", "b\x1b[2J"]], [["a", "x" * 999]], [["", "b"]])
        ),
        *(
            ({"sources": value}, "sources")
            for value in ({}, [7], [{}], [SOURCE | {"rows": -1}], [SOURCE | {"more": "a"}])
        ),
        *(({"sources": [SOURCE | {"licence": value}]}, "sources") for value in (7, "a\nb", ["MIT"])),
        *(({"numbers": value}, "numbers") for value in ({}, [7], [{}], [NUMBER | {"part": "other"}])),
        *(({"numbers": [NUMBER | {"value": value}]}, "numbers") for value in ("0.5", True, 7, [0.5])),
        *(
            ({"numbers": [NUMBER | change]}, "numbers")
            for change in ({"rows": 1.5}, {"name": "\x07"}, {"part": ["at"]})
        ),
        ({"numbers": [NUMBER | {"value": float("nan")}]}, "model_card.json"),
    ],
)
def test_a_damaged_card_is_refused_in_one_line(whole, tmp_path, capsys, changes, said):  # noqa: F811
    folder = carded(whole, tmp_path, **changes)
    assert cli.main(["classify", "--model", str(folder), "--card"]) == 1
    printed = capsys.readouterr()
    assert (
        not printed.out and printed.err.count("\n") == 1 and printed.err.startswith("error: ") and said in printed.err
    )


def test_an_export_without_a_card_and_a_folder_that_is_none_say_so(whole, tmp_path, capsys):  # noqa: F811
    assert cli.main(["classify", "--model", str(whole), "--card"]) == 1
    assert "holds no card; export it again with notebook 04" in capsys.readouterr().err
    assert cli.main(["classify", "--model", str(tmp_path), "--card"]) == 1


@pytest.mark.parametrize("given", [["calm"], ["--file", "-"], ["--at", "recall=0.9"], ["--", "calm"]])
def test_a_card_is_asked_for_alone(capsys, given):
    with pytest.raises(SystemExit, match="2"):
        cli.main(["classify", "--model", "M", "--card", *given])
    assert "--card reads no message" in capsys.readouterr().err


# --- the small environment, and a terminal ----------------------------------------------------------------------------


def test_purposes_and_cards_need_no_torch(whole, tmp_path):  # noqa: F811
    folder = carded(whole, tmp_path)
    for given in (["--card"], ["--at", "recall=0.7", "calm"]):
        done, imported = run(["classify", "--model", str(folder), *given], "torch,transformers,pandas,pydantic,scipy")
        assert done.returncode == 0 and done.stdout and "Traceback" not in done.stderr
        assert not {"torch", "pandas", "sklearn", "scipy", "pydantic", "jinja2"} & imported


def on_a_terminal(given, folder):
    """`emosafe classify --model M` with standard input and output on a terminal: (status, what stood on it)."""
    (folder / "run.py").write_text(RUN)
    ours, theirs = pty.openpty()
    command = [sys.executable, "run.py", *shlex.split(given)]
    started = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, cwd=folder)
    os.close(theirs)
    shown = b""
    while True:
        try:
            shown += (part := os.read(ours, 4096))
        except OSError:  # the terminal is gone with its last user
            break
        if not part:
            break
    os.close(ours)
    return started.wait(), shown.decode().replace("\r", "")


def test_a_terminal_gets_a_table_and_is_never_waited_for(tmp_path):
    status, shown = on_a_terminal("calm", tmp_path)
    assert status == 0 and shown.splitlines()[1].split() == ["row", "level", "probability", "categories"]
    assert shown.splitlines()[2].split() == ["0", "safe", "0.75", "violence_hate"]
    status, shown = on_a_terminal("", tmp_path)
    assert status == 2 and "give messages, or a file of them" in shown


def test_a_pipe_gets_json_lines_although_somebody_types(tmp_path):
    (tmp_path / "run.py").write_text(RUN)
    ours, theirs = pty.openpty()
    done = subprocess.run(
        [sys.executable, "run.py", "calm"], stdin=theirs, capture_output=True, text=True, cwd=tmp_path
    )
    assert json.loads(done.stdout)["level"] == "safe"
    os.close(ours), os.close(theirs)


def test_thresholds_and_card_survive_the_onnx_files(exported, tmp_path):  # noqa: F811
    folder = shutil.copytree(exported[0], tmp_path / "copy")
    told = model_card.render(folder, TASKS)
    onnx_graphs.add_onnx(folder)
    assert model_card.render(folder, TASKS) == told
