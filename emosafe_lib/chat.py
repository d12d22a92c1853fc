"""Prompting through any OpenAI-compatible chat server, such as vLLM with a model that no single machine here holds.

Where the server tells the log-probabilities of its first token, labels are scored by them. Where it does not, its
answer is parsed strictly, and an answer that does not parse is an outcome of its own: it counts as wrong and lowers
coverage, it is never guessed at. The server tokenises by itself, so control-like strings in a message are spelled out
first.
"""

import os
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pandas as pd

from emosafe_lib import prompts
from emosafe_lib.errors import ModelError
from emosafe_lib.params import ModelParams, PromptingParams

CONCURRENCY = 8
TIMEOUT_SECONDS = 60.0
TOP = 20
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
    """

    task: str
    variant: str
    instruction: str
    turns: tuple[tuple[str, str], ...] = ()
    exemplar_ids: tuple[str, ...] = ()
    exemplar_groups: tuple[str, ...] = ()
    max_text_tokens: int = 256


def user_words(instruction: str, text: str, question: str) -> str:
    """What a user says: instruction, message between fences, question."""
    opening = f"{instruction}\n\n" if instruction else ""
    return opening + prompts.wrap(prompts.spelled_out(text)) + question


def cut_words(text: str, limit: int) -> tuple[str, bool]:
    """A text of at most about `limit` tokens, its middle left out, and whether it was cut."""
    room = limit * CHARACTERS_PER_TOKEN
    if len(text) <= room:
        return text, False
    half = (room - len(prompts.GAP)) // 2
    return text[:half] + prompts.GAP + text[-half:], True


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
    """Scores and outcome of one answer of the server."""
    equal = parsed_scores(None, words)
    if choice.finish_reason == "content_filter" or getattr(choice.message, "refusal", None):
        return equal, "refused"
    listed = choice.logprobs.content if choice.logprobs and choice.logprobs.content else []
    top = [(entry.token, entry.logprob) for entry in listed[0].top_logprobs] if listed else []
    scores = first_token_scores(top, words) if top else None
    if scores is not None:
        return scores, "ok"
    label = parse_answer(choice.message.content, words)
    return parsed_scores(label, words), "ok" if label else "parse_error"


class ChatBackend:
    """A server reached with the official client; the key comes from OPENAI_API_KEY and is shown nowhere."""

    def __init__(self, model: ModelParams):
        from openai import OpenAI

        self.model, self.notes = model, []
        key = os.environ.get("OPENAI_API_KEY", "none")
        if not key.isascii():
            raise ModelError("OPENAI_API_KEY", "is not ASCII", "set it again")
        self.client = OpenAI(base_url=model.base_url, api_key=key, timeout=TIMEOUT_SECONDS, max_retries=2)

    def words(self, task: str) -> tuple[str, ...]:
        """The questions of a task, whatever the wording: not every server lets its reply be begun for it."""
        return tuple(question.words for question in prompts.QUESTIONS[task])

    def ask(self, task: str, variant: str, settings: PromptingParams) -> tuple[ChatQuestion, int]:
        """The zero-shot question and its number of exemplars per class, 0."""
        instruction = prompts.instruction_of(task, variant)
        return ChatQuestion(task, variant, instruction, max_text_tokens=settings.max_text_tokens), 0

    def show(self, task: str, variant: str, settings: PromptingParams, train: pd.DataFrame, seed: int):
        """The few-shot question, exemplars as earlier turns, and their number per class."""
        drawn = prompts.draw_exemplars(train, task, settings.shots_per_class, seed)
        instruction, turns = prompts.instruction_of(task, variant), []
        for turn in drawn:
            text, _ = cut_words(turn.text, settings.max_text_tokens)
            turns.append((user_words("" if turns else instruction, text, self.words(task)[turn.number]), turn.answer))
        question = ChatQuestion(
            task,
            variant,
            "",
            tuple(turns),
            tuple(dict.fromkeys(turn.row_id for turn in drawn)),
            tuple(dict.fromkeys(turn.group for turn in drawn)),
            settings.max_text_tokens,
        )
        return question, settings.shots_per_class

    def score(self, question: ChatQuestion, texts: list[str]) -> tuple[np.ndarray, list[str]]:
        """Log-probabilities (n, questions, answers) and outcomes; a failed request is an outcome, never a gap."""
        cuts = [cut_words(text, question.max_text_tokens) for text in texts]
        asked = self.words(question.task)
        jobs = [(question, text, words) for text, _ in cuts for words in asked]
        with ThreadPoolExecutor(CONCURRENCY) as pool:
            answers = list(pool.map(lambda job: self.one(*job), jobs))
        scores = np.array([score for score, _ in answers]).reshape(len(texts), len(asked), -1)
        outcomes = []
        for row, (_, was_cut) in enumerate(cuts):
            failed = [o for _, o in answers[row * len(asked) : (row + 1) * len(asked)] if o != "ok"]
            outcomes.append(failed[0] if failed else "truncated" if was_cut else "ok")
        return scores, outcomes

    def one(self, question: ChatQuestion, text: str, words: str) -> tuple[np.ndarray, str]:
        """One request.

        Raises
        ------
        ModelError : the server refuses the key or does not know the model, so that no later request can succeed
        """
        import openai

        labels = prompts.VERBALIZERS[question.task]
        said = [part for turn in question.turns for part in zip(("user", "assistant"), turn, strict=True)]
        said.append(("user", user_words(question.instruction, text, words)))
        messages = [{"role": role, "content": content} for role, content in said]
        try:
            reply = self.request(messages)
        except (openai.AuthenticationError, openai.PermissionDeniedError, openai.NotFoundError) as error:
            problem = f"the server answered {error.status_code}"
            raise ModelError(self.model.name, problem, "check OPENAI_API_KEY, base_url and path") from None
        except (openai.OpenAIError, ValueError):
            return parsed_scores(None, labels), "api_error"
        if not getattr(reply, "choices", None):
            return parsed_scores(None, labels), "api_error"
        return read_choice(reply.choices[0], labels)

    def request(self, messages: list[dict]):
        """Ask with log-probabilities; a server that refuses the very option is asked without."""
        import openai

        options = {"model": self.model.path, "messages": messages, "max_tokens": ANSWER_TOKENS, "temperature": 0}
        try:
            return self.client.chat.completions.create(**options, logprobs=True, top_logprobs=TOP)
        except openai.BadRequestError:
            return self.client.chat.completions.create(**options)

    def shown(self, question: ChatQuestion) -> str:
        """The last turn's words, with a mark where the message stands."""
        return user_words(question.instruction, "{message}", self.words(question.task)[0])

    def explain(self, question: ChatQuestion, text: str) -> pd.DataFrame:
        """One message's scores, one row a question and answer."""
        scores, outcomes = self.score(question, [text])
        words = prompts.VERBALIZERS[question.task]
        return pd.DataFrame(
            {"question": n, "answer": word, "log_probability": scores[0, n, which], "outcome": outcomes[0]}
            for n in range(scores.shape[1])
            for which, word in enumerate(words)
        )
