"""What a model has to beat: seven baselines that know next to nothing, or next to no language.

A merged corpus gives itself away. Its sources differ in labels, length and topic, so the name of a text's source, or
how long it is, already predicts a good part of a pooled score. These baselines put a number on that, and TF-IDF with
logistic regression says what counting words achieves. Each is a function `fit(train, task)` that returns a function
`predict(rows)` of probabilities, (n, 3) for safety or (n, 6) for categories.
"""

from collections.abc import Callable

import numpy as np
import pandas as pd

from emosafe_lib.evaluation import predictions
from emosafe_lib.evaluation.calibration import fit_thresholds
from emosafe_lib.evaluation.metrics import safety_levels
from emosafe_lib.study.rows import category_matrix, held_by, known_matrix, take, tasks_asked
from emosafe_lib.study.taxonomy import CATEGORIES, LEFT_OUT, SAFETY_LEVELS

Predictor = Callable[[pd.DataFrame], np.ndarray]

# Words that name a risk or a distress, chosen by hand before any score was seen. Such a list is what a first filter
# in production often is; it knows neither negation nor context, and that is the point of having it here.
LEXICON = {
    "violence_hate": "kill murder attack beat hurt punch stab hate threat threaten violent violence racist vermin "
    "disgusting revenge destroy lynch",
    "sexual_content": "sex sexual sexy naked nude nudes porn orgasm erotic intimate horny fetish seduce",
    "guns_illegal_weapons": "gun guns rifle pistol firearm ammo ammunition bomb explosive explosives weapon weapons "
    "silencer grenade shotgun bullets",
    "regulated_substances": "drug drugs alcohol drunk drinking beer vodka weed cannabis marijuana cocaine heroin meth "
    "opioid opioids pills smoking cigarettes nicotine vape overdose addicted addiction",
    "suicide_self_harm": "suicide suicidal kill_myself end_my end_it die dying dead self_harm hurt_myself cut_myself "
    "cutting want_die worthless better_off",
    "criminal_planning": "steal stealing theft rob robbery fraud scam hack hacking launder counterfeit smuggle "
    "traffic trafficking kidnap blackmail forge fake_id break_into burglary",
}
DISTRESS = (
    "sad depressed depression anxious anxiety panic stress stressed lonely alone cry crying afraid scared angry "
    "hopeless helpless overwhelmed exhausted ashamed guilty guilt grief hurt broken empty numb tired struggling worried"
)
HITS_FOR_EVEN_ODDS = 1.0
MOST_WORDS = 20_000
FEW_TEXTS = 20


def fit_majority(train: pd.DataFrame, task: str) -> Predictor:
    """Every text gets the class shares of the training rows, so the commonest level, and a category only where
    at least half of the rows that were asked about it have it."""
    shares = label_shares(train, task)
    return lambda rows: np.tile(shares, (len(rows), 1))


def fit_always(answer: float) -> Callable[[pd.DataFrame, str], Predictor]:
    """A filter that reads nothing: every message is unsafe and touches every category (1.0), or is safe and touches none."""

    def fit(train: pd.DataFrame, task: str) -> Predictor:
        row = [1 - answer, 0.0, answer] if task == "safety" else [answer] * len(CATEGORIES)
        return lambda rows: np.tile(row, (len(rows), 1))

    return fit


def fit_source(train: pd.DataFrame, task: str) -> Predictor:
    """Every text gets the class shares of its source; a source that training never saw, those of all rows."""
    overall = label_shares(train, task)
    shares = {name: label_shares(part, task, overall) for name, part in train.groupby("source")}
    return lambda rows: np.array([shares.get(name, overall) for name in rows["source"]]).reshape(len(rows), -1)


def label_shares(rows: pd.DataFrame, task: str, prior: np.ndarray | None = None) -> np.ndarray:
    """Shares of the three levels, or of the positives among known cells of the six categories.

    `prior` counts as one row, and stands in for a category that these rows know nothing about.
    """
    if task == "safety":
        hits, asked = np.bincount(safety_levels(rows), minlength=len(SAFETY_LEVELS)), len(rows)
    else:
        known = known_matrix(rows)
        hits, asked = (category_matrix(rows) & known).sum(axis=0), known.sum(axis=0)
    if prior is None:
        return hits / np.maximum(asked, 1)
    return (hits + prior) / (asked + 1)


def fit_length(train: pd.DataFrame, task: str) -> Predictor:
    """Logistic regression on the number of words and characters alone, each as logarithm and its square."""
    from sklearn.preprocessing import StandardScaler

    return fit_linear(train, task, StandardScaler(), text_lengths, strength=1.0)


def text_lengths(texts: pd.Series) -> np.ndarray:
    """Array (n, 4): logarithms of word and character counts, and their squares."""
    logs = np.log1p(np.stack([texts.str.split().str.len(), texts.str.len()], axis=1).astype(float))
    return np.hstack([logs, logs**2])


def fit_keyword(train: pd.DataFrame, task: str) -> Predictor:
    """Count the words of `LEXICON` and `DISTRESS`; nothing is learned from the training rows."""
    return lambda rows: keyword_probabilities(rows["text"], task)


def keyword_probabilities(texts: pd.Series, task: str) -> np.ndarray:
    """From hits to probabilities: one hit makes a category even odds; a risk word outweighs a word of distress."""
    hits = np.stack([keyword_hits(texts, LEXICON[name]) for name in CATEGORIES], axis=1)
    if task == "categories":
        return 1 - 0.5 ** (hits / HITS_FOR_EVEN_ODDS)
    weights = np.stack([np.full(len(texts), 0.5), keyword_hits(texts, DISTRESS), 2.0 * hits.sum(axis=1)], axis=1)
    return weights / weights.sum(axis=1, keepdims=True)


def keyword_hits(texts: pd.Series, words: str) -> np.ndarray:
    """How many times words of a list occur in each text, (n,); `_` in a list joins a pair of neighbours."""
    from sklearn.feature_extraction.text import CountVectorizer

    vocabulary = [word.replace("_", " ") for word in words.split()]
    counter = CountVectorizer(vocabulary=vocabulary, ngram_range=(1, 2), token_pattern=r"(?u)\b\w+\b")
    return np.asarray(counter.transform(texts).sum(axis=1), dtype=float).ravel()


def fit_tfidf(train: pd.DataFrame, task: str) -> Predictor:
    """TF-IDF of words and word pairs with logistic regression, classes weighted evenly."""
    options = {"max_features": MOST_WORDS, "strip_accents": "unicode", "dtype": np.float32}
    vectorizer = words_pipeline(train["text"], **options)
    return fit_linear(train, task, vectorizer, lambda texts: texts, strength=4.0)


def words_pipeline(texts: pd.Series, *classifier, **options):
    """TF-IDF of the words and word pairs of texts, to be fitted on them, with a classifier behind it or none.

    `options` are those of scikit-learn's `TfidfVectorizer`; for which words count, see `least_texts`.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.pipeline import make_pipeline

    words = TfidfVectorizer(ngram_range=(1, 2), min_df=least_texts(texts), sublinear_tf=True, **options)
    return make_pipeline(words, *classifier)


def least_texts(texts: pd.Series) -> int:
    """In how many of the texts a word must stand to be counted: in two, which leaves names and slips out.

    In one where there are fewer than `FEW_TEXTS`, as where all but a small source is left out, or where no two share a word.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    if len(texts) < FEW_TEXTS:
        return 1
    words_of, seen = TfidfVectorizer().build_analyzer(), set()
    for text in texts:
        found = set(words_of(text))
        if found & seen:
            return 2
        seen |= found
    return 1


def fit_linear(train: pd.DataFrame, task: str, transformer, prepare: Callable, strength: float) -> Predictor:
    """Logistic regression on features: one of three levels, or six yes/no models on the rows that know the answer."""
    features = transformer.fit_transform(prepare(train["text"]))
    if task == "safety":
        models = [regression(features, safety_levels(train), strength)]
    else:
        labels, known = category_matrix(train), known_matrix(train)
        models = [regression(features[known[:, c]], labels[known[:, c], c], strength) for c in range(len(CATEGORIES))]

    def predict(rows: pd.DataFrame) -> np.ndarray:
        new = transformer.transform(prepare(rows["text"]))
        if task == "safety":
            return spread(models[0], new, range(len(SAFETY_LEVELS)))
        return np.stack([spread(model, new, (False, True))[:, 1] for model in models], axis=1)

    return predict


def regression(features, labels: np.ndarray, strength: float):
    """A fitted logistic regression, or a constant where the rows hold a single class or none."""
    from sklearn.dummy import DummyClassifier
    from sklearn.linear_model import LogisticRegression

    if not len(labels):
        return DummyClassifier(strategy="constant", constant=False).fit(np.zeros((1, 1)), [False])
    if len(set(labels.tolist())) == 1:
        return DummyClassifier(strategy="prior").fit(features, labels)
    return LogisticRegression(C=strength, class_weight="balanced", max_iter=300, tol=1e-3).fit(features, labels)


def spread(model, features, classes) -> np.ndarray:
    """Probabilities over all `classes`, with zero for those that the fitted model never saw."""
    seen = model.predict_proba(features)
    full = np.zeros((seen.shape[0], len(classes)))
    full[:, [list(classes).index(name) for name in model.classes_.tolist()]] = seen
    return full


# name -> (fit, whether thresholds are chosen on validation rows)
BASELINES: dict[str, tuple[Callable[[pd.DataFrame, str], Predictor], bool]] = {
    "always-safe": (fit_always(0.0), False),
    "always-unsafe": (fit_always(1.0), False),
    "majority": (fit_majority, False),
    "source": (fit_source, True),
    "length": (fit_length, True),
    "keyword": (fit_keyword, False),
    "tfidf": (fit_tfidf, True),
}
BASELINE_TITLES = {
    "always-safe": "Always safe",
    "always-unsafe": "Always unsafe",
    "majority": "Majority class",
    "source": "Source name only",
    "length": "Text length only",
    "keyword": "Keyword list",
    "tfidf": "TF-IDF + logistic regression",
}


def predict(name: str, rows: pd.DataFrame, *, train_rows: int | None = None, variant: str = "") -> pd.DataFrame:
    """Fit one baseline for both tasks and predict the test rows, without re-interpretations.

    Parameters
    ----------
    name : one of `BASELINES`
    rows : merged rows of all splits
    train_rows : cap on training rows, the same as the fine-tuned models', so that budgets compare
    variant : "" or "no-augmentation" (re-interpretations taken away from the same training rows, as in fine-tuning)

    Returns
    -------
    a table as `predictions.make` builds it, setting "baseline"
    """
    train = take(rows, "train", train_rows)
    if variant == "no-augmentation":
        train = train[train["origin"] != "reinterpretation"]
    test = take(rows, "test", originals_only=True)
    tables = []
    for task in tasks_asked(rows):
        predictor = BASELINES[name][0](train, task)
        probabilities, thresholds = predictor(test), tuned(name, predictor, rows, task)
        tables.append(
            predictions.make(test["id"], task, "baseline", probabilities, variant=variant, thresholds=thresholds)
        )
    return pd.concat(tables, ignore_index=True)


def tuned(name: str, predictor: Predictor, rows: pd.DataFrame, task: str) -> np.ndarray | None:
    """Category thresholds from validation rows, or None where the task or the baseline has none."""
    validation = take(rows, "validation", originals_only=True)
    if task == "safety" or not BASELINES[name][1] or validation.empty:
        return None
    return fit_thresholds(predictor(validation), category_matrix(validation), known_matrix(validation))


def leave_one_source_out(name: str, rows: pd.DataFrame, *, train_rows: int | None = None) -> pd.DataFrame | None:
    """Predict each source's safety levels by a baseline that never saw that source; None for a single source.

    Only the trinary task: a category that one source alone asks about could not be learned at all. Variant
    "left-out-source".
    """
    sources = sorted(rows["source"].unique())
    tables = []
    for source in sources if len(sources) > 1 else ():
        train = take(rows[~held_by(rows, source)], "train", train_rows)
        held = take(rows[rows["source"] == source], "test", originals_only=True)
        if len(held) and len(train):
            probabilities = BASELINES[name][0](train, "safety")(held)
            tables.append(predictions.make(held["id"], "safety", "baseline", probabilities, variant=LEFT_OUT))
    return pd.concat(tables, ignore_index=True) if tables else None
