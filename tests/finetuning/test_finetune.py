"""Training that may be trusted: masks, padding, resuming, and refusals, each attacked once on two-layer models."""

import errno
import json
import shutil
import weakref
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tiny_models
import torch
from analysis_world import with_other_test_labels
from safetensors.torch import load_file, save_file
from transformers import TrainingArguments

from emosafe_lib.evaluation import predictions
from emosafe_lib.finetuning import finetune, finished_runs, objective, probes, trainer
from emosafe_lib.finetuning import network as finetuning_network
from emosafe_lib.finetuning import plan as finetuning_plan
from emosafe_lib.finetuning.network import build_network, trainable
from emosafe_lib.finetuning.plan import identity_of, make_plan, runs_of, weights_of
from emosafe_lib.finetuning.scores import calibrated_predictions, fit_on_validation, label_scores, reload_difference
from emosafe_lib.models import backbone, batching, checkpoints, classifier, pooling, precision
from emosafe_lib.study.errors import ModelError, TrainingError
from emosafe_lib.study.taxonomy import SAFETY_LEVELS, TASK_LABELS

ROWS = tiny_models.make_rows()
TURNED = ROWS["safety"].map({"safe": "borderline", "borderline": "unsafe", "unsafe": "safe"})
# What training rows teach is wrong for these validation rows, so that their loss rises from the first epoch on.
RISING = ROWS.assign(safety=ROWS["safety"].where(ROWS["split"] != "validation", TURNED))


@pytest.fixture(scope="module")
def assets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("assets")
    tiny_models.make_llama(folder / "llama")
    tiny_models.make_llama(folder / "other", seed=1)
    tiny_models.make_encoder(folder / "encoder")
    return folder


@pytest.fixture(autouse=True)
def use_assets(assets, monkeypatch):
    monkeypatch.setattr(backbone, "ASSETS", assets)


def train(folder, task="safety", name="llama", rows=ROWS, model=None, **finetuning):
    model = model or tiny_models.model_params(name)
    return finetune.finetune(model, tiny_models.study_params(**finetuning), rows, task, 0, folder)


@pytest.fixture(scope="module")
def trained(assets, tmp_path_factory):
    """Finished runs of both families and tasks, made once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backbone, "ASSETS", assets)
        cases = [(name, task) for name in ("llama", "encoder") for task in TASK_LABELS]
        return {case: train(tmp_path_factory.mktemp("runs"), case[1], case[0], epochs=6.0) for case in cases}


@pytest.fixture(scope="module")
def stopped(assets, tmp_path_factory):
    """Runs of both families that were to take four epochs on `RISING` and stopped after three, made once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backbone, "ASSETS", assets)
        folder = tmp_path_factory.mktemp("stopped")
        return {name: train(folder / name, name=name, rows=RISING, epochs=4.0) for name in ("llama", "encoder")}


@pytest.fixture
def adapter(trained, tmp_path):
    """A copy of a trained adapter, to be damaged."""
    shutil.copytree(trained["llama", "safety"].folder / "model", tmp_path / "model")
    return tmp_path / "model"


def restore(folder, model=None, task="safety", **options):
    return checkpoints.restore_classifier(model or tiny_models.model_params(), folder, TASK_LABELS[task], **options)


# --- it learns -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", [(n, t) for n in ("llama", "encoder") for t in TASK_LABELS])
def test_the_loss_falls_and_probabilities_are_probabilities(trained, case):
    result = trained[case]
    assert result.history[-1]["validation_loss"] < 0.8 * result.history[0]["validation_loss"]
    width = len(TASK_LABELS[case[1]])
    assert result.test_probabilities.shape == (9, width)
    assert np.isfinite(result.test_probabilities).all()
    if case[1] == "safety":
        assert np.allclose(result.test_probabilities.sum(axis=1), 1)
    assert result.facts["padding_share"] < 0.10


def test_only_adapters_and_head_train_under_lora():
    plan = make_plan(tiny_models.model_params(), tiny_models.study_params(), ROWS, "safety", 0)
    network, _ = build_network(plan)
    moving = [name for name, weight in network.named_parameters() if weight.requires_grad]
    assert moving and all("lora_" in name or "score" in name for name in moving)
    assert any("down_proj" in name for name in moving) and any("score" in name for name in moving)


@pytest.fixture
def half(monkeypatch):
    """Weights are loaded in bfloat16 where they are frozen, as on a GPU."""

    def trained_dtype(model):
        return torch.bfloat16 if model.training.method == "lora" else torch.float32

    monkeypatch.setattr(precision, "pick_dtype", lambda model: torch.bfloat16)
    for reader in (precision, checkpoints):
        monkeypatch.setattr(reader, "trained_dtype", trained_dtype)


@pytest.mark.parametrize("name, frozen", [("llama", {torch.bfloat16}), ("encoder", set())])
def test_what_trains_is_in_float32_whatever_the_rest_is_in(half, name, frozen):
    plan = make_plan(tiny_models.model_params(name), tiny_models.study_params(), ROWS, "safety", 0)
    network, _ = build_network(plan)
    assert {weight.dtype for weight in trainable(network)} == {torch.float32}
    still = [weight for path, weight in network.named_parameters() if not weight.requires_grad and "score" not in path]
    assert {weight.dtype for weight in still} == frozen


def test_a_probe_reads_frozen_features_in_the_precision_of_training(monkeypatch):
    monkeypatch.setattr(precision, "pick_dtype", lambda model: torch.bfloat16)
    real, asked = backbone.load_network, []
    monkeypatch.setattr(
        backbone, "load_network", lambda model, kind, dtype: asked.append(dtype) or real(model, kind, dtype)
    )
    probes.extract(tiny_models.model_params(), tiny_models.study_params(), ROWS)
    assert asked == [torch.float32]


def test_under_fsdp_the_frozen_copy_of_the_head_keeps_the_backbones_precision(half, monkeypatch):
    """FSDP flattens what does not train into one tensor, which takes one precision."""
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    plan = make_plan(tiny_models.model_params(), tiny_models.study_params(), ROWS, "safety", 0)
    network, _ = build_network(plan)
    kinds = {moves: {w.dtype for w in network.parameters() if w.requires_grad == moves} for moves in (True, False)}
    assert kinds == {True: {torch.float32}, False: {torch.bfloat16}}


def test_over_a_half_precision_backbone_it_learns_and_comes_back_bit_for_bit(half, tmp_path):
    result = train(tmp_path, epochs=6.0)
    assert result.history[-1]["validation_loss"] < 0.8 * result.history[0]["validation_loss"]
    saved = load_file(result.folder / "model" / "adapter_model.safetensors")
    assert {weight.dtype for weight in saved.values()} == {torch.float32}
    found = reload_difference(tiny_models.model_params(), tiny_models.study_params(epochs=6.0), ROWS, result)
    assert found.iloc[0] == 0.0


@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_qlora_learns_comes_back_bit_for_bit_and_is_merged_into_full_weights(half, tmp_path, monkeypatch, kind):
    """bitsandbytes packs weights on a CPU as on a GPU, only slower; `pick_quantization` keeps that from users."""
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is an extra: emosafe[quantized]")
    monkeypatch.setattr(precision, "pick_quantization", lambda model: model.quantization)
    model, study = tiny_models.model_params(quantization=kind), tiny_models.study_params(epochs=6.0)
    result = train(tmp_path, model=model, epochs=6.0)
    assert result.history[-1]["validation_loss"] < 0.8 * result.history[0]["validation_loss"]
    assert reload_difference(model, study, ROWS, result).to_dict() == {"unmerged": 0.0}
    packed, _ = restore(result.folder / "model", model)
    assert {"Linear4bit", "Linear8bitLt"} & {type(layer).__name__ for layer in packed.modules()}
    merged, _ = restore(result.folder / "model", model, merge=True)
    assert {weight.dtype for weight in merged.model.parameters()} == {torch.bfloat16}


def test_what_autocast_did_in_training_is_not_in_the_scores(half, tmp_path, monkeypatch):
    """A GPU trains under autocast; a restored model answers without it, and as the trained one did."""
    plain = trainer.TrainingArguments
    monkeypatch.setattr(trainer, "TrainingArguments", lambda **options: plain(**(options | {"bf16": True})))
    result = train(tmp_path)
    found = reload_difference(tiny_models.model_params(), tiny_models.study_params(), ROWS, result)
    assert found.iloc[0] == 0.0


@pytest.mark.parametrize(
    "dtype, scaled", [("float16", (True, False)), ("bfloat16", (False, True)), ("float32", (False,) * 2)]
)
def test_the_loss_is_scaled_on_a_gpu_that_only_has_float16(tmp_path, monkeypatch, dtype, scaled):
    plan = make_plan(tiny_models.model_params(), tiny_models.study_params(), ROWS, "safety", 0)
    monkeypatch.setattr(trainer, "hardware", lambda model: {"device": "cuda", "dtype": dtype})
    monkeypatch.setattr("transformers.training_args.is_torch_bf16_gpu_available", lambda: True)
    options = trainer.arguments(plan, tmp_path, 4)
    assert (options.fp16, options.bf16) == scaled


@pytest.mark.parametrize("task", list(TASK_LABELS))
def test_test_rows_and_labels_do_not_move_training(tmp_path, task):
    """Other test texts and labels: the same losses."""
    changed = with_other_test_labels(ROWS, "safe")
    changed.loc[changed["split"] == "test", "text"] = "something else"
    assert train(tmp_path / "a", task).history == train(tmp_path / "b", task, rows=changed).history


def test_a_masked_category_enters_no_loss():
    """Flipping a label that its source never gave changes nothing."""
    labels, known = objective.targets(ROWS, "categories")
    flipped = np.where(known > 0, labels, 1 - labels)
    logits = torch.randn(len(ROWS), 6, generator=torch.Generator().manual_seed(0))
    weights = torch.tensor(objective.label_weights(labels, known, "categories", True))
    losses = [
        objective.loss_per_row(logits, torch.tensor(kind), torch.tensor(known), weights, "categories")
        for kind in (labels, flipped)
    ]
    assert (flipped != labels).any() and torch.equal(*losses)
    assert np.array_equal(weights.numpy(), objective.label_weights(flipped, known, "categories", True))


def test_class_weights_even_out_levels():
    labels = np.eye(3)[[0] * 8 + [1] * 1 + [2] * 1]
    weights = objective.label_weights(labels, np.ones_like(labels), "safety", True)
    assert np.allclose(weights * labels.sum(axis=0), 10 / 3)
    assert (objective.label_weights(labels, np.ones_like(labels), "safety", False) == 1).all()


def test_a_categorys_weight_is_taken_off_its_probability_again():
    plan = make_plan(tiny_models.model_params(), tiny_models.study_params(), ROWS, "categories", 0)
    weights = weights_of(plan)
    found = objective.probabilities_of(np.log(weights)[None, :], weights, "categories")
    assert weights.max() > 1.2 and np.allclose(found, 0.5)


def test_the_ablation_takes_away_re_interpretations_and_nothing_else():
    both = [
        make_plan(tiny_models.model_params(), tiny_models.study_params(), ROWS, "safety", 0, augmentation=on)
        for on in (True, False)
    ]
    gone = set(both[0].train["id"]) - set(both[1].train["id"])
    assert gone == set(ROWS.loc[ROWS["origin"] == "reinterpretation", "id"]) and both[1].variant == "no-augmentation"
    assert identity_of(both[0])["data"] != identity_of(both[1])["data"]


def test_budgets_are_nested():
    model, study = tiny_models.model_params(), tiny_models.study_params()
    plans = [make_plan(model, study, ROWS, "safety", 0, budget=rows) for rows in (6, 12)]
    assert set(plans[0].train["id"]) < set(plans[1].train["id"]) and plans[1].variant == "budget-12"


def test_a_source_is_met_as_often_as_the_study_says():
    rows = ROWS.assign(source=np.where(ROWS["safety"] == "safe", "rare", "made"))
    study = tiny_models.study_params(repeats={"rare": 3})
    plan = make_plan(tiny_models.model_params(), study, rows, "safety", 0, budget=12)
    once = make_plan(tiny_models.model_params(), tiny_models.study_params(), rows, "safety", 0, budget=12)
    met, named = plan.train["id"].value_counts(), once.train.set_index("id")["source"]
    assert met[named.index].tolist() == named.map({"rare": 3, "made": 1}).tolist() and len(named) == 12
    assert len(plan.validation) == len(once.validation) and identity_of(plan) != identity_of(once)


def test_a_runs_facts_count_rows_and_not_how_often_a_pass_meets_them():
    study = tiny_models.study_params(repeats={"rare": 3})
    plan = make_plan(tiny_models.model_params(), study, ROWS.assign(source="rare"), "safety", 0)
    facts = finetune.facts_of(plan, 1, np.full(len(plan.train), 5), [])
    once = ROWS[ROWS["split"] == "train"]
    retold = (once["origin"] == "reinterpretation").sum()  # they stay one row each
    assert retold > 0 and len(plan.train) == 3 * (len(once) - retold) + retold
    assert facts["tokens_per_epoch"] == 5 * len(plan.train)
    assert facts["train_rows"] == len(once) and facts["positives"] == once["safety"].value_counts().to_dict()


def test_a_budget_above_the_rows_and_a_length_above_the_context_are_refused():
    model, study = tiny_models.model_params(), tiny_models.study_params()
    with pytest.raises(TrainingError, match=r"a budget of 25 is above the 24 training rows; .*finetuning.budgets"):
        make_plan(model, study, ROWS, "safety", 0, budget=25)
    with pytest.raises(TrainingError, match=r"a budget of 9 is above the 8 training rows"):
        make_plan(model, tiny_models.study_params(train_rows=8), ROWS, "safety", 0, budget=9)
    with pytest.raises(TrainingError, match="max_length 32 is above its 31 context_tokens; use 31 at most"):
        make_plan(tiny_models.model_params(context_tokens=31), study, ROWS, "safety", 0)


def test_runs_cover_seeds_ablation_and_budgets():
    settings = tiny_models.study_params(seeds=[0, 1], budgets=[5], ablation=True).finetuning
    runs = runs_of(settings)
    assert len(runs) == 2 * 2 + 1 + 2
    assert [run["seed"] for run in runs if "augmentation" in run or "budget" in run] == [0, 0, 0]
    assert len(runs_of(settings.model_copy(update={"ablation": False}))) == 6


def test_few_rows_are_passed_over_until_there_are_steps_enough():
    settings = tiny_models.study_params(epochs=1.5, min_steps=40).finetuning
    assert [trainer.epochs_of(settings, steps) for steps in (1, 7, 30, 40, 400)] == [10, 6, 2, 1.5, 1.5]
    assert trainer.epochs_of(settings.model_copy(update={"min_steps": 0}), 1) == 1.5


def test_steps_are_those_of_all_processes_together(tmp_path, monkeypatch):
    """Forty batches are forty steps of one process, ten of four; where each accumulates two, five."""
    model = tiny_models.model_params(training={"accumulation": 2})
    study = tiny_models.study_params(epochs=1.0, min_steps=30)
    plan = make_plan(model, study, ROWS, "safety", 0)
    assert trainer.arguments(plan, tmp_path, 40).num_train_epochs == 2
    monkeypatch.setattr(TrainingArguments, "world_size", 4)
    assert [trainer.arguments(plan, tmp_path, batches).num_train_epochs for batches in (40, 41)] == [6, 5]


def test_a_step_of_several_batches_has_their_mean_loss(tmp_path):
    """With next to no rate, the losses of an epoch do not depend on how many batches make a step."""
    found = []
    for steps in (1, 2):
        still = {"learning_rate": 1e-12, "accumulation": steps, "lora": {"dropout": 0.0}}
        history = train(tmp_path, model=tiny_models.model_params(training=still), epochs=1.0).history
        found.append(history[0]["train_loss"])
    assert found[0] == pytest.approx(found[1], rel=1e-5)


def test_the_loss_of_rows_does_not_depend_on_their_batches():
    labels = torch.tensor(objective.marked_targets(ROWS, "categories"))
    logits = torch.randn(labels.shape, generator=torch.Generator().manual_seed(0))
    loss = objective.compute_loss_func(torch.ones(6), {"categories": 7.0})
    whole, *parts = (
        loss(SimpleNamespace(logits=logits[part]), labels[part]) for part in (ROWS.index, [0], ROWS.index[1:])
    )
    assert float(sum(parts)) == pytest.approx(float(whole), rel=1e-6)
    assert 7 * float(whole) == pytest.approx(
        float(objective.total_loss(logits, labels, torch.ones(6), {"categories": 1}))
    )


# --- early stopping ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("patience", [1, 2])
def test_training_stops_when_patience_is_used_up_and_keeps_the_best_epoch(tmp_path, monkeypatch, patience):
    plain, scored = trainer.BudgetTrainer.evaluate, []

    def evaluate(self, *args, **kwargs):
        encoded = batching.encode(self.processing_class, self.plan.test["text"], self.plan.settings.max_length)
        logits = classifier.logits_of(self.model, self.processing_class, encoded, 4 * self.budget)
        scored.append(objective.probabilities_of(logits, weights_of(self.plan), self.plan.task))
        return plain(self, *args, **kwargs)

    monkeypatch.setattr(trainer.BudgetTrainer, "evaluate", evaluate)
    finetuning = {"epochs": 6.0, "early_stopping_patience": patience}
    result = train(tmp_path, rows=RISING, **finetuning)
    losses = [epoch["validation_loss"] for epoch in result.history]
    assert len(losses) == patience + 1 and losses == sorted(losses)
    assert np.array_equal(result.test_probabilities, scored[0]) and not np.allclose(scored[0], scored[-1], atol=1e-3)
    study = tiny_models.study_params(**finetuning)
    assert reload_difference(tiny_models.model_params(), study, RISING, result)["unmerged"] == 0


# --- padding and order ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", [("llama", "safety"), ("encoder", "safety")])
def test_batch_size_padding_side_and_order_do_not_change_logits(trained, case):
    network, tokenizer = restore(trained[case].folder / "model", tiny_models.model_params(case[0]))
    encoded = batching.encode(tokenizer, ROWS["text"], 32)
    alone = classifier.logits_of(network, tokenizer, encoded, 1)
    together = classifier.logits_of(network, tokenizer, encoded, 10_000)
    assert np.abs(alone - together).max() < 1e-4
    backwards = batching.Encoded(encoded.ids[::-1], encoded.truncated[::-1])
    assert np.abs(classifier.logits_of(network, tokenizer, backwards, 64)[::-1] - alone).max() < 1e-4
    if case[0] == "llama":
        tokenizer.padding_side = "left"
        assert np.abs(classifier.logits_of(network, tokenizer, encoded, 10_000) - alone).max() < 1e-4


# --- what is saved is what was trained (56) --------------------------------------------------------------------------


@pytest.mark.parametrize("case", [(n, t) for n in ("llama", "encoder") for t in TASK_LABELS])
def test_56_a_restored_model_gives_the_same_bits(trained, case):
    result = trained[case]
    study = tiny_models.study_params(epochs=6.0)
    found = reload_difference(tiny_models.model_params(case[0]), study, ROWS, result)
    assert found.iloc[0] == 0.0
    assert found.max() < 1e-5  # merged weights round differently


def test_56_the_head_is_saved_with_the_adapter_bit_for_bit(trained, adapter):
    saved = {name: value for name, value in load_file(adapter / "adapter_model.safetensors").items() if "score" in name}
    network, _ = restore(adapter)
    assert len(saved) == 1
    assert torch.equal(next(iter(saved.values())), network.base_model.model.score.modules_to_save["default"].weight)


def test_56_another_base_is_refused_before_evaluating(adapter):
    with pytest.raises(ModelError, match="another base model"):
        restore(adapter, tiny_models.model_params("other"))


def test_56_another_tokenizer_is_refused(adapter, assets, tmp_path, monkeypatch):
    shutil.copytree(assets / "llama", tmp_path / "assets" / "llama")
    path = tmp_path / "assets" / "llama" / "tokenizer.json"
    content = json.loads(path.read_text())
    words = content["model"]["vocab"]
    words["a"], words["b"] = words["b"], words["a"]
    path.write_text(json.dumps(content))
    monkeypatch.setattr(backbone, "ASSETS", tmp_path / "assets")
    with pytest.raises(ModelError, match="another base model"):
        restore(adapter)
    monkeypatch.setattr(checkpoints, "base_digest", lambda _: json.loads((adapter / "sealed.json").read_text())["base"])
    with pytest.raises(ModelError, match="another tokenizer"):
        restore(adapter)


def test_56_a_head_for_another_task_is_refused(adapter):
    with pytest.raises(ModelError, match="other labels"):
        restore(adapter, task="categories")


# --- damaged files (46, 47) ------------------------------------------------------------------------------------------


def test_46_a_truncated_adapter_is_refused(adapter):
    path = adapter / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(ModelError, match="truncated"):
        restore(adapter)


def test_46_an_adapter_with_nan_is_refused_even_if_sealed(adapter):
    path = adapter / "adapter_model.safetensors"
    tensors = load_file(path)
    next(iter(tensors.values())).view(-1)[0] = float("nan")
    save_file(tensors, path)
    checkpoints.seal(
        adapter, **{k: v for k, v in json.loads((adapter / "sealed.json").read_text()).items() if k != "files"}
    )
    with pytest.raises(ModelError, match="not finite"):
        restore(adapter)


def test_46_a_pickled_adapter_is_refused(adapter):
    (adapter / "adapter_model.safetensors").unlink()
    torch.save({}, adapter / "adapter_model.bin")
    with pytest.raises(ModelError, match="pickled"):
        restore(adapter)


def test_46_changed_weights_are_refused(adapter):
    path = adapter / "adapter_model.safetensors"
    tensors = load_file(path)
    next(iter(tensors.values())).view(-1)[0] += 1
    save_file(tensors, path)
    with pytest.raises(ModelError, match="changed"):
        restore(adapter)


class Stop(Exception):
    """An interruption from outside."""


def interrupt(monkeypatch, after: int):
    """Let training die in the evaluation that follows `after` finished epochs."""
    plain, calls = trainer.BudgetTrainer.evaluate, []

    def evaluate(self, *args, **kwargs):
        calls.append(1)
        if len(calls) > after:
            raise Stop
        return plain(self, *args, **kwargs)

    monkeypatch.setattr(trainer.BudgetTrainer, "evaluate", evaluate)


def begin_and_stop(folder, monkeypatch, name="llama", after=2, **finetuning):
    """A run that dies after two of four epochs; returns the folder of its plan."""
    with monkeypatch.context() as patch:
        interrupt(patch, after)
        with pytest.raises(Stop):
            train(folder, name=name, epochs=4.0, **finetuning)
    return next(folder.iterdir())


def finished_epochs(monkeypatch) -> list:
    """A list that grows by one with every epoch that is trained from here on: a run made anew would also end equal."""
    plain, epochs = trainer.BudgetTrainer.evaluate, []

    def evaluate(self, *args, **kwargs):
        epochs.append(self.state.epoch)
        return plain(self, *args, **kwargs)

    monkeypatch.setattr(trainer.BudgetTrainer, "evaluate", evaluate)
    return epochs


@pytest.mark.parametrize("name", ["llama", "encoder"])
def test_49_resumed_equals_straight(tmp_path, monkeypatch, name):
    """Equal losses and equal probabilities, bit for bit, with dropout on."""
    straight = train(tmp_path / "straight", name=name, epochs=4.0)
    home = begin_and_stop(tmp_path / "resumed", monkeypatch, name)
    kept = list((home / "checkpoints").glob("checkpoint-*"))
    assert len(kept) == 2
    for folder in kept:  # what the first try spent is told beside what it kept
        facts = checkpoints.read_seal(folder)
        assert facts["spent"]["seconds"] > 0
        checkpoints.seal(folder, **facts | {"spent": {"seconds": 2000.0, "processor_seconds": 1000.0}})
    epochs = finished_epochs(monkeypatch)
    resumed = train(tmp_path / "resumed", name=name, epochs=4.0)
    assert epochs == [3, 4] and resumed.facts["seconds"] > 1000
    assert resumed.folder == home and resumed.history == straight.history
    assert np.array_equal(resumed.test_probabilities, straight.test_probabilities)


def assert_same(resumed, straight):
    assert resumed.history == straight.history
    for part in ("validation_probabilities", "test_probabilities"):
        assert np.array_equal(getattr(resumed, part), getattr(straight, part))


@pytest.mark.parametrize("name", ["llama", "encoder"])
def test_49_a_resumed_run_has_as_much_patience_as_was_left(stopped, tmp_path, monkeypatch, name):
    """Killed in the third epoch, after a worse second one: both ways the third is the last of four."""
    begin_and_stop(tmp_path / "resumed", monkeypatch, name, rows=RISING)
    epochs = finished_epochs(monkeypatch)
    resumed = train(tmp_path / "resumed", name=name, rows=RISING, epochs=4.0)
    assert epochs == [3]
    assert_same(resumed, stopped[name])


@pytest.mark.parametrize("epochs", [4.0, 2.0, 1.5], ids=["stopped early", "last epoch", "half an epoch"])
def test_49_a_run_killed_after_its_last_epoch_takes_no_further_step(stopped, tmp_path, monkeypatch, epochs):
    """The best epoch is not the last one, and is found even where the folder has been moved."""
    straight = stopped["llama"] if epochs == 4 else train(tmp_path / "straight", rows=RISING, epochs=epochs)

    def killed(*_):
        raise Stop

    with monkeypatch.context() as patch:
        patch.setattr(finetune, "scores_of", killed)
        with pytest.raises(Stop):
            train(tmp_path / "killed", rows=RISING, epochs=epochs)
    (tmp_path / "killed").rename(tmp_path / "moved")
    monkeypatch.setattr(trainer.BudgetTrainer, "training_step", lambda *_, **__: pytest.fail("trained further"))
    assert_same(train(tmp_path / "moved", rows=RISING, epochs=epochs), straight)


def test_47_weights_of_the_last_epoch_are_not_published_where_the_best_ones_are_lost(stopped, tmp_path, monkeypatch):
    home = begin_and_stop(tmp_path / "hurt", monkeypatch, rows=RISING)
    best, newest = sorted((home / "checkpoints").iterdir(), key=lambda path: int(path.name.split("-")[1]))
    (best / "adapter_model.safetensors").unlink()
    epochs = finished_epochs(monkeypatch)
    resumed = train(tmp_path / "hurt", rows=RISING, epochs=4.0)
    assert epochs == [1, 2, 3]
    assert resumed.facts["notes"][0] == f"{newest.name} passed over: {best.name}/adapter_model.safetensors is missing"
    assert_same(resumed, stopped["llama"])


def test_47_a_checkpoint_that_lacks_a_file_is_passed_over_and_named(tmp_path, monkeypatch):
    straight = train(tmp_path / "straight", epochs=4.0)
    home = begin_and_stop(tmp_path / "hurt", monkeypatch)
    newest = max((home / "checkpoints").iterdir(), key=lambda path: int(path.name.split("-")[1]))
    (newest / "optimizer.pt").unlink()
    epochs = finished_epochs(monkeypatch)
    resumed = train(tmp_path / "hurt", epochs=4.0)
    assert epochs == [2, 3, 4]
    assert newest.name in resumed.facts["notes"][0] and "optimizer.pt" in resumed.facts["notes"][0]
    assert resumed.history == straight.history


def test_47_an_unsealed_checkpoint_is_passed_over(tmp_path, monkeypatch):
    home = begin_and_stop(tmp_path, monkeypatch)
    for checkpoint in (home / "checkpoints").iterdir():
        (checkpoint / "sealed.json").unlink()
    assert len(train(tmp_path, epochs=4.0).facts["notes"]) == 2


@pytest.mark.parametrize("change", ["data", "parameters", "base"])
def test_48_a_checkpoint_of_something_else_is_refused(tmp_path, monkeypatch, change):
    home = begin_and_stop(tmp_path, monkeypatch)
    rows = ROWS.assign(text=ROWS["text"] + "!") if change == "data" else ROWS
    training = {"learning_rate": 0.01} if change == "parameters" else {}
    model = tiny_models.model_params("llama", training=training, **({"path": "other"} if change == "base" else {}))
    plan = make_plan(model, tiny_models.study_params(epochs=4.0), rows, "safety", 0)
    stranger = finished_runs.home_of(plan, tmp_path, identity_of(plan))
    assert stranger != home
    shutil.copytree(home / "checkpoints", stranger / "checkpoints")
    with pytest.raises(TrainingError, match=f"other {change}"):
        train(tmp_path, rows=rows, model=model, epochs=4.0)


@pytest.mark.parametrize("other", [{"dtype": "bfloat16"}, {"quantization": "int4"}, {"device": "cuda"}])
def test_48_a_run_in_another_precision_or_on_another_device_is_another_run(monkeypatch, other):
    plan = make_plan(tiny_models.model_params(), tiny_models.study_params(), ROWS, "safety", 0)
    before, plain = identity_of(plan), precision.hardware
    monkeypatch.setattr(precision, "hardware", lambda model: plain(model) | other)
    assert identity_of(plan)["parameters"] != before["parameters"]


def test_48_another_number_of_processes_does_not_go_on_with_a_checkpoint(tmp_path, monkeypatch):
    begin_and_stop(tmp_path, monkeypatch)
    monkeypatch.setattr(TrainingArguments, "world_size", 2)
    with pytest.raises(TrainingError, match="other batches_per_step; use another folder, or delete this one"):
        train(tmp_path, epochs=4.0)


@pytest.mark.parametrize(
    "module, old, new",
    [
        (objective, "return (losses * known).sum(-1)", "return losses.sum(-1)"),
        (batching, "* lengths[row] > budget", "* lengths[row] >= budget"),
        (pooling, "clamp(min=1)", "clamp(min=2)"),
    ],
    ids=["loss", "batches", "pooling"],
)
def test_76_a_run_of_other_code_has_another_home(tmp_path, monkeypatch, module, old, new):
    """A comment leaves a run where it is."""
    plan = make_plan(tiny_models.model_params(), tiny_models.study_params(), ROWS, "safety", 0)
    source, homes = Path(module.__file__).read_text(), [finished_runs.home_of(plan, tmp_path, identity_of(plan))]
    assert source.count(old) == 1
    for number, text in enumerate((source + "\n# a remark\n", source.replace(old, new))):
        path = tmp_path / f"edited_{number}.py"
        path.write_text(text)
        edited = tuple(path if str(file) == module.__file__ else file for file in finetuning_plan.CODE)
        monkeypatch.setattr(finetuning_plan, "CODE", edited)
        monkeypatch.setattr(module, "__file__", str(path))
        homes.append(finished_runs.home_of(plan, tmp_path, identity_of(plan)))
    assert homes[0] == homes[1] != homes[2]


def test_50_a_finished_run_is_not_trained_again(tmp_path, monkeypatch):
    first = train(tmp_path)
    monkeypatch.setattr(finetune, "build_network", lambda *_: pytest.fail("trained again"))
    before = {path: path.stat().st_mtime_ns for path in first.folder.rglob("*")}
    again = train(tmp_path)
    assert np.array_equal(again.test_probabilities, first.test_probabilities) and again.history == first.history
    assert {path: path.stat().st_mtime_ns for path in first.folder.rglob("*")} == before


def test_50_changed_scores_of_a_finished_run_are_noticed(tmp_path):
    folder = train(tmp_path).folder
    np.savez(folder / "scores.npz", validation=np.zeros((9, 3)), test=np.zeros((9, 3)), truncated=np.zeros(9, bool))
    with pytest.raises(TrainingError, match="changed after training"):
        train(tmp_path)


# --- failures while training (51 to 55) ------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_51_a_broken_loss_stops_and_keeps_the_last_good_checkpoint(tmp_path, monkeypatch, value):
    plain, calls = objective.loss_per_row, []

    def loss_per_row(logits, *args):
        calls.append(1)
        losses = plain(logits, *args)
        return losses * value if torch.is_grad_enabled() and len(calls) > 12 else losses

    monkeypatch.setattr(objective, "loss_per_row", loss_per_row)
    with pytest.raises(TrainingError, match="not finite at step"):
        train(tmp_path, epochs=6.0)
    home = next(tmp_path.iterdir())
    assert not (home / "done.json").exists()
    newest, notes = checkpoints.newest_usable(
        home / "checkpoints", json.loads(next((home / "checkpoints").glob("*/sealed.json")).read_text())["identity"]
    )
    assert newest is not None and not notes


def test_51_weights_that_break_in_the_last_step_are_neither_kept_nor_called_finished(tmp_path, monkeypatch):
    plain, broken = trainer.BudgetTrainer.evaluate, []

    def evaluate(self, *args, **options):
        if not broken:
            broken.append(True)
            for weight in self.model.parameters():
                weight.data.fill_(float("nan"))
        return plain(self, *args, **options)

    monkeypatch.setattr(trainer.BudgetTrainer, "evaluate", evaluate)
    with pytest.raises(TrainingError, match="validation loss is not finite"):
        train(tmp_path, epochs=1.0)
    assert not list(tmp_path.glob("*/done.json")) and not list(tmp_path.glob("*/checkpoints/checkpoint-*"))
    assert np.isfinite(train(tmp_path, epochs=1.0).test_probabilities).all()


def test_52_exhausted_memory_names_batch_and_length(tmp_path, monkeypatch):
    def no_memory(*_):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate")

    monkeypatch.setattr(objective, "loss_per_row", no_memory)
    with pytest.raises(TrainingError) as caught:
        train(tmp_path)
    assert "batches of 64 tokens" in str(caught.value) and "longest text" in str(caught.value)
    assert not list(tmp_path.glob("*/done.json"))


@pytest.mark.parametrize(
    "error",
    [
        torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
        MemoryError(),
        ValueError("Some modules are dispatched on the CPU. Make sure you have enough GPU RAM"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_52_memory_exhausted_while_loading_is_one_line_too(tmp_path, monkeypatch, error):
    def no_memory(*_):
        raise error

    monkeypatch.setattr(finetuning_network, "load_classifier", no_memory)
    with pytest.raises(
        TrainingError, match="out of memory while loading, before its batches of 64 tokens, longest text 32"
    ):
        train(tmp_path)
    assert not list(tmp_path.glob("*/done.json"))


def test_52_a_restored_model_that_does_not_fit_is_one_line_too(adapter, monkeypatch):
    def no_memory(*_):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate")

    monkeypatch.setattr(checkpoints, "load_classifier", no_memory)
    with pytest.raises(ModelError, match="does not fit into memory; use fewer bits"):
        restore(adapter)


def test_52_a_trained_network_is_let_go_though_it_refers_to_itself(tmp_path, monkeypatch):
    """As accelerate leaves one that trained in half precision: on a GPU there may be no room for the next beside it."""
    kept = []

    def build(*given):
        network, tokenizer = build_network(*given)
        network.itself = [network]
        kept.append(weakref.ref(network))
        return network, tokenizer

    monkeypatch.setattr(finetune, "build_network", build)
    train(tmp_path, epochs=1.0)
    assert kept[0]() is None


def test_52_networks_that_are_compared_are_loaded_one_after_the_other(trained, monkeypatch):
    plain, kept = checkpoints.restore_classifier, []

    def restored(*given, **options):
        assert not any(network() for network in kept), "two at once"
        network, tokenizer = plain(*given, **options)
        network.itself = [network]
        kept.append(weakref.ref(network))
        return network, tokenizer

    monkeypatch.setattr(checkpoints, "restore_classifier", restored)
    model, study = tiny_models.model_params(), tiny_models.study_params(epochs=6.0)
    assert len(reload_difference(model, study, ROWS, trained["llama", "safety"])) == len(kept) == 2


def test_55_a_second_run_of_the_same_plan_is_refused_and_the_first_goes_on(tmp_path, monkeypatch):
    plain, refused = trainer.BudgetTrainer.evaluate, []

    def evaluate(self, *args, **kwargs):
        with pytest.raises(TrainingError, match="llama/safety: another run is training it; wait for that one to end"):
            train(tmp_path, epochs=1.0)
        refused.append(1)
        return plain(self, *args, **kwargs)

    monkeypatch.setattr(trainer.BudgetTrainer, "evaluate", evaluate)
    assert np.isfinite(train(tmp_path, epochs=1.0).test_probabilities).all() and refused


def test_53_a_full_disk_leaves_the_old_checkpoint_intact(tmp_path, monkeypatch):
    plain, calls = trainer.BudgetTrainer._save_optimizer_and_scheduler, []

    def save(self, folder):
        calls.append(1)
        if len(calls) > 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        plain(self, folder)

    with monkeypatch.context() as patch:
        patch.setattr(trainer.BudgetTrainer, "_save_optimizer_and_scheduler", save)
        with pytest.raises(TrainingError, match="make room on the disk"):
            train(tmp_path, epochs=4.0)
    straight = train(tmp_path / "straight", epochs=4.0)
    epochs = finished_epochs(monkeypatch)
    resumed = train(tmp_path, epochs=4.0)
    assert epochs == [2, 3, 4]
    assert "passed over" in resumed.facts["notes"][0] and resumed.history == straight.history


def test_53_a_full_disk_at_the_end_keeps_the_older_model(adapter, monkeypatch):
    network, tokenizer = restore(adapter)
    before = {path.name: path.read_bytes() for path in adapter.iterdir()}

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(type(tokenizer), "save_pretrained", full)
    with pytest.raises(TrainingError, match="No space left"):
        checkpoints.save_classifier(network, tokenizer, adapter, labels=SAFETY_LEVELS)
    assert {path.name: path.read_bytes() for path in adapter.iterdir()} == before
    assert [path.name for path in adapter.parent.iterdir()] == ["model"]


def test_53_weights_that_cannot_be_written_keep_the_older_model(adapter):
    """A limit on the size of files stands for a full disk: safetensors answers it with an error of its own class."""
    import resource
    import signal

    network, tokenizer = restore(adapter)
    before = {path.name: path.read_bytes() for path in adapter.iterdir()}
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
        with pytest.raises(TrainingError, match="could not be saved"):
            checkpoints.save_classifier(network, tokenizer, adapter, labels=SAFETY_LEVELS)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert {path.name: path.read_bytes() for path in adapter.iterdir()} == before
    assert [path.name for path in adapter.parent.iterdir()] == ["model"]


def test_54_all_labels_masked(tmp_path):
    rows = ROWS.copy()
    rows["category_known"] = [[False] * 6] * len(rows)
    with pytest.raises(TrainingError, match="0 % of the labels"):
        train(tmp_path, "categories", rows=rows)


def test_54_all_text_truncated_away(tmp_path):
    rows = ROWS.assign(text="")
    with pytest.raises(TrainingError, match="0 % of the rows"):
        train(tmp_path, rows=rows)


def test_a_budget_of_one_level_is_refused(tmp_path):
    rows = ROWS[(ROWS["split"] != "train") | (ROWS["safety"] == "safe")]
    with pytest.raises(TrainingError, match="one level"):
        train(tmp_path, rows=rows)


@pytest.mark.parametrize("targets", [["nowhere_proj"], ["q_proj", "nowhere_proj"]])
def test_55_lora_targets_that_match_nothing(tmp_path, targets):
    model = tiny_models.model_params(training={"lora": {"target_modules": targets}})
    with pytest.raises(ModelError, match="nowhere_proj"):
        train(tmp_path, model=model)


@pytest.mark.parametrize(("fit", "notes"), [(False, 2), (True, 1)], ids=["slow bf16", "fast bf16"])
def test_57_the_fallback_stands_in_the_result(tmp_path, monkeypatch, fit, notes):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(precision, "half_precision", lambda: fit)
    facts = train(tmp_path, model=tiny_models.model_params(device="cuda", dtype="bfloat16")).facts
    assert facts["device"] == "cpu" and facts["dtype"] == "float32" and len(facts["fallbacks"]) == notes


# --- predictions and probes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", list(TASK_LABELS))
def test_predictions_fit_the_common_schema(trained, task, tmp_path):
    table = calibrated_predictions(trained["llama", task], ROWS, "fine-tuned")
    predictions.write(table, tmp_path / "p.parquet", model="llama", data_sha256="0")
    assert table["id"].tolist() == trained["llama", task].test_ids and (table["outcome"] == "ok").all()


def test_calibration_reads_validation_labels_only(trained):
    changed = with_other_test_labels(ROWS, "safe")
    for task in TASK_LABELS:
        result = trained["llama", task]
        assert not np.array_equal(*(objective.targets(rows, task)[0] for rows in (ROWS, changed)))
        assert fit_on_validation(result, ROWS) == fit_on_validation(result, changed)


def test_label_scores_leave_unknown_cells_out(trained):
    """Every second row does not know the first category and may not count for it."""
    table = calibrated_predictions(trained["llama", "categories"], ROWS, "fine-tuned")
    scores = label_scores(table, ROWS).set_index("label")
    labels, known = objective.targets(ROWS[ROWS["split"] == "test"], "categories")
    assert scores.loc["violence_hate", "support"] == (labels * known)[:, 0].sum() < labels[:, 0].sum()
    assert np.isnan(scores.loc["criminal_planning", "f1"])


@pytest.mark.parametrize("name", ["llama", "encoder"])
def test_a_probe_reads_what_frozen_features_hold(name):
    model, study = tiny_models.model_params(name), tiny_models.study_params()
    features = probes.extract(model, study, ROWS)
    for task in TASK_LABELS:
        found = probes.probe(features, model, study, ROWS, task)
        table = calibrated_predictions(found, ROWS, "probe")
        assert label_scores(table, ROWS).dropna()["f1"].mean() > 0.8
        assert set(found.choice) == {"layer", "pooling", "strength", "validation_loss"}


def test_a_mean_pooled_encoder_learns_ignores_padding_and_comes_back_bit_for_bit(tmp_path):
    model = tiny_models.model_params("encoder", training={"pooling": "mean"})
    result = train(tmp_path, model=model, epochs=4.0)
    assert result.history[-1]["validation_loss"] < 0.8 * result.history[0]["validation_loss"]
    found = reload_difference(model, tiny_models.study_params(epochs=4.0), ROWS, result)
    assert found.max() == 0.0
    network, tokenizer = restore(result.folder / "model", model)
    encoded = batching.encode(tokenizer, ROWS["text"], 32)
    alone, together = (classifier.logits_of(network, tokenizer, encoded, budget) for budget in (1, 10_000))
    assert np.abs(alone - together).max() < 1e-4
