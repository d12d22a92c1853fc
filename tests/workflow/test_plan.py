"""The plan: a graph from Snakemake, sizes by hand-checked arithmetic, and measurements beside (computed, marked so)."""

import json
import math
import shutil
from pathlib import Path

import pandas as pd
import pytest
import toy

from emosafe_lib import cli
from emosafe_lib.study import stage
from emosafe_lib.study.parameters import load_model, load_study
from workflow import costs, forecast, resources
from workflow.graph import critical_path, drawing, graph_of, read_dot

DOT = """
\t0[label = "all", color = "0.0 0.6 0.85", style="rounded"];
\t1[label = "scaling_analysis", color = "0.5 0.6 0.85", style="rounded"];
\t2[label = "lora_finetuning\\nmodel: nano-1", color = "0.3 0.6 0.85", style="rounded"];
\t3[label = "lora_finetuning\\nmodel: nano-2", color = "0.3 0.6 0.85", style="rounded"];
\t4[label = "data_merge", color = "0.1 0.6 0.85", style="rounded,dashed"];
\t1 -> 0
\t2 -> 1
\t3 -> 1
\t4 -> 2
\t4 -> 3
"""


def test_the_graph_says_what_waits_for_what_and_what_runs_now():
    graph = read_dot(DOT)
    assert [job.label for job in graph] == [
        "05_scaling_analysis",
        "04_lora_finetuning nano-1",
        "04_lora_finetuning nano-2",
        "01_data_merge",
    ]
    assert [job.runs_now for job in graph] == [True, True, True, False]
    assert drawing(graph) == [
        "  1. 01_data_merge",
        "  2. 04_lora_finetuning × 2: nano-1, nano-2",
        "  3. 05_scaling_analysis",
    ]


def test_the_critical_path_is_the_longest_chain_and_not_the_sum():
    graph = read_dot(DOT)
    analysis, small, large, merge = graph
    path, hours = critical_path(graph, {merge: 1.0, small: 2.0, large: 5.0, analysis: 0.5})
    assert path == [merge, large, analysis] and hours == 6.5
    path, hours = critical_path(graph, {large: 5.0})
    assert path == [merge, large, analysis] and hours == 5.0, "jobs that take no time stand in it"
    assert critical_path(read_dot(""), {}) == ([], 0.0)


def test_hours_are_this_checkouts_own_on_a_cpu_else_computed_and_nothing_where_unknown():
    analysis, small, large, merge = read_dot(DOT)
    columns = {"prompting_hours": 1.0, "finetuning_hours": [2.0, math.nan]}
    table = pd.DataFrame({"model": ["nano-1", "nano-2"]} | columns)
    runs = [("01_data_merge", "", 30.0, forecast.REFERENCE), ("04_lora_finetuning", "nano-1", 12.0, forecast.OWN)]
    beside = pd.DataFrame(runs, columns=["stage", "model", "measured_minutes", "run"])
    on_cpu = forecast.job_hours(table, beside, read_dot(DOT), on_cpu=True)
    on_gpu = forecast.job_hours(table, beside, read_dot(DOT), on_cpu=False)
    assert on_cpu == {analysis: 0.0, small: 0.2, large: 0.0, merge: 0.5}
    assert on_gpu == {analysis: 0.0, small: 2.0, large: 0.0, merge: 0.5}
    elsewhere = beside.assign(run=forecast.REFERENCE)
    assert forecast.job_hours(table, elsewhere, read_dot(DOT), on_cpu=True) == on_gpu, "another machine's hours"
    assert set(forecast.job_hours(table, pd.DataFrame(), read_dot(DOT), on_cpu=True).values()) == {0.0, 2.0}


@pytest.mark.parametrize(("slowness", "cpu"), [(0.2, costs.AMX_CPU), (1.8, costs.PLAIN_CPU), (50, costs.PLAIN_CPU)])
def test_a_plan_is_for_a_gpu_where_a_model_asks_for_one_else_for_a_cpu_like_this_one(monkeypatch, slowness, cpu):
    monkeypatch.setattr(forecast, "bf16_slowness", lambda: slowness)
    assert forecast.hardware_for(["nano-1", "llama-8b"]) == "A100 80GB"
    assert forecast.hardware_for(["nano-1"]) == cpu


def test_matrix_units_speed_up_only_what_is_multiplied_in_bf16():
    nano, smol, mini = (load_model(name) for name in ("nano-1", "smollm2-135m", "minilm"))
    fast, plain, gpu = (costs.HARDWARE[name] for name in (costs.AMX_CPU, costs.PLAIN_CPU, "A100 80GB"))
    quick = fast.peak * fast.share
    assert [costs.rate(fast, nano, kind) for kind in ("prompting", "finetuning")] == [fast.fp32_rate] * 2
    assert [costs.rate(fast, smol, kind) for kind in ("prompting", "finetuning")] == [quick] * 2
    assert [costs.rate(fast, mini, kind) for kind in ("prompting", "finetuning")] == [fast.fp32_rate, quick]
    assert costs.rate(plain, smol, "prompting") == costs.rate(plain, nano, "prompting") == plain.fp32_rate
    assert costs.rate(gpu, nano, "prompting") == gpu.peak * gpu.share


def test_rows_that_a_pass_meets_more_often_are_counted_so():
    assert costs.times_met({"a": {"rows": 90}, "b": {"rows": 10}}, {"b": 3, "c": 9}) == pytest.approx(1.2)
    study, model = load_study("real"), load_model("minilm")
    once = costs.Rows(train=50, validation=10, test=20, text_tokens=12.0)
    settings = study.finetuning.model_copy(update={"min_steps": 0, "budgets": [], "ablation": False})
    study = study.model_copy(update={"finetuning": settings})
    counted = [costs.finetuning_tokens(study, model, once._replace(times=times))[0] for times in (1.0, 1.5)]
    assert counted[1] == pytest.approx(1.5 * counted[0])


def test_sizes_and_operations_of_the_four_llamas_without_their_weights():
    study = load_study("real")
    models = {name: load_model(name) for name in ("llama-1b", "llama-8b", "llama-70b")}
    table = costs.costs(study, models, "A100 80GB").set_index("model")
    assert set(table["basis"]) == {"computed"}
    assert table.at["llama-8b", "parameters_m"] == pytest.approx(8030, rel=0.001)
    assert table.at["llama-70b", "parameters_m"] == pytest.approx(70554, rel=0.001)
    assert 5 < table.at["llama-8b", "scoring_gb"] < 9 and table.at["llama-70b", "devices"] >= 1
    ratio = table.at["llama-8b", "prompting_pflop"] / table.at["llama-1b", "prompting_pflop"]
    assert ratio == pytest.approx(6.98e9 / 0.973e9, rel=0.02)
    hours = table.at["llama-8b", "prompting_pflop"] * 1e15 / (312e12 * 0.3) / 3600
    assert table.at["llama-8b", "prompting_hours"] == pytest.approx(hours)


def test_training_over_packed_weights_keeps_one_input_a_layer_and_embeddings_in_float32():
    """LLaMA 70B by hand: 80 layers 8,192 wide, 1,024 in keys and values, 28,672 inside; 2,048 tokens a batch, rank 8."""
    linear = 80 * (2 * 8192 * (8192 + 1024) + 3 * 8192 * 28672)
    plain = 8192 * (128256 + 2 * 80 + 1)  # the input table and norms; a classifier has no output table
    adapters = 80 * 8 * (2 * (8192 + 8192) + 2 * (8192 + 1024) + 3 * (8192 + 28672))
    one_layer, inputs = 2048 * (5 * 8192 + 2 * 28672), 80 * 2048 * 8192
    by_hand = linear * 4.127 / 8 + 4 * plain + 16 * adapters + 4 * inputs + 4 * one_layer
    models = {"llama-70b": load_model("llama-70b")}
    on_gpu, on_cpu = (costs.costs(load_study("real"), models, name).iloc[0] for name in ("A100 80GB", costs.PLAIN_CPU))
    assert on_gpu["training_gb"] == pytest.approx(by_hand / 1e9) == pytest.approx(47.35, abs=0.01)
    assert on_gpu["devices"] == 1
    unpacked = 4 * (linear + plain + 8192 * 128256) + 16 * adapters + 80 * 4 * one_layer
    assert on_cpu["training_gb"] == pytest.approx(unpacked / 1e9), "nothing is packed there, and nothing recomputed"


def test_lora_trains_the_two_factors_of_every_linear_layer():
    from emosafe_lib.models.capacity import count_parameters

    model = load_model("nano-1")
    hidden, inner, rank = 64, 176, model.training.lora.rank
    expected = 4 * rank * (4 * (hidden + hidden) + 3 * (hidden + inner))
    assert costs.trainable_parameters(model, count_parameters(model)) == expected


def test_prompting_counts_every_exemplar_and_every_reading_of_the_prefix():
    """Two exemplars a category and answer; 300 rows are two shards, 10 are one, and content-free inputs read it too."""
    changes = {"variants": ["plain"], "few_shot_variants": ["plain"], "exemplar_seeds": [0], "shots_per_class": 2}
    changes |= {"evaluation_rows": None, "validation_rows": None, "max_text_tokens": 64, "five_shots": False}
    real = load_study("real")
    study = real.model_copy(update={"prompting": real.prompting.model_copy(update=changes)})
    model = load_model("llama-1b")
    few, _ = costs.prompt_tokens("categories", "plain", 2)
    zero, _ = costs.prompt_tokens("categories", "plain", 0)
    assert few - zero == 6 * 2 * 2 * (costs.SHOWN_TOKENS + costs.FRAME_TOKENS)
    rows = costs.Rows(train=1000, validation=10, test=300, text_tokens=12.0)
    ways = [(t, shots) for t in ("safety", "categories") for shots in (0, 2)]
    told = [costs.prompt_tokens(t, "plain", shots) for t, shots in ways]
    expected = sum((2 + 1 + 1) * prefix + 310 * (12 + asked) for prefix, asked in told)
    assert costs.prompting_tokens(study, model, rows) == pytest.approx(expected)


def test_training_rows_count_accepted_re_interpretations(outputs):
    base = outputs / "sample"
    base.mkdir(parents=True)
    card = {"safety": {"train": {"safe": 5}, "validation": {"safe": 1}, "test": {"safe": 2}}}
    card |= {"sources": {"mine": {"rows": 8}}}
    (base / "data_card.json").write_text(json.dumps(card))
    assert costs.rows_of(load_study("sample")).train == 5
    (base / "augmentation_card.json").write_text(json.dumps({"accepted": 3}))
    assert costs.rows_of(load_study("sample")).train == 8


def test_tokens_follow_rows_caps_and_runs():
    study = load_study("real").model_copy(
        update={
            "finetuning": load_study("real").finetuning.model_copy(
                update={
                    "seeds": [0, 1],
                    "epochs": 2.0,
                    "train_rows": 30,
                    "ablation": False,
                    "min_steps": 0,
                    "budgets": [],
                    "tasks": "one",
                }
            )
        }
    )
    rows = costs.Rows(train=50, validation=10, test=20, text_tokens=12.0)
    trained, read = costs.finetuning_tokens(study, load_model("llama-1b"), rows)
    assert trained == 2 * 2 * 2 * 30 * 12  # tasks, seeds, epochs; the cap binds
    assert read == 12 * (30 + 10 + 20) + 2 * 2 * 12 * (2 * 10 + 20)
    assert math.isnan(costs.capped(None, "test", None)) and costs.capped(None, "test", 7) == 7


@pytest.fixture
def checkout(tmp_path, monkeypatch, outputs):
    monkeypatch.setenv("EMOSAFE_ROOT", str(toy.checkout(tmp_path / "toy")))
    return tmp_path / "toy"


def test_a_measured_run_corrects_what_a_scheduler_is_asked_for_until_a_parameter_changes(checkout, outputs):
    study, model = load_study("toy"), load_model("nano-1")
    assert resources.resources("04_lora_finetuning", study, model) == model.resources
    toy.finish_before("04_lora_finetuning")
    stage.begin("04_lora_finetuning", "toy", "nano-1").finish()
    path = outputs / "toy" / "nano-1" / "04_lora_finetuning" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"peak_memory_mb": 1600, "seconds": 600.0}))
    corrected = resources.resources("04_lora_finetuning", study, model)
    assert (corrected.memory_mb, corrected.minutes, corrected.threads) == (3000, 30, model.resources.threads)
    changed = study.model_copy(update={"finetuning": study.finetuning.model_copy(update={"epochs": 9.0})})
    assert resources.resources("04_lora_finetuning", changed, model) == model.resources
    grown = study.model_copy(update={"data": study.data.model_copy(update={"min_source_rows": 7})})
    assert resources.resources("04_lora_finetuning", grown, model) == model.resources
    raised = model.model_copy(update={"resources": model.resources.model_copy(update={"minutes": 999})})
    assert resources.resources("04_lora_finetuning", study, raised) == raised.resources


@pytest.mark.parametrize(("seconds", "minutes"), [(600, 60), (6000, 210)])
def test_another_machines_time_lengthens_what_is_declared_and_never_shortens_it(checkout, outputs, seconds, minutes):
    study, model = load_study("toy"), load_model("nano-1")
    toy.finish_before("04_lora_finetuning")
    stage.begin("04_lora_finetuning", "toy", "nano-1").finish()
    path = outputs / "toy" / "nano-1" / "04_lora_finetuning" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"peak_memory_mb": 1600, "seconds": seconds}))
    shutil.copytree(outputs / "toy", checkout / "outputs" / "reference" / "toy")
    shutil.rmtree(outputs / "toy")
    asked = resources.resources("04_lora_finetuning", study, model)
    assert (asked.memory_mb, asked.minutes, model.resources.minutes) == (3000, minutes, 60)


def test_a_model_declares_the_memory_that_the_reference_run_took():
    """A study under another name has no measured run, and a job also holds the runner."""
    reference = Path(resources.__file__).parents[1] / "outputs" / "reference"
    paths = [*reference.glob("*/*/*/manifest.json")]
    assert paths
    for path in paths:
        model, took = load_model(path.parts[-3]), json.loads(path.read_text())["peak_memory_mb"]
        assert model.resources.memory_mb >= took + resources.SPARE_MB, path


def test_what_manifests_measured_stands_beside_what_was_computed(checkout, outputs):
    study, models = load_study("toy"), {"nano-1": load_model("nano-1")}
    toy.finish_before("04_lora_finetuning")
    stage.begin("04_lora_finetuning", "toy", "nano-1").finish()
    table = costs.costs(study, models, "2 CPU cores")
    beside = forecast.comparison(study, models, table)
    merged, augmented, trained = beside[["stage", "model"]].values.tolist()
    assert merged == ["01_data_merge", ""] and augmented == ["02_chatgpt_augmentation", ""]
    assert trained == ["04_lora_finetuning", "nano-1"]
    assert beside.at[2, "computed_gb"] == table.at[0, "training_gb"] and beside.at[2, "measured_gb"] > 0


def test_a_run_that_took_up_kept_work_measured_nothing_that_holds_for_a_whole_one(checkout, outputs):
    study, model = load_study("toy"), load_model("nano-1")
    toy.finish_before("04_lora_finetuning")
    for resumed in (False, True):
        run = stage.begin("04_lora_finetuning", "toy", "nano-1")
        (run.keep("runs") / "checkpoint").write_text("kept")
        run.finish()
        asked = resources.resources("04_lora_finetuning", study, model)
        assert (asked == model.resources) is resumed and (asked.minutes < model.resources.minutes) is not resumed
    table = costs.costs(study, {"nano-1": model}, "2 CPU cores")
    compared = forecast.comparison(study, {"nano-1": model}, table)["stage"].tolist()
    assert compared == ["01_data_merge", "02_chatgpt_augmentation"]


def test_a_served_model_is_planned_without_fine_tuning(checkout, outputs):
    """Snakemake's own graph: 01 and 02, then 03 of both and 04 of the local model, then 05, 06 and the index."""
    facts = load_model("nano-1").model_dump(mode="json")
    facts |= {"name": "served", "backend": "openai", "base_url": "http://127.0.0.1:9/v1"}
    (checkout / "params" / "models" / "served.yaml").write_text(json.dumps(facts))
    labels = [job.label for job in graph_of("toy", ["nano-1", "served"], 1)]
    assert {label for label in labels if label.endswith("served")} == {"03_prompting_baselines served"}
    assert "04_lora_finetuning nano-1" in labels and len(labels) == 8
    row = costs.costs(load_study("toy"), {"served": load_model("served")}, "2 CPU cores").iloc[0]
    assert (row["finetuning_hours"], row["training_gb"]) == (0, 0) and row["scoring_gb"] > 0


@pytest.mark.slow
def test_make_plan_of_the_real_study_with_the_four_llamas(outputs, capsys):
    assert forecast.main(["--study", "real", "--models", "llama-1b llama-3b llama-8b llama-70b"]) == 0
    said = capsys.readouterr().out
    assert "13 jobs, 13 of them to run now" in said and "Critical path" in said and said.count("computed") > 4
    assert "→ 04_lora_finetuning llama-70b →" in said
    assert cli.main(["run", "plan", "--study", "real", "--models", "llama-2t"]) == 1
    assert "llama-2t.yaml: no such file" in capsys.readouterr().err
