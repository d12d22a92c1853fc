"""Prompting through any OpenAI-compatible chat server, such as vLLM with a model that no single machine here holds.

Where the server tells the log-probabilities of its first token, labels are scored by them. Where it does not, its
answer is parsed strictly, and an answer that does not parse is an outcome of its own: it counts as wrong and lowers
coverage, it is never guessed at. Which of the two it is, the first request finds out, for all that follow. The server
tokenises by itself, so control-like strings in a message are spelled out first, and since a message may leave this
machine, identifiers give way to placeholders as they do before an augmentation. `models.client` sends the requests.
"""

import re
from dataclasses import dataclass

import numpy as np
import pandas as pd
from openai.types.chat import ChatCompletion

from emosafe_lib.data.pseudonyms import pseudonymise
from emosafe_lib.models import server
from emosafe_lib.models.client import ChatClient, Limits
from emosafe_lib.models.server import Refused, TryAgain
from emosafe_lib.prompting import wordings
from emosafe_lib.study.parameters import ModelParams, PromptingParams

# What a request asks for, the best first: vLLM and OpenAI list 20 tokens, some servers fewer, some none.
WAYS = ({"logprobs": True, "top_logprobs": 20}, {"logprobs": True, "top_logprobs": 5}, {})
ANSWER_TOKENS = 8
CHARACTERS_PER_TOKEN = 4
# A parsed answer has no probability of its own; this much goes to it, the rest evenly to the other answers.
PARSED_SHARE = 0.98


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


def parse_answer(text: str | None, words) -> str | None:
    """The label that an answer consists of, else None: one word, at most introduced by `answer`, `label` or `level`.

    >>> parse_answer("Unsafe.", ("safe", "borderline", "unsafe"))
    'unsafe'
    >>> parse_answer("not safe", ("safe", "borderline", "unsafe"))
    """
    pattern = rf"[^\w?]*(?:(?:answer|label|level)[^\w?]+)?({'|'.join(words)})[^\w?]*"
    found = re.fullmatch(pattern, text or "", flags=re.IGNORECASE)
    return found.group(1).lower() if found else None


def first_token_scores(top: list[tuple[str, float]], words) -> np.ndarray | None:
    """Log-probability of each word's beginning among a server's likeliest first tokens, or None if none begins any.

    A token counts for a word if it begins that word and no other; a word that no listed token begins gets the smallest
    listed value, which it cannot exceed.
    """
    mass = np.zeros(len(words))
    for token, log_probability in top:
        start = token.strip().strip("*\"'").lower()
        fits = [number for number, word in enumerate(words) if start and word.startswith(start)]
        if len(fits) == 1:
            mass[fits[0]] += np.exp(log_probability)
    if not mass.any():
        return None
    floor = np.exp(min(log_probability for _, log_probability in top))
    return np.log(np.maximum(mass, max(floor, 1e-12)))


def parsed_scores(label: str | None, words) -> np.ndarray:
    """Log-probabilities for a parsed answer; equal ones where there is none."""
    if label is None:
        return np.full(len(words), -np.log(len(words)))
    shares = np.full(len(words), (1 - PARSED_SHARE) / (len(words) - 1))
    shares[list(words).index(label)] = PARSED_SHARE
    return np.log(shares)


def read_choice(choice, words) -> tuple[np.ndarray, str]:
    """Scores and outcome of one answer of the server; AttributeError or TypeError where it is not shaped like one."""
    equal = parsed_scores(None, words)
    if choice.finish_reason == "content_filter" or getattr(choice.message, "refusal", None):
        return equal, "refused"
    listed = choice.logprobs.content if choice.logprobs and choice.logprobs.content else []
    top = [(entry.token, entry.logprob) for entry in listed[0].top_logprobs or []] if listed else []
    scores = first_token_scores(top, words) if top else None
    if scores is not None:
        return scores, "ok"
    label = parse_answer(choice.message.content, words)
    return parsed_scores(label, words), "ok" if label else "parse_error"


def read_body(body: bytes, words) -> tuple[np.ndarray, str]:
    """Scores and outcome of a body with status 200. What we do not look at may be missing: servers differ.

    Raises
    ------
    TryAgain : the body is not a chat completion
    """
    data = server.decoded(body)
    try:
        return read_choice(ChatCompletion.construct(**data).choices[0], words)
    except (ValueError, TypeError, AttributeError, IndexError):
        pass
    raise TryAgain("unreadable body")


class ChatBackend:
    """A model behind a chat server; the key comes from OPENAI_API_KEY and is shown nowhere.

    A server on this machine or the local network may need no key.

    Attributes
    ----------
    way : what requests ask for, one of `WAYS`; None until a request has succeeded

    Raises
    ------
    ServerError : no usable key, or an address that would send texts unencrypted across networks
    """

    def __init__(self, model: ModelParams):
        self.model, self.notes, limits = model, [], Limits()
        where = f"{model.name}: base_url"
        options = server.client_options(model.base_url, where, limits.attempt_seconds, key_optional=True)
        self.client = ChatClient(model.name, options, limits)
        self.way: dict | None = None

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
        drawn = wordings.draw_exemplars(train, task, settings.shots_per_class, seed)
        instruction, turns = wordings.instruction_of(task, variant), []
        for turn in drawn:
            text, _ = as_sent(turn.text, settings.max_text_tokens)
            turns.append((user_words("" if turns else instruction, text, self.words(task)[turn.number]), turn.answer))
        question = ChatQuestion(
            task,
            variant,
            "",
            self.words(task),
            tuple(turns),
            tuple(dict.fromkeys(turn.row_id for turn in drawn)),
            tuple(dict.fromkeys(turn.group for turn in drawn)),
            settings.max_text_tokens,
        )
        return question, settings.shots_per_class

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
            failed = [outcome for outcome in outcomes_of_row if outcome != "ok"]
            outcomes.append(failed[0] if failed else "truncated" if was_cut else "ok")
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
                answer = await self.client.ask(body | way, lambda raw: read_body(raw, labels))
            except Refused as refused:
                if refused.filtered:
                    return parsed_scores(None, labels), "refused"
                if way is ways[-1]:
                    raise
                continue
            if self.way is None and not way:
                self.notes.append("the server tells no log-probabilities: its answers were parsed")
            self.way = way
            return answer

    def shown(self, question: ChatQuestion) -> str:
        """The last turn's words, with a mark where the message stands."""
        return user_words(question.instruction, "{message}", question.words[0])

    def explain(self, question: ChatQuestion, text: str) -> pd.DataFrame:
        """One message's scores, one row a question and answer."""
        scores, outcomes = self.score(question, [text])
        words = wordings.VERBALIZERS[question.task]
        return pd.DataFrame(
            {"question": n, "answer": word, "log_probability": scores[0, n, which], "outcome": outcomes[0]}
            for n in range(scores.shape[1])
            for which, word in enumerate(words)
        )
