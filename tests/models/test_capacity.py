"""Sizes without loading: the published parameter counts, and a plan that agrees with bytes on disk."""

import pytest
import tiny_models

from emosafe_lib.models import backbone, capacity
from emosafe_lib.study.parameters import load_model

PUBLISHED = {"llama-1b": 1.236e9, "llama-3b": 3.213e9, "llama-8b": 8.030e9, "llama-70b": 70.554e9}


@pytest.mark.parametrize("name", PUBLISHED)
def test_true_shapes_have_the_published_number_of_parameters(name):
    assert capacity.count_parameters(load_model(name))["total"] == pytest.approx(PUBLISHED[name], rel=0.002)


@pytest.mark.parametrize("name", ["llama", "encoder"])
def test_counts_agree_with_the_loaded_network(name, tmp_path, monkeypatch):
    getattr(tiny_models, f"make_{name}")(tmp_path / name)
    monkeypatch.setattr(backbone, "ASSETS", tmp_path)
    model = tiny_models.model_params(name)
    network, _ = (backbone.load_causal if name == "llama" else backbone.load_encoder)(model)
    counts = capacity.count_parameters(model)
    assert counts["total"] == sum(weight.numel() for weight in network.parameters())
    assert counts["total"] == counts["embedding"] + counts["non_embedding"] and counts["linear"] > 0
    assert counts["linear"] < counts["non_embedding"]
    assert capacity.weight_bytes(counts, "float32") == 4 * counts["total"]


def test_tied_embeddings_count_once():
    shape = {"layers": 1, "hidden": 8, "heads": 2, "kv_heads": 1, "intermediate": 8, "vocabulary": 1000}
    tied, untied = (
        capacity.count_parameters(
            tiny_models.model_params(weights="random", path="", shape=shape | {"tied_embeddings": on})
        )
        for on in (True, False)
    )
    assert untied["embedding"] == 2 * tied["embedding"] == 16_000
    assert untied["non_embedding"] == tied["non_embedding"]


def test_the_plan_shrinks_with_the_dtype_and_is_marked_computed():
    plan = capacity.memory_plan(load_model("llama-1b"), batch=1, length=256).set_index("dtype")
    assert list(plan["weights"]) == sorted(plan["weights"], reverse=True)
    assert set(plan["basis"]) == {"computed"}
    assert plan.loc["bfloat16", "total"] > 2e9 > plan.loc["int8", "total"]


def test_the_cache_is_what_transformers_stores():
    import torch
    from transformers import AutoModelForCausalLM

    shape = {"layers": 2, "hidden": 16, "heads": 4, "kv_heads": 2, "intermediate": 24, "vocabulary": 50}
    model = tiny_models.model_params(weights="random", path="", shape=shape)
    network = backbone.load_network(model, AutoModelForCausalLM)
    cache = network(torch.zeros(3, 7, dtype=torch.long), use_cache=True).past_key_values
    stored = sum(part.numel() * part.element_size() for layer in cache.layers for part in (layer.keys, layer.values))
    assert capacity.cache_bytes(network.config, "float32", batch=3, length=7) == stored
