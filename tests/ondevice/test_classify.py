"""The command that others use: the study's probabilities, one outcome per row, and never a text in the output."""

import inspect
import io
import json
import re
import shlex
import shutil
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import tiny_models

from emosafe_lib import cli
from emosafe_lib.finetuning import finetune, scores
from emosafe_lib.models import backbone, batching, checkpoints, close_calls
from emosafe_lib.ondevice import card_facts, classify, export, messages, onnx_classifier, onnx_graphs, runtimes, trials
from emosafe_lib.study.errors import ModelError
from emosafe_lib.study.taxonomy import CATEGORIES, SAFETY_LEVELS, TASKS

ROWS = tiny_models.make_rows()
CANARY = "danger threat harm 424242"


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A tiny LLaMA trained on both tasks and exported, with its predictions on the test rows."""
    home = tmp_path_factory.mktemp("classify")
    tiny_models.make_llama(home / "llama")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backbone, "ASSETS", home)
        patch.setattr(export, "half_precision", lambda: True)
        model, study = tiny_models.model_params(), tiny_models.study_params(epochs=4.0)
        results = {task: finetune.finetune(model, study, ROWS, task, 0, home / "runs") for task in TASKS}
        folder = export.export(model, results, ROWS, study.finetuning.max_length, home / "exported", onnx=False)
        card_facts.write_card(folder, model, study, results, ROWS)
    return folder, {task: scores.calibrated_predictions(result, ROWS, "fine-tuned") for task, result in results.items()}


@pytest.fixture(scope="module")
def classifier(exported):
    return classify.Classifier(exported[0], runtime="torch")


def test_the_export_gives_the_studys_predictions(exported, classifier):
    tables = exported[1]
    texts = ROWS.set_index("id").loc[tables["safety"]["id"], "text"]
    found = list(classifier.classify(texts))
    for row, level, risks in zip(found, tables["safety"].itertuples(), tables["categories"].itertuples(), strict=True):
        assert [row["level"]] == level.label and row["categories"] == risks.label
        assert np.allclose([row["level_probabilities"][name] for name in SAFETY_LEVELS], level.probabilities, atol=1e-3)
        assert np.allclose([row["category_probabilities"][name] for name in CATEGORIES], risks.probabilities, atol=1e-3)


@pytest.fixture(scope="module", params=["llama", "encoder"])
def with_onnx(request, exported, tmp_path_factory):
    """Exports of both families with their ONNX forms: a LLaMA with its adapter merged, and a mean-pooled encoder."""
    if request.param == "llama":
        folder = shutil.copytree(exported[0], tmp_path_factory.mktemp("onnx") / "llama")
    else:
        home = tmp_path_factory.mktemp("onnx")
        tiny_models.make_encoder(home / "encoder")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(backbone, "ASSETS", home)
            patch.setattr(export, "half_precision", lambda: True)
            model = tiny_models.model_params("encoder", training={"pooling": "mean"})
            study = tiny_models.study_params(epochs=4.0)
            results = {task: finetune.finetune(model, study, ROWS, task, 0, home / "runs") for task in TASKS}
            folder = export.export(model, results, ROWS, study.finetuning.max_length, home / "exported", onnx=False)
    assert set(onnx_graphs.add_onnx(folder)) == {"model.safetensors", "model.onnx", "model.int8.onnx"}
    return folder


def test_the_best_model_is_chosen_by_its_validation_score(exported, tmp_path):
    weaker = tmp_path / "weaker"
    shutil.copytree(exported[0], weaker)
    facts = checkpoints.read_seal(weaker / "safety")
    checkpoints.seal(weaker / "safety", **(facts | {"validation_macro_f1": facts["validation_macro_f1"] - 0.1}))
    assert export.best_of([weaker, exported[0]]) == exported[0] and export.best_of([weaker]) == weaker


def test_the_small_graph_keeps_its_matrices_and_embeddings_in_eight_bits(with_onnx):
    counted = onnx.TensorProto.INT64  # places of tokens, which are no weights
    stored = {
        name: [
            tensor
            for tensor in onnx.load(with_onnx / "safety" / file).graph.initializer
            if len(tensor.dims) == 2 and tensor.data_type != counted
        ]
        for name, file in onnx_graphs.ONNX_FILES.items()
    }
    assert {tensor.data_type for tensor in stored["onnx"]} == {onnx.TensorProto.FLOAT}
    eight = {onnx.TensorProto.INT8, onnx.TensorProto.UINT8}
    assert stored["onnx-int8"] and {tensor.data_type for tensor in stored["onnx-int8"]} <= eight


def test_the_graphs_carry_no_guard_against_rows_without_a_token(with_onnx):
    for file in onnx_graphs.ONNX_FILES.values():
        kinds = {node.op_type for node in onnx.load(with_onnx / "safety" / file).graph.node}
        assert "Softmax" in kinds and "IsNaN" not in kinds


@pytest.fixture
def levels(monkeypatch):
    """How far onnxruntime was asked to join operations, graph by graph."""
    asked, plain = [], onnxruntime.InferenceSession

    def session(path, options, **more):
        asked.append(options.graph_optimization_level)
        return plain(path, options, **more)

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    return asked


def test_graphs_are_joined_when_they_are_written_and_not_at_each_start(with_onnx, levels):
    for file in onnx_graphs.ONNX_FILES.values():
        graph = onnx.load(with_onnx / "safety" / file)
        assert "com.microsoft" in {node.domain for node in graph.graph.node}
        used = {each.domain: each.version for each in graph.opset_import}
        # what these runtimes since 1.20 can read; a higher stamp would shut them out
        assert used[""] == onnx_graphs.OPSET and used["com.microsoft"] == 1 and used.get("ai.onnx.ml", 5) <= 5
    classify.Classifier(with_onnx, "onnx")
    assert levels == [onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL] * 2


def test_joining_that_fails_leaves_nothing(exported, tmp_path, monkeypatch):
    folder = shutil.copytree(exported[0], tmp_path / "copy")
    before = sorted(folder.rglob("*"))

    def fails(path, options, **more):
        Path(options.optimized_model_filepath).write_bytes(b"half")
        raise RuntimeError("no space")

    monkeypatch.setattr(onnxruntime, "InferenceSession", fails)
    with pytest.raises(ModelError, match="RuntimeError"):
        onnx_graphs.add_onnx(folder)
    assert sorted(folder.rglob("*")) == before


def test_no_reader_outlives_the_task_that_fails(tmp_path, monkeypatch):
    """The limit of memory holds as long as the tasks are being opened, and no longer."""
    ended = []

    def opens(folder, runtime, shared):
        if folder.name == "safety":
            raise ModelError(folder, "is damaged", "restore it")
        time.sleep(0.3)
        ended.append(folder.name)

    monkeypatch.setattr(onnx_classifier, "OnnxClassifier", opens)
    with pytest.raises(ModelError, match="is damaged"):
        onnx_classifier.open_tasks(tmp_path, TASKS, "onnx")
    assert ended == ["categories"]


@pytest.mark.parametrize("runtime", onnx_graphs.ONNX_FILES)
def test_tasks_that_read_alike_share_a_tokenizer(with_onnx, runtime):
    parts = classify.Classifier(with_onnx, runtime).parts
    assert parts["safety"].tokens is parts["categories"].tokens and list(parts) == list(TASKS)


def test_other_runtimes_answer_as_pytorch_does(with_onnx):
    texts = ROWS["text"].tolist()
    found = {name: list(classify.Classifier(with_onnx, name).classify(texts)) for name in runtimes.RUNTIMES}
    for runtime, error in ((runtimes.MIXED, 0.02), ("onnx", 2e-4)):
        for plain, other in zip(found["torch"], found[runtime], strict=True):
            assert (plain["level"], plain["categories"]) == (other["level"], other["categories"])
            for key in ("level_probabilities", "category_probabilities"):
                assert other[key] == pytest.approx(plain[key], abs=error)
    same = [a["level"] == b["level"] for a, b in zip(found["torch"], found["onnx-int8"], strict=True)]
    assert np.mean(same) > 0.9


def test_runtimes_are_compared_with_pytorch_on_labelled_rows(with_onnx, monkeypatch):
    monkeypatch.setattr(runtimes, "half_precision", lambda: True)
    found = runtimes.compare_runtimes(with_onnx, ROWS[ROWS["split"] == "test"].reset_index(drop=True))
    assert list(found["task"].unique()) == list(TASKS) and list(found["runtime"].unique()) == list(runtimes.RUNTIMES)
    plain = found[found["runtime"] != "onnx-int8"]
    assert (plain["agreement"] == 1).all() and (plain["largest_difference"] < 0.02).all()
    assert (plain.loc[plain["runtime"] == "onnx", "largest_difference"] < 2e-4).all()
    assert plain.groupby("task")["macro_f1"].nunique().eq(1).all() and (found["rows_per_second"] > 0).all()


def test_a_runtime_that_fails_is_a_row_with_its_reason_and_pytorchs_own_is_not_optional(exported, monkeypatch):
    monkeypatch.setattr(runtimes, "half_precision", lambda: False)
    test = ROWS[ROWS["split"] == "test"].reset_index(drop=True)
    found = runtimes.compare_runtimes(exported[0], test)
    basis = found.groupby("runtime")["basis"].unique().map(list).to_dict()
    assert basis == {"torch": ["measured"]} | {name: ["not measured"] for name in runtimes.RUNTIMES[1:]}
    reasons = found.drop_duplicates("runtime").set_index("runtime")["reason"]
    assert trials.SLOW_BF16 in reasons[runtimes.MIXED] and "is not exported" in reasons["onnx"] and not reasons["torch"]
    monkeypatch.setattr(runtimes.TaskClassifier, "probabilities", lambda self, texts: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        runtimes.compare_runtimes(exported[0], test)


def test_where_onnxruntime_does_not_work_no_graph_is_tried(exported, monkeypatch):
    monkeypatch.setattr(trials, "onnx", lambda: "onnx does not run here (ImportError)")
    with pytest.raises(ModelError, match="gets no ONNX files: onnx does not run here"):
        onnx_graphs.add_onnx(exported[0])


def test_a_graph_that_answers_otherwise_is_refused_and_nothing_is_left(exported, tmp_path, monkeypatch):
    folder = shutil.copytree(exported[0], tmp_path / "copy")
    before = sorted(folder.rglob("*"))
    monkeypatch.setattr(onnx_graphs.OnnxNetwork, "__call__", lambda self, inputs: np.full((1, 3), np.nan))
    with pytest.raises(ModelError, match="answers otherwise"):
        onnx_graphs.add_onnx(folder)
    assert sorted(folder.rglob("*")) == before
    with pytest.raises(ModelError, match="is not exported"):
        classify.Classifier(folder, runtime="onnx")


@pytest.mark.parametrize("able", [True, False])
def test_the_exported_fp32_graph_is_the_default_whether_or_not_there_is_bf16(with_onnx, monkeypatch, able):
    monkeypatch.setattr(runtimes, "half_precision", lambda: able)
    assert runtimes.open_task(with_onnx / "safety").runtime == "onnx"


def test_an_export_gets_its_graphs_by_itself_or_a_note_why_not(exported, tmp_path, monkeypatch, capsys):
    made = []
    monkeypatch.setattr(export, "add_onnx", made.append)
    monkeypatch.setattr(export, "TASK_LABELS", {})
    assert export.export(None, {}, ROWS, 32, tmp_path) == tmp_path and made == [tmp_path]
    monkeypatch.setattr(export, "add_onnx", lambda folder: onnx_graphs.add_onnx(folder))
    monkeypatch.setattr(trials, "onnx", lambda: "onnx does not run here (ImportError)")
    export.export(None, {}, ROWS, 32, exported[0])
    assert "runtime ONNX graphs: not measured (ModelError" in capsys.readouterr().out


def test_graphs_that_are_there_are_not_made_again(with_onnx, monkeypatch):
    monkeypatch.setattr(onnx_graphs, "write_graph", lambda *_: 1 / 0)
    assert onnx_graphs.add_onnx(with_onnx)["model.onnx"] > 0


def test_mixed_precision_is_the_default_where_a_bound_and_bf16_are_there(exported, tmp_path, monkeypatch):
    folder = shutil.copytree(exported[0], tmp_path / "copy")
    facts = checkpoints.read_seal(folder / "safety")
    assert 0 < facts["bf16"]["bound"] < 1
    monkeypatch.setattr(runtimes, "half_precision", lambda: True)
    assert runtimes.open_task(folder / "safety").runtime == runtimes.MIXED
    monkeypatch.setattr(runtimes, "half_precision", lambda: False)
    assert runtimes.open_task(folder / "safety").runtime == "torch"
    monkeypatch.setattr(runtimes, "half_precision", lambda: True)
    checkpoints.seal(
        folder / "safety", **{name: value for name, value in facts.items() if name not in ("bf16", "files")}
    )
    assert runtimes.open_task(folder / "safety").runtime == "torch"
    with pytest.raises(ModelError, match="records no bound"):
        runtimes.open_task(folder / "safety", runtimes.MIXED)


def test_a_processor_without_bf16_measures_no_bound_for_it(monkeypatch, tmp_path):
    """It would emulate the products for minutes, and refuses the runtime that needs the bound."""
    tiny_models.make_llama(tmp_path / "llama")
    monkeypatch.setattr(backbone, "ASSETS", tmp_path)
    model, study = tiny_models.model_params(), tiny_models.study_params()
    results = {"safety": finetune.finetune(model, study, ROWS, "safety", 0, tmp_path / "runs")}
    for able in (False, True):
        monkeypatch.setattr(export, "half_precision", lambda able=able: able)
        folder = export.export(model, results, ROWS, study.finetuning.max_length, tmp_path / f"{able}", onnx=False)
        assert ("bf16" in checkpoints.read_seal(folder / "safety")) is able


@pytest.mark.parametrize("task", TASKS)
def test_close_calls_get_the_logits_of_fp32_and_the_rest_those_of_bf16(exported, task):
    mix, plain = (runtimes.open_task(exported[0] / task, runtime) for runtime in (runtimes.MIXED, "torch"))
    encoded = batching.encode(plain.tokenizer, ROWS["text"].tolist(), plain.fitted["max_length"])
    exact = plain.logits(encoded)
    mix.bound = 0.0
    rough = mix.logits(encoded)
    margin = close_calls.margins(rough, mix.fitted.get("thresholds"))
    mix.bound = float(np.median(margin))
    found, close = mix.logits(encoded), margin <= mix.bound
    assert 0 < close.sum() < len(close)
    assert np.allclose(found[close], exact[close], atol=1e-4) and np.array_equal(found[~close], rough[~close])
    assert not np.allclose(found[~close], exact[~close], atol=1e-4)


def test_shift_and_margin_are_measured_where_labels_change():
    exact, moved = np.array([[1, 2, 0], [3, 0, 1]]), np.array([[2, -1, 0], [1, 1, 1]])
    rough = exact + moved / 10
    assert np.allclose(close_calls.shifts(exact, rough, "safety"), [0.3, 0.0])
    assert np.allclose(close_calls.shifts(exact, rough, "categories"), [0.2, 0.1])
    assert np.allclose(close_calls.margins(rough, None), [0.7, 2.0])
    assert np.allclose(close_calls.margins(rough, [0.5, 0.5, 1.0]), [1.2, 0.1])
    assert np.allclose(close_calls.margins(np.array([[1.0]]), [1 / (1 + np.exp(-0.75))]), [0.25])


def test_a_changed_onnx_file_is_refused(exported, tmp_path):
    folder = shutil.copytree(exported[0], tmp_path / "copy")
    onnx_graphs.add_onnx(folder)
    with open(folder / "safety" / "model.int8.onnx", "r+b") as stream:
        stream.truncate(100)
    with pytest.raises(ModelError, match=r"model.int8.onnx: is truncated or changed"):
        classify.Classifier(folder, runtime="onnx-int8")


def test_the_command_is_one_word_and_imports_nothing_heavy(exported, capsys):
    assert cli.main(["classify", "--model", str(exported[0]), "calm"]) == 0
    assert json.loads(capsys.readouterr().out)["outcome"] == "ok"
    assert cli.main(["onnx", str(exported[0] / "safety")]) == 1 and "holds no exported" in capsys.readouterr().err
    assert cli.main(["clasify"]) == 2 and "classify" in capsys.readouterr().err
    code = "import sys; from emosafe_lib import cli; cli.main(['--help']); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0
    scripts = tomllib.loads((Path(cli.__file__).parents[1] / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts == {"emosafe": "emosafe_lib.cli:main"}


def test_one_bad_row_does_not_stop_the_rest(classifier):
    texts = ["calm", "", None, 7, "x" * 100_001, "\ud800", "calm " * 99, "calm"]
    found = list(classifier.classify(texts))
    assert [row["row"] for row in found] == list(range(8))
    assert [row["outcome"].split(":")[0] for row in found] == ["ok", *["refused"] * 5, "truncated", "ok"]
    assert found[0]["level_probabilities"] == found[7]["level_probabilities"]


def test_memory_is_bounded_by_reading_no_further_than_a_chunk(classifier, monkeypatch):
    monkeypatch.setattr(classify, "CHUNK_ROWS", 4)
    read = []
    endless = (read.append(number) or "calm" for number in range(10**9))
    stream = classifier.classify(endless)
    assert [next(stream)["row"] for _ in range(5)] == [0, 1, 2, 3, 4]
    assert len(read) == 8


def test_who_writes_slowly_is_answered_before_the_next_message_comes(exported):
    """One message, no end of input: the answer comes all the same."""
    command = [sys.executable, "-m", "emosafe_lib.cli", "classify", "--model", str(exported[0]), "-"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) as running:
        for row in range(2):
            running.stdin.write("calm\n")
            running.stdin.flush()
            assert json.loads(running.stdout.readline())["row"] == row
        running.stdin.close()
        assert running.wait(60) == 0 and not running.stdout.read()


@pytest.mark.parametrize("kind", ["jsonl", "csv", "stdin", "arguments"])
def test_every_way_in_and_no_text_out(exported, tmp_path, monkeypatch, capsys, kind):
    options = ["--model", str(exported[0])]
    if kind == "jsonl":
        (tmp_path / "in.jsonl").write_text(json.dumps({"text": CANARY}) + f"\n{{{CANARY}\n" + json.dumps({"other": 1}))
        options += ["--file", str(tmp_path / "in.jsonl")]
    elif kind == "csv":
        (tmp_path / "in.csv").write_text(f"id,text\n1,{CANARY}\n2\n3,calm\n")
        options += ["--file", str(tmp_path / "in.csv")]
    elif kind == "stdin":
        given = f"{CANARY}\n".encode() + "caf\xe9\n".encode("latin-1") + b"calm\n"
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(given), encoding="utf-8"))
        options += ["--file", "-"]
    else:
        options += [CANARY, "", "calm"]
    assert classify.main(options) == 0
    printed = capsys.readouterr()
    rows = [json.loads(line) for line in printed.out.splitlines()]
    assert len(rows) == 3 and rows[0]["outcome"] == "ok" and rows[1]["outcome"].startswith("refused")
    assert "424242" not in printed.out + printed.err and "not a clinical tool" in printed.err


def test_a_csv_without_the_column_is_one_line(exported, tmp_path, capsys):
    (tmp_path / "in.csv").write_text("id,message\n1,calm\n")
    assert cli.main(["classify", "--model", str(exported[0]), "--file", str(tmp_path / "in.csv")]) == 1
    assert "--column" in capsys.readouterr().err.splitlines()[-1]


def test_a_csv_is_read_to_its_first_broken_row_and_a_huge_cell_is_only_refused(tmp_path):
    path = tmp_path / "in.CSV"
    path.write_text(f'text\ncalm\n{"x" * 200_000}\n"{CANARY}\ncalm\n')
    found = messages.texts_of(str(path), "text")
    assert next(found) == "calm" and "characters" in messages.readable(next(found)).reason
    with pytest.raises(ModelError, match="row 3: ") as refusal:
        next(found)
    assert "424242" not in str(refusal.value)
    path.rename(tmp_path / "in.txt")
    with pytest.raises(ModelError, match="neither CSV nor JSONL"):
        next(messages.texts_of(str(tmp_path / "in.txt"), "text"))


def test_one_bad_csv_row_neither_stops_the_rest_nor_is_read_by_half(tmp_path):
    """Half of a message could mean the opposite of the whole."""
    path = tmp_path / "in.csv"
    path.write_text('id,text\n1,calm, and more\n2,"calm "quoted" word"\n3,calm\n4\n5,"so, calm"\n')
    found = list(messages.texts_of(str(path), "text"))
    assert [text if isinstance(text, str) else None for text in found] == [None, None, "calm", None, "so, calm"]
    reasons = [messages.readable(text).reason for text in found if not isinstance(text, str)]
    assert "too many cells" in reasons[0] and "inside a cell" in reasons[1] and "too short" in reasons[2]


def test_a_stray_quote_in_the_first_csv_row_does_not_stop_the_rest_either(tmp_path):
    path = tmp_path / "in.csv"
    path.write_text('text,id\n"calm "quoted" word",1\ncalm,2\n')
    bad, good = messages.texts_of(str(path), "text")
    assert "inside a cell" in messages.readable(bad).reason and good == "calm"


@pytest.mark.parametrize(
    ("torn", "read", "row"),
    [
        ('"He said "no" to it\nand went on",7', 1, 2),
        ('"A 5" plank\nand more",7', 2, 3),
        ('"A 5" plank\nand\nmore",7', 2, 3),
        ('"first\nthen "no" and\nmore",7', 1, 2),
    ],
)
def test_a_message_torn_at_a_stray_quote_is_never_read_by_half(tmp_path, torn, read, row):
    path = tmp_path / "in.csv"
    path.write_text(f"text,id\ncalm,6\n{torn}\ncalm,8\n")
    found = messages.texts_of(str(path), "text")
    texts = [next(found) for _ in range(read)]
    assert [text for text in texts if isinstance(text, str)] == ["calm"]
    with pytest.raises(ModelError, match=rf"row {row}: a quote stands inside a cell.*; close the quote"):
        next(found)


def test_a_broken_csv_header_is_one_line(tmp_path):
    (tmp_path / "in.csv").write_text('"te"xt,id\ncalm,6\n')
    with pytest.raises(ModelError, match=r"in.csv: header: .*; close the quote"):
        next(messages.texts_of(str(tmp_path / "in.csv"), "text"))


@pytest.mark.parametrize("given", [[], ["--file", "in.csv", "calm"]])
def test_nothing_to_classify_and_two_ways_at_once_are_told_and_not_passed_over(given, typed, capsys):
    with pytest.raises(SystemExit, match="2"):
        classify.main(["--model", "nowhere", *given])
    assert "give messages, or a file" in capsys.readouterr().err


class Stub:
    """A classifier that says what it was given by its length alone, and needs no weights."""

    unanswered, alarm = 0, None

    def __init__(self, folder, runtime="", at=None):
        pass

    def classify(self, texts, more):
        for row, text in enumerate(texts):
            sure = {"level_probabilities": {"safe": 0.75, "unsafe": 0.25}, "category_probabilities": {}}
            found = {"outcome": "ok", "level": "safe", "categories": ["violence_hate"]} | sure
            yield {"row": row} | (found if text else {"outcome": "refused: empty"}) | {"length": len(text)}


@pytest.fixture
def stub(monkeypatch):
    """`emosafe classify` with a stub for a model, in this process: (status, lines out, what was said)."""
    monkeypatch.setattr(classify, "Classifier", Stub)


def piped(monkeypatch, text):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text.encode()), encoding="utf-8"))


@pytest.fixture
def typed(monkeypatch):
    """Standard input is a terminal."""
    piped(monkeypatch, "")
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)


def lengths(capsys):
    """The lengths of the messages that were read."""
    return [json.loads(line)["length"] for line in capsys.readouterr().out.splitlines()]


@pytest.mark.parametrize("given", [["-"], [], ["--file", "-"], ["--", "-"]])
def test_a_dash_and_a_pipe_without_arguments_are_standard_input(stub, monkeypatch, capsys, given):
    piped(monkeypatch, "calm\nquiet day\n")
    assert cli.main(["classify", "--model", "M", *given]) == 0
    assert lengths(capsys) == [4, 9]


def test_arguments_win_over_a_pipe_and_stand_on_both_sides_of_options(stub, monkeypatch, capsys):
    piped(monkeypatch, "calm\n")
    assert cli.main(["classify", "sad", "--model", "M", "quiet", "-3", "-sad and tired"]) == 0
    assert lengths(capsys) == [3, 5, 2, 14]


def test_messages_behind_two_dashes_may_begin_with_one(stub, typed, capsys):
    assert cli.main(["classify", "calm", "--model", "M", "--", "-sad", "--model", "-h", "--help"]) == 0
    assert lengths(capsys) == [4, 4, 7, 2, 6]


@pytest.mark.parametrize("behind", [[], ["--"]])
def test_the_name_of_a_file_is_no_message(stub, typed, tmp_path, capsys, behind):
    path = tmp_path / CANARY
    path.write_text("calm")
    with pytest.raises(SystemExit, match="2"):
        cli.main(["classify", "--model", "M", *behind, "calm", str(path)])
    said = capsys.readouterr()
    assert "message 2 is the name of a file: read the file with --file" in said.err
    assert not said.out and "424242" not in said.err


@pytest.mark.parametrize(
    "given",
    [
        ["--model", "M", f"-{CANARY.split()[-1]}x"],
        ["--model", "M", "-h424242"],
        ["--model", "M", "--help=424242"],
        ["--model", "M", "--help424242"],
        ["--model", "M", "--card=424242"],
        ["--model", "424242 " * 50, "calm"],
        ["--model", "M", "--file", "424242/" * 800 + "x.csv"],
        ["--model", "M", "--424242", "calm"],
        ["--model", "M", "--mod=424242"],
        ["--model", "M", "--runtime", CANARY],
        ["--model", "M", "--runtime", "-x424242"],
        ["--model", "M", CANARY, "-"],
        ["--model", "M", "--file", "-", CANARY],
        [CANARY],
        [CANARY, "--model"],
    ],
)
def test_no_error_about_arguments_shows_one(stub, typed, capsys, given):
    with pytest.raises(SystemExit, match="2"):
        cli.main(["classify", *given])
    said = capsys.readouterr()
    assert "emosafe classify: error: " in said.err and not said.out and "424242" not in said.err


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs a file whose first byte cannot be read")
def test_a_file_that_cannot_be_read_is_told_so(stub, typed, tmp_path, capsys):
    (tmp_path / "m.csv").symlink_to("/proc/self/mem")
    assert cli.main(["classify", "--model", "M", "--file", str(tmp_path / "m.csv")]) == 1
    assert f"error: {tmp_path / 'm.csv'}: cannot be read (" in capsys.readouterr().err


def test_a_message_in_place_of_a_command_is_not_shown(capsys):
    assert cli.main([CANARY]) == 2
    said = capsys.readouterr()
    assert "classify" in said.err and "424242" not in said.err + said.out


@pytest.mark.parametrize("word", ["-h", "--help"])
def test_help_has_three_examples_that_work(stub, typed, monkeypatch, tmp_path, capsys, word):
    assert cli.main(["classify", word]) == 0
    said = capsys.readouterr().out
    examples = re.findall(r"^  (?:.*\| )?emosafe (classify .*?)(?: > .*)?$", said, re.MULTILINE)
    assert len(examples) == 3 and all(
        option in said for option in ("--model", "--file", "--column", "--runtime", "`--`")
    )
    (tmp_path / "messages.csv").write_text("body\ncalm\n")
    monkeypatch.chdir(tmp_path)
    piped(monkeypatch, "calm\n")
    for example in examples:
        assert cli.main(shlex.split(example)) == 0
        assert lengths(capsys)


def test_the_readmes_row_works_as_written(stub, typed, capsys):
    page = (Path(cli.__file__).parents[1] / "README.md").read_text()
    (command,) = re.findall(r"`\S*emosafe (classify .*?)`", page.split("classify messages with")[1].splitlines()[0])
    assert cli.main(shlex.split(command)) == 0 and lengths(capsys) == [1]


def test_people_get_a_table(stub, typed, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    assert cli.main(["classify", "--model", "M", CANARY, ""]) == 0
    head, first, second = capsys.readouterr().out.splitlines()
    assert head.split() == ["row", "level", "probability", "categories"]
    assert first.split() == ["0", "safe", "0.75", "violence_hate"] and second.split() == ["1", "refused:", "empty"]
    assert first.index("violence_hate") == head.index("categories")


def test_a_table_says_which_messages_were_cut(classifier):
    rows = [classify.table_row(result) for result in classifier.classify(["calm", "calm " * 99])]
    assert [row.endswith("  (truncated)") for row in rows] == [False, True]


def test_no_message_is_an_error(stub, monkeypatch, capsys):
    piped(monkeypatch, "")
    assert cli.main(["classify", "--model", "M"]) == 1
    assert "error: standard input: holds no message; " in capsys.readouterr().err


RUN = f"""\
import sys
from emosafe_lib import cli
from emosafe_lib.ondevice import classify
{inspect.getsource(Stub)}
classify.Classifier = Stub
sys.exit(cli.main(["classify", "--model", "M", *sys.argv[1:]]))
"""


def in_a_shell(given, folder):
    """`emosafe classify --model M` with a stub for a model and a shell's redirections."""
    (folder / "run.py").write_text(RUN)
    command = f"exec {shlex.quote(sys.executable)} run.py {given}"
    return subprocess.run(["sh", "-c", command], capture_output=True, text=True, cwd=folder)


def test_a_closed_standard_error_leaves_the_results_alone(tmp_path):
    done = in_a_shell("calm 2>&-", tmp_path)
    assert done.returncode == 0 and [json.loads(line)["length"] for line in done.stdout.splitlines()] == [4]


def test_a_reader_who_leaves_ends_it_quietly(tmp_path):
    done = in_a_shell(f"{'calm ' * 9000} | head -n 1", tmp_path)
    assert len(done.stdout.splitlines()) == 1 and done.stderr == classify.WARNING + "\n"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("<&-", "give messages, or a file of them"),
        ("- <&-", "standard input: cannot be read (closed)"),
        ("- 0>written", "standard input: cannot be read ("),
        ("calm >&-", "standard output: is closed"),
        ("calm >/dev/full", "standard output: results cannot be written (No space left on device)"),
        ("calm 1</dev/null", "standard output: results cannot be written (Bad file descriptor)"),
        ("calm calm 2>&- >/dev/full", ""),
        ("--help >/dev/full", "No space left on device"),
    ],
)
def test_closed_input_and_output_are_errors_in_a_line(given, said, tmp_path):
    done = in_a_shell(given, tmp_path)
    assert done.returncode in (1, 2) and not done.stdout and "Traceback" not in done.stderr
    assert said in done.stderr and "Exception" not in done.stderr


@pytest.mark.parametrize(("end", "code"), [("KeyboardInterrupt", 130), ("BrokenPipeError", 1)])
def test_a_command_that_is_stopped_or_no_longer_read_ends_without_a_traceback(end, code):
    stop = f"import workflow.command as e\ndef stop(given): raise {end}\ne.main = stop\n"
    run = f"{stop}from emosafe_lib import cli\nraise SystemExit(cli.main(['run']))"
    done = subprocess.run([sys.executable, "-c", run], capture_output=True, text=True)
    assert done.returncode == code and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("word", "given", "remedy"),
    [
        ("classify", ["--model", "nowhere", "calm"], "make one with export.export"),
        ("onnx", ["nowhere"], "make one with export.export"),
        ("train", ["--study", "sample", "--model", "nowhere"], "nowhere"),
        ("compare", ["nowhere", "sample"], "nowhere"),
        ("data", ["list", "--study", "nowhere"], "nowhere"),
        ("run", ["study", "--study", "sample", "--models", "nowhere"], "nowhere"),
    ],
)
def test_every_command_fails_in_one_line(word, given, remedy, capsys):
    assert cli.main([word, *given]) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("error: ") and remedy in said


def test_a_folder_that_is_no_export_is_refused(tmp_path):
    with pytest.raises(ModelError, match="no exported safety"):
        classify.Classifier(tmp_path)
