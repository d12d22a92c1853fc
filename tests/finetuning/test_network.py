"""Steps in bfloat16 on a CPU: the fast way of taking them learns the same, and leaves the network as it was."""

import json

import pytest
import tiny_models
import torch

from emosafe_lib.finetuning import network
from emosafe_lib.finetuning.network import fast_steps, trainable
from emosafe_lib.models import backbone, checkpoints, precision
from emosafe_lib.models.classifier import load_classifier

MODEL = tiny_models.model_params(device="cpu", training={"mixed_precision": True, "lora": {"dropout": 0.0}})


@pytest.fixture
def adapted(tmp_path, monkeypatch):
    tiny_models.make_llama(tmp_path / "llama")
    monkeypatch.setattr(backbone, "ASSETS", tmp_path)
    torch.manual_seed(0)
    found = network.add_lora(load_classifier(MODEL, ("a", "b", "c"))[0], MODEL)
    for parameter in trainable(
        found
    ):  # an adapter's second matrix is nothing at first, and its first learns nothing then
        parameter.data += 0.05 * torch.randn_like(parameter)
    return found


def gradients(adapted):
    """Of one batch with padding, every trained parameter in one vector."""
    adapted.zero_grad()
    ids = torch.arange(24).reshape(2, 12)
    with precision.mixed_precision(MODEL):
        logits = adapted(input_ids=ids, attention_mask=(ids < 20).long()).logits
    logits.float().log_softmax(-1)[:, 0].sum().backward()
    return torch.cat([parameter.grad.flatten() for parameter in trainable(adapted)])


def test_fast_steps_learn_the_same_within_the_rounding_of_bfloat16(adapted, monkeypatch):
    monkeypatch.setattr(precision, "half_precision", lambda: False)
    exact = gradients(adapted)
    monkeypatch.setattr(precision, "half_precision", lambda: True)
    usual = gradients(adapted)
    with fast_steps(adapted, MODEL):
        fast = gradients(adapted)
    assert (usual - exact).norm() > 0 and (fast - exact).norm() < 2 * (usual - exact).norm() < 0.2 * exact.norm()


@pytest.mark.parametrize("able", [True, False])
def test_after_fast_steps_the_network_is_as_it_was(adapted, monkeypatch, able):
    def state():
        casts = {
            name: part.cast_input_dtype_enabled for name, part in adapted.named_modules() if hasattr(part, "lora_A")
        }
        return adapted.config._attn_implementation, casts

    monkeypatch.setattr(precision, "half_precision", lambda: able)
    before = state()
    with pytest.raises(ZeroDivisionError), fast_steps(adapted, MODEL):
        assert (state() != before) == able
        raise ZeroDivisionError
    assert state() == before and before[1] and all(before[1].values())


def test_an_adapter_is_written_as_peft_writes_it(adapted, tmp_path):
    checkpoints.write_weights(adapted, tmp_path / "ours")
    adapted.save_pretrained(tmp_path / "peft", save_embedding_layers=False)
    ours, theirs = ((tmp_path / name / "adapter_model.safetensors").read_bytes() for name in ("ours", "peft"))
    assert ours == theirs
    ours, theirs = (json.loads((tmp_path / name / "adapter_config.json").read_text()) for name in ("ours", "peft"))
    for config in (ours, theirs):
        del config["base_model_name_or_path"]  # theirs is a folder
        config["target_modules"].sort()
    assert ours == theirs
