"""The paper's five claims as executable checks.

Each check is a function of the evidence, one ladder of sizes and a yardstick. It returns a verdict (supported,
contradicted, cannot tell), the numbers behind it and the test in words. Every claim is measured twice: by the paper's own
words (accuracy, its three categories, the large model shown examples) and by a stricter yardstick, under which neither
the majority answer nor a source's name earns much. "Cannot tell" is an answer: missing runs, too few sizes or an
interval that holds zero lead to it, and `reason` says why. A verdict speaks of the ladder it was computed on and of
nothing else.
"""

import math
from dataclasses import asdict, dataclass, field, replace

import numpy as np
import pandas as pd

from emosafe_lib.evaluation import paper, power
from emosafe_lib.evaluation.bootstrap import interval
from emosafe_lib.evaluation.intervals import side_of_zero, with_interval
from emosafe_lib.evaluation.metrics import METRIC_NAMES
from emosafe_lib.evaluation.paired_tests import Difference
from emosafe_lib.evaluation.results import Cell, Evidence, variants_asked
from emosafe_lib.evaluation.scaling import MIN_SIZES, SCALED_SETTINGS, kendall, with_runs
from emosafe_lib.models.capacity import memory_plan
from emosafe_lib.study.optional import ends_a_stage
from emosafe_lib.study.parameters import ModelParams, load_model
from emosafe_lib.study.taxonomy import CATEGORIES, TASKS

SUPPORTED, CONTRADICTED, CANNOT_TELL = "supported", "contradicted", "cannot tell"
NO_RUNS, NO_PLAN = "runs missing", "no memory plan"
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
NEEDS_CATEGORIES = ("most_in_categories_and_zero_shot", "tuned_small_is_level")
NOT_ASKED = "the categories were not asked in this study"


@dataclass(frozen=True)
class Yardstick:
    """What "stronger" and "level" mean.

    Attributes
    ----------
    metric : of a task as a whole, in claims 1, 2 and 5
    label_metric : of one category, in claim 3
    also : further metrics of safety that claim 5 asks for
    categories : the high-data categories; empty for the half with the most positive training rows
    settings : that claims 1 and 2 average over
    words : whether rivals are the paper's: the largest model shown examples and BERT. Otherwise they are every larger
        model and the encoder, fine-tuned like the smallest, and TF-IDF must be beaten
    """

    metric: str
    label_metric: str
    also: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    settings: tuple[str, ...] = SCALED_SETTINGS
    words: bool = False


PAPER = Yardstick("accuracy", "accuracy", categories=paper.NAMED, settings=paper.SETTINGS, words=True)
# A pooled score of a merged corpus rewards guessing the source, so strict verdicts rest on the score within sources.
STRICT = Yardstick("within_source_macro_f1", "f1", also=("unsafe_recall",))
ON_ALL_SETTINGS = ("larger_is_stronger", "most_in_categories_and_zero_shot")
ON_NO_RUNS = ("fits_two_gigabytes",)


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
    reason : why it cannot be told: "runs missing", "no memory plan", "underpowered", "near the margin", "ranks not
        settled" or "level"; empty for any other verdict
    power : what the test could have shown: `detectable` differences and the `chance` of a verdict within the margin
    paper : the same claim measured by the paper's own words
    """

    claim: str
    ladder: str
    verdict: str
    numbers: dict = field(default_factory=dict)
    test: str = ""
    because: str = ""
    missing: list[str] = field(default_factory=list)
    reason: str = ""
    power: dict = field(default_factory=dict)
    paper: "Claim | None" = None


def check_all(evidence: Evidence, ladder: str) -> dict[str, Claim]:
    """The five claims for one ladder, by name, each by the strict yardstick with the paper's own beside it."""
    strict, words = (measured_by(evidence, ladder, yardstick) for yardstick in (STRICT, PAPER))
    return {name: replace(claim, paper=words[name]) for name, claim in strict.items()}


def measured_by(evidence: Evidence, ladder: str, yardstick: Yardstick) -> dict[str, Claim]:
    """The five claims for one ladder by one yardstick."""
    claims = {
        "larger_is_stronger": larger_is_stronger(evidence, ladder, yardstick),
        "most_in_categories_and_zero_shot": most_in_categories_and_zero_shot(evidence, ladder, yardstick),
        "tuned_small_is_level": tuned_small_is_level(evidence, ladder, yardstick),
        "fits_two_gigabytes": fits_two_gigabytes(),
        "small_is_viable": small_is_viable(evidence, ladder, yardstick),
    }
    if "categories" not in evidence.tasks:
        claims |= {name: cannot_tell(name, ladder, NOT_ASKED, claims[name].test) for name in NEEDS_CATEGORIES}
    return {name: with_gaps(claim, gaps_of_claim(evidence, ladder, name, yardstick)) for name, claim in claims.items()}


def rests_on(name: str, yardstick: Yardstick) -> tuple[str, ...]:
    """The settings whose runs a claim looks at."""
    if name in ON_NO_RUNS:
        return ()
    return yardstick.settings if name in ON_ALL_SETTINGS else ("fine-tuned", *(["few-shot"] if yardstick.words else []))


def gaps_of_claim(evidence: Evidence, ladder: str, name: str, yardstick: Yardstick) -> list[str]:
    """The runs that a claim would rest on, were they not missing: "model: task, setting", in the order of the gaps."""
    models, settings = evidence.ladder(ladder), rests_on(name, yardstick)
    beside = {(model, variant) for model in models for _, variant in variants_asked(evidence.study.for_model(model))}
    return [
        f"{row.model}: {row.task}, {row.setting}"
        for row in evidence.gaps.itertuples()
        if row.model in models and row.setting in settings and (row.model, row.missing) not in beside
    ]


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


def numbers_of(evidence: Evidence, found: Difference) -> dict:
    """A difference as numbers for `claims.json`, with the smallest true one that would have been found."""
    numbers = {"value": found.value, "low": found.low, "high": found.high, "p": found.p}
    detectable = power.detectable(found.error, confidence=evidence.study.analysis.confidence)
    return numbers | {"detectable": float(detectable)}


def spoken(found: Difference) -> str:
    """A difference as text: `+0.123 [0.100, 0.150]`."""
    return with_interval(found.value, found.low, found.high, "+.3f")


def verdict_of(*clear: int) -> str:
    """Supported if all signs are 1, contradicted if one is -1, else cannot tell."""
    if clear and all(sign == 1 for sign in clear):
        return SUPPORTED
    return CONTRADICTED if -1 in clear else CANNOT_TELL


def complete_settings(evidence: Evidence, models: list[str], yardstick: Yardstick) -> list[tuple[str, str]]:
    """Tasks and, of a yardstick's settings, those in which every one of these models has all its runs and a defined score:
    one that is undefined, as where no source has rows enough, would make every average with it undefined too.
    """
    pairs = [(task, setting) for task in TASKS for setting in yardstick.settings]
    cells = {pair: [Cell(model, *pair) for model in models] for pair in pairs}
    whole = {pair: each for pair, each in cells.items() if all(map(evidence.keys, each))}
    return [pair for pair, each in whole.items() if are_defined(evidence, each, yardstick.metric)]


def are_defined(evidence: Evidence, cells: list[Cell], metric: str) -> bool:
    """Whether these cells all have a score on the rows that all of them answered."""
    rows = evidence.answered(*cells)
    scores = [evidence.contrast([(1, cell)], metric, mask=rows) for cell in cells] if rows.any() else [None]
    return all(score is not None and not math.isnan(score.value) for score in scores)


def present(evidence: Evidence, ladder: str) -> list[str]:
    """The ladder's models that have any complete run and a known size, from small to large."""
    models = evidence.ladder(ladder)
    found = {name for task in TASKS for s in SCALED_SETTINGS for name in with_runs(evidence, models, task, s)}
    return [name for name in models if name in found]


def cannot_tell(name: str, ladder: str, why: str, test: str, reason: str = NO_RUNS) -> Claim:
    """A claim about which the evidence allows no statement."""
    return Claim(STATEMENTS[name], ladder, CANNOT_TELL, {}, test, why, reason=reason)


def settled(
    name: str, ladder: str, verdict: str, numbers: dict, test: str, because: str, chance: float, why: str = ""
) -> Claim:
    """A claim that was tested; an open one says why: `why`, or how small the chance of showing it was."""
    told = "" if why or math.isnan(chance) else f": a chance of at most {chance:.0%} to show it"
    why = (why or power.reason(chance)) if verdict == CANNOT_TELL else ""
    because += f"; {why}{told}" if why else ""
    numbers_of_power = {"chance": chance, "power": power.POWER}
    return Claim(STATEMENTS[name], ladder, verdict, numbers, test, because, reason=why, power=numbers_of_power)


def chance_of_margin(evidence: Evidence, *found: Difference) -> float:
    """The chance that these tests would all have found differences as large as the study's margin.

    An interval around a true difference of the margin is above zero exactly where one around none is above -margin.
    """
    settings = evidence.study.analysis
    draws = np.stack([each.draws for each in found], axis=1)[:, None, :]
    return power.chance_of_level(draws, settings.margin, settings.confidence)


def level_or_open(evidence: Evidence, *found: Difference) -> str:
    """The reason "level" where all differences that were not told apart lie within the study's margin, else none."""
    margin = evidence.study.analysis.margin
    return power.LEVEL if all(-margin < each.low and each.high < margin for each in found if not each.clear) else ""


def too_few(models: list[str]) -> str:
    """Why a ladder on which so few models have runs tells nothing about size."""
    return f"{len(models)} size{'s' * (len(models) != 1)} of this ladder with runs, {MIN_SIZES} are needed"


def larger_is_stronger(evidence: Evidence, ladder: str, yardstick: Yardstick = STRICT) -> Claim:
    """Claim 1: score averaged over tasks and settings; rank correlation with size, and largest against smallest."""
    name, models, metric = "larger_is_stronger", present(evidence, ladder), yardstick.metric
    test = (
        f"Kendall's tau of size and mean {spelled(metric)}, and largest minus smallest, by paired bootstrap over groups"
    )
    if len(models) < MIN_SIZES:
        return cannot_tell(name, ladder, too_few(models), test)
    shared = complete_settings(evidence, models, yardstick)
    if not shared:
        return cannot_tell(name, ladder, "in no task and setting do all sizes have runs with a defined score", test)
    share = 1 / len(shared)
    rows = evidence.answered(*(Cell(model, t, s) for model in models for t, s in shared))
    means = [evidence.contrast([(share, Cell(m, t, s)) for t, s in shared], metric, mask=rows) for m in models]
    ends = ((models[-1], share), (models[0], -share))
    gain = evidence.contrast([(weight, Cell(m, t, s)) for m, weight in ends for t, s in shared], metric, mask=rows)
    count = np.array([evidence.parameters[model] for model in models], float)
    values, draws = np.array([mean.value for mean in means]), np.array([mean.draws for mean in means])
    low, high = interval(kendall(count, draws), evidence.study.analysis.confidence)
    tau = float(kendall(count, values))
    numbers = {"models": models, "mean_score": dict(zip(models, values, strict=True)), "metric": metric}
    numbers |= {"tau": tau, "tau_low": low, "tau_high": high, "largest_minus_smallest": numbers_of(evidence, gain)}
    numbers |= {"averaged_over": [f"{task}, {setting}" for task, setting in shared]}
    asked = len(evidence.tasks) * len(yardstick.settings)
    pairs = f" and over {len(shared)} of {asked} task and setting pairs" if len(shared) < asked else ""
    because = f"tau {tau:.2f} [{low:.2f}, {high:.2f}] over {len(models)} sizes{pairs}; {models[-1]} minus {models[0]}: "
    verdict, chance = verdict_of(side_of_zero(low, high), gain.clear), chance_of_margin(evidence, gain)
    # Where the ends were told apart, the power to do so was not what was lacking.
    why = power.UNSETTLED_RANKS if gain.clear else level_or_open(evidence, gain)
    return settled(name, ladder, verdict, numbers, test, because + spoken(gain), chance, why)


def most_in_categories_and_zero_shot(evidence: Evidence, ladder: str, yardstick: Yardstick = STRICT) -> Claim:
    """Claim 2: two differences of differences, each in plain points of largest minus smallest, where size helps at all: the
    gain in the multi-label task and that in zero-shot must be gains themselves.
    """
    name, models = "most_in_categories_and_zero_shot", present(evidence, ladder)
    test = (
        f"gain from size in {spelled(yardstick.metric)} (largest minus smallest) in one task or setting, and that minus the "
        "others', all above zero, paired bootstrap"
    )
    if len(models) < MIN_SIZES:
        return cannot_tell(name, ladder, too_few(models), test)
    small, large = models[0], models[-1]
    shared = complete_settings(evidence, [small, large], yardstick)
    by_task = {task: [s for t, s in shared if t == task] for task in TASKS}
    both = [s for s in yardstick.settings if all(s in by_task[task] for task in TASKS)]
    others = [s for s in both if s != "zero-shot"]
    if "zero-shot" not in both or not others:
        return cannot_tell(
            name, ladder, "zero-shot and another setting, with defined scores, are needed in both tasks", test
        )
    in_categories = gain_terms(small, large, {("categories", s): 1 / len(both) for s in both})
    in_safety = gain_terms(small, large, {("safety", s): -1 / len(both) for s in both})
    zero_shot = gain_terms(small, large, {(task, "zero-shot"): 1 / 2 for task in TASKS})
    elsewhere = gain_terms(small, large, {(task, s): -1 / (2 * len(others)) for task in TASKS for s in others})
    terms = {"categories_minus_safety": in_categories + in_safety, "zero_shot_minus_others": zero_shot + elsewhere}
    terms |= {"gain_in_categories": in_categories, "gain_in_zero_shot": zero_shot}
    found = {key: evidence.contrast(sides, yardstick.metric) for key, sides in terms.items()}
    numbers = {"smallest": small, "largest": large, "metric": yardstick.metric, "settings": both}
    numbers |= {key: numbers_of(evidence, each) for key, each in found.items()}
    tasks, settings, *gains = (spoken(each) for each in found.values())
    because = f"extra gain in categories {tasks}, in zero-shot {settings}; the gains there {' and '.join(gains)}"
    verdict = verdict_of(*(each.clear for each in found.values()))
    chance, why = chance_of_margin(evidence, *found.values()), level_or_open(evidence, *found.values())
    return settled(name, ladder, verdict, numbers, test, because, chance, why)


def gain_terms(small: str, large: str, weights: dict[tuple[str, str], float]) -> list[tuple[float, Cell]]:
    """The terms of a weighted sum of gains, largest minus smallest, over (task, setting) pairs."""
    pairs = [(weight, task, setting) for (task, setting), weight in weights.items()]
    plus = [(weight, Cell(large, task, setting)) for weight, task, setting in pairs]
    return plus + [(-weight, Cell(small, task, setting)) for weight, task, setting in pairs]


def spelled(metric: str) -> str:
    """A metric's name in a sentence."""
    return METRIC_NAMES.get(metric, metric)


def rivals_of(evidence: Evidence, ladder: str, own: Cell, words: bool) -> dict[str, Cell]:
    """Whom the smallest trained model is held against, by the name that tables give them; some may have no runs."""
    models, encoders = present(evidence, ladder), [name for name in evidence.encoders if name != own.model]
    if not words:
        return {m: own._replace(model=m) for m in [*models[1:], *encoders]}
    large = {m: paper.shown_examples(evidence, m, own.task) for m in models[1:][-1:]}
    shown = {f"{m}, {cell.setting}": cell for m, cell in large.items()}
    return shown | {m: own._replace(model=m) for m in encoders}


def training_rows(evidence: Evidence, *cells: Cell) -> str:
    """On how many rows at most each of these was trained, for a claim's sentence; empty where they had the same number."""
    trained = [cell.model for cell in cells if cell.setting in ("fine-tuned", "baseline")]
    most = {name: evidence.study.for_model(name).finetuning.train_rows for name in trained}
    told = ", ".join(f"{name} {'all' if rows is None else f'{rows:,}'}" for name, rows in most.items())
    return f"; training rows at most: {told}" if len(set(most.values())) > 1 else ""


def high_data_categories(evidence: Evidence, yardstick: Yardstick = STRICT) -> list[str]:
    """The categories that the paper names, or the half with the most known positives in training."""
    if yardstick.categories:
        return [name for name in yardstick.categories if evidence.support[name]]
    ranked = sorted(CATEGORIES, key=lambda name: -evidence.support[name])
    return [name for name in ranked[: len(CATEGORIES) // 2] if evidence.support[name]]


def tuned_small_is_level(evidence: Evidence, ladder: str, yardstick: Yardstick = STRICT) -> Claim:
    """Claim 3: non-inferiority of the smallest fine-tuned model, category by category, within the study's margin."""
    name, models, metric = "tuned_small_is_level", present(evidence, ladder), yardstick.label_metric
    settings = evidence.study.analysis
    margin = settings.margin
    whose = "the largest's that was shown examples and the encoder's" if yardstick.words else "each fine-tuned rival's"
    test = (
        f"{'F1' if metric == 'f1' else metric} of the smallest fine-tuned model minus {whose}; level if its interval "
    )
    test += f"is above -{margin}"
    own = Cell(models[0], "categories", "fine-tuned") if models else None
    rivals = (
        {m: cell for m, cell in rivals_of(evidence, ladder, own, yardstick.words).items() if evidence.keys(cell)}
        if own
        else {}
    )
    have_larger = any(cell.model in models[1:] for cell in rivals.values())
    have_encoder = any(evidence.family(cell.model) == "encoder" for cell in rivals.values())
    if own is None or not evidence.keys(own) or not have_larger or not have_encoder:
        return cannot_tell(
            name, ladder, "fine-tuned runs of the smallest, a larger and an encoder model are needed", test
        )
    categories = high_data_categories(evidence, yardstick)
    if len(categories) < SEVERAL:
        why = f"{len(categories)} high-data categories have positive training rows, {SEVERAL} are needed"
        return cannot_tell(name, ladder, why, test)
    found = {
        category: {m: evidence.contrast([(1, own), (-1, cell)], metric, category) for m, cell in rivals.items()}
        for category in categories
    }
    level = [c for c, gaps in found.items() if all(gap.low > -margin for gap in gaps.values())]
    behind = [c for c, gaps in found.items() if any(gap.high < -margin for gap in gaps.values())]
    numbers = {"margin": margin, "smallest": models[0], "metric": metric, "level": level, "behind": behind}
    numbers["categories"] = {c: {m: numbers_of(evidence, gap) for m, gap in gaps.items()} for c, gaps in found.items()}
    possible = len(found) - len(behind)
    verdict = SUPPORTED if len(level) >= SEVERAL else CONTRADICTED if possible < SEVERAL else CANNOT_TELL
    because = f"level in {len(level)}, clearly behind in {len(behind)} of {len(found)} high-data categories "
    because += f"({', '.join(found).replace('_', ' ')}), against {', '.join(rivals)}"
    because += training_rows(evidence, own, *rivals.values())
    draws = np.stack([np.stack([gap.draws for gap in gaps.values()], axis=1) for gaps in found.values()], axis=1)
    chance = power.chance_of_level(draws, margin, settings.confidence, SEVERAL)
    return settled(name, ladder, verdict, numbers, test, because, chance)


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
        return cannot_tell(name, ladder, f"{NO_PLAN}: {type(error).__name__}", test, NO_PLAN)
    gigabytes = {row["dtype"]: row["total"] / 1e9 for _, row in plan.iterrows()}
    below = [dtype for dtype, size in gigabytes.items() if size < MEMORY_LIMIT_GB]
    first = plan.iloc[0]
    numbers = {"gigabytes": gigabytes, "limit": MEMORY_LIMIT_GB, "below": below, "basis": first["basis"]}
    numbers |= {"model": first["model"], "batch": first["batch"], "tokens": first["length"]}
    because = ", ".join(f"{dtype} {size:.2f} GB" for dtype, size in gigabytes.items())
    return Claim(STATEMENTS[name], ladder, SUPPORTED if below else CONTRADICTED, numbers, test, because)


def small_is_viable(evidence: Evidence, ladder: str, yardstick: Yardstick = STRICT) -> Claim:
    """Claim 5: the smallest fine-tuned model is no worse on safety than the encoder and the largest model, and fits
    (claim 4's test on it); the strict yardstick also asks that it beat TF-IDF and miss no more unsafe messages. Privacy
    follows from running locally and is no question of scores.
    """
    name, models, metric = "small_is_viable", present(evidence, ladder), yardstick.metric
    settings = evidence.study.analysis
    margin, asked = settings.margin, (metric, *yardstick.also)
    baseline, largest = ("", "that was shown examples") if yardstick.words else ("above TF-IDF, ", "so trained")
    test = (
        f"smallest fine-tuned model on safety: {baseline}within {margin} of each fine-tuned encoder and of the largest "
        f"model {largest} in {' and in '.join(spelled(m) for m in asked)}; and under 2 GB of memory"
    )
    own = Cell(models[0], "safety", "fine-tuned") if models else None
    if own is None or len(models) < 2 or not evidence.keys(own):
        return cannot_tell(name, ladder, "a fine-tuned run of the smallest and of a larger model is needed", test)
    wanted = rivals_of(evidence, ladder, own, yardstick.words)
    wanted = {m: cell for m, cell in wanted.items() if cell.model not in models[1:-1]}
    rivals = {m: cell for m, cell in wanted.items() if evidence.keys(cell)}
    untrained = [m for m in wanted if m not in rivals]
    untrained += [] if any(evidence.family(cell.model) == "encoder" for cell in wanted.values()) else ["an encoder"]
    over_cell = Cell("tfidf", "safety", "baseline")
    over = evidence.contrast([(1, own), (-1, over_cell)], metric)
    if over is None or not rivals:
        return cannot_tell(name, ladder, "the TF-IDF baseline and a fine-tuned rival are needed", test)
    gaps = {
        f"{spelled(each)} against {m}": evidence.contrast([(1, own), (-1, cell)], each)
        for m, cell in rivals.items()
        for each in asked
    }
    clear = [int(gap.low > -margin) - int(gap.high < -margin) for gap in gaps.values()]
    memory = fits_two_gigabytes(evidence.models[models[0]])
    fits = {SUPPORTED: 1, CONTRADICTED: -1}.get(memory.verdict, 0)
    numbers = {"margin": margin, "over_tfidf": numbers_of(evidence, over), "memory": memory.verdict, "metric": metric}
    numbers |= {"against": {key: numbers_of(evidence, gap) for key, gap in gaps.items()}}
    because = f"{models[0]}'s " + "; ".join(f"{k} {spoken(g)}" for k, g in gaps.items())
    because += "" if yardstick.words else f"; its {spelled(metric)} minus that of TF-IDF {spoken(over)}"
    if untrained:
        because += f"; not run: {', '.join(untrained)}"
    because += training_rows(evidence, own, *rivals.values(), *(() if yardstick.words else (over_cell,)))
    above = () if yardstick.words else (over.clear,)
    verdict = verdict_of(*above, fits, *clear, *(0 for _ in untrained))
    chance = chance_of_margin(evidence, *gaps.values(), *(() if yardstick.words else (over,)))
    why = NO_RUNS if untrained else NO_PLAN if not fits else ""
    return settled(name, ladder, verdict, numbers, test, because, chance, why)


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
    """The claims for a reader: what the paper says, both verdicts, why an open one is open, the numbers, the test.

    `verdict` is the strict one; `in_its_words` is measured as the paper measures.
    """
    columns = ["claim", "ladder", "in_its_words", "verdict", "reason", "because", "because_in_its_words", "test"]
    rows = []
    for claim in claims.values():
        words = claim.paper or claim
        facts = (claim.reason, claim.because, words.because, claim.test)
        rows.append((claim.claim, claim.ladder, words.verdict, claim.verdict, *facts))
    return pd.DataFrame(rows, columns=columns)
