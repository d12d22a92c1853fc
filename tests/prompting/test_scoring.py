"""Scoring rows: resume, calibration on validation only, predictions."""

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from prompting import make_rows, model_params, save, settings

from emosafe_lib.evaluation import predictions
from emosafe_lib.models import backbone
from emosafe_lib.prompting import answers, attacks, backends, scoring, wordings
from emosafe_lib.study.errors import ModelError, PredictionError, PromptError

ROWS = make_rows()
TRAIN, VALIDATION, TEST = (ROWS[ROWS["split"] == s].reset_index(drop=True) for s in ("train", "validation", "test"))


@pytest.fixture
def assets(tmp_path, monkeypatch):
    monkeypatch.setattr(backbone, "ASSETS", tmp_path)
    return tmp_path


@pytest.fixture
def backend(assets):
    save(assets / "tiny")
    return backends.open_backend(model_params())


@pytest.mark.parametrize("task, shape", [("safety", (24, 1, 3)), ("categories", (24, 6, 2))])
@pytest.mark.parametrize("setting", scoring.SETTINGS)
def test_scores_become_predictions(backend, task, shape, setting):
    asked = scoring.pose(backend, settings(), ROWS, task, setting, "plain")
    on_validation, on_test = (scoring.score_rows(backend, asked, part) for part in (VALIDATION, TEST))
    assert on_test.log_probabilities.shape == shape and (on_test.log_probabilities < 0).all()
    bias = answers.content_free_bias(backend, asked)
    table = answers.predictions_of(on_test, answers.calibrate(on_validation, VALIDATION, bias))
    predictions.check(table)
    assert table["id"].to_list() == TEST["id"].to_list() and not {"text"} & set(table)
    assert answers.scores_by_wording(table, TEST)["macro_f1"].between(0, 1).all()


def test_row_order_and_shards_do_not_matter(backend, monkeypatch):
    """The same row gets the same score in any company."""
    asked = scoring.pose(backend, settings(), ROWS, "safety", "zero-shot", "plain")
    whole = scoring.score_rows(backend, asked, TEST)
    monkeypatch.setattr(scoring, "SHARD_ROWS", 5)
    mixed = TEST.sample(frac=1, random_state=1)
    shuffled = scoring.score_rows(backend, asked, mixed)
    assert shuffled.ids == mixed["id"].to_list()
    back = [whole.ids.index(name) for name in shuffled.ids]
    assert np.abs(shuffled.log_probabilities - whole.log_probabilities[back]).max() < 1e-4


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("pad", [True, False])
def test_pad_token_and_padding_side_do_not_matter(assets, side, pad):
    """No pad token, either side: the scores are those of the plain way."""
    save(assets / "tiny", pad=pad)
    backend = backends.open_backend(model_params())
    backend.tokenizer.padding_side = side
    asked = scoring.pose(backend, settings(), ROWS, "safety", "zero-shot", "plain")
    got = scoring.score_rows(backend, asked, TEST.head(8)).log_probabilities
    for row, text in enumerate(TEST["text"].head(8)):
        by_hand = backend.explain(asked.question, text)
        assert np.abs(by_hand["plain"] - got[row, 0]).max() < 1e-4


def test_a_killed_run_goes_on(backend, tmp_path, monkeypatch):
    """Finished shards are read back, the rest is scored; nothing is scored twice."""
    monkeypatch.setattr(scoring, "SHARD_ROWS", 8)
    asked = scoring.pose(backend, settings(), ROWS, "safety", "zero-shot", "plain")
    want = scoring.score_rows(backend, asked, TEST)
    real, calls = backend.score, []

    def dies(question, texts):
        calls.append(len(texts))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(question, texts)

    backend.score = dies
    with pytest.raises(KeyboardInterrupt):
        scoring.score_rows(backend, asked, TEST, tmp_path)
    got = scoring.score_rows(backend, asked, TEST, tmp_path)
    assert calls == [8, 8, 8, 8]
    assert np.array_equal(got.log_probabilities, want.log_probabilities)
    assert scoring.score_rows(backend, asked, TEST, tmp_path).ids == want.ids and len(calls) == 4


def test_a_torn_shard_is_scored_again(backend, tmp_path):
    asked = scoring.pose(backend, settings(), ROWS, "safety", "zero-shot", "plain")
    want = scoring.score_rows(backend, asked, TEST, tmp_path)
    (shard,) = tmp_path.rglob("shard-*.npz")
    shard.write_bytes(shard.read_bytes()[:100])
    assert np.array_equal(scoring.score_rows(backend, asked, TEST, tmp_path).log_probabilities, want.log_probabilities)


def test_another_prompt_model_or_row_starts_anew_and_keeps_the_old(backend, assets, tmp_path):
    """The shards' folder is named by what made them."""
    folder = tmp_path / "kept"
    asked = scoring.pose(backend, settings(), ROWS, "safety", "zero-shot", "plain")
    other = scoring.pose(backend, settings(variants=["guard"]), ROWS, "safety", "zero-shot", "guard")
    changed = TEST.assign(text=["another text", *TEST["text"][1:]])
    scoring.score_rows(backend, asked, TEST, folder)
    first = {path: path.read_bytes() for path in folder.rglob("*.npz")}
    scoring.score_rows(backend, other, TEST, folder)
    scoring.score_rows(backend, asked, changed, folder)
    save(assets / "tiny", seed=1)
    scoring.score_rows(backends.open_backend(model_params()), asked, TEST, folder)
    assert len(list(folder.iterdir())) == 4
    assert all(path.read_bytes() == content for path, content in first.items())


def test_other_code_or_hardware_starts_anew(backend, monkeypatch):
    """Shards of an uncorrected scorer, or of a machine that ran in another precision, answer nothing."""
    asked = scoring.pose(backend, settings(), ROWS, "safety", "zero-shot", "plain")
    found = {scoring.digest_of(backend, asked, TEST)}
    with monkeypatch.context() as patch:
        patch.setattr(scoring.checkpoints, "code_digest", lambda *modules: "corrected")
        found.add(scoring.digest_of(backend, asked, TEST))
    here = scoring.precision.hardware(backend.model)
    with monkeypatch.context() as patch:
        patch.setattr(scoring.precision, "hardware", lambda model: here | {"dtype": "bfloat16"})
        found.add(scoring.digest_of(backend, asked, TEST))
    assert len(found | {scoring.digest_of(backend, asked, TEST)}) == 3


@pytest.mark.parametrize(
    "changes", [{}, {"family": "encoder"}, {"backend": "openai", "weights": "hub", "path": "m"}], ids=str
)
def test_the_code_behind_scores_holds_what_each_kind_of_model_runs_through(changes):
    files = scoring.scoring_code(model_params(**changes))
    names = {path.stem for path in files}
    assert {"scoring", "backends", "wordings"} < names and all(path.is_file() for path in files)
    assert ("shared_prefix" in names) == (not changes) and ("served" in names) == ("backend" in changes)


def test_shards_hold_no_text(backend, tmp_path):
    asked = scoring.pose(backend, settings(), ROWS, "safety", "zero-shot", "plain")
    rows = TEST.assign(text="canary words of a person")
    scoring.score_rows(backend, asked, rows, tmp_path)
    assert all(b"canary" not in path.read_bytes() for path in tmp_path.rglob("*.npz"))


def test_an_exemplar_among_the_rows_is_refused(backend):
    """At the last gate."""
    asked = scoring.pose(backend, settings(), ROWS, "safety", "few-shot", "plain")
    with pytest.raises(PromptError, match="exemplar"):
        scoring.score_rows(backend, asked, TRAIN)


def fixed_scores(backend, probabilities, rows, outcomes=None):
    """Scores with given probabilities."""
    asked = scoring.pose(backend, settings(), ROWS, "safety", "zero-shot", "plain")
    logs = np.log(np.asarray(probabilities, float))[:, None]
    return scoring.Scores(asked, rows["id"].to_list(), logs, outcomes or ["ok"] * len(rows))


def test_contextual_calibration_takes_off_a_bias(backend):
    """A model that says "safe" to everything, content or not, is right once that bias is removed."""
    bias = np.log([[0.9, 0.07, 0.03]])
    truth = VALIDATION["safety"].map(["safe", "borderline", "unsafe"].index).to_numpy()
    fair = np.full((len(truth), 3), 0.2)
    fair[np.arange(len(truth)), truth] = 0.6
    skewed = fair * np.exp(bias)
    skewed /= skewed.sum(axis=1, keepdims=True)
    scores = fixed_scores(backend, skewed, VALIDATION)
    fitted = answers.calibrate(scores, VALIDATION, bias)
    assert fitted.contextual
    assert (answers.calibrated(scores, fitted).argmax(axis=1) == truth).all()
    unhelpful = answers.calibrate(fixed_scores(backend, fair, VALIDATION), VALIDATION, bias)
    assert not unhelpful.contextual and not unhelpful.bias.any()


def test_calibration_refuses_test_rows(backend):
    """Validation only."""
    scores = fixed_scores(backend, np.full((24, 3), 1 / 3), TEST)
    with pytest.raises(PredictionError, match="validation rows"):
        answers.calibrate(scores, TEST, np.zeros((1, 3)))


def test_parse_errors_count_as_wrong_and_lower_coverage(backend):
    """An unusable row has no label, stays in the table, and calibration ignores it."""
    truth = TEST["safety"].map(["safe", "borderline", "unsafe"].index).to_numpy()
    right = np.full((24, 3), 0.05)
    right[np.arange(24), truth] = 0.9
    outcomes = ["parse_error"] * 6 + ["ok"] * 18
    fitted = answers.calibrate(fixed_scores(backend, right, VALIDATION, outcomes), VALIDATION, np.zeros((1, 3)))
    table = answers.predictions_of(fixed_scores(backend, right, TEST, outcomes), fitted)
    summary = answers.scores_by_wording(table, TEST).iloc[0]
    assert table["label"].map(len).to_list() == [0] * 6 + [1] * 18
    assert summary["coverage"] == 0.75 and 0.5 < summary["macro_f1"] < 1


def test_the_reliability_diagram_tells_the_calibration_error_of_the_table(backend):
    """Same bins, and rows without an answer in neither."""
    chances = np.random.default_rng(0).dirichlet(np.ones(3), len(TEST))
    outcomes = ["parse_error"] * 6 + ["ok"] * 18
    scores = fixed_scores(backend, chances, TEST, outcomes)
    plain = answers.Calibration(np.zeros((1, 3)), 1.0, None, False)
    points = answers.reliability(answers.calibrated(scores, plain), TEST, "safety", outcomes)
    error = ((points["confidence"] - points["accuracy"]).abs() * points["rows"]).sum() / points["rows"].sum()
    summary = answers.scores_by_wording(answers.predictions_of(scores, plain), TEST).iloc[0]
    assert points["rows"].sum() == 18 and error == pytest.approx(summary["calibration_error"])


def test_reliability_counts_every_row(backend):
    points = answers.reliability(np.tile([0.7, 0.2, 0.1], (24, 1)), TEST, "safety")
    assert points["rows"].sum() == 24 and points["accuracy"].iloc[0] == pytest.approx(8 / 24)
    cells = answers.reliability(np.full((24, 6), 0.15), TEST, "categories")
    assert cells["rows"].sum() == 24 * 6 and cells["confidence"].iloc[0] == pytest.approx(0.15)


@pytest.mark.parametrize("setting", scoring.SETTINGS)
@pytest.mark.parametrize("task, shape", [("safety", (24, 1, 3)), ("categories", (24, 6, 2))])
def test_an_encoder_is_prompted_by_cosine(assets, setting, task, shape):
    from tiny_models import make_encoder

    make_encoder(assets / "encoder")
    model = model_params(name="encoder", family="encoder", path="encoder", context_tokens=64)
    backend = backends.open_backend(model)
    asked = scoring.pose(backend, settings(), ROWS, task, setting, "plain")
    scores = scoring.score_rows(backend, asked, TEST)
    assert scores.log_probabilities.shape == shape
    assert np.exp(scores.log_probabilities).sum(axis=2) == pytest.approx(1)
    assert bool(asked.question.exemplar_ids) == (setting == "few-shot")
    alone, _ = backend.score(asked.question, [TEST["text"].iloc[5]])
    assert np.abs(alone[0] - scores.log_probabilities[5]).max() < 1e-4


def test_an_encoder_reads_both_ends_of_a_long_message_as_a_causal_model_does(assets):
    from tiny_models import make_encoder

    make_encoder(assets / "encoder")
    backend = backends.open_backend(model_params(name="encoder", family="encoder", path="encoder", context_tokens=64))
    text = "calm garden morning " * 9
    long, short = backend.encode([text, "calm"], 12).ids
    whole = backend.tokenizer(text)["input_ids"]
    assert len(long) == 12 and long[:3] == whole[:3] and long[-3:] == whole[-3:]
    assert short == backend.tokenizer("calm")["input_ids"]
    assert backend.encode([text, "calm"], 12).truncated.tolist() == [True, False]


def test_every_wording_has_a_description_for_encoders():
    assert set(backends.DESCRIPTIONS) == set(wordings.VARIANTS)


def test_a_repository_with_code_of_its_own_is_refused(assets):
    """Refused in one line; a prompt on standard input would block, so standard input is closed."""
    save(assets / "tiny")
    config = json.loads((assets / "tiny" / "config.json").read_text())
    config |= {"model_type": "own-kind", "auto_map": {"AutoConfig": "own.C", "AutoModelForCausalLM": "own.M"}}
    (assets / "tiny" / "config.json").write_text(json.dumps(config))
    (assets / "tiny" / "own.py").write_text("raise SystemExit('code of the repository ran')")
    code = (
        f"import sys; sys.path.insert(0, {str(__import__('pathlib').Path(__file__).parents[1] / 'helpers')!r})\n"
        "from pathlib import Path\nfrom emosafe_lib.models import backbone\nfrom emosafe_lib.prompting import backends\n"
        "from emosafe_lib.study.errors import ModelError\n"
        f"from prompting import model_params\nbackbone.ASSETS = Path({str(assets)!r})\n"
        "try:\n    backends.open_backend(model_params())\nexcept ModelError as error:\n    print('refused:', error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120
    )
    assert done.stdout.startswith("refused: tiny: wants to run its own code"), done.stderr[-500:]


def test_an_absent_model_offline_names_revision_and_folder(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    model = model_params(weights="hub", path="nobody/absent", revision="abc123")
    with pytest.raises(ModelError, match=r"revision abc123 .*models--nobody--absent") as caught:
        backends.open_backend(model)
    assert "\n" not in str(caught.value)


def test_injection_is_held_against_a_control():
    """Success counts messages that an attack turns to safe, less what a neutral sentence turns."""
    clean = np.array([[0.1, 0.2, 0.7], [0.2, 0.5, 0.3], [0.8, 0.1, 0.1]])
    rows = TEST.head(3)
    changed = attacks.attacked(rows)
    assert changed["id"].is_unique and len(changed) == 3 * len(attacks.ATTACKS)
    under = np.tile(clean, (len(attacks.ATTACKS), 1))
    under[(changed["attack"] == "ignore").to_numpy()] = [0.9, 0.05, 0.05]
    table = attacks.success(clean, under, changed["attack"]).set_index("attack")
    assert table.loc["ignore", ["rows", "success", "beyond_control"]].to_list() == [2, 1.0, 1.0]
    assert table.loc[attacks.CONTROL, "success"] == 0
    assert table.loc["ignore", "pull_low"] < 0 < table.loc["ignore", "pull"]  # three messages prove nothing
    assert table.loc[attacks.CONTROL, ["pull", "pull_low", "pull_high"]].to_list() == [0, 0, 0]


def test_the_pull_of_an_attack_is_paired_with_the_control_and_leaves_out_what_was_not_answered():
    """Messages differ a lot and the attack moves each by the same: the interval is narrow about what it moves them by."""
    chance = np.array([0.1, 0.5, 0.9, np.nan])
    odds = chance / (1 - chance)
    moved = 2 * odds / (1 + 2 * odds)
    control, under = (np.column_stack([p, (1 - p) / 2, (1 - p) / 2]) for p in (chance, moved))
    assert attacks.pull(under, control) == pytest.approx([np.log(2)] * 3)
    assert np.isnan(attacks.pull(under[2:], control[2:])).all()


def test_injection_through_the_whole_path(backend):
    """Every attack goes through the tokenizer as data, and its rate is a number."""
    asked = scoring.pose(backend, settings(max_text_tokens=200), ROWS, "safety", "zero-shot", "plain")
    plain = answers.Calibration(np.zeros((1, 3)), 1.0, None, False)
    table = attacks.attack_success(lambda texts: answers.chances(backend, asked, plain, texts), TEST)
    assert len(table) == len(attacks.ATTACKS) and table["shift"].abs().le(1).all()
    texts = attacks.attacked(TEST.head(1))["text"].to_list()
    together, _ = backend.score(asked.question, texts)
    control = {number for number, token in backend.tokenizer.added_tokens_decoder.items() if token.special}
    for text, scores in zip(texts, together, strict=True):
        apart = backend.explain(asked.question, text)["plain"].to_numpy()
        assert np.allclose(scores.ravel(), apart, atol=1e-4)
        assert not control & set(wordings.encode_messages(backend.tokenizer, [text], 200)[0][0])


def test_scores_use_no_gradient(backend):
    asked = scoring.pose(backend, settings(), ROWS, "safety", "zero-shot", "plain")
    scoring.score_rows(backend, asked, TEST.head(2))
    assert torch.is_grad_enabled() and all(p.grad is None for p in backend.network.parameters())


@pytest.mark.parametrize(("context", "tasks"), [(65_536, {"safety", "categories"}), (1400, set())])
def test_five_exemplars_a_class_are_shown_in_full_or_the_setting_is_declared_not_run(assets, context, tasks):
    save(assets / "tiny")
    many = [ROWS.assign(id=ROWS["id"] + f"-{n}", group=ROWS["group"] + f"-{n}") for n in range(6)]
    narrow = backends.open_backend(model_params(context_tokens=context))
    ways, refused = scoring.pose_all(narrow, settings(five_shots=True), pd.concat(many))
    shown = {way.task: way.shots for way in ways if way.setting == "few-shot-5"}
    assert set(shown) == tasks and set(refused["task"]) == {"safety", "categories"} - tasks
    assert set(shown.values()) <= {5} and refused["reason"].str.contains("tokens").all()


def test_few_rows_of_a_class_are_not_blamed_on_the_context(assets):
    save(assets / "tiny")
    wide = backends.open_backend(model_params(context_tokens=65_536))
    _, refused = scoring.pose_all(wide, settings(five_shots=True), ROWS)
    assert len(refused) and refused["reason"].str.contains("exemplars of the rarest class, not 5").all()


def test_a_servers_answers_are_kept_in_small_parts():
    local, served = (
        model_params(),
        model_params(backend="openai", base_url="http://127.0.0.1:9/v1", weights="hub", path="m"),
    )
    assert scoring.shard_rows(local) == scoring.SHARD_ROWS and scoring.shard_rows(served) < scoring.SHARD_ROWS / 4
