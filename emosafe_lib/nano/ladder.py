"""The whole recipe of the nano ladder, from raw text to the weights in `assets/nano`, and what is known of them.

Notebook A1 walks through it on a small budget; `python -m emosafe_lib.nano.ladder nano-4` runs a rung in full. What a run
measured is kept beside the weights (`curves.json`), hashes of all files in `manifest.json`, and the ids of the rows
that were read in `seen.txt.gz`, so that anybody can check at any time that none of them is in validation or test.
"""

import argparse
import itertools
import json
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from emosafe_lib.data.sources import registry
from emosafe_lib.evaluation import metrics, paired_tests
from emosafe_lib.evaluation.bootstrap import Bootstrap, interval
from emosafe_lib.models.backbone import load_tokenizer
from emosafe_lib.models.precision import half_precision
from emosafe_lib.nano import instruct, pretrain
from emosafe_lib.nano.seen import NANO, write_seen
from emosafe_lib.prompting import backends, scoring
from emosafe_lib.prompting.answers import Calibration, content_free_bias, predictions_of
from emosafe_lib.study.files import file_sha256, write_json
from emosafe_lib.study.parameters import ModelParams, PromptingParams, load_model, load_study
from emosafe_lib.study.rows import category_matrix, known_matrix, read_rows, take
from emosafe_lib.study.taxonomy import CATEGORIES, SAFETY_LEVELS, TASKS

PLAIN_TOKENS = 600_000
CHAT_TOKENS = 1_400_000
NOVEL_TOKENS = 16_384  # of the held-out novel
HELD_CHAT_TOKENS = 24_000
LOOKED_AT = 400  # conversations at the head of the stream that were drawn to see their form, and are not trained on
WORK = Path("outputs") / "ladder"


@dataclass(frozen=True)
class Recipe:
    """Everything that the four rungs share.

    Attributes
    ----------
    tokenizer : the ladder's tokenizer
    phases : the packed steps of "plain" and "chat"
    held_out : the packed steps of "novel" and "chat" that nobody trains on
    """

    tokenizer: object
    phases: dict[str, pretrain.Steps]
    held_out: dict[str, pretrain.Steps]

    def steps(self) -> pretrain.Steps:
        """Both phases, one after the other."""
        return pretrain.joined(*self.phases.values())


def prepare(rows: pd.DataFrame, folder: Path, tokenizer) -> Recipe:
    """The packed steps of both phases, and of what is held out.

    Parameters
    ----------
    rows : what `instruct.annotated_rows` lets through
    folder : the Project Gutenberg files
    tokenizer : the shipped one, so that rungs trained apart belong together
    """
    documents, held_novel = pretrain.novels(folder)
    aside = instruct.held_out(rows)
    texts = rows["text"][~aside].to_list()
    lessons = instruct.Corpus(rows[~aside], pretrain.paragraphs(documents)[::4])
    held_pieces = pretrain.pieces(held_novel)
    held_lessons = instruct.Corpus(rows[aside], pretrain.paragraphs(held_pieces), seed=1)
    order = pretrain.plain_documents(tokenizer, pretrain.mixed(documents, texts))
    talks = itertools.islice(instruct.conversations(tokenizer, lessons), LOOKED_AT, None)
    phases = {
        "plain": pretrain.pack(order, PLAIN_TOKENS, pretrain.PLAIN_LENGTHS),
        "chat": pretrain.pack(talks, CHAT_TOKENS, pretrain.CHAT_LENGTHS),
    }
    novel = pretrain.plain_documents(tokenizer, held_pieces)
    held_out = {
        "novel": pretrain.pack(novel, NOVEL_TOKENS, (pretrain.CONTEXT,)),
        "chat": pretrain.pack(instruct.conversations(tokenizer, held_lessons), HELD_CHAT_TOKENS, pretrain.CHAT_LENGTHS),
    }
    return Recipe(tokenizer, phases, held_out)


def demonstration_texts() -> tuple[str, list[str], str]:
    """What a demonstration may train on: its name, documents, and a held-out text.

    The novels where they are at hand; otherwise the embedded messages, of which every tenth is held out. Nothing that is
    trained on the latter is ever shipped, since the sample study tests on some of them.
    """
    source = registry.registry()["gutenberg_novels"]
    if not registry.missing([source]):
        return "novels", *pretrain.novels(next(iter(registry.files(source).values())).parent)
    texts = registry.read("emosafe_sample")["text"].to_list()
    kept = [text for number, text in enumerate(texts) if number % 10]
    return "embedded messages", kept, "\n".join(texts[::10])


def train_rung(recipe: Recipe, rung: str, folder: Path, seed: int = 0, **options):
    """Train one rung and measure it: `(network, facts)`; an interrupted run goes on from its checkpoint.

    `options` go to `pretrain.train`.
    """
    network, steps = pretrain.build_rung(rung, seed), recipe.steps()
    peak = pretrain.peak_rate(load_model(rung))
    started, worked = time.perf_counter(), time.process_time()
    losses = pretrain.train(network, steps, peak, folder / f"{rung}-s{seed}", **options)
    minutes, processor_seconds = (time.perf_counter() - started) / 60, time.process_time() - worked
    return network, {
        "rung": rung,
        "seed": seed,
        "parameters": network.num_parameters(),
        "non_embedding_parameters": pretrain.non_embedding_parameters(network),
        "peak_rate": peak,
        "tokens": {name: len(phase.ids) for name, phase in recipe.phases.items()},
        "flops": pretrain.flops_per_token(network) * len(steps.ids),
        "steps": len(losses),
        "losses": pretrain.thin(losses),
        "held_out": {name: pretrain.held_out_losses(network, part) for name, part in recipe.held_out.items()},
        "minutes": minutes,
        "processor_seconds": processor_seconds,
        "gemm_peak": pretrain.gemm_peak(),
        "bfloat16": half_precision(),
    }


def zero_shot() -> list[dict]:
    """Zero-shot scores of the shipped ladder on validation rows of the real study, as measured when it was made."""
    return json.loads((NANO / "zero_shot.json").read_text(encoding="utf-8"))


def measure_zero_shot(rows: pd.DataFrame, settings: PromptingParams) -> list[dict]:
    """Zero-shot scores of every shipped rung on the same validation rows, beside chance: one entry a rung and task.

    Levels are chosen after content-free calibration, and chance is the expectation of uniform guesses; categories are
    judged by their ranking, where chance is the mean share of positives. `above_smallest` and its interval compare a
    rung with the smallest on the same resamples of groups.

    Parameters
    ----------
    rows : the real study's merged rows; validation rows alone are scored, without re-interpretations
    settings : which first wording, and how many rows
    """
    chosen = take(rows, "validation", settings.validation_rows, originals_only=True)
    truth, bootstrap, records = metrics.truth_of(chosen), Bootstrap(chosen["group"]), []
    for rung, task in itertools.product(pretrain.RUNGS, TASKS):
        model = load_model(rung)
        answers = metrics.align(zero_shot_answers(model, chosen, task, settings), truth)
        name = ("macro_f1" if task == "safety" else "macro_auprc", "")
        measure = bootstrap.measure(truth, answers)
        column, value = measure.names.index(name), measure.values(bootstrap.groups)[name]
        draws = bootstrap.draws(measure)[:, column]
        low, high = interval(draws)
        records.append(
            {"model": rung, "parameters": size_of(model), "task": task, "metric": name[0], "value": value}
            | {"low": low, "high": high, "chance": chance(chosen, task), "rows": len(chosen), "draws": draws}
        )
    smallest = {entry["task"]: entry for entry in records[: len(TASKS)]}
    for entry in records:
        first = smallest[entry["task"]]
        found = paired_tests.difference(entry["value"] - first["value"], entry["draws"] - first["draws"])
        entry |= {"above_smallest": found.value, "above_low": found.low, "above_high": found.high}
    return [{key: value for key, value in entry.items() if key != "draws"} for entry in records]


def zero_shot_answers(model: ModelParams, rows: pd.DataFrame, task: str, settings: PromptingParams) -> pd.DataFrame:
    """Predictions of one rung without anything fitted on labels."""
    backend = backends.open_backend(model)
    asked = scoring.pose(backend, settings, rows, task, "zero-shot", settings.variants[0])
    scores = scoring.score_rows(backend, asked, rows)
    bias = content_free_bias(backend, asked)
    thresholds = np.full(len(CATEGORIES), 0.5) if task == "categories" else None
    return predictions_of(scores, Calibration(bias, 1.0, thresholds, True))


def size_of(model: ModelParams) -> int:
    """Parameters outside the embedding."""
    return pretrain.non_embedding_parameters(pretrain.build_rung(model.name))


def chance(rows: pd.DataFrame, task: str) -> float:
    """What answering without reading is worth: expected macro-F1 of uniform guesses, or the mean share of positives."""
    if task == "categories":
        known = known_matrix(rows)
        positives = (category_matrix(rows) & known).sum(axis=0)
        return float((positives / known.sum(axis=0))[positives > 0].mean())
    shares = rows["safety"].value_counts(normalize=True).reindex(SAFETY_LEVELS, fill_value=0).to_numpy()
    return float((2 * shares / (len(SAFETY_LEVELS) * shares + 1)).mean())


def loss_curves(entries: list[dict]) -> pd.DataFrame:
    """Columns rung, seed, tokens and loss: one row for every ten steps."""
    rows = [
        (entry["rung"], entry["seed"], sum(entry["tokens"].values()) * (n + 1) / len(entry["losses"]), loss)
        for entry in entries
        for n, loss in enumerate(entry["losses"])
    ]
    return pd.DataFrame(rows, columns=["rung", "seed", "tokens", "loss"])


def loss_table(entries: list[dict]) -> pd.DataFrame:
    """Columns rung, seed, parameters, text and loss: what was held out."""
    names = {("novel", "all"): "novel", ("chat", "all"): "conversations", ("chat", "answers"): "answers"}
    rows = [
        (entry["rung"], entry["seed"], entry["non_embedding_parameters"], title, entry["held_out"][text][part])
        for entry in entries
        for (text, part), title in names.items()
    ]
    return pd.DataFrame(rows, columns=["rung", "seed", "parameters", "text", "loss"])


def curves() -> list[dict]:
    """What was measured of the shipped ladder: one entry a rung and seed."""
    return json.loads((NANO / "curves.json").read_text(encoding="utf-8"))


def write_manifest(**facts) -> None:
    """Write SHA-256 and size of every file in `assets/nano` into its manifest, with what else is to be known of all rungs.

    Facts that are not given stay as they were.
    """
    path = NANO / "manifest.json"
    files = sorted(file for file in NANO.rglob("*") if file.is_file() and file != path)
    digests = {str(file.relative_to(NANO)): file_sha256(file) for file in files}
    sizes = {"files": digests, "bytes": sum(file.stat().st_size for file in files)}
    write_json(path, json.loads(path.read_text(encoding="utf-8")) | facts | sizes)


def card(facts: dict, licences: dict[str, str]) -> str:
    """The model card of a rung, in Markdown; every number comes from `facts`."""
    held, tokens = facts["held_out"], facts["tokens"]
    listed = "\n".join(f"- {name}: {licence}" for name, licence in sorted(licences.items()))
    size = f"{facts['non_embedding_parameters']:,} parameters outside the embedding, {facts['parameters']:,} in all"
    return f"""# {facts["rung"]}, a rung of the nano ladder

A LLaMA architecture of toy size ({size}), pre-trained by emosafe's notebook A1 so that a scaling study can be run on
two CPU cores. It is no useful language model and says nothing about LLaMA checkpoints.

## Training
{tokens["plain"]:,} tokens of plain text, then {tokens["chat"]:,} tokens of conversations about moods, emotions, stress,
manners, sexism, abuse, topics, words and forms of speech. Emotional safety and the six risk categories never occur as
a task: no level is ever an option, no category is asked about, and no question about a message's own words uses one of a
category's title or definition. Validation and test groups of the real study, and near-duplicates of their texts, were left
out; `seen.txt.gz` lists the rows, a test checks them.
Muon for the matrices, AdamW for embedding and norms; {facts["steps"]:,} steps of 512 tokens or more, four an update; peak
learning rate of the matrices {facts["peak_rate"]:.2g}.

Text and licences:
{listed}

## Loss on held-out text (nats a token)
| held-out novel | conversations, all tokens | conversations, answers |
|---|---|---|
| {held["novel"]["all"]:.3f} | {held["chat"]["all"]:.3f} | {held["chat"]["answers"]:.3f} |

## Intended use and limits
For teaching and testing the software: prompting, fine-tuning and scaling analysis at a size that runs anywhere. Not for
judging messages of people, not for writing text. English only; old novels and social-media text carry their biases, and
offensive words are in the vocabulary. Labels of the conversations are those of the sources, in part derived from them.
"""


def licences() -> dict[str, str]:
    """Every source of text by its title, with its licence."""
    known = registry.registry()
    return {known[name].title: known[name].licence for name in ("gutenberg_novels", *instruct.SOURCES_READ)}


def ship(network, tokenizer, facts: dict) -> None:
    """Put a trained rung into `assets/nano`: its curve, and with seed 0 its weights and model card."""
    rung, seed = facts["rung"], facts["seed"]
    if seed == 0:
        pretrain.ship_rung(network, tokenizer, NANO / rung)
        (NANO / rung / "README.md").write_text(card(facts, licences()), encoding="utf-8")
    others = [entry for entry in curves() if (entry["rung"], entry["seed"]) != (rung, seed)]
    write_json(NANO / "curves.json", sorted([*others, facts], key=lambda e: (e["rung"], e["seed"])))


def main() -> None:
    """Train rungs in full and put them into `assets/nano`, or score the shipped ones."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("rungs", nargs="*", default=list(pretrain.RUNGS))
    parser.add_argument("--seed", type=int, default=0, help="only seed 0 is shipped; of others the curves are kept")
    parser.add_argument("--score", type=Path, help="score zero-shot on the rows.parquet that notebook 01 wrote")
    arguments = parser.parse_args()
    if arguments.score:
        record = measure_zero_shot(read_rows(arguments.score), load_study("real").prompting)
        write_json(NANO / "zero_shot.json", record)
        write_manifest()
        return
    rows, unseen = instruct.annotated_rows(load_study("real").data)
    instruct.refuse_leaks(rows["id"], rows["group"], unseen)
    novels = next(iter(registry.files("gutenberg_novels").values())).parent
    recipe = prepare(rows, novels, load_tokenizer(load_model("nano-1")))
    for rung in arguments.rungs:
        network, facts = train_rung(recipe, rung, WORK, arguments.seed)
        ship(network, recipe.tokenizer, facts)
    write_seen(rows)
    write_manifest(steps=recipe.steps().digest(), licences=licences())


if __name__ == "__main__":
    main()
