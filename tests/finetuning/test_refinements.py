"""What a model's file may refine: a rate for each layer, and labels that are not quite sure."""

import pytest
import tiny_models
import torch

from emosafe_lib.finetuning import objective, trainer
from emosafe_lib.finetuning.finetune import finetune
from emosafe_lib.finetuning.network import add_lora, trainable
from emosafe_lib.models import backbone
from emosafe_lib.models.classifier import load_classifier
from emosafe_lib.study.taxonomy import SAFETY_LEVELS

ROWS = tiny_models.make_rows()


@pytest.fixture(autouse=True)
def use_assets(tmp_path, monkeypatch):
    tiny_models.make_llama(tmp_path / "llama")
    tiny_models.make_encoder(tmp_path / "encoder")
    monkeypatch.setattr(backbone, "ASSETS", tmp_path)


@pytest.mark.parametrize("name", ["llama", "encoder"])
def test_every_parameter_learns_at_its_layers_rate(name):
    model = tiny_models.model_params(name)
    network, _ = load_classifier(model, SAFETY_LEVELS)
    if name == "llama":
        network = add_lora(network, model)
    optimizer = torch.optim.AdamW(trainable(network), lr=1.0)
    trainer.slow_lower_layers(optimizer, network, 0.5)
    rates = {id(parameter): group["lr"] for group in optimizer.param_groups for parameter in group["params"]}
    layers = network.config.num_hidden_layers
    assert len(rates) == len(trainable(network))
    for name, parameter in network.named_parameters():
        if id(parameter) in rates:
            number = next((int(part) for part in name.split(".") if part.isdigit()), None)
            below = layers - number if number is not None else layers + 1 if "embeddings" in name else 0
            assert rates[id(parameter)] == 0.5**below, name


def test_the_head_learns_while_a_decay_near_zero_leaves_the_layers_as_they_were(tmp_path):
    model = tiny_models.model_params("encoder", training={"layer_decay": 1e-12, "weight_decay": 0.0})
    before, _ = load_classifier(model, SAFETY_LEVELS)
    result = finetune(model, tiny_models.study_params(epochs=2.0), ROWS, "safety", 0, tmp_path)
    from safetensors.torch import load_file

    after = load_file(result.folder / "model" / "model.safetensors")
    moved = {
        name: float((after[name] - tensor).abs().max()) for name, tensor in before.state_dict().items() if name in after
    }
    layers = [value for name, value in moved.items() if ".layer." in name]
    head = [value for name, value in moved.items() if name.startswith("classifier")]
    assert max(layers) < 1e-6 < 1e-3 < min(head)


@pytest.mark.parametrize("task", ["safety", "categories", "both"])
def test_smoothing_moves_known_levels_alone(task):
    marked = torch.tensor(objective.marked_targets(ROWS, task))
    marked[0] = objective.UNKNOWN
    found, levels = objective.smoothed(marked, 0.3, task), objective.columns_of(task).get("safety", slice(0))
    rest = torch.ones(marked.shape[1], dtype=bool)
    rest[levels] = False
    assert torch.equal(found[:, rest], marked[:, rest]) and torch.equal(found[0], marked[0])
    assert torch.allclose(found[1:, levels], torch.where(marked[1:, levels] > 0, 0.8, 0.1).to(found))
    assert torch.equal(objective.smoothed(marked, 0.0, task), marked)


def test_a_smoothed_loss_is_pytorch_s(tmp_path):
    logits = torch.randn(len(ROWS), 3, generator=torch.Generator().manual_seed(0))
    marked, units = torch.tensor(objective.marked_targets(ROWS, "safety")).float(), {"safety": float(len(ROWS))}
    loss = objective.compute_loss_func(torch.ones(3), units, 0.1)(type("Outputs", (), {"logits": logits}), marked)
    plain = torch.nn.functional.cross_entropy(logits, marked.argmax(dim=1), label_smoothing=0.1)
    assert float(loss) == pytest.approx(float(plain), rel=1e-6)
