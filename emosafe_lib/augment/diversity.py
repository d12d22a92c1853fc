"""How varied the new texts are: cheap to fake for a single number, so several.

distinct-n (Li et al. 2016) falls with the number of texts, so it is taken over samples of equal size. The spread of
embeddings (mean cosine distance between texts) sees paraphrase that n-grams miss. Too few texts have no such number:
it is NaN in a table and None in a card, never 0.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from emosafe_lib.data import cleaning
from emosafe_lib.models.backbone import load_encoder
from emosafe_lib.models.batching import encode
from emosafe_lib.models.pooling import embed
from emosafe_lib.study.parameters import load_model
from emosafe_lib.study.rows import stable_unit

LONGEST = 128  # tokens of a text that its vector is made of
COMPARED = 120  # re-tellings whose vectors are compared with their parents'


def ngrams(text: str, n: int) -> list[tuple]:
    """The word n-grams of a text."""
    words = cleaning.comparison_key(text).split()
    return list(zip(*(words[i:] for i in range(n)), strict=False))


def distinct_n(texts: list[str], n: int) -> float:
    """Different n-grams divided by all n-grams; NaN where there are none."""
    all_of_them = [gram for text in texts for gram in ngrams(text, n)]
    return len(set(all_of_them)) / len(all_of_them) if all_of_them else float("nan")


def even_sample(rows: pd.DataFrame, size: int) -> list[str]:
    """`size` texts of a table, the same ones in every run."""
    order = rows["id"].map(lambda value: stable_unit(value, "diversity")).to_numpy().argsort(kind="stable")
    return rows["text"].iloc[order[:size]].tolist()


def diversity_by_table(tables: dict[str, pd.DataFrame], cap: int = 500) -> pd.DataFrame:
    """distinct-1, -2, -3 and words per text of each table of rows, over as many texts each as the smallest one has."""
    size = min([cap, *(len(table) for table in tables.values())])
    lines = []
    for name, table in tables.items():
        texts = even_sample(table, size)
        words = float(np.mean([len(text.split()) for text in texts])) if texts else float("nan")
        scores = {f"distinct_{n}": distinct_n(texts, n) for n in (1, 2, 3)}
        lines.append({"rows": name, "texts": len(texts), "words": words, **scores})
    return pd.DataFrame(lines)


def for_card(value: float) -> float | None:
    """Four decimals of a number; None where it is undefined, because JSON has no NaN."""
    return None if np.isnan(value) else round(float(value), 4)


def summary(rows: pd.DataFrame) -> dict:
    """The line of `diversity_by_table` for one table, as plain numbers; empty for an empty table."""
    if not len(rows):
        return {}
    line = diversity_by_table({"rows": rows}).iloc[0]
    return {name: for_card(line[name]) for name in ("texts", "words", "distinct_1", "distinct_2", "distinct_3")}


def spread(vectors: np.ndarray) -> float:
    """Mean cosine distance between different rows of (n, d) unit vectors; NaN below two."""
    n = len(vectors)
    if n < 2:
        return float("nan")
    total = float(np.square(vectors.sum(axis=0)).sum())
    return 1 - (total - n) / (n * (n - 1))


def sentence_vectors(texts: list[str]) -> np.ndarray:
    """Unit sentence vectors, (n, hidden), by the encoder MiniLM; no text gives (0, 0) and loads no model."""
    if not texts:
        return np.zeros((0, 0))
    params = load_model("minilm")
    network, tokenizer = load_encoder(params)
    return embed(network, tokenizer, encode(tokenizer, texts, LONGEST), params.tokens_per_batch)


@dataclass
class Likeness:
    """How near re-tellings are to their parents.

    `pairs` has the columns kind ("own parent", "another parent") and similarity (cosine); `spread` gives the mean
    cosine distance among parents and among re-tellings, NaN below two of them.
    """

    pairs: pd.DataFrame
    spread: dict[str, float]

    def for_card(self) -> dict[str, float | None]:
        """The spreads under the names that the augmentation card gives them."""
        return {f"spread_{name.replace('-', '_')}": for_card(value) for name, value in self.spread.items()}

    @property
    def relative_spread(self) -> float:
        """The spread of the re-tellings as a share of their parents'; NaN where either is undefined."""
        return self.spread["re-tellings"] / self.spread["parents"] if self.spread["parents"] else float("nan")


def likeness(lineage: pd.DataFrame) -> Likeness:
    """Compare re-tellings with their parents by sentence vectors, at most `COMPARED` of them, drawn by a hash of the id.

    Parameters
    ----------
    lineage : one line a re-telling, with the columns id, text and text_parent; may be empty
    """
    place = lineage["id"].map(lambda name: stable_unit(name, "likeness"))
    sample = lineage.loc[place.sort_values().index[:COMPARED]]
    children, parents = (sentence_vectors(sample[column].tolist()) for column in ("text", "text_parent"))
    strangers = np.roll(parents, 7 if len(sample) > 7 else 1, 0)[: len(sample) if len(sample) > 1 else 0]
    kinds = {
        "own parent": (children * parents).sum(1),
        "another parent": (children[: len(strangers)] * strangers).sum(1),
    }
    pairs = pd.concat([pd.DataFrame({"kind": kind, "similarity": values}) for kind, values in kinds.items()])
    return Likeness(pairs, {"parents": spread(parents), "re-tellings": spread(children)})
