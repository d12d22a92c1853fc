"""One network of both tasks: it costs one training, and leaves what two networks of one task would leave."""

import numpy as np
import pytest
import tiny_models
import torch

from emosafe_lib.finetuning import finetune, objective, trainer
from emosafe_lib.finetuning.plan import runs_of, trainings_of
from emosafe_lib.finetuning.scores import reload_difference
from emosafe_lib.models import backbone
from emosafe_lib.ondevice import export, exported
from emosafe_lib.study.taxonomy import CATEGORIES, SAFETY_LEVELS, TASK_LABELS, TASKS

ROWS = tiny_models.make_rows()
STUDY = tiny_models.study_params(epochs=6.0, tasks="both")


@pytest.fixture(autouse=True)
def use_assets(tmp_path, monkeypatch):
    tiny_models.make_llama(tmp_path / "llama")
    tiny_models.make_encoder(tmp_path / "encoder")
    monkeypatch.setattr(backbone, "ASSETS", tmp_path)


def pooled(name, **training):
    return tiny_models.model_params(name, training={"pooling": "mean"} | training)


@pytest.mark.parametrize(("name", "head"), [("llama", "probe"), ("llama", "fresh"), ("encoder", "fresh")])
def test_one_training_answers_both_tasks_and_each_comes_back_as_saved(tmp_path, monkeypatch, name, head):
    model, results = pooled(name, head=head), {}
    for task in TASKS:
        results[task] = finetune.finetune(model, STUDY, ROWS, task, 0, tmp_path / "runs")
        monkeypatch.setattr(finetune, "build_network", lambda *_: pytest.fail("trained again"))
    assert len(list((tmp_path / "runs").iterdir())) == 1
    for task, result in results.items():
        assert result.test_probabilities.shape == (9, len(TASK_LABELS[task]))
        assert set(result.facts["positives"]) == set(TASK_LABELS[task])
        assert len(result.facts["label_weights"]) == len(TASK_LABELS[task])
        assert reload_difference(model, STUDY, ROWS, result).max() < 1e-5
    truth = ROWS.set_index("id").loc[results["safety"].test_ids]
    levels = np.array(SAFETY_LEVELS)[results["safety"].test_probabilities.argmax(axis=1)]
    assert (levels == truth["safety"]).mean() > 0.7
    chances, flags = results["categories"].test_probabilities, np.stack(truth["categories"])
    assert all(chances[flags[:, at], at].mean() > chances[~flags[:, at], at].mean() + 0.2 for at in (0, 1))
    folder = export.export(model, results, ROWS, 32, tmp_path / "exported", onnx=False)
    assert [exported.load_exported(folder / task)[0].config.num_labels for task in TASKS] == [3, 6]


def test_its_loss_is_that_of_two_networks():
    logits = torch.randn(len(ROWS), 9, generator=torch.Generator().manual_seed(0))
    labels, weights = torch.tensor(objective.marked_targets(ROWS, "both")), torch.arange(1, 10).float()
    units = objective.loss_units(ROWS, "both")
    parts = [
        objective.total_loss(logits[:, at], labels[:, at], weights[at], {task: units[task]})
        for task, at in objective.columns_of("both").items()
    ]
    assert float(objective.total_loss(logits, labels, weights, units)) == pytest.approx(float(sum(parts)))
    assert objective.labels_of("both") == (*SAFETY_LEVELS, *CATEGORIES)


def test_rows_that_teach_no_category_are_learned_by_a_network_of_levels(tmp_path):
    rows = ROWS.assign(category_known=[[False] * 6] * len(ROWS))
    result = finetune.finetune(pooled("encoder"), STUDY, rows, "safety", 0, tmp_path)
    assert next(tmp_path.glob("*-seed0-*")).name.startswith("safety-") and np.isfinite(result.test_probabilities).all()


def test_labels_of_either_task_make_another_run(tmp_path):
    flipped = ROWS.assign(categories=[[not flag for flag in flags] for flags in ROWS["categories"]])
    plain, other = (
        finetune.finetune(pooled("encoder"), STUDY, rows, "safety", 0, tmp_path / "runs") for rows in (ROWS, flipped)
    )
    assert plain.folder != other.folder


def test_a_study_pays_for_one_training_where_two_runs_share_it():
    together, alone = (
        tiny_models.study_params(seeds=[0, 1], budgets=[5], ablation=True, tasks=tasks).finetuning
        for tasks in ("both", "one")
    )
    assert [run["task"] for run in trainings_of(together)] == ["safety"] * 4 and len(runs_of(together)) == 7
    assert trainings_of(alone) == runs_of(alone)


def test_a_killed_run_of_both_goes_on(tmp_path, monkeypatch):
    class Stop(Exception):
        pass

    def killed(*_):
        raise Stop

    straight = finetune.finetune(pooled("encoder"), STUDY, ROWS, "categories", 0, tmp_path / "straight")
    with monkeypatch.context() as patch, pytest.raises(Stop):
        patch.setattr(finetune, "scores_of", killed)
        finetune.finetune(pooled("encoder"), STUDY, ROWS, "safety", 0, tmp_path / "killed")
    monkeypatch.setattr(trainer.BudgetTrainer, "training_step", lambda *_, **__: pytest.fail("trained further"))
    resumed = finetune.finetune(pooled("encoder"), STUDY, ROWS, "categories", 0, tmp_path / "killed")
    assert np.array_equal(resumed.test_probabilities, straight.test_probabilities)
