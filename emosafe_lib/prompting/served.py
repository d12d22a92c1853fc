"""Prompting through any OpenAI-compatible chat server, such as vLLM with a model that no single machine here holds.

Where the server tells log-probabilities, labels are scored by them at the place of the answer; where it does not, its
answer is parsed strictly (`label_reading`). What was done is the outcome of a row. Which of the two a server can, the
first request finds out for all that follow, and a server that changes midway ends the run: scores of two kinds, or of
two models, in one table would be no measure. The server tokenises by itself, so control-like strings in a message are
spelled out first, and since a message may leave this machine, identifiers give way to placeholders as they do before an
augmentation. `models.client` sends the requests.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from emosafe_lib.data.pseudonyms import pseudonymise
from emosafe_lib.models import completion, wire
from emosafe_lib.models.client import ChatClient, Limits
from emosafe_lib.models.completion import Completion
from emosafe_lib.models.server import Refused, TryAgain, no_more
from emosafe_lib.prompting import label_reading, wordings
from emosafe_lib.prompting.label_reading import parsed_scores
from emosafe_lib.study.parameters import ModelParams, PromptingParams

# What a request asks for, the best first: vLLM and OpenAI list 20 tokens, some servers fewer, some none.
WAYS = ({"logprobs": True, "top_logprobs": 20}, {"logprobs": True, "top_logprobs": 5}, {})
ANSWER_TOKENS = 8
CHARACTERS_PER_TOKEN = 4
PARSES = "the server tells no log-probabilities: its answers were parsed"
OTHER_MODEL = "the server says that {} answers"


@dataclass(frozen=True)
class ChatQuestion:
    """A prompt as words: exemplars as earlier turns, and what stands before and after the message.

    Attributes
    ----------
    turns : (user, answer) pairs
    instruction : stands before the message; empty where a turn has shown it already
    words : the questions, one for safety and six for the categories
    """

    task: str
    variant: str
    instruction: str
    words: tuple[str, ...]
    turns: tuple[tuple[str, str], ...] = ()
    exemplar_ids: tuple[str, ...] = ()
    exemplar_groups: tuple[str, ...] = ()
    max_text_tokens: int = 256


def user_words(instruction: str, text: str, question: str) -> str:
    """What a user says: instruction, message between fences, question."""
    opening = f"{instruction}\n\n" if instruction else ""
    return opening + wordings.wrap(wordings.spelled_out(text)) + question


def as_sent(text: str, limit: int) -> tuple[str, bool]:
    """A text as it may leave this machine: without identifiers, of at most about `limit` tokens, its middle left out;
    and whether it was cut.
    """
    text = pseudonymise(text)
    room = limit * CHARACTERS_PER_TOKEN
    if len(text) <= room:
        return text, False
    half = (room - len(wordings.GAP)) // 2
    return text[:half] + wordings.GAP + text[-half:], True


def read_body(body: bytes) -> Completion:
    """A body with status 200 as a completion that holds an answer; TryAgain where it holds none."""
    found = completion.read_completion(completion.decoded(body))
    if not found.choices:
        raise TryAgain("unreadable body")
    return found


def outcome_of_row(outcomes: list[str], was_cut: bool) -> str:
    """One outcome for all questions about a text: the first that failed, else how its answers were read."""
    failed = [outcome for outcome in outcomes if outcome not in ("ok", "parsed")]
    return failed[0] if failed else "parsed" if "parsed" in outcomes else "truncated" if was_cut else "ok"


class ChatBackend:
    """A model behind a chat server; the key comes from OPENAI_API_KEY and is shown nowhere.

    A server on this machine may need no key.

    Attributes
    ----------
    way : what requests ask for, one of `WAYS`; None until a request has succeeded
    kind : which model answers, and whether with log-probabilities; "" until a request, or a kept shard, has told it

    Raises
    ------
    ServerError : no usable key, or an address that would send texts unencrypted across networks
    """

    def __init__(self, model: ModelParams):
        self.model, self.notes, limits = model, [], Limits()
        where = f"{model.name}: base_url"
        options = wire.client_options(model.base_url, where, limits.attempt_seconds, model.proxy)
        self.client = ChatClient(model.name, options, limits)
        self.way: dict | None = None
        self.kind = ""

    def settle(self, kind: str) -> None:
        """Note of what kind answers are: the first tells it, and no other may come after it.

        Raises
        ------
        ServerError : the server answers otherwise than before
        """
        if self.kind and kind != self.kind:
            remedy = "run it as before, or delete this model's kept shards to ask everything anew"
            raise no_more(self.model.name, f"{kind}, where it was {self.kind} before", remedy)
        if not self.kind:
            self.kind = kind
            name = kind.partition(" answers")[0]
            self.notes += [OTHER_MODEL.format(name)] if not completion.same_model(self.model.path, name) else []
            self.notes += [PARSES] if kind.endswith("without log-probabilities") else []

    def words(self, task: str) -> tuple[str, ...]:
        """The questions of a task, whatever the wording: not every server lets its reply be begun for it."""
        return tuple(question.words for question in wordings.QUESTIONS[task])

    def ask(self, task: str, variant: str, settings: PromptingParams) -> tuple[ChatQuestion, int]:
        """The zero-shot question and its number of exemplars per class, 0."""
        instruction = wordings.instruction_of(task, variant)
        question = ChatQuestion(task, variant, instruction, self.words(task), max_text_tokens=settings.max_text_tokens)
        return question, 0

    def show(self, task: str, variant: str, settings: PromptingParams, train: pd.DataFrame, seed: int):
        """The few-shot question, exemplars as earlier turns, and their number per class."""
        shots = min(settings.shots_per_class, wordings.most_shots(train, task))
        drawn = wordings.draw_exemplars(train, task, shots, seed)
        instruction, turns = wordings.instruction_of(task, variant), []
        for turn in drawn:
            text, _ = as_sent(turn.text, settings.max_text_tokens)
            turns.append((user_words("" if turns else instruction, text, self.words(task)[turn.number]), turn.answer))
        shown, limit = wordings.shown_in(drawn), settings.max_text_tokens
        return ChatQuestion(task, variant, "", self.words(task), tuple(turns), *shown, limit), shots

    def score(self, question: ChatQuestion, texts: list[str]) -> tuple[np.ndarray, list[str]]:
        """Log-probabilities (n, questions, answers) and outcomes; a failed request is an outcome, never a gap.

        Requests go one by one until the first has succeeded, since it finds out what the server can tell.

        Raises
        ------
        ServerError : no later request can succeed, or too many have failed in a row
        """
        sent = [as_sent(text, question.max_text_tokens) for text in texts]
        asked = [(text, words) for text, _ in sent for words in question.words]
        answers = [(parsed_scores(None, wordings.VERBALIZERS[question.task]), "api_error")] * len(asked)

        async def work(place: int) -> str:
            try:
                answers[place] = await self.answer(question, *asked[place])
            except (Refused, TryAgain) as fault:
                return fault.note
            return ""

        self.client.run(range(len(asked)), work, alone=lambda: self.way is None)
        scores = np.array([score for score, _ in answers]).reshape(len(texts), len(question.words), -1)
        outcomes = []
        for row, (_, was_cut) in enumerate(sent):
            outcomes_of_row = [outcome for _, outcome in answers[row * len(question.words) :][: len(question.words)]]
            outcomes.append(outcome_of_row(outcomes_of_row, was_cut))
        return scores, outcomes

    async def answer(self, question: ChatQuestion, text: str, words: str) -> tuple[np.ndarray, str]:
        """Scores and outcome of one question about one text, asked in the way that the server is known to take; as long
        as none is known, in each until one succeeds.

        Raises
        ------
        TryAgain, Refused, ServerError : see `ChatClient.ask`; a message that was filtered is no error but an outcome
        """
        labels, ways = wordings.VERBALIZERS[question.task], WAYS if self.way is None else (self.way,)
        said = [part for turn in question.turns for part in zip(("user", "assistant"), turn, strict=True)]
        said.append(("user", user_words(question.instruction, text, words)))
        messages = [{"role": role, "content": content} for role, content in said]
        body = {"model": self.model.path, "messages": messages, "max_tokens": ANSWER_TOKENS, "temperature": 0}
        for way in ways:
            try:
                answered = await self.client.ask(body | way, lambda raw: read_body(raw))
            except Refused as refused:
                if refused.filtered:
                    return parsed_scores(None, labels), "refused"
                if way is ways[-1]:
                    raise
                continue
            self.way = way
            return self.read(answered, body, labels)

    def read(self, answered: Completion, body: dict, labels: tuple[str, ...]) -> tuple[np.ndarray, str]:
        """Scores and outcome of an answer; ServerError where it is of another kind than those before."""
        choice = answered.choices[0]
        said = " ".join(message["content"] for message in body["messages"])
        name = completion.clean_name(answered.model, self.model.path, said) or self.model.path
        if (choice.message.content or "").strip():
            self.settle(f"{name} answers {'with' if label_reading.told(choice) else 'without'} log-probabilities")
        return label_reading.read_choice(choice, labels)

    def shown(self, question: ChatQuestion) -> str:
        """The last turn's words, with a mark where the message stands."""
        return user_words(question.instruction, "{message}", question.words[0])
