"""Model folders as strangers send them: whatever is wrong ends in one line, and never in a level, a NaN or a full memory.

Every case is sealed again after the damage, since anybody can seal a folder; those that are not are the seal's own.
"""

import json
import resource
import shutil
import struct
from pathlib import Path

import numpy as np
import onnx
import pytest
import tiny_models
import torch
from onnx import TensorProto, helper, numpy_helper
from safetensors.torch import load_file, save_file

from emosafe_lib import cli
from emosafe_lib.models import backbone as backbones
from emosafe_lib.models import checkpoints, classifier, seals
from emosafe_lib.ondevice import classify, onnx_classifier, onnx_graphs
from emosafe_lib.study.taxonomy import SAFETY_LEVELS, TASK_LABELS

CANARY = "calm 424242"
MOST_MEMORY_KB = 1_500_000
CURVE = {"unsafe": 40, "others": 60, "unsafe_groups": 40, "other_groups": 50}
CURVE |= {"points": [[0.9, 20, 0], [0.5, 30, 3], [0.2, 39, 30]]}


@pytest.fixture(scope="module", params=["llama", "encoder"])
def whole(request, tmp_path_factory):
    """An export of both tasks with its ONNX files, its heads untrained."""
    home, name = tmp_path_factory.mktemp("whole"), request.param
    (tiny_models.make_llama if name == "llama" else tiny_models.make_encoder)(home / name)
    training = {"pooling": "mean"} if name == "encoder" else {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backbones, "ASSETS", home)
        model = tiny_models.model_params(name, training=training)
        for task, labels in TASK_LABELS.items():
            torch.manual_seed(0)
            network, tokenizer = classifier.load_classifier(model, labels)
            fitted = {"temperature": 1.5} if task == "safety" else {"thresholds": [0.5] * len(labels)}
            facts = {"labels": labels, "task": task, "model": name, "pooling": model.training.pooling}
            facts |= {"fitted": fitted | {"log_weights": [0.0] * len(labels), "max_length": 32}}
            facts |= {"validation_macro_f1": 0.5, "bf16": {"bound": 0.1}}
            facts |= {"alarms": CURVE} if task == "safety" else {}
            checkpoints.save_classifier(network, tokenizer, home / "export" / task, **facts)
    onnx_graphs.add_onnx(home / "export")
    return home / "export"


# --- how a folder is damaged ------------------------------------------------------------------------------------------


def facts(**changes):
    """Other facts in the seal; `...` takes one out, a name with two underscores is inside `fitted`."""

    def damage(folder):
        found = json.loads((folder / seals.SEAL).read_text())
        for name, value in changes.items():
            where = found["fitted"] if name.startswith("fitted__") else found
            name = name.removeprefix("fitted__")
            where.pop(name, None)
            if value is not ...:
                where[name] = value
        (folder / seals.SEAL).write_text(json.dumps(found))

    return damage


def raw(old, new, name=seals.SEAL):
    """A file with one text in it replaced, and no new seal."""

    def damage(folder):
        text = (folder / name).read_text()
        assert old in text
        (folder / name).write_text(text.replace(old, new, 1))

    return damage


def content(data, name=seals.SEAL):
    """A file with other content; sealed again unless it is the seal."""

    def damage(folder):
        (folder / name).write_bytes(data if isinstance(data, bytes) else data.encode())
        sealed_again(folder, name)

    return damage


def directory(name):
    def damage(folder):
        (folder / name).unlink()
        (folder / name).mkdir()

    return damage


def sealed_again(folder, name=""):
    if name != seals.SEAL:
        found = json.loads((folder / seals.SEAL).read_text())
        seals.seal(folder, **{key: value for key, value in found.items() if key != "files"})


def config(name="config.json", **changes):
    """Other keys in a JSON file, sealed again; `...` takes one out."""

    def damage(folder):
        found = json.loads((folder / name).read_text()) | changes
        kept = {key: value for key, value in found.items() if value is not ...}
        (folder / name).write_text(json.dumps(kept))
        sealed_again(folder)

    return damage


def tensors(change):
    """Other tensors in the safetensors, sealed again."""

    def damage(folder):
        path = folder / "model.safetensors"
        found = load_file(path)
        head = next(name for name in found if name in ("score.weight", "classifier.weight"))
        save_file(change(dict(found), head), path, metadata={"format": "pt"})
        sealed_again(folder)

    return damage


def cut(name, share=0.5):
    def damage(folder):
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[: int(share * len(data))])
        sealed_again(folder)

    return damage


def gone(name):
    return lambda folder: (folder / name).unlink()


def graph(change, name="model.onnx"):
    """Another ONNX graph, sealed again."""

    def damage(folder):
        model = onnx.load(folder / name)
        (folder / name).write_bytes((change(model) or model).SerializeToString())
        sealed_again(folder)

    return damage


def one_matrix(model):
    weights = (each for each in model.graph.initializer if each.data_type == TensorProto.FLOAT)
    return next(each for each in weights if len(each.dims) == 2)


def elsewhere(path):
    def change(model):
        found = one_matrix(model)
        found.ClearField("raw_data")
        found.data_location = TensorProto.EXTERNAL
        found.external_data.add(key="location", value=path)

    return change


def filled(value):
    def change(model):
        for each in model.graph.initializer:
            if len(each.dims) == 2 and each.data_type == TensorProto.FLOAT:
                each.raw_data = np.full(tuple(each.dims), value, np.float32).tobytes()

    return change


def renamed(place):
    def change(model):
        old = place(model.graph).name
        place(model.graph).name = "other"
        for node in model.graph.node:
            for names in (node.input, node.output):
                for number, each in enumerate(names):
                    names[number] = "other" if each == old else each

    return change


def huge(model):
    """A graph that makes a hundred billion numbers out of nothing and adds their sum to the logits."""
    shape = numpy_helper.from_array(np.array([100_000, 1_000_000], np.int64), "huge")
    model.graph.initializer.append(shape)
    last = next(node for node in model.graph.node if "logits" in node.output)
    last.output[list(last.output).index("logits")] = "before"
    model.graph.node.extend(
        [
            helper.make_node("ConstantOfShape", ["huge"], ["wide"]),
            helper.make_node("ReduceMax", ["wide"], ["most"], keepdims=0),
            helper.make_node("Add", ["before", "most"], ["logits"]),
        ]
    )


def other_graph(*outputs, inputs=onnx_classifier.INPUTS, kind=TensorProto.INT64):
    """A graph of its own, which sums its inputs."""

    def change(model):
        given = [helper.make_tensor_value_info(name, kind, ["rows", "tokens"]) for name in inputs]
        made = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", "labels"]) for name in outputs]
        nodes = [helper.make_node("Cast", [inputs[0]], [name], to=TensorProto.FLOAT) for name in outputs]
        return helper.make_model(helper.make_graph(nodes, "g", given, made), opset_imports=model.opset_import)

    return change


SEALS = {
    **{
        f"temperature {value}": facts(fitted__temperature=value)
        for value in (0, -1, 1e9, 1e-9, "1", True, None, [1], ...)
    },
    **{f"max_length {value}": facts(fitted__max_length=value) for value in (0, -5, 10**9, 7.5, "32", True, None, ...)},
    **{
        f"log_weights {value}": facts(fitted__log_weights=value)
        for value in ([], [0.0] * 2, [1e308] * 3, ["0"] * 3, [None] * 3, 0, ...)
    },
    "temperature NaN": raw('"temperature": 1.5', '"temperature": NaN'),
    "temperature Infinity": raw('"temperature": 1.5', '"temperature": Infinity'),
    "temperature 1e999": raw('"temperature": 1.5', '"temperature": 1e999'),
    "a name twice": raw('"temperature": 1.5', '"temperature": 1.5, "temperature": 9'),
    "a huge number": raw('"temperature": 1.5', f'"temperature": 1{"0" * 5000}'),
    **{
        f"labels {value}": facts(labels=value)
        for value in (list(SAFETY_LEVELS)[::-1], list(SAFETY_LEVELS)[:2], [], "safe", {}, [["safe"]] * 3, ...)
    },
    **{f"task {value}": facts(task=value) for value in ("categories", "other", ["safety"], {}, 7, None, ...)},
    **{f"pooling {value}": facts(pooling=value) for value in ("sum", ["mean"], 7, ...)},
    **{f"model {value!r}": facts(model=value) for value in ("a\nb", "", "x" * 999, 7, ...)},
    **{f"bf16 {value}": facts(bf16=value) for value in ([], {}, {"bound": -1}, {"bound": "1"}, None)},
    **{
        f"alarms {number}": facts(alarms=value)
        for number, value in enumerate(
            [
                *(
                    ...,
                    None,
                    [],
                    {},
                    "0.5",
                    CURVE | {"points": None},
                    CURVE | {"points": {}},
                    CURVE | {"points": [0.5, 1, 1]},
                ),
                *(
                    CURVE | {name: value}
                    for name in ("unsafe", "others")
                    for value in (-1, 1.5, True, 10**12, "40", None)
                ),
                *(CURVE | {"unsafe_groups": value} for value in (0, 41, None)),
                *(CURVE | {"points": [[*point]]} for point in ((2, 1, 1), (-0.1, 1, 1), (True, 1, 1), ("0.5", 1, 1))),
                *(
                    CURVE | {"points": [[*point]]}
                    for point in ((0.5, 41, 1), (0.5, 1, 61), (0.5, -1, 0), (0.5, 1.0, 1))
                ),
                *(CURVE | {"points": [[*point]]} for point in ((0.5, 1), (0.5, 1, 1, 1), (None, 1, 1), ([0.5], 1, 1))),
                CURVE | {"points": CURVE["points"][::-1]},
                CURVE | {"points": [[0.9, 2, 2], [0.5, 1, 2]]},
                CURVE | {"points": [[1 - row / 1000, 1, 1] for row in range(999)]},
            ]
        )
    },
    "alarms NaN": raw("0.9,", "NaN,"),
    **{
        f"tasks {value}": facts(tasks=value)
        for value in ([], "safety", ["other"], ["categories"], ["safety"] * 2, 7, None)
    },
    "no score": facts(validation_macro_f1=...),
    "a score beyond 1": facts(validation_macro_f1=7),
    "no digest": facts(tokenizer=...),
    "fitted is a list": lambda folder: content(json.dumps({"files": {}, "task": "safety", "fitted": []}))(folder),
    "no files": facts(files=...),
    "files is a list": facts(files=["config.json"]),
    "no file is listed": facts(files={}),
    "a file outside": facts(files={"../categories/config.json": "0" * 64}),
    "an endless file": facts(files={"/dev/zero": "0" * 64}),
    "a digest that is none": facts(files={"config.json": 7}),
    "a seal that is empty": content(""),
    "a seal that is a list": content("[]"),
    "a seal without end": content('{"a":' * 100_000),
    "a seal cut short": raw("\n}", ""),
    "a seal in UTF-16": content('{"files": {}}'.encode("utf-16")),
    "a seal of 21 million bytes": content("{" + " " * 21_000_000 + "}"),
    "a seal that is a folder": directory(seals.SEAL),
}
DESCRIPTIONS = {
    "no tokenizer": gone("tokenizer.json"),
    "an empty tokenizer": content("", "tokenizer.json"),
    "a tokenizer of nothing": content("{}", "tokenizer.json"),
    "a tokenizer cut short": cut("tokenizer.json"),
    "a tokenizer that is none": content(b"\x80\x04pickle", "tokenizer.json"),
    "a changed tokenizer": raw('"version"', '"Version"', "tokenizer.json"),
    "a token for padding that is none": config("tokenizer_config.json", pad_token="<nothing>"),
    "code of a tokenizer": config("tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.Evil", None]}),
    "a configuration that is a list": content("[]", "tokenizer_config.json"),
    "no configuration": gone("config.json"),
    "a configuration that is empty": content("", "config.json"),
    "a configuration that is none": content("[7]", "config.json"),
    "a NaN in it": lambda folder: (raw("{", '{"eps": NaN,', "config.json")(folder), sealed_again(folder)),
    "code of a model": config(auto_map={"AutoConfig": "evil--evil.Evil"}),
    "packed weights": config(quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True}),
    "a kernel of the hub": config(attn_implementation="kernels-community/flash-attn"),
    "a kernel of the hub in private": config(_attn_implementation="kernels-community/flash-attn"),
    "a kernel inside": config(text_config={"_attn_implementation_internal": "evil/kernel"}),
    "columns beyond all": config(hidden_size=10**12),
    "labels beyond all": config(num_labels=10**6),
    "other labels": config(id2label={"0": "unsafe", "1": "borderline", "2": "safe"}),
    "no labels": config(id2label=...),
    "an adapter": content('{"base_model_name_or_path": "evil/evil"}', "adapter_config.json"),
    "an index": content('{"weight_map": {}}', "model.safetensors.index.json"),
}
CONFIGS = {
    **{
        f"{key} {value}": config(**{key: value}) for key in ("hidden_size", "intermediate_size") for value in (10**6, 0)
    },
    **{f"layers {value}": config(num_hidden_layers=value) for value in (10**6, 1, 3, 0, -1, "two")},
    **{f"vocabulary {value}": config(vocab_size=value) for value in (10**7, 1, 0, -1)},
    **{f"heads {value}": config(num_attention_heads=value) for value in (0, 3, -1, 10**7, None)},
    **{f"model_type {value}": config(model_type=value) for value in ("none", "gpt2", "t5", ["llama"], ...)},
    "a size that is a text": config(hidden_size="16"),
    "an activation that is none": config(hidden_act="no_such_thing"),
    "padding beyond the vocabulary": config(pad_token_id=10**6),
    "a longest text that is a list": config("tokenizer_config.json", model_max_length=[]),
}
TENSORS = {
    "no file": gone("model.safetensors"),
    "an empty file": content("", "model.safetensors"),
    "a file cut short": cut("model.safetensors"),
    "a pickle": content(b"\x80\x04\x95pickle" * 99, "model.safetensors"),
    "a header beyond all": content(struct.pack("<Q", 2**60) + b"{}", "model.safetensors"),
    "a header that is none": content(struct.pack("<Q", 4) + b"nope", "model.safetensors"),
    "a tensor beyond the file": content(
        struct.pack("<Q", 66) + b'{"a":{"dtype":"F32","shape":[999999999],"data_offsets":[0,9]}}'.ljust(66),
        "model.safetensors",
    ),
    "a folder": directory("model.safetensors"),
    "no tensor": tensors(lambda found, head: {}),
    "no head": tensors(lambda found, head: {name: each for name, each in found.items() if name != head}),
    "no layer": tensors(lambda found, head: {name: each for name, each in found.items() if ".1." not in name}),
    "a head of nothing": tensors(lambda found, head: found | {head: found[head] * 0}),
    "a tensor too many": tensors(lambda found, head: found | {"evil": torch.ones(1)}),
    "a head of other shape": tensors(lambda found, head: found | {head: found[head].T.contiguous()}),
    "a head for other labels": tensors(lambda found, head: found | {head: found[head][:2].clone()}),
    "a head of whole numbers": tensors(lambda found, head: found | {head: found[head].to(torch.int8)}),
    **{
        f"a head of {value}": tensors(lambda found, head, value=value: found | {head: found[head] * 0 + value})
        for value in (3e38, float("nan"), float("inf"), float("-inf"))
    },
    "huge weights": tensors(lambda found, head: {name: each * 0 + 3e38 for name, each in found.items()}),
}
GRAPHS = {
    "no token for padding": config("tokenizer_config.json", pad_token=...),
    "no file": gone("model.onnx"),
    "an empty file": content("", "model.onnx"),
    "a file cut short": cut("model.onnx"),
    "a file cut near its end": cut("model.onnx", 0.99),
    "a text": content("calm " * 99, "model.onnx"),
    "a folder": directory("model.onnx"),
    "weights in another file": graph(elsewhere("../../secret")),
    "weights at an absolute place": graph(elsewhere("/dev/zero")),
    "a matrix less": graph(lambda model: model.graph.initializer.remove(one_matrix(model))),
    "a matrix of no columns": graph(lambda model: one_matrix(model).dims.__setitem__(1, 0)),
    "a matrix beyond all": graph(lambda model: one_matrix(model).dims.__setitem__(1, 10**12)),
    "NaN": graph(filled(np.nan)),
    "3e38": graph(filled(3e38)),
    "another input": graph(renamed(lambda graph: graph.input[0])),
    "another output": graph(renamed(lambda graph: graph.output[0])),
    "one input": graph(other_graph("logits", inputs=("input_ids",))),
    "two outputs": graph(other_graph("logits", "more")),
    "inputs of another type": graph(other_graph("logits", kind=TensorProto.INT32)),
    "a head as wide as the text": graph(other_graph("logits")),
    "a node that nobody knows": graph(lambda model: setattr(model.graph.node[0], "op_type", "Evil")),
    "a version of the future": graph(lambda model: setattr(model.opset_import[0], "version", 10**6)),
    "a constant beyond memory": graph(huge),
    "no node": graph(lambda model: model.graph.ClearField("node")),
}
CASES = [(kind, name, "torch") for kind in ("SEALS", "DESCRIPTIONS", "CONFIGS", "TENSORS") for name in globals()[kind]]
CASES += [(kind, name, "onnx") for kind in ("SEALS", "DESCRIPTIONS", "GRAPHS") for name in globals()[kind]]


def said_of(folder, runtime, capfd):
    """The status of `emosafe classify` on a folder, what it printed, and what it said besides its warning."""
    status = cli.main(["classify", "--model", str(folder), "--runtime", runtime, "--", CANARY, "quiet"])
    printed = capfd.readouterr()
    return status, printed.out, printed.err.replace(classify.WARNING + "\n", "")


@pytest.mark.parametrize(("kind", "name", "runtime"), CASES, ids=[f"{r}: {n}" for _, n, r in CASES])
def test_a_damaged_folder_is_refused_in_one_line(whole, tmp_path, capfd, kind, name, runtime):
    folder = shutil.copytree(whole, tmp_path / "copy")
    globals()[kind][name](folder / "safety")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    status, out, err = said_of(folder, runtime, capfd)
    assert (status, out, err.count("\n")) == (1, "", 1), err
    assert err.startswith("error: ") and "copy" in err and "424242" not in err and len(err) < 700
    assert not any(word in err for word in ("Traceback", "/dev/zero is", "onnxruntime:"))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MOST_MEMORY_KB


@pytest.mark.parametrize("runtime", ["torch", "onnx", "onnx-int8"])
def test_an_undamaged_folder_answers(whole, capfd, runtime):
    status, out, err = said_of(whole, runtime, capfd)
    assert status == 0 and [json.loads(line)["outcome"] for line in out.splitlines()] == ["ok", "ok"] and not err


@pytest.mark.parametrize("value", [[2.0] * 6, [-0.1] * 6, ["0.5"] * 6, [None] * 6, [0.5] * 5, 0.5, ...])
@pytest.mark.parametrize("runtime", ["torch", "onnx"])
def test_thresholds_are_six_probabilities(whole, tmp_path, capfd, value, runtime):
    folder = shutil.copytree(whole, tmp_path / "copy")
    facts(fitted__thresholds=value)(folder / "categories")
    status, out, err = said_of(folder, runtime, capfd)
    assert (status, out, err.count("\n")) == (1, "", 1) and "thresholds" in err


@pytest.mark.parametrize("runtime", ["torch", "onnx", "onnx-int8"])
def test_an_export_of_levels_alone_answers_levels_alone(whole, tmp_path, capfd, runtime):
    folder = tmp_path / "copy"
    shutil.copytree(whole / "safety", folder / "safety")
    assert "holds no exported categories classifier" in said_of(folder, runtime, capfd)[2]
    facts(tasks=["safety"])(folder / "safety")
    status, out, _ = said_of(folder, runtime, capfd)
    assert status == 0 and set(json.loads(out.splitlines()[0])) == {"row", "outcome", "level", "level_probabilities"}
    assert classify.table_row(json.loads(out.splitlines()[0])).endswith("not asked")


def test_tasks_in_each_others_place_are_refused(whole, tmp_path, capfd):
    folder = tmp_path / "copy"
    for place, task in zip(TASK_LABELS, [*TASK_LABELS][::-1], strict=True):
        shutil.copytree(whole / task, folder / place)
    status, out, err = said_of(folder, "onnx", capfd)
    assert (status, out, err.count("\n")) == (1, "", 1) and "holds a classifier of categories" in err


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30])
@pytest.mark.parametrize("task", TASK_LABELS)
@pytest.mark.parametrize("runtime", ["torch", "onnx", "onnx-int8"])
def test_an_answer_that_is_not_finite_is_an_outcome_and_never_a_level(whole, monkeypatch, capfd, value, task, runtime):
    """Some messages only: what every message meets is refused when the folder is opened."""
    plain = classify.TaskClassifier.logits

    def logits(self, encoded):
        found = plain(self, encoded)
        found[0, 1] = value if self.task == task else found[0, 1]
        return found

    for kind in (classify.TaskClassifier, *classify.TaskClassifier.__subclasses__()):
        monkeypatch.setattr(kind, "logits", logits)
    status, out, err = said_of(whole, runtime, capfd)
    first, second = map(json.loads, out.splitlines())
    assert first == {"row": 0, "outcome": classify.NO_ANSWER} and second["outcome"] == "ok"
    assert status == 1 and "gave no finite answer to 1 of 2 messages" in err and err.count("\n") == 1


def test_weights_that_are_not_read_may_be_missing(whole, tmp_path, capfd):
    """A small device needs one graph, and not the hundred megabytes beside it."""
    folder = shutil.copytree(whole, tmp_path / "copy")
    for path in [*folder.glob("*/model.safetensors"), *folder.glob("*/model.onnx")]:
        Path(path).unlink()
    assert said_of(folder, "onnx-int8", capfd)[0] == 0
    assert said_of(folder, "torch", capfd)[0] == 1
