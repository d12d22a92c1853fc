"""GGUF: read whole or refused in one line, unpacked once, and then a checkpoint like any other."""

import json
import shutil
import threading

import pytest
import tiny_models
import torch
from gguf_writer import write_gguf
from transformers import AutoModelForCausalLM, AutoTokenizer

from emosafe_lib.models import backbone, checkpoints, gguf_files
from emosafe_lib.study.errors import EmosafeError, ModelError
from emosafe_lib.study.files import file_sha256
from emosafe_lib.study.parameters import ModelParams


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A tiny LLaMA of two query heads on one key head, as transformers saves it."""
    folder = tmp_path_factory.mktemp("original")
    tiny_models.make_llama(folder)
    network = AutoModelForCausalLM.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] }}{% endfor %}"
    return network, tokenizer


@pytest.fixture(scope="module")
def written(original, tmp_path_factory):
    return write_gguf(*original, tmp_path_factory.mktemp("written") / "tiny.gguf", "f32")


@pytest.fixture
def place(written, tmp_path, monkeypatch):
    """A folder that stands for the checkout, with the file in it, and a cache of its own."""
    monkeypatch.setattr(gguf_files, "project_root", lambda: tmp_path)
    monkeypatch.setenv("EMOSAFE_CACHE", str(tmp_path / "cache"))
    shutil.copy(written, tmp_path / "tiny.gguf")
    return tmp_path


def params(path="tiny.gguf", **changes) -> ModelParams:
    return tiny_models.model_params("tiny", weights="gguf", path=path, **changes)


def logits(network, ids):
    with torch.inference_mode():
        return network(torch.tensor([ids])).logits


def test_weights_tokenizer_and_template_come_back_as_they_were(place, original):
    network, tokenizer = backbone.load_causal(params())
    text = "calm garden 1234 <|end_of_text|> danger"
    ids = original[1](text)["input_ids"]
    assert tokenizer(text)["input_ids"] == ids and tokenizer.chat_template == original[1].chat_template
    assert torch.allclose(logits(network, ids), logits(original[0], ids), atol=1e-5)
    assert network.config.num_key_value_heads == 1 and not hasattr(network.config, "quantization_config")


def test_a_file_is_unpacked_once_by_its_bytes_and_made_anew_where_it_was_deleted(place, monkeypatch):
    folder = gguf_files.checkpoint(params())
    made = (folder / "model.safetensors").stat().st_mtime_ns
    shutil.copy(place / "tiny.gguf", place / "copy.gguf")
    assert gguf_files.checkpoint(params("copy.gguf")) == folder
    assert (folder / "model.safetensors").stat().st_mtime_ns == made
    (folder / "tokenizer.json").unlink()
    assert (gguf_files.checkpoint(params()) / "tokenizer.json").is_file()
    shutil.rmtree(place / "cache")
    assert backbone.load_causal(params())
    assert [path.name for path in folder.parent.iterdir() if path.is_dir()] == [folder.name]


def test_two_at_once_unpack_once(place, monkeypatch):
    calls, unpack = [], gguf_files.unpack
    monkeypatch.setattr(gguf_files, "unpack", lambda *given: (calls.append(1), unpack(*given)))
    threads = [threading.Thread(target=gguf_files.checkpoint, args=(params(),)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert calls == [1]


def test_what_is_left_of_a_killed_run_is_made_anew(place):
    folder = gguf_files.checkpoint(params())
    left = folder.with_name(f".{folder.name}.1.partial")
    folder.rename(left)
    (left / "model.safetensors").write_bytes(b"half")
    assert backbone.load_causal(params()) and not left.exists()


def damaged(place, change):
    path = place / "tiny.gguf"
    path.write_bytes(change(path.read_bytes()))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda data: data[:-100], "truncated"),
        (lambda data: data[: len(data) // 2], "truncated"),
        (lambda data: data[:300], "damaged"),
        (lambda data: data[:4], "damaged"),
        (lambda data: b"", "no GGUF"),
        (lambda data: b"version https://git-lfs.github.com/spec/v1\n", "no GGUF"),
        (lambda data: data.replace(b"llama", b"qwen2"), "architecture 'qwen2'"),
        (lambda data: data.replace(b"blk.1.ffn_up", b"blk.1.ffn_uq"), "leave out"),
        (lambda data: data.replace(b"blk.1.ffn_up", b"blk.0.ffn_up"), "lacks|damaged"),
        (lambda data: data[:-4096] + b"\xff" * 4096, "not finite"),
    ],
)
def test_a_file_that_is_no_whole_llama_is_refused_in_one_line_and_leaves_nothing(place, change, why):
    damaged(place, change)
    with pytest.raises(ModelError, match=why) as caught:
        backbone.load_causal(params())
    assert "\n" not in str(caught.value) and str(place) not in str(caught.value)
    assert not [path for path in (place / "cache").rglob("*") if path.is_dir() and path.name != "gguf"]


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("gone.gguf", "no such file"),
        ("never_heard_of:a.gguf", "not installed"),
        ("numpy:a.gguf", "no such file"),
        ("nobody/gone:a.gguf", "revision main is not at hand"),
    ],
)
def test_an_absent_file_is_named(place, path, why):
    with pytest.raises(ModelError, match=why):
        backbone.load_causal(params(path))


@pytest.mark.parametrize(
    "change", [{"path": "a:b:c"}, {"path": "pkg:../../etc/x"}, {"weights": "hub", "path": "a/b:c"}]
)
def test_a_path_that_names_no_file_is_refused(change):
    with pytest.raises(ValueError):
        params(**({"path": "tiny.gguf"} | change)) if "weights" not in change else tiny_models.model_params(
            "t", **change
        )


@pytest.mark.parametrize("kind", ["gguf", "assets"])
def test_other_bytes_than_the_parameter_file_states_are_refused_with_both_digests(place, kind, monkeypatch):
    monkeypatch.setattr(backbone, "ASSETS", place)
    tiny_models.make_llama(place / "llama")
    file = place / ("tiny.gguf" if kind == "gguf" else "llama/model.safetensors")
    given = {"weights": kind, "path": "tiny.gguf" if kind == "gguf" else "llama"}
    right, wrong = file_sha256(file), "0" * 64
    assert backbone.load_causal(tiny_models.model_params("m", **given, weights_sha256=right))
    with pytest.raises(EmosafeError, match=f"{right}.*{wrong}"):
        backbone.load_causal(tiny_models.model_params("m", **given, weights_sha256=wrong))


def test_kept_work_is_known_by_the_files_bytes(place, original):
    before = checkpoints.base_digest(params())
    shutil.copy(place / "tiny.gguf", place / "copy.gguf")
    write_gguf(*original, place / "tiny.gguf", "f16")
    assert checkpoints.base_digest(params()) != before


def test_a_model_of_the_hub_is_known_by_its_commit_before_and_after_it_is_fetched(monkeypatch, tmp_path):
    fetched = []

    def from_hub(model, repository, name):
        fetched.append((repository, name))
        return tmp_path / "snapshots" / "c0ffee" / name

    monkeypatch.setattr(gguf_files, "from_hub", from_hub)
    model = tiny_models.model_params("m", weights="hub", path="somebody/model")
    assert checkpoints.base_digest(model) == checkpoints.base_digest(model) and fetched[0][1] == "config.json"
    monkeypatch.setattr(gguf_files, "from_hub", lambda *given: tmp_path / "snapshots" / "decade" / "config.json")
    known = checkpoints.base_digest(model)
    monkeypatch.setattr(gguf_files, "from_hub", from_hub)
    assert known != checkpoints.base_digest(model)


@pytest.mark.parametrize("kind", ["f16", "q8_0", "q4_1"])
def test_packed_files_answer_nearly_as_their_original(place, original, kind):
    """The tiny model's rows fill no block of 32 but its feed-forward's."""
    write_gguf(*original, place / "tiny.gguf", kind)
    network, tokenizer = backbone.load_causal(params())
    ids = tokenizer("calm garden")["input_ids"]
    gap = (logits(network, ids) - logits(original[0], ids)).abs().max()
    assert 0 < gap < {"f16": 1e-2, "q8_0": 3e-2, "q4_1": 0.5}[kind]


def test_numbers_are_cut_into_digits_where_the_file_says_so(place, original):
    network, tokenizer = original
    from tokenizers import pre_tokenizers

    other = AutoTokenizer.from_pretrained(tokenizer.name_or_path)
    backend = other.backend_tokenizer
    parts = [pre_tokenizers.Digits(individual_digits=True), backend.pre_tokenizer]
    backend.pre_tokenizer = pre_tokenizers.Sequence(parts)
    write_gguf(network, other, place / "tiny.gguf", "f32")
    found = json.loads(backbone.load_tokenizer(params()).backend_tokenizer.to_str())["pre_tokenizer"]
    assert [part["type"] for part in found["pretokenizers"]] == ["Digits", "ByteLevel"]
