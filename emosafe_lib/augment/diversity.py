"""How varied the new texts are: cheap to fake for a single number, so several.

distinct-n (Li et al. 2016) falls with the number of texts, so it is taken over samples of equal size. The spread of
embeddings (mean cosine distance between texts) sees paraphrase that n-grams miss. Too few texts have no such number:
it is NaN in a table and None in a card, never 0.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from emosafe_lib.data import cleaning
from emosafe_lib.study.rows import stable_unit


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


def compare(tables: dict[str, pd.DataFrame], cap: int = 500) -> pd.DataFrame:
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
    """The line of `compare` for one table, as plain numbers; empty for an empty table."""
    if not len(rows):
        return {}
    line = compare({"rows": rows}).iloc[0]
    return {name: for_card(line[name]) for name in ("texts", "words", "distinct_1", "distinct_2", "distinct_3")}


def spread(vectors: np.ndarray) -> float:
    """Mean cosine distance between different rows of (n, d) unit vectors; NaN below two."""
    n = len(vectors)
    if n < 2:
        return float("nan")
    total = float(np.square(vectors.sum(axis=0)).sum())
    return 1 - (total - n) / (n * (n - 1))


def embed(texts: list[str], model="minilm", batch: int = 32) -> np.ndarray:
    """Unit sentence vectors, shape (n, d): the mean of an encoder's last states.

    `model` names a parameter file in `params/models/`. No text gives an array of shape (0, 0), and loads no model.
    """
    if not texts:
        return np.zeros((0, 0), dtype=np.float32)
    import torch

    from emosafe_lib.models.backbone import load_encoder
    from emosafe_lib.study.parameters import load_model

    network, tokenizer = load_encoder(load_model(model))
    order = np.argsort([len(text) for text in texts], kind="stable")
    vectors: list = [None] * len(texts)
    for start in range(0, len(texts), batch):
        part = order[start : start + batch]
        inputs = tokenizer([texts[i] for i in part], padding=True, truncation=True, max_length=128, return_tensors="pt")
        with torch.inference_mode():
            states = network(**inputs.to(network.device)).last_hidden_state
        mask = inputs["attention_mask"].unsqueeze(-1)
        pooled = torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=-1).float().cpu().numpy()
        for i, vector in zip(part, pooled, strict=True):
            vectors[i] = vector
    return np.array(vectors)


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


def likeness(lineage: pd.DataFrame, cap: int = 120) -> Likeness:
    """Compare re-tellings with their parents by sentence vectors.

    Parameters
    ----------
    lineage : one line a re-telling, with the columns id, text and text_parent; may be empty
    cap : how many lines are compared, the first ones by id
    """
    sample = lineage.sort_values("id").head(cap)
    children, parents = embed(sample["text"].tolist()), embed(sample["text_parent"].tolist())
    strangers = np.roll(parents, 7 if len(sample) > 7 else 1, 0)[: len(sample) if len(sample) > 1 else 0]
    kinds = {
        "own parent": (children * parents).sum(1),
        "another parent": (children[: len(strangers)] * strangers).sum(1),
    }
    pairs = pd.concat([pd.DataFrame({"kind": kind, "similarity": values}) for kind, values in kinds.items()])
    return Likeness(pairs, {"parents": spread(parents), "re-tellings": spread(children)})
