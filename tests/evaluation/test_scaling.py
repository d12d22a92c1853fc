"""Size: gaps are listed, foreign runs refused, and no curve is drawn where four points fix none."""

import json

import numpy as np
import pandas as pd
import pytest
from analysis_world import SHA, evidence, made_up_rows, model_table, study
from scipy.stats import kendalltau

from emosafe_lib.evaluation import baselines, predictions, readings, results, scaling
from emosafe_lib.evaluation.paired_tests import holm
from emosafe_lib.evaluation.results import Cell
from emosafe_lib.study import csv_files
from emosafe_lib.study.errors import PredictionError
from emosafe_lib.study.parameters import FinetuningParams, ModelCaps, load_model

ROWS = made_up_rows(240, sources=2)
SKILLS = {"nano-1": 0.2, "nano-2": 0.7, "nano-3": 1.2, "nano-4": 1.7}


@pytest.fixture(scope="module")
def known():
    return evidence(ROWS, SKILLS)


def without(model, setting, wording=None):
    """The runs of all models except one model's setting, or one wording of it."""
    table = pd.concat([model_table(ROWS, name, skill, 100 * i) for i, (name, skill) in enumerate(SKILLS.items())])
    lost = (table["model"] == model) & (table["setting"] == setting)
    return table[~(lost & ((table["variant"] == wording) if wording else True))]


def test_58_a_missing_setting_is_listed_and_gets_no_number():
    here = evidence(ROWS, SKILLS, without("nano-2", "fine-tuned"))
    gaps = here.gaps[here.gaps["setting"] != "baseline"]
    assert set(gaps["model"]) == {"nano-2"} and set(gaps["missing"]) == {"all runs"}
    table = results.results_table(here)
    assert not ((table["model"] == "nano-2") & (table["setting"] == "fine-tuned")).any()


def test_58_a_missing_wording_is_named_and_the_others_are_not_averaged():
    here = evidence(ROWS, SKILLS, without("nano-2", "zero-shot", "guard"))
    assert "wording guard" in here.gaps.loc[here.gaps["model"] == "nano-2", "missing"].tolist()
    assert here.score(Cell("nano-2", "safety", "zero-shot")) is None
    assert here.score(Cell("nano-2", "safety", "zero-shot", "plain")) is not None
    assert (
        here.contrast([(1, Cell("nano-3", "safety", "zero-shot")), (-1, Cell("nano-2", "safety", "zero-shot"))]) is None
    )


def test_58_a_missing_seed_is_named():
    here = evidence(ROWS, {"nano-1": 1.0}, finetuning=FinetuningParams(seeds=[0, 1]))
    assert "seed 1" in here.gaps["missing"].tolist()
    assert here.keys(Cell("nano-1", "safety", "fine-tuned")) == []


def test_58_a_missing_size_leaves_the_ladder_insufficient_not_shorter():
    here = evidence(ROWS, {name: SKILLS[name] for name in ("nano-1", "nano-2")})
    ranks = scaling.rank_stability(here, here.ladder("nano"), "safety", "zero-shot")
    assert (ranks["status"], ranks["sizes"]) == ("insufficient", 2) and np.isnan(ranks["tau"])


def test_62_two_runs_under_one_key_are_refused(tmp_path):
    table = model_table(ROWS, "nano-1", 1.0)
    first = predictions.write(table, tmp_path / "a.parquet", model="nano-1", data_sha256=SHA)
    second = predictions.write(table, tmp_path / "b.parquet", model="nano-1", data_sha256=SHA)
    with pytest.raises(PredictionError, match="two runs under one key: nano-1, safety, zero-shot, plain, 0"):
        results.read_files({("nano-1", "a"): first, ("nano-1", "b"): second}, SHA)


def test_64_results_from_other_data_are_refused(tmp_path):
    path = predictions.write(model_table(ROWS, "nano-1", 1.0), tmp_path / "a.parquet", model="nano-1", data_sha256="f")
    with pytest.raises(PredictionError, match="other data or another split"):
        results.read_files({("nano-1", "a"): path}, SHA)


def test_64_results_from_another_split_are_refused():
    other = ROWS.assign(split=ROWS["split"].replace({"train": "test", "test": "train"}))
    with pytest.raises(PredictionError, match="not in this study's test split"):
        evidence(ROWS, {"nano-1": 1.0}, model_table(other, "nano-1", 1.0))


def test_a_folder_that_holds_another_models_runs_is_refused(tmp_path):
    path = predictions.write(model_table(ROWS, "nano-1", 1.0), tmp_path / "a.parquet", model="nano-1", data_sha256=SHA)
    with pytest.raises(PredictionError, match="holds runs of nano-1"):
        results.read_files({("nano-2", "a"): path}, SHA)


def test_no_prediction_file_at_all_is_an_error_not_an_empty_table():
    with pytest.raises(PredictionError, match="none found"):
        results.read_files({}, SHA)


COUNT = np.array([1e5, 3e5, 1e6, 3e6])


def noisy(values, width=0.002):
    return np.asarray(values)[:, None] + np.random.default_rng(0).normal(0, width, (len(values), 400))


def test_63_two_sizes_or_equal_scores_get_no_curve():
    assert scaling.saturating_curve(COUNT[:2], np.array([0.1, 0.2]), noisy([0.1, 0.2])).status == "insufficient"
    assert scaling.saturating_curve(COUNT, np.full(4, 0.3), noisy([0.3] * 4)).status == "insufficient"


def test_63_four_runs_of_one_size_get_no_curve():
    assert (
        scaling.saturating_curve(np.full(4, 1e6), np.array([0.1, 0.2, 0.3, 0.4]), noisy([0.1, 0.2, 0.3, 0.4])).status
        == "insufficient"
    )


@pytest.mark.parametrize("values", [[0.5, 0.4, 0.6, 0.7], [0.7, 0.6, 0.5, 0.4]], ids=["bent", "falling"])
def test_scores_that_do_not_rise_get_no_curve(values):
    assert scaling.saturating_curve(COUNT, np.array(values), noisy(values)).status == "not honest"


def test_scores_that_rise_only_within_noise_get_no_curve():
    values = [0.40, 0.41, 0.42, 0.43]
    assert scaling.saturating_curve(COUNT, np.array(values), noisy(values, 0.1)).status == "not honest"


def test_three_sizes_get_no_curve_of_three_parameters():
    assert (
        scaling.saturating_curve(COUNT[:3], np.array([0.1, 0.2, 0.25]), noisy([0.1, 0.2, 0.25])).status == "not honest"
    )


def test_a_planted_power_law_is_found_again_and_never_extrapolated():
    values = scaling.power_law(COUNT / COUNT[0], 0.7, 0.25, 0.4)
    curve = scaling.saturating_curve(COUNT, values, noisy(values))
    assert curve.status == "fitted"
    assert (curve.ceiling, curve.exponent) == pytest.approx((0.7, 0.4), abs=0.02)
    assert min(curve.grid) >= COUNT[0] * 0.999 and max(curve.grid) <= COUNT[-1] * 1.001
    assert all(low <= middle <= high for low, middle, high in zip(curve.low, curve.middle, curve.high, strict=True))


@pytest.mark.parametrize("exponent", [0.5, 1.0, 1.5])
def test_a_ladder_of_billions_has_a_ceiling_as_one_of_thousands_has(exponent):
    count = np.array([1.24e9, 3.21e9, 8.03e9, 70.6e9])
    values = scaling.power_law(count / count[0], 0.9, 0.4, exponent)
    curve = scaling.saturating_curve(count, values, noisy(values))
    assert curve.status == "fitted" and curve.ceiling == pytest.approx(0.9, abs=0.02)
    assert curve.middle[0] == pytest.approx(values[0], abs=0.01)


def test_a_straight_line_that_noise_bends_gets_no_curve(monkeypatch):
    """Whoever accepts each fit whose own ceiling is low takes about half of such samples for saturation."""
    monkeypatch.setattr(scaling, "CURVE_DRAWS", 20)
    random, line, fitted = np.random.default_rng(0), np.array([0.400, 0.428, 0.451, 0.471]), 0
    for _ in range(20):
        values = line + random.normal(0, 0.008, 4)
        draws = values[:, None] + random.normal(0, 0.008, (4, 400))
        fitted += scaling.saturating_curve(COUNT, values, draws).status == "fitted"
    assert fitted <= 2


@pytest.mark.parametrize(
    ("values", "trend"),
    [
        ((0.50, 0.60, 0.70, 0.80), 1),
        ((0.80, 0.70, 0.60, 0.50), -1),
        ((0.50, 0.60, 0.70, 0.45), 0),  # tau is above zero, and the largest is the worst
        ((0.17, 0.29, 0.20, 0.23), 0),  # the largest is above the smallest, and one step falls
        ((0.50, 0.50, 0.50, 0.50), 0),
    ],
)
def test_a_score_rises_with_size_only_if_the_ends_do_and_no_step_falls(values, trend):
    assert scaling.trend_of(COUNT, noisy(values), 0.95) == trend


def test_scores_without_a_ceiling_in_sight_get_no_curve():
    values = np.array([0.1, 0.2, 0.35, 0.55])
    assert scaling.saturating_curve(COUNT, values, noisy(values)).status == "not honest"


def test_tau_is_kendalls():
    random = np.random.default_rng(0)
    draws = random.random((4, 20))
    expected = [kendalltau(COUNT, column).statistic for column in draws.T]
    assert scaling.kendall(COUNT, draws) == pytest.approx(expected)


def test_a_ladder_is_ordered_by_size_and_ranks_are_stable_where_skill_grows(known):
    assert known.ladder("nano") == list(SKILLS)
    ranks = scaling.rank_stability(known, known.ladder("nano"), "safety", "zero-shot")
    assert ranks["status"] == "ok" and ranks["tau"] == 1 and ranks["low"] > 0


def test_results_have_the_promised_columns_and_one_row_a_number(known, tmp_path):
    table = results.results_table(known)
    assert list(table.columns) == list(results.RESULT_COLUMNS)
    assert not table.duplicated(["model", "task", "setting", "variant", "metric", "category"]).any()
    back = csv_files.read_csv(csv_files.write_csv(table, tmp_path / "results.csv"))
    assert len(back) == len(table) and back["value"].to_numpy() == pytest.approx(table["value"], abs=1e-5, nan_ok=True)
    heads = readings.headline_rows(back, ("macro_f1", "within_source_macro_f1"))
    assert len(heads) == 4 * 4 * 2 * 2
    assert (heads["low"] <= heads["value"]).all() and (heads["value"] <= heads["high"]).all()


def test_human_rows_and_reinterpretations_are_scored_apart():
    origin = np.where((ROWS["split"] == "test") & (ROWS.index % 2 == 0), "synthetic", "human")
    table = results.results_table(evidence(ROWS.assign(origin=origin), {"nano-1": 1.0}))
    part = table[(table["metric"] == "origin_macro_f1") & (table["setting"] == "probe") & (table["task"] == "safety")]
    assert set(part["category"]) == {"human", "synthetic"}
    assert part["n"].sum() == (ROWS["split"] == "test").sum()


def test_wordings_give_a_spread_of_their_own_and_the_headline_is_their_mean(known):
    table = results.results_table(known)
    here = table[(table["model"] == "nano-3") & (table["task"] == "safety") & (table["setting"] == "zero-shot")]
    single = here[(here["variant"] != "") & (here["metric"] == "macro_f1")]["value"]
    spread = here[here["metric"] == "variant_spread_macro_f1"].iloc[0]
    head = here[(here["variant"] == "") & (here["metric"] == "macro_f1")].iloc[0]
    assert len(single) == 3 and head["value"] == pytest.approx(single.mean())
    assert (spread["low"], spread["high"]) == (single.min(), single.max())
    assert spread["value"] == pytest.approx(single.max() - single.min())


def test_a_slow_model_may_be_asked_fewer_test_rows_and_the_others_still_answer_all():
    caps = {"model_caps": [ModelCaps(model="nano-1", evaluation_rows=40)]}
    rows = results.expected_ids(ROWS, study(**caps), "fine-tuned", "nano-1")
    slow, quick = model_table(ROWS, "nano-1", 1.0), model_table(ROWS, "nano-2", 1.0)
    here = evidence(ROWS, {"nano-1": 1.0, "nano-2": 1.0}, pd.concat([slow[slow["id"].isin(rows)], quick]), **caps)
    tuned = [Cell(name, "safety", "fine-tuned") for name in ("nano-1", "nano-2")]
    assert here.score(tuned[0]).n == 40 < here.score(tuned[1]).n
    with pytest.raises(PredictionError, match="leaves rows without a prediction"):
        evidence(ROWS, {"nano-1": 1.0, "nano-2": 1.0}, pd.concat([slow, quick[quick["id"].isin(rows)]]), **caps)


def test_settings_scored_on_fewer_rows_are_compared_on_common_rows():
    finetuning = FinetuningParams(evaluation_rows=40)
    rows = results.expected_ids(ROWS, study(finetuning=finetuning), "fine-tuned")
    table = model_table(ROWS, "nano-1", 1.0)
    table = table[~table["setting"].isin(["fine-tuned", "probe"]) | table["id"].isin(rows)]
    here = evidence(ROWS, {"nano-1": 1.0}, table, finetuning=finetuning)
    zero, tuned = Cell("nano-1", "safety", "zero-shot"), Cell("nano-1", "safety", "fine-tuned")
    assert here.score(tuned).n == 40 < here.score(zero).n
    assert here.answered(zero, tuned).sum() == 40
    assert scaling.paired_comparison(here, "setting", tuned, zero, "macro_f1")["n"] == 40


def test_numbers_of_one_table_rest_on_the_rows_that_all_settings_answered():
    """A third source is asked of the baselines alone: it may not lift or lower their score beside the models'."""
    rows = made_up_rows(400, sources=3)
    asked = rows.loc[rows["source"] != "source2", "id"]
    table = model_table(rows, "nano-1", 1.0)
    table = table[table["id"].isin(asked)]
    everything = baselines.predict("source", rows).assign(model="source")
    finetuning, prompting = (
        getattr(study(), part).model_copy(update={"evaluation_rows": 1}) for part in ("finetuning", "prompting")
    )
    here = evidence(rows, {"nano-1": 1.0}, pd.concat([table, everything]), finetuning=finetuning, prompting=prompting)
    found = results.results_table(here)
    test = rows[rows["split"] == "test"]
    shared = test["id"].isin(asked)
    assert set(found.loc[found["metric"] == "macro_f1", "n"]) == {shared.sum()} and shared.sum() < len(test)
    by_source = found[found["metric"] == "source_macro_f1"]
    assert set(by_source["category"]) == {"source0", "source1"}
    head = found[(found["model"] == "source") & (found["metric"] == "macro_f1") & (found["task"] == "safety")]
    cell = Cell("source", "safety", "baseline")
    alone, whole = here.score(cell, here.common("safety")), here.score(cell)
    assert head["value"].iloc[0] == alone.values["macro_f1", ""] != whole.values["macro_f1", ""]
    compared = scaling.comparisons(here)
    over = compared[(compared["first_setting"] == "probe") & (compared["family"] == "source name")]
    over = over[(over["task"] == "safety") & (over["metric"] == "macro_f1")].iloc[0]
    model = here.score(Cell("nano-1", "safety", "probe"), here.common("safety")).values["macro_f1", ""]
    assert over["value"] == pytest.approx(model - head["value"].iloc[0]) and over["n"] == shared.sum()


def test_n_counts_the_rows_that_a_number_is_made_of(known):
    found, test = results.results_table(known), ROWS[ROWS["split"] == "test"]
    by_source = found[found["metric"] == "source_macro_f1"].set_index("category")["n"]
    assert all(by_source[name].eq((test["source"] == name).sum()).all() for name in ("source0", "source1"))
    last = found[(found["category"] == "criminal_planning") & (found["metric"] == "f1")]
    assert set(last["n"]) == {int(sum(cells[5] for cells in test["category_known"]))} and last["n"].iloc[0] < len(test)


def test_a_variant_run_with_one_seed_is_held_against_that_seed_alone():
    """The mean of three seeds is no rival of one."""
    tuned, parts = model_table(ROWS, "nano-1", 1.0), []
    tuned = tuned[tuned["setting"] == "fine-tuned"]
    for seed, skill in enumerate((0.5, 2.0, 3.5)):
        run = model_table(ROWS, "nano-1", skill, seed)
        parts.append(run[run["setting"] == "fine-tuned"].assign(seed=seed))
    parts += [parts[0].assign(variant="no-augmentation"), parts[0].assign(variant="budget-64")]
    finetuning = FinetuningParams(seeds=[0, 1, 2], budgets=[64])
    here = evidence(ROWS, {"nano-1": 1.0}, pd.concat(parts), finetuning=finetuning)
    found = scaling.comparisons(here)
    part = found[found["family"] == "augmentation"]
    assert len(part) == 4 and (part["value"] == 0).all() and (part["gained"] == 0).all()
    assert set(part["first_variant"]) == {"first-seed"}
    curve = readings.budget_table(results.results_table(here), {"nano-1": 100})
    assert curve.groupby("task")["value"].nunique().eq(1).all() and set(curve["rows"]) == {64, 100}


def test_a_missing_ablation_or_budget_is_a_gap():
    here = evidence(ROWS, {"nano-1": 1.0}, finetuning=FinetuningParams(seeds=[0], budgets=[64]))
    here_gaps = here.gaps[here.gaps["model"] == "nano-1"]
    assert set(here_gaps["missing"]) == {"no-augmentation", "budget-64"}


def test_an_encoder_that_lacks_a_wording_has_no_headline():
    table = model_table(ROWS, "minilm", 1.0)
    here = evidence(ROWS, {"minilm": 1.0}, table[table["variant"] != "guard"])
    assert "wording guard" in here.gaps["missing"].tolist()
    assert {cell.setting for cell in here.cells()} == {"few-shot", "fine-tuned", "probe"}


def test_a_model_of_unknown_size_is_neither_larger_nor_smaller_and_still_meets_the_encoder(monkeypatch):
    here = evidence(ROWS, SKILLS | {"minilm": 1.0})
    monkeypatch.setitem(here.parameters, "nano-4", None)
    plan = scaling.planned(here)
    pairs = {family: [{first.model, second.model} for f, first, second in plan if f == family] for family, *_ in plan}
    assert pairs["size"] and not any("nano-4" in pair for pair in pairs["size"])
    assert {"nano-4", "minilm"} in pairs["encoder"]
    facts = scaling.sizes(here.models).set_index("model")
    facts.loc["nano-4", "parameters"] = np.nan
    on_axis = scaling.points(results.results_table(here), facts.reset_index())
    assert "nano-4" not in set(on_axis["model"]) and "nano-3" in set(on_axis["model"])


def test_comparisons_are_corrected_within_their_family(known):
    table = scaling.comparisons(known)
    for _, part in table.groupby(["family", "metric"]):
        assert np.allclose(part["p_holm"], holm(part["p"]), equal_nan=True)
        assert np.allclose(part["mcnemar_p_holm"], holm(part["mcnemar_p"]), equal_nan=True)
    assert (table["p_holm"] > table["p"]).any()
    sizes = readings.family_of_tests(table, "size", 0.95)
    assert len(sizes) == 2 * 4 * 4
    assert sizes.loc[(sizes["first"] == "nano-4") & (sizes["second"] == "nano-1"), "clear"].any()
    assert sizes.loc[sizes["clear"], "value"].notna().all()


def test_one_model_alone_has_no_pair_of_sizes():
    found = scaling.comparisons(evidence(ROWS, {"nano-1": 1.5}, model_table(ROWS, "nano-1", 1.5)))
    sizes = readings.family_of_tests(found, "size", 0.95)
    assert sizes.empty and {"label", "clear"} <= set(sizes)


def test_the_ablation_is_paired_with_the_main_run():
    extra = model_table(ROWS, "nano-1", 0.2)
    extra = extra[(extra["setting"] == "fine-tuned")].assign(variant="no-augmentation")
    table = pd.concat([model_table(ROWS, "nano-1", 1.5), extra])
    found = scaling.comparisons(evidence(ROWS, {"nano-1": 1.5}, table))
    part = readings.family_of_tests(found, "augmentation", 0.95)
    assert len(part) == 2 and (part["value"] > 0).all() and part["low"].notna().all()


def test_baselines_stand_beside_models():
    parts = [model_table(ROWS, "nano-1", 1.0)]
    parts += [baselines.predict(name, ROWS).assign(model=name) for name in baselines.BASELINES]
    here = evidence(ROWS, {"nano-1": 1.0}, pd.concat(parts))
    assert here.gaps.empty
    table = results.results_table(here)
    assert set(table.loc[table["family"] == "baseline", "model"]) == set(baselines.BASELINES)
    heads = readings.headline_table(table, scaling.comparisons(here))
    assert heads.shape[0] == 4 + len(baselines.BASELINES)
    own = heads.loc[("nano-1", "fine-tuned"), ("safety", "over_source_name")]
    assert own.startswith("+") and own.endswith("*")
    assert heads.loc[("majority", "baseline"), ("safety", "over_source_name")] == "–"


def test_a_number_stands_without_its_interval_where_that_is_undefined_and_is_a_word_where_it_is_undefined_itself(known):
    table = results.results_table(known).assign(low=np.nan, high=np.nan)
    table.loc[table["task"] == "categories", "value"] = np.nan
    heads = readings.headline_table(table, scaling.comparisons(known)).loc[("nano-1", "fine-tuned")]
    assert float(heads["safety", "macro_f1"]) > 0 and heads["categories", "macro_f1"] == "undefined"


def test_sizes_come_from_shapes_and_flops_from_sizes():
    table = scaling.sizes({"llama-1b": load_model("llama-1b"), "llama-70b": load_model("llama-70b")}).set_index("model")
    assert table.loc["llama-1b", "parameters"] == pytest.approx(1.236e9, rel=0.01)
    assert table.loc["llama-70b", "parameters"] == pytest.approx(70.6e9, rel=0.01)
    inner = table["non_embedding"]
    assert (table["inference_flops_per_token"] == 2 * inner).all()
    assert (table["pretraining_flops"] == 6 * inner * table["pretraining_tokens"]).all()


def test_measured_costs_come_from_manifests(tmp_path):
    folder = tmp_path / "nano-1" / "04_lora_finetuning"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text(json.dumps({"seconds": 12.5, "peak_memory_mb": 700}))
    found = scaling.measured_costs(tmp_path, {"nano-1": None, "nano-2": None})
    assert found.to_dict("records") == [
        {"model": "nano-1", "stage": "04_lora_finetuning", "seconds": 12.5, "peak_memory_mb": 700}
    ]


def test_a_reading_agrees_with_its_numbers_and_tells_losses_beside_gains():
    row = {"value": 0.1, "low": 0.05, "high": 0.2, "label": "a − b", "clear": True}
    tests = pd.DataFrame([row, row | {"clear": False}])
    assert readings.differences(tests, "size").startswith("1 of 2 size comparisons shows a difference")
    assert "; it is a − b: +0.100" in readings.differences(tests, "size")
    assert "does not prove that there is none" in readings.differences(tests.assign(clear=False), "size")
    gain = row | {"category": "safe", "setting": "probe", "largest": "large", "smallest": "small"}
    loss = gain | {"category": "unsafe", "value": -0.3, "low": -0.4, "high": -0.1}
    said = readings.gains_by_label(pd.DataFrame([gain, loss]))
    assert "better than small in 1 of 2 label and setting pairs and worse in 1" in said and "in safe, probe" in said


def test_a_run_below_the_source_names_baseline_is_counted_by_the_test_that_counts_those_above():
    rows = [(0.2, 0.01), (0.1, 0.3), (-0.2, 0.01), (-0.1, 0.3)]
    compared = pd.DataFrame(rows, columns=["value", "p_holm"]).assign(
        family="source name", metric="macro_f1", high=-0.01
    )
    assert "1 of 4 runs beats" in readings.source_name(compared) and "1 falls short" in readings.source_name(compared)


def test_wordings_are_held_against_the_sampling_of_the_runs_that_have_several():
    worded, seeded = {"run": "a, zero-shot"}, {"run": "a, fine-tuned"}
    rows = [
        worded | {"kind": "wording", "low": 0.2, "high": 0.3},
        worded | {"kind": "sampling", "low": 0.2, "high": 0.4},
    ]
    rows += [seeded | {"kind": kind, "low": 0.0, "high": 0.9} for kind in ("seed", "sampling", "sampling")]
    said = readings.spreads(pd.DataFrame(rows))
    assert "moves by 0.100 from the lowest to the highest (median over 1 run), beside" in said and "0.200 wide" in said
    assert "unknown" in readings.spreads(pd.DataFrame(rows[2:]))


def test_ladders_are_never_joined_by_a_line_and_each_has_its_sentence():
    from emosafe_lib.evaluation import figures

    row = {"task": "safety", "metric": "macro_f1", "setting": "zero-shot", "low": 0.1, "high": 0.9}
    rungs = [("a", 1e5, 0.2), ("a", 1e6, 0.3), ("b", 1e7, 0.8), ("b", 1e8, 0.9)]
    table = pd.DataFrame(row | {"ladder": name, "parameters": n, "value": value} for name, n, value in rungs)
    nothing = pd.DataFrame(columns=["task", "metric", "model", "value"])
    figure = figures.score_by_size(table, nothing, table.iloc[:0])
    lines = [line.get_xdata().tolist() for line in figure.axes[0].lines if len(line.get_xdata()) == 2]
    assert [1e5, 1e6] in lines and [1e7, 1e8] in lines and not [x for x in lines if x[0] < 2e6 < x[-1]]
    ranks = {"status": "ok", "metric": "macro_f1", "trend": 1, "curve": "none"}
    said = readings.score_by_size(pd.DataFrame([ranks | {"ladder": "smollm2"}, ranks | {"ladder": "mine"}]))
    assert "On the SmolLM2 ladder, " in said and "On the ladder mine, " in said


def test_a_single_point_is_no_curve_and_a_logarithmic_axis_says_so():
    from emosafe_lib.evaluation import figures

    row = {"task": "safety", "metric": "macro_f1", "model": "nano-1", "ladder": "nano", "low": 0.4, "high": 0.6}
    sizes = [("zero-shot", 1e5), ("zero-shot", 1e6), ("probe", 1e5)]
    table = pd.DataFrame([row | {"setting": s, "parameters": n, "value": 0.5} for s, n in sizes])
    figure = figures.score_by_size(table, table.iloc[:0], table.iloc[:0])
    (panel,) = figure.axes
    lines = {tuple(line.get_xdata()): line.get_linestyle() for line in panel.lines if line.get_marker() in ("o", "s")}
    assert lines[1e5, 1e6] == "-" and lines[1e5,] == "None"
    assert "log scale" in panel.get_xlabel()
