"""The paper's five claims as executable checks.

Each check is a function of the evidence and one ladder of sizes. It returns a verdict (supported, contradicted, cannot
tell), the numbers behind it and the test in words. "Cannot tell" is an answer: missing runs, too few sizes or an
interval that holds zero lead to it. A verdict speaks of the ladder it was computed on and of nothing else.
"""

import math
from dataclasses import asdict, dataclass, field, replace

import numpy as np
import pandas as pd

from emosafe_lib.evaluation.bootstrap import interval
from emosafe_lib.evaluation.metrics import METRIC_NAMES
from emosafe_lib.evaluation.paired_tests import Difference
from emosafe_lib.evaluation.results import Cell, Evidence, variants_asked
from emosafe_lib.evaluation.scaling import MIN_SIZES, SCALED_SETTINGS, kendall, with_runs
from emosafe_lib.models.capacity import memory_plan
from emosafe_lib.study.optional import ends_a_stage
from emosafe_lib.study.parameters import ModelParams, load_model
from emosafe_lib.study.taxonomy import CATEGORIES, TASKS

SUPPORTED, CONTRADICTED, CANNOT_TELL = "supported", "contradicted", "cannot tell"
# A pooled score of a merged corpus rewards guessing the source, so verdicts rest on the score within sources.
METRIC = "within_source_macro_f1"
MEMORY_LIMIT_GB = 2.0
MEMORY_MODEL = "llama-1b"
SEVERAL = 2
STATEMENTS = {
    "larger_is_stronger": "Larger models are stronger on average.",
    "most_in_categories_and_zero_shot": "Size helps most in the multi-label task and in zero-shot.",
    "tuned_small_is_level": "Light fine-tuning brings the smallest model level with larger ones and with BERT "
    "in several high-data categories.",
    "fits_two_gigabytes": "The 1B model needs less than 2 GB of memory at inference.",
    "small_is_viable": "A small on-device model is a viable, privacy-preserving choice.",
}
# The settings whose runs a claim looks at; the memory claim looks at none.
RESTS_ON = {
    "larger_is_stronger": SCALED_SETTINGS,
    "most_in_categories_and_zero_shot": SCALED_SETTINGS,
    "tuned_small_is_level": ("fine-tuned",),
    "fits_two_gigabytes": (),
    "small_is_viable": ("fine-tuned",),
}


@dataclass(frozen=True)
class Claim:
    """A checked claim.

    Attributes
    ----------
    claim : what the paper says
    ladder : the models that the verdict speaks of
    verdict : "supported", "contradicted" or "cannot tell"
    numbers : what the verdict rests on; None where undefined
    test : how it was decided, in words
    because : one sentence with the numbers
    missing : runs of the ladder that it had to do without, "model: task, setting"
    """

    claim: str
    ladder: str
    verdict: str
    numbers: dict = field(default_factory=dict)
    test: str = ""
    because: str = ""
    missing: list[str] = field(default_factory=list)


def check_all(evidence: Evidence, ladder: str) -> dict[str, Claim]:
    """The five claims for one ladder, by name."""
    claims = {
        "larger_is_stronger": larger_is_stronger(evidence, ladder),
        "most_in_categories_and_zero_shot": most_in_categories_and_zero_shot(evidence, ladder),
        "tuned_small_is_level": tuned_small_is_level(evidence, ladder),
        "fits_two_gigabytes": fits_two_gigabytes(),
        "small_is_viable": small_is_viable(evidence, ladder),
    }
    return {name: with_gaps(claim, gaps_of_claim(evidence, ladder, name)) for name, claim in claims.items()}


def gaps_of_claim(evidence: Evidence, ladder: str, name: str) -> list[str]:
    """The runs that a claim would rest on, were they not missing: "model: task, setting", in the order of the gaps."""
    gaps = evidence.gaps
    if gaps.empty or not RESTS_ON[name]:
        return []
    asked_beside = {variant for _, variant in variants_asked(evidence.study)}
    concerned = gaps["model"].isin(evidence.ladder(ladder)) & gaps["setting"].isin(RESTS_ON[name])
    own = gaps[concerned & ~gaps["missing"].isin(asked_beside)]
    return [f"{row.model}: {row.task}, {row.setting}" for row in own.itertuples()]


def with_gaps(claim: Claim, missing: list[str]) -> Claim:
    """A claim that says which runs it had to do without, and which models of them in its sentence."""
    models = list(dict.fromkeys(gap.partition(":")[0] for gap in missing))
    because = claim.because + (f"; runs are missing of {', '.join(models)}" if models else "")
    return replace(claim, missing=missing, because=because)


def as_json(checks: dict[str, dict[str, Claim]]) -> dict[str, dict]:
    """`claims.json`: claim name -> its fields; with a second ladder, its claims are named `<name>@<ladder>`."""
    found = {}
    for number, (ladder, claims) in enumerate(checks.items()):
        found |= {name if number == 0 else f"{name}@{ladder}": plain(asdict(claim)) for name, claim in claims.items()}
    return found


def plain(value):
    """JSON values: NaN becomes None, numpy numbers become Python's, rounded to six places."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float | np.floating):
        return None if math.isnan(value) else round(float(value), 6)
    return int(value) if isinstance(value, np.integer) else value


def numbers_of(found: Difference) -> dict:
    """A difference as numbers for `claims.json`."""
    return {"value": found.value, "low": found.low, "high": found.high, "p": found.p}


def spoken(found: Difference) -> str:
    """A difference as text: `+0.123 [0.100, 0.150]`."""
    return "undefined" if math.isnan(found.low) else f"{found.value:+.3f} [{found.low:.3f}, {found.high:.3f}]"


def verdict_of(*clear: int) -> str:
    """Supported if all signs are 1, contradicted if one is -1, else cannot tell."""
    if clear and all(sign == 1 for sign in clear):
        return SUPPORTED
    return CONTRADICTED if -1 in clear else CANNOT_TELL


def complete_settings(evidence: Evidence, models: list[str]) -> list[tuple[str, str]]:
    """Tasks and settings in which every one of these models has all its runs."""
    pairs = [(task, setting) for task in TASKS for setting in SCALED_SETTINGS]
    return [(task, setting) for task, setting in pairs if all(evidence.keys(Cell(m, task, setting)) for m in models)]


def present(evidence: Evidence, ladder: str) -> list[str]:
    """The ladder's models that have any complete run and a known size, from small to large."""
    models = evidence.ladder(ladder)
    found = {name for task in TASKS for s in SCALED_SETTINGS for name in with_runs(evidence, models, task, s)}
    return [name for name in models if name in found]


def cannot_tell(name: str, ladder: str, why: str, test: str) -> Claim:
    """A claim about which the evidence allows no statement."""
    return Claim(STATEMENTS[name], ladder, CANNOT_TELL, {}, test, why)


def larger_is_stronger(evidence: Evidence, ladder: str) -> Claim:
    """Claim 1: score averaged over tasks and settings; rank correlation with size, and largest against smallest."""
    name, models = "larger_is_stronger", present(evidence, ladder)
    test = "Kendall's tau of size and mean score, and largest minus smallest, both by paired bootstrap over groups"
    shared = complete_settings(evidence, models) if models else []
    if len(models) < MIN_SIZES or not shared:
        return cannot_tell(name, ladder, f"{len(models)} sizes of this ladder have runs, {MIN_SIZES} are needed", test)
    share = 1 / len(shared)
    means = [evidence_mean(evidence, model, shared) for model in models]
    gain = evidence.contrast(
        [(sign * share, Cell(m, t, s)) for m, sign in ((models[-1], 1), (models[0], -1)) for t, s in shared], METRIC
    )
    count = np.array([evidence.parameters[model] for model in models], float)
    values, draws = np.array([mean[0] for mean in means]), np.array([mean[1] for mean in means])
    low, high = interval(kendall(count, draws), evidence.study.analysis.confidence)
    tau = float(kendall(count, values))
    numbers = {"models": models, "mean_score": dict(zip(models, values, strict=True)), "metric": METRIC}
    numbers |= {"tau": tau, "tau_low": low, "tau_high": high, "largest_minus_smallest": numbers_of(gain)}
    numbers |= {"averaged_over": [f"{task}, {setting}" for task, setting in shared]}
    because = f"tau {tau:.2f} [{low:.2f}, {high:.2f}] over {len(models)} sizes; {models[-1]} minus {models[0]}: "
    verdict = verdict_of(int(low > 0) - int(high < 0), gain.clear)
    return Claim(STATEMENTS[name], ladder, verdict, numbers, test, because + spoken(gain))


def evidence_mean(evidence: Evidence, model: str, pairs: list[tuple[str, str]]) -> tuple[float, np.ndarray]:
    """A model's score averaged over tasks and settings, with its draws."""
    scores = [evidence.score(Cell(model, task, setting)) for task, setting in pairs]
    values = [score.values[METRIC, ""] for score in scores]
    return float(np.mean(values)), np.mean([score.draws[METRIC, ""] for score in scores], axis=0)


def most_in_categories_and_zero_shot(evidence: Evidence, ladder: str) -> Claim:
    """Claim 2: two differences of differences, each in plain F1 points of largest minus smallest."""
    name, models = "most_in_categories_and_zero_shot", present(evidence, ladder)
    test = "gain from size (largest minus smallest) in one task or setting minus the others, paired bootstrap"
    if len(models) < MIN_SIZES:
        return cannot_tell(name, ladder, f"{len(models)} sizes of this ladder have runs, {MIN_SIZES} are needed", test)
    small, large = models[0], models[-1]
    shared = complete_settings(evidence, [small, large])
    by_task = {task: [s for t, s in shared if t == task] for task in TASKS}
    both = [s for s in SCALED_SETTINGS if all(s in by_task[task] for task in TASKS)]
    others = [s for s in both if s != "zero-shot"]
    if "zero-shot" not in both or not others:
        return cannot_tell(name, ladder, "zero-shot and another setting are needed in both tasks", test)
    across_tasks = gain_terms(small, large, {("categories", s): 1 / len(both) for s in both}) + gain_terms(
        small, large, {("safety", s): -1 / len(both) for s in both}
    )
    across_settings = gain_terms(small, large, {(task, "zero-shot"): 1 / 2 for task in TASKS}) + gain_terms(
        small, large, {(task, s): -1 / (2 * len(others)) for task in TASKS for s in others}
    )
    first, second = evidence.contrast(across_tasks, METRIC), evidence.contrast(across_settings, METRIC)
    numbers = {"smallest": small, "largest": large, "metric": METRIC, "settings": both}
    numbers |= {"categories_minus_safety": numbers_of(first), "zero_shot_minus_others": numbers_of(second)}
    because = f"extra gain in categories {spoken(first)}, in zero-shot {spoken(second)}"
    return Claim(STATEMENTS[name], ladder, verdict_of(first.clear, second.clear), numbers, test, because)


def gain_terms(small: str, large: str, weights: dict[tuple[str, str], float]) -> list[tuple[float, Cell]]:
    """The terms of a weighted sum of gains, largest minus smallest, over (task, setting) pairs."""
    pairs = [(weight, task, setting) for (task, setting), weight in weights.items()]
    plus = [(weight, Cell(large, task, setting)) for weight, task, setting in pairs]
    return plus + [(-weight, Cell(small, task, setting)) for weight, task, setting in pairs]


def high_data_categories(evidence: Evidence) -> list[str]:
    """The half of the categories with the most known positives in training."""
    ranked = sorted(CATEGORIES, key=lambda name: -evidence.support[name])
    return [name for name in ranked[: len(CATEGORIES) // 2] if evidence.support[name]]


def tuned_small_is_level(evidence: Evidence, ladder: str) -> Claim:
    """Claim 3: non-inferiority of the smallest fine-tuned model, category by category, within the study's margin."""
    name, models = "tuned_small_is_level", present(evidence, ladder)
    margin = evidence.study.analysis.margin
    test = (
        f"F1 of the smallest fine-tuned model minus each fine-tuned rival's; level if its interval is above -{margin}"
    )
    encoders = [m for m in evidence.models if evidence.family(m) == "encoder"]
    rivals = [m for m in [*models[1:], *encoders] if evidence.keys(Cell(m, "categories", "fine-tuned"))]
    own = Cell(models[0], "categories", "fine-tuned") if models else None
    have_larger, have_encoder = any(m in models for m in rivals), any(m in encoders for m in rivals)
    if own is None or not evidence.keys(own) or not have_larger or not have_encoder:
        return cannot_tell(
            name, ladder, "fine-tuned runs of the smallest, a larger and an encoder model are needed", test
        )
    categories = high_data_categories(evidence)
    if len(categories) < SEVERAL:
        why = f"{len(categories)} high-data categories have positive training rows, {SEVERAL} are needed"
        return cannot_tell(name, ladder, why, test)
    numbers, level, behind = {"margin": margin, "smallest": models[0], "categories": {}}, [], []
    for category in categories:
        found = {m: evidence.contrast([(1, own), (-1, own._replace(model=m))], "f1", category) for m in rivals}
        numbers["categories"][category] = {m: numbers_of(difference) for m, difference in found.items()}
        if all(difference.low > -margin for difference in found.values()):
            level.append(category)
        if any(difference.high < -margin for difference in found.values()):
            behind.append(category)
    numbers |= {"level": level, "behind": behind}
    possible = len(numbers["categories"]) - len(behind)
    verdict = SUPPORTED if len(level) >= SEVERAL else CONTRADICTED if possible < SEVERAL else CANNOT_TELL
    because = (
        f"level in {len(level)}, clearly behind in {len(behind)} of {len(numbers['categories'])} high-data categories"
    )
    return Claim(STATEMENTS[name], ladder, verdict, numbers, test, f"{because}, against {', '.join(rivals)}")


def fits_two_gigabytes(model: ModelParams | None = None) -> Claim:
    """Claim 4: bytes that inference needs at a model's true shape, batch 1, 256 tokens; the 1B model where omitted.

    Computed, not measured, and independent of any score: the verdict speaks of that shape, whatever ladder was run.
    """
    model = model or load_model(MEMORY_MODEL)
    name, ladder = "fits_two_gigabytes", f"shape of {model.name}"
    test = f"computed memory of {model.name} at its true shape, by precision: one of them under {MEMORY_LIMIT_GB:g} GB"
    try:
        plan = memory_plan(model)
    except Exception as error:  # a claim that cannot be worked out here is no reason to lose the others
        if ends_a_stage(error):
            raise
        return cannot_tell(name, ladder, f"no memory plan: {type(error).__name__}", test)
    gigabytes = {row["dtype"]: row["total"] / 1e9 for _, row in plan.iterrows()}
    below = [dtype for dtype, size in gigabytes.items() if size < MEMORY_LIMIT_GB]
    first = plan.iloc[0]
    numbers = {"gigabytes": gigabytes, "limit": MEMORY_LIMIT_GB, "below": below, "basis": first["basis"]}
    numbers |= {"model": first["model"], "batch": first["batch"], "tokens": first["length"]}
    because = ", ".join(f"{dtype} {size:.2f} GB" for dtype, size in gigabytes.items())
    return Claim(STATEMENTS[name], ladder, SUPPORTED if below else CONTRADICTED, numbers, test, because)


def small_is_viable(evidence: Evidence, ladder: str) -> Claim:
    """Claim 5: the smallest fine-tuned model beats TF-IDF, is no worse than the encoder and the largest model in safety
    and in recall of unsafe messages, and fits (claim 4's test on it). Privacy follows from running locally and is no
    question of scores.
    """
    name, models = "small_is_viable", present(evidence, ladder)
    margin = evidence.study.analysis.margin
    test = (
        f"smallest fine-tuned model on safety: above TF-IDF, within {margin} of each encoder and of the largest model "
        "in macro-F1 and in unsafe recall; and under 2 GB of memory"
    )
    encoders = [m for m in evidence.models if evidence.family(m) == "encoder"]
    own = Cell(models[0], "safety", "fine-tuned") if models else None
    if own is None or len(models) < 2 or not evidence.keys(own):
        return cannot_tell(name, ladder, "a fine-tuned run of the smallest and of a larger model is needed", test)
    over = evidence.contrast([(1, own), (-1, Cell("tfidf", "safety", "baseline"))], METRIC)
    rivals = [m for m in [models[-1], *encoders] if evidence.keys(own._replace(model=m))]
    untrained = [m for m in [models[-1], *(encoders or ["an encoder"])] if m not in rivals]
    if over is None or not rivals:
        return cannot_tell(name, ladder, "the TF-IDF baseline and a fine-tuned rival are needed", test)
    gaps = {
        f"{METRIC_NAMES[metric]} against {m}": evidence.contrast([(1, own), (-1, own._replace(model=m))], metric)
        for m in rivals
        for metric in (METRIC, "unsafe_recall")
    }
    clear = [int(gap.low > -margin) - int(gap.high < -margin) for gap in gaps.values()]
    memory = fits_two_gigabytes(evidence.models[models[0]])
    fits = {SUPPORTED: 1, CONTRADICTED: -1}.get(memory.verdict, 0)
    numbers = {"margin": margin, "over_tfidf": numbers_of(over), "memory": memory.verdict, "metric": METRIC}
    numbers |= {"against": {key: numbers_of(gap) for key, gap in gaps.items()}}
    because = f"{models[0]} minus TF-IDF {spoken(over)}; its " + "; ".join(f"{k} {spoken(g)}" for k, g in gaps.items())
    if untrained:
        because += f"; not trained: {', '.join(untrained)}"
    verdict = verdict_of(over.clear, fits, *clear, *(0 for _ in untrained))
    return Claim(STATEMENTS[name], ladder, verdict, numbers, test, because)


ANCHORS = (
    ("Dreaddit", "weighted F1", "MentalRoBERTa", 0.818),
    ("Dreaddit", "weighted F1", "MentaLLaMA-13B", 0.758),
    ("Dreaddit", "weighted F1", "ChatGPT zero-shot", 0.718),
    ("Dreaddit", "weighted F1", "TF-IDF + logistic regression", 0.706),
    ("DepressionEmo", "macro-F1", "BERT", 0.76),
    ("HateXplain", "accuracy", "BERT", 0.690),
    ("HateXplain", "macro-F1", "BERT", 0.674),
    ("HateXplain", "AUROC", "BERT", 0.843),
    ("OpenAI moderation set", "AUPRC", "Llama Guard 1", 0.847),
    ("ToxicChat", "AUPRC", "Llama Guard 1", 0.626),
    ("XSTest", "F1", "Llama Guard 3 8B", 0.884),
    ("XSTest", "F1", "Llama Guard 3 1B", 0.821),
    ("XSTest", "F1", "Llama Guard 3 1B-INT4", 0.737),
)


def anchors() -> pd.DataFrame:
    """Published numbers to hold ours against: other people's models on other data, never comparable row by row."""
    table = pd.DataFrame(ANCHORS, columns=["data", "metric", "model", "value"])
    return table.assign(whose="published by others, on other data")


def claims_table(claims: dict[str, Claim]) -> pd.DataFrame:
    """The claims for a reader: what the paper says, the verdict, the numbers, the test."""
    rows = [(claim.claim, claim.ladder, claim.verdict, claim.because, claim.test) for claim in claims.values()]
    return pd.DataFrame(rows, columns=["claim", "ladder", "verdict", "because", "test"])
