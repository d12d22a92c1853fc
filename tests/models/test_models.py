"""Loading: nothing but safetensors of known architectures, declared fallbacks, errors that name the remedy."""

import json

import numpy as np
import pytest
import tiny_models
import torch

from emosafe_lib.models import backbone, classifier, precision, quantization
from emosafe_lib.study.errors import ModelError
from emosafe_lib.study.parameters import ModelParams, load_model


@pytest.fixture(scope="module")
def assets(tmp_path_factory):
    """A folder with a tiny LLaMA and a tiny encoder."""
    folder = tmp_path_factory.mktemp("assets")
    tiny_models.make_llama(folder / "llama")
    tiny_models.make_encoder(folder / "encoder")
    return folder


@pytest.fixture(autouse=True)
def use_assets(assets, monkeypatch):
    monkeypatch.setattr(backbone, "ASSETS", assets)


def test_44_a_repository_that_brings_its_own_code_is_refused_without_asking(tmp_path, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked on standard input"))
    monkeypatch.setattr(backbone, "ASSETS", tmp_path)
    folder = tmp_path / "stranger"
    folder.mkdir()
    marker = tmp_path / "ran"
    auto_map = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"}
    (folder / "config.json").write_text(json.dumps({"model_type": "never-heard-of", "auto_map": auto_map}))
    (folder / "own.py").write_text(f"open({str(marker)!r}, 'w').close()\n")
    with pytest.raises(ModelError, match="run its own code"):
        backbone.load_causal(tiny_models.model_params("stranger"))
    assert not marker.exists()


def test_45_an_absent_hub_model_offline_names_revision_and_place(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    model = ModelParams(name="gone", family="llama", weights="hub", path="nobody/gone", revision="abc123")
    with pytest.raises(ModelError) as caught:
        backbone.load_causal(model)
    line = str(caught.value)
    assert "abc123" in line and "models--nobody--gone" in line and "\n" not in line


def test_weights_without_an_output_table_are_no_language_model(tmp_path, monkeypatch):
    from transformers import AutoModel

    monkeypatch.setattr(backbone, "ASSETS", tmp_path)
    tiny_models.make_llama(tmp_path / "llama")
    backbone.load_causal(tiny_models.model_params())
    AutoModel.from_pretrained(tmp_path / "llama").save_pretrained(tmp_path / "llama")
    with pytest.raises(ModelError, match="^llama: its weights lack lm_head.weight, which would be left to chance; "):
        backbone.load_causal(tiny_models.model_params())


def test_mean_pooling_of_another_architecture_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(backbone, "ASSETS", tmp_path)
    tiny_models.make_llama(tmp_path / "llama")
    path = tmp_path / "llama" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_type": "qwen2"}))
    with pytest.raises(ModelError, match="^llama: is of the architecture qwen2, and mean pooling is for llama; "):
        classifier.load_classifier(tiny_models.model_params(training={"pooling": "mean"}), ("a", "b"))


def test_an_architecture_that_is_no_causal_one_is_told_in_one_line(tmp_path, monkeypatch):
    from transformers import T5Config

    monkeypatch.setattr(backbone, "ASSETS", tmp_path)
    tiny_models.make_llama(tmp_path / "llama")
    for name, kind in (("T5", T5Config().to_dict()), ("nobody's", {"model_type": "never-heard-of"})):
        (tmp_path / "llama" / "config.json").write_text(json.dumps(kind))
        with pytest.raises(ModelError, match="^llama: is of no architecture that family: llama loads; ") as caught:
            backbone.load_causal(tiny_models.model_params())
        assert "\n" not in str(caught.value), name


@pytest.mark.parametrize("load", [backbone.load_causal, backbone.load_encoder])
def test_a_model_that_does_not_fit_says_so_in_one_line(monkeypatch, load):
    def full(*given, **options):
        raise RuntimeError("CUDA out of memory.\nTried to allocate 20.00 GiB")

    monkeypatch.setattr(backbone, "load_network", full)
    with pytest.raises(ModelError, match="does not fit into memory; use fewer bits") as caught:
        load(tiny_models.model_params("big"))
    assert "\n" not in str(caught.value)


def test_pickled_weights_are_not_read(tmp_path, assets, monkeypatch):
    import shutil

    import torch

    shutil.copytree(assets / "llama", tmp_path / "pickled")
    (tmp_path / "pickled" / "model.safetensors").unlink()
    torch.save({}, tmp_path / "pickled" / "pytorch_model.bin")
    monkeypatch.setattr(backbone, "ASSETS", tmp_path)
    with pytest.raises(ModelError, match="safetensors"):
        backbone.load_causal(tiny_models.model_params("pickled"))


def test_truncated_weights_are_refused(tmp_path, assets, monkeypatch):
    import shutil

    shutil.copytree(assets / "llama", tmp_path / "cut")
    weights = tmp_path / "cut" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    monkeypatch.setattr(backbone, "ASSETS", tmp_path)
    with pytest.raises(ModelError, match="damaged"):
        backbone.load_causal(tiny_models.model_params("cut"))


@pytest.mark.parametrize("able", [True, False])
@pytest.mark.parametrize("asked", [True, False])
def test_training_multiplies_in_bfloat16_only_where_file_and_processor_allow_it(monkeypatch, asked, able):
    monkeypatch.setattr(precision, "half_precision", lambda: able)
    model = load_model("nano-1")
    model = model.model_copy(update={"training": model.training.model_copy(update={"mixed_precision": asked})})
    with precision.mixed_precision(model):
        product = torch.ones(2, 2) @ torch.ones(2, 2)
    assert product.dtype == (torch.bfloat16 if asked and able else torch.float32)


def test_57_no_gpu_no_bf16_and_no_4_bit_are_declared(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(precision, "half_precision", lambda: False)
    found = precision.hardware(tiny_models.model_params(device="cuda", dtype="bfloat16", quantization="int4"))
    assert (found["device"], found["dtype"], found["quantization"]) == ("cpu", "float32", "none")
    assert [note.split()[0] for note in found["fallbacks"]] == ["no", "bfloat16", "int4"]


def test_57_bf16_that_a_gpu_only_emulates_is_replaced_and_noted(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    found = precision.hardware(tiny_models.model_params(dtype="bfloat16"))
    assert found["dtype"] == "float16"
    assert found["fallbacks"] == ["bfloat16 is not fit for this cuda: runs in float16"]


@pytest.mark.parametrize("able", [True, False])
def test_a_processor_answers_in_bfloat16_where_it_is_fast_there_and_trains_on_float32_weights(monkeypatch, able):
    monkeypatch.setattr(precision, "half_precision", lambda: able)
    model = tiny_models.model_params(device="cpu", dtype="bfloat16")
    assert precision.pick_dtype(model) == (torch.bfloat16 if able else torch.float32)
    assert precision.rounds(model) is able and len(precision.hardware(model)["fallbacks"]) == (not able)
    assert precision.trained_dtype(model) == torch.float32
    assert not precision.rounds(tiny_models.model_params(device="cpu"))


def test_57_what_the_machine_can_do_needs_no_note():
    assert precision.hardware(tiny_models.model_params(device="cpu"))["fallbacks"] == []


@pytest.mark.parametrize("name", ["llama", "encoder"])
def test_the_head_is_drawn_from_the_seed_and_knows_its_labels(name):
    import torch

    heads = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        network, tokenizer = classifier.load_classifier(tiny_models.model_params(name), ("a", "b", "c"))
        heads.append((network.score if name == "llama" else network.classifier).weight.detach().numpy())
    assert np.array_equal(heads[0], heads[1]) and not np.array_equal(heads[0], heads[2])
    assert network.config.id2label == {0: "a", 1: "b", 2: "c"}
    assert network.config.pad_token_id == tokenizer.pad_token_id is not None
    assert tokenizer.padding_side == "right"


def test_random_weights_have_the_declared_shape():
    shape = {"layers": 2, "hidden": 16, "heads": 4, "kv_heads": 2, "intermediate": 24, "vocabulary": 50}
    model = tiny_models.model_params("made", weights="random", path="", shape=shape)
    network = backbone.load_network(model, __import__("transformers").AutoModelForCausalLM)
    assert network.model.layers[1].self_attn.k_proj.weight.shape == (8, 16)
    assert network.lm_head.weight is network.model.embed_tokens.weight
    with pytest.raises(ModelError, match="no tokenizer"):
        backbone.load_tokenizer(model)


def test_threads_follow_the_environment_before_the_file(monkeypatch):
    import torch

    before = torch.get_num_threads()
    try:
        monkeypatch.setenv("OMP_NUM_THREADS", "1")
        assert precision.use_threads(tiny_models.model_params(resources={"threads": 2})) == 1
        monkeypatch.delenv("OMP_NUM_THREADS")
        assert precision.use_threads(tiny_models.model_params(resources={"threads": 2})) == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("device", "gpus", "environment", "expected"),
    [
        ("cpu", 1, {}, {"device_map": "auto"}),
        ("cuda", 1, {}, {"device_map": {"": 0}}),
        ("cuda", 4, {}, {"device_map": "auto"}),
        ("cuda", 4, {"WORLD_SIZE": "4", "LOCAL_RANK": "2"}, {"device_map": {"": 2}}),
        ("cuda", 4, {"WORLD_SIZE": "4", "LOCAL_RANK": "2", "ACCELERATE_USE_FSDP": "true"}, {}),
    ],
)
def test_quantized_weights_lie_where_launcher_and_parameter_file_want_them(
    monkeypatch, device, gpus, environment, expected
):
    monkeypatch.setattr(precision, "pick_device", lambda model: torch.device(device))
    for name in ("WORLD_SIZE", "LOCAL_RANK", "ACCELERATE_USE_FSDP"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert quantization.placement(tiny_models.model_params(resources={"gpus": gpus})) == expected


def test_four_bits_on_a_gpu_need_bitsandbytes_and_several_gpus_share_whatever_is_loaded(monkeypatch):
    monkeypatch.setattr(precision, "pick_device", lambda model: torch.device("cuda"))
    monkeypatch.setattr(precision, "no_bitsandbytes", lambda: "bitsandbytes is not installed")
    model = load_model("llama-70b")
    with pytest.raises(ModelError, match="bitsandbytes is not installed; run"):
        quantization.quantization_options(model)
    plain = model.model_copy(update={"quantization": "none"})
    assert quantization.quantization_options(plain) == {"device_map": "auto"}
    one = plain.model_copy(update={"resources": plain.resources.model_copy(update={"gpus": 1})})
    assert quantization.quantization_options(one) == {}


def test_4_bit_weights_stay_frozen_while_adapters_learn(tmp_path, assets, monkeypatch):
    import torch

    from emosafe_lib.finetuning import network as finetuning_network
    from emosafe_lib.finetuning import objective

    monkeypatch.setattr(precision, "pick_quantization", lambda model: "int4")
    model = tiny_models.model_params()
    network = finetuning_network.add_lora(classifier.load_classifier(model, ("a", "b", "c"))[0], model)
    frozen = {name: weight.detach().clone() for name, weight in network.named_parameters() if not weight.requires_grad}
    assert any(weight.dtype == torch.uint8 or "4bit" in type(weight).__name__ for weight in network.parameters())
    optimizer = torch.optim.AdamW([weight for weight in network.parameters() if weight.requires_grad], lr=0.02)
    ids, labels, losses = torch.arange(48).reshape(6, 8) + 3, torch.eye(3).repeat(2, 1), []
    for _ in range(8):
        logits = network(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
        loss = objective.loss_per_row(logits, labels, torch.ones_like(labels), torch.ones(3), "safety").mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert all(torch.equal(weight, dict(network.named_parameters())[name]) for name, weight in frozen.items())
