"""Attacks on the nano ladder: packing that leaks between documents, runs that cannot go on, lessons that give the task
away, weights that are not what the manifest says.
"""

import itertools
import json
import math
import re

import numpy as np
import pandas as pd
import pytest
import torch

from emosafe_lib.data.sources.base import RAW_COLUMNS
from emosafe_lib.nano import instruct, ladder, pretrain, seen
from emosafe_lib.study import parameters
from emosafe_lib.study.errors import MergeError, SourceError, TrainingError
from emosafe_lib.study.files import file_sha256
from emosafe_lib.study.parameters import load_model
from emosafe_lib.study.taxonomy import CATEGORY_TABLE, SAFETY_LEVELS

SYLLABLES = "gar win tea let mor kit rod".split()
WORDS = ["".join(parts) for parts in itertools.permutations(SYLLABLES, 3)]


def sentence(number: int) -> str:
    """A harmless sentence of the test's own."""
    chosen = [WORDS[(number * step + step) % len(WORDS)] for step in (1, 3, 7, 11)]
    return f"The {' and the '.join(chosen)} number {number} were quiet today"


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    """Forty rows a source with every kind of label."""
    labels = {
        "goemotions": ["joy", "neutral", "sadness", "anger", "gratitude", "annoyance", "fear,joy"],
        "sad": ["1.0|Work", "4.0|School", "8.0|Family Issues"],
        "edos": ["none", "2. derogation"],
        "convabuse": ["not abusive", "ambiguous or mild", "abusive, hate"],
        "counsel_chat": ["answer, grief", "question, sleep", "question, stress", "answer, self-harm"],
    }
    table = [
        (f"{source}:{n}", sentence(n) + "?" * (n % 2), source, f"{source}-{n}", "train", names[n % len(names)])
        for source, names in labels.items()
        for n in range(40)
    ]
    return pd.DataFrame(table, columns=["id", "text", "source", "group", "split", "label"])


@pytest.fixture(scope="module")
def tokenizer(rows):
    return pretrain.train_tokenizer(rows["text"].tolist())


@pytest.fixture
def corpus(rows):
    return instruct.Corpus(rows, [sentence(n) for n in range(100, 140)])


@pytest.fixture
def steps(tokenizer):
    endless = itertools.cycle([sentence(n) for n in range(30)])
    return pretrain.pack(pretrain.plain_documents(tokenizer, endless), 20 * 512, (256, 512))


@pytest.fixture
def network(monkeypatch):
    """A rung of one tiny layer."""
    real = parameters.load_model

    def tiny(name):
        model = real(name)
        shape = {"layers": 1, "hidden": 16, "heads": 2, "kv_heads": 2, "intermediate": 32}
        return model.model_copy(update={"shape": model.shape.model_copy(update=shape)})

    monkeypatch.setattr(pretrain, "load_model", tiny)
    return lambda: pretrain.build_rung("nano-1")


def test_control_tokens_come_first_and_the_pad_token_is_its_own(tokenizer):
    assert tokenizer.convert_tokens_to_ids(list(pretrain.SPECIAL_TOKENS)) == [0, 1, 2, 3, 4, 5]
    assert len({tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id}) == 3
    turn = tokenizer.apply_chat_template([{"role": "user", "content": "x"}], tokenize=False, add_generation_prompt=True)
    head = "<|start_header_id|>{}<|end_header_id|>\n\n"
    assert turn == "<|begin_of_text|>" + head.format("user") + "x<|eot_id|>" + head.format("assistant")


def test_any_text_survives_the_tokenizer(tokenizer):
    text = "Ünïcode 😀 \t tabs, “quotes” and\nlines"
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text


def test_rows_begin_with_a_new_document_and_positions_start_again(steps):
    for ids, _, positions in steps.batches():
        assert (positions[:, 0] == 0).all()
        assert torch.equal(positions == 0, ids == pretrain.BEGIN)


def test_a_document_never_sees_its_neighbour(network, steps):
    """The loss of a document is the same whatever stands before it in its row."""
    model = network().eval()
    ids, _, positions = next(steps.batches())
    starts = (positions[0] == 0).nonzero().flatten()
    second = slice(int(starts[1]), int(starts[2]))
    changed = ids.clone()
    changed[0, 1 : int(starts[1])] = 77
    losses = [
        pretrain.token_losses(model, data, positions)[0, second.start : second.stop - 1] for data in (ids, changed)
    ]
    alone = pretrain.token_losses(model, ids[:1, second], positions[:1, second])[0]
    assert torch.allclose(losses[0], losses[1], atol=1e-5) and torch.allclose(losses[0], alone, atol=1e-5)


def test_no_loss_where_a_document_begins(network, steps):
    ids, _, positions = next(steps.batches())
    losses = pretrain.token_losses(network(), ids, positions)
    assert (losses[positions[:, 1:] == 0] == 0).all() and (losses[positions[:, 1:] > 0] > 0).all()


def test_loss_falls(network, steps, tmp_path, monkeypatch):
    monkeypatch.setattr(pretrain, "WARMUP_STEPS", 1)
    losses = pretrain.train(network(), steps, 0.3, tmp_path / "run")
    assert losses[-1] < losses[0] - 0.5


def step_in(network, kind: type[torch.optim.Muon]) -> list[torch.Tensor]:
    """The matrices of a network after three steps of a kind of Muon on the same gradients."""
    matrices = [weight for weight in network.model.layers.parameters() if weight.ndim == 2]
    optimizer = kind(matrices, lr=0.01, weight_decay=0.1, momentum=0.95)
    torch.manual_seed(0)
    for _ in range(3):
        for weight in matrices:
            weight.grad = 1e-4 * torch.randn_like(weight)
        optimizer.step()
    return [weight.detach() for weight in matrices]


def test_in_float32_muons_steps_are_torchs_but_for_the_rounding_of_bfloat16(network, monkeypatch):
    """Bit for bit, where torch's own iterations are kept from rounding; within bfloat16's rounding, where they are not."""
    found, rounded = step_in(network(), pretrain.Float32Muon), step_in(network(), torch.optim.Muon)
    monkeypatch.setattr(torch.Tensor, "bfloat16", torch.Tensor.clone)
    exact = step_in(network(), torch.optim.Muon)
    assert {tuple(weight.shape) for weight in found} >= {(16, 16), (32, 16), (16, 32)}
    for ours, wanted, near in zip(found, exact, rounded, strict=True):
        assert torch.equal(ours, wanted)
        assert 0 < float((ours - near).abs().max()) < 1e-3


@pytest.mark.parametrize("able, kind", [(True, torch.optim.Muon), (False, pretrain.Float32Muon)])
def test_muon_multiplies_in_bfloat16_where_the_processor_does(network, monkeypatch, able, kind):
    monkeypatch.setattr(pretrain, "half_precision", lambda: able)
    assert type(pretrain.make_optimizers(network(), 0.01)[0]) is kind


def losses_taken(monkeypatch) -> list:
    """A list that grows by one with every loss worked out from here on: a run made anew would also end equal."""
    plain, taken = pretrain.training_loss, []

    def training_loss(*arguments):
        taken.append(1)
        return plain(*arguments)

    monkeypatch.setattr(pretrain, "training_loss", training_loss)
    return taken


@pytest.mark.parametrize("able", [True, False])
def test_interrupted_and_resumed_equals_straight(network, steps, tmp_path, monkeypatch, able):
    """With Muon in float32 and in bfloat16."""
    monkeypatch.setattr(pretrain, "half_precision", lambda: able)
    straight, halves = network(), network()
    wanted = pretrain.train(straight, steps, 0.01, tmp_path / "straight")
    pretrain.train(halves, steps, 0.01, tmp_path / "halves", save_every=4, stop_after=10)
    again, taken = network(), losses_taken(monkeypatch)
    found = pretrain.train(again, steps, 0.01, tmp_path / "halves", save_every=4)
    assert found == wanted and len(taken) == len(wanted) - 8
    for one, other in zip(straight.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_damaged_checkpoint_gives_way_to_the_older_one(network, steps, tmp_path, monkeypatch):
    folder = tmp_path / "run"
    wanted = pretrain.train(network(), steps, 0.01, folder, save_every=4, stop_after=10)
    (folder / "checkpoint-8" / "state.safetensors").write_bytes(b"cut")
    taken = losses_taken(monkeypatch)
    found = pretrain.train(network(), steps, 0.01, folder, save_every=4, stop_after=10)
    assert found == wanted and len(taken) == 10 - 4


def test_resume_with_other_data_is_refused(network, steps, tmp_path):
    pretrain.train(network(), steps, 0.01, tmp_path / "run", save_every=4, stop_after=6)
    other = pretrain.Steps(steps.ids[::-1].copy(), steps.answers, steps.positions, steps.lengths)
    with pytest.raises(TrainingError, match="other data"):
        pretrain.train(network(), other, 0.01, tmp_path / "run")


def test_a_loss_that_is_not_finite_stops_with_one_line(network, steps, tmp_path):
    broken = network()
    broken.model.norm.weight.data.fill_(math.inf)
    with pytest.raises(TrainingError) as error:
        pretrain.train(broken, steps, 0.01, tmp_path / "run")
    assert "step 0" in str(error.value) and "\n" not in str(error.value)


def test_a_novel_without_its_markers_is_refused(tmp_path):
    path = tmp_path / "1.txt"
    path.write_text("No licence here.", encoding="utf-8")
    with pytest.raises(SourceError, match=r"1\.txt"):
        pretrain.novel(path)


def test_a_novel_loses_its_licence_and_its_line_breaks(tmp_path):
    body = "It was a long and quiet road that led\nalong the river to the town."
    path = tmp_path / "1.txt"
    path.write_text(f"Legal.\n*** START OF X ***\n\n{body}\n\n*** END OF X ***\nLegal.", encoding="utf-8")
    assert pretrain.novel(path) == body.replace("\n", " ")


def test_lessons_never_teach_the_target_tasks(corpus):
    """No level of safety is an option, no target category is asked about, nor any word that one is made of."""
    titles = {category.title.lower() for category in CATEGORY_TABLE}
    for lesson in itertools.islice(corpus.lessons(), 600):
        shot = lesson.draw()
        for question, reply in shot.asked:
            asked = re.findall(r"[a-z]+", question.lower())
            assert not set(asked) & set(SAFETY_LEVELS) and reply not in SAFETY_LEVELS
            title = re.fullmatch(r"Category: (.*)\. Answer yes or no\.", question)
            assert not title or title[1].lower() not in titles
        assert not set(re.findall(r"[a-z]+", lesson.instruction.lower())) & set(SAFETY_LEVELS)


def test_words_asked_about_belong_to_no_target_category(rows):
    """Though they are as frequent in the corpus as those that may be asked about."""
    assert {"drugs", "violence"} <= instruct.TARGET_WORDS
    corpus = instruct.Corpus(rows, [sentence(n) + " with drugs and violence and kettles" for n in range(100, 108)])
    assert "kettles" in corpus.rank and not set(corpus.rank) & instruct.TARGET_WORDS
    for _ in range(200):
        _, _, words = corpus.named(sentence(3) + " with people who hurt and drugs and violence")
        assert not set(words) & instruct.TARGET_WORDS


def test_topics_close_to_a_target_category_are_never_a_lesson(corpus):
    topics = {topic for _, _, topic in corpus.counsel}
    assert {"grief", "sleep", "stress"} <= topics and "self-harm" not in topics


def test_every_answer_is_among_the_listed_options(corpus):
    for lesson in itertools.islice(corpus.lessons(), 300):
        for question, reply in lesson.draw().asked:
            listing = re.search(r"(?:one word:|Answer) (.*)\.", question)[1].lower()
            assert reply in listing


def test_yes_and_no_are_about_as_frequent(corpus):
    replies = [a for lesson in itertools.islice(corpus.lessons(), 600) for _, a in lesson.draw().asked]
    assert 0.25 < replies.count("yes") / (replies.count("yes") + replies.count("no")) < 0.6


def test_answers_are_marked_and_nothing_else(tokenizer, corpus):
    lesson = next(corpus.lessons())
    shot = lesson.draw()
    ids, marks = instruct.conversation(tokenizer, instruct.Lesson(lesson.instruction, lambda: shot), 1)
    marked = [token for token, mark in zip(ids, marks, strict=True) if mark]
    assert tokenizer.decode(marked) == "".join(reply for _, reply in shot.asked)


def test_a_fence_in_a_message_cannot_end_it(tokenizer):
    lesson = instruct.Lesson("Read.", lambda: instruct.Shot('"""\n<|eot_id|>', (("Answer yes or no.", "no"),)))
    ids, _ = instruct.conversation(tokenizer, lesson, 1)
    assert ids.count(pretrain.TURN_END) == 2 and tokenizer.decode(ids).count('"""') == 2


def test_rows_of_validation_are_refused(rows):
    with pytest.raises(MergeError, match="must not see"):
        instruct.Corpus(rows.assign(split=["validation", *rows["split"][1:]]), [])


def test_a_group_of_test_is_named(rows):
    unseen = pd.DataFrame({"id": ["x:1"], "group": [rows["group"].iloc[7]]})
    with pytest.raises(MergeError, match=re.escape(rows["id"].iloc[7])):
        instruct.refuse_leaks(rows["id"], rows["group"], unseen)


def test_rows_are_cleaned_and_split_as_the_study_does_it_and_near_duplicates_of_unseen_rows_go(monkeypatch):
    """A message longer than the study admits is in no split, so nobody reads it."""
    raw = pd.DataFrame([dict.fromkeys(RAW_COLUMNS, "") | {"id": f"edos:{n}", "text": sentence(n)} for n in range(40)])
    raw = raw.assign(source="edos", source_label="none", safety="safe", quality="direct", emotion=None)
    raw["categories"] = raw["category_known"] = [(False,) * 6] * len(raw)
    raw.loc[0, "text"] = " ".join(map(sentence, range(50, 55)))
    emotions = pd.DataFrame(columns=["id", "text", "key", "label", "source", "group", "split"])
    monkeypatch.setattr(instruct.merge, "read_sources", lambda *given: (raw, {}))
    monkeypatch.setattr(instruct, "emotion_rows", lambda *given: emotions)
    monkeypatch.setattr(instruct, "stressor_labels", lambda *given: {})
    data = parameters.DataParams(sources=["edos"], max_characters=200)
    rows, unseen = instruct.annotated_rows(data)
    assert {*rows["id"], *unseen["id"]} == set(raw["id"][1:]) and len(unseen) > 3
    emotions = unseen.assign(id=unseen["id"] + "x", key=unseen["key"] + " indeed", source="goemotions", split="train")
    again, _ = instruct.annotated_rows(data)
    assert list(again["id"]) == list(rows["id"])


def test_the_rungs_have_the_promised_sizes():
    wanted = {"nano-1": 0.2e6, "nano-2": 0.6e6, "nano-3": 1.6e6, "nano-4": 7e6}
    for rung, size in wanted.items():
        assert pretrain.non_embedding_parameters(pretrain.build_rung(rung)) == pytest.approx(size, rel=0.06)


def test_the_shipped_files_are_those_of_the_manifest():
    manifest = json.loads((seen.NANO / "manifest.json").read_text(encoding="utf-8"))
    for name, digest in manifest["files"].items():
        assert file_sha256(seen.NANO / name) == digest, name
    assert sum(path.stat().st_size for path in seen.NANO.rglob("*") if path.is_file()) <= 25_000_000


@pytest.mark.parametrize("rung", pretrain.RUNGS)
def test_shipped_weights_are_half_precision_finite_and_trained(rung):
    from safetensors.torch import load_file

    weights = load_file(seen.NANO / rung / "model.safetensors")
    assert {value.dtype for value in weights.values()} == {torch.float16}
    assert all(bool(value.isfinite().all()) for value in weights.values())
    assert not (weights["model.norm.weight"] == 1).all()


def test_the_shipped_ladder_falls_with_size():
    """Held-out loss of conversations and of their answers at every rung; of the novel, which was read long before the
    end, from the smallest to the largest."""
    first = {entry["rung"]: entry["held_out"] for entry in ladder.curves() if entry["seed"] == 0}
    for part in ("all", "answers"):
        losses = [first[rung]["chat"][part] for rung in pretrain.RUNGS]
        assert losses == sorted(losses, reverse=True)
    assert first["nano-4"]["novel"]["all"] < first["nano-1"]["novel"]["all"]


def test_rows_that_the_ladder_may_have_read_are_counted_for_its_rungs_alone():
    known = sorted(seen.seen_ids())[:3]
    rows = pd.DataFrame({"id": [*known, "new:1", "goemotions:9"], "source": ["x"] * 4 + ["goemotions"]})
    assert seen.read_in_pretraining(load_model("nano-1"), rows) == 4
    assert (
        seen.read_in_pretraining(load_model("llama-1b"), rows)
        == seen.read_in_pretraining(load_model("minilm"), rows)
        == 0
    )


def test_thinning_keeps_the_mean():
    assert np.mean(pretrain.thin([1.0, 3.0] * 10)) == pytest.approx(2.0)


def test_zero_shot_scores_are_on_record_for_every_rung_with_an_interval_and_chance():
    record = pd.DataFrame(ladder.zero_shot())
    assert set(zip(record["model"], record["task"], strict=True)) == set(
        itertools.product(pretrain.RUNGS, ("safety", "categories"))
    )
    assert ((record["low"] <= record["value"]) & (record["value"] <= record["high"])).all()
    assert record["chance"].between(0, 1).all() and (record["above_low"] <= record["above_high"]).all()
