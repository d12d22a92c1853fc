"""Which label a chat server's answer gives, and how likely the server finds each of them there.

The place that is scored must be the answer's: a model may begin with a blank, with markup, with an empty chain of
thought or with "Answer:", and the probabilities at such a place are noise as far as labels go. So what stands before the
answer is skipped, a label may be spread over tokens, and where the labels hold next to no probability, or two of them
the same, the words of the answer decide. An answer whose words are no label is a `parse_error`: it is never guessed at,
least of all as the harmless label.
"""

import re

import numpy as np

from emosafe_lib.models.completion import Choice, Token

# What the labels must hold of the probability at the answer's place: more where another word was said there.
LEAST_MASS, LEAST_UNSAID = 0.01, 0.5
# A parsed answer has no probability of its own; this much goes to it, the rest evenly to the other answers.
PARSED_SHARE = 0.98
MOST_CHARACTERS = 2000  # an answer of a few tokens is shorter; patterns need not bear more
TIE = 1e-9

# Each sign is matched in one way alone, or a server that repeats a mark would keep the pattern busy for ever.
MARK = r"<\|[^|<>]{0,40}\|>|```\w*\n"
BEFORE = rf"(?:<think>(?:(?!</think>).)*</think>|{MARK}|<(?!think\b)/?\w{{1,20}}/?>|_|(?!{MARK})[^\w?])*"
LEAD = BEFORE + r"(?:(?:the\s+)?(?:answer|label|level)(?:\s+is)?(?=[\W_])(?!\?)" + BEFORE + ")?"
BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
BLANKS = str.maketrans({"\u0120": " ", "\u2581": " ", "\u010a": "\n", "\u0109": "\t"})  # Ġ ▁ Ċ ĉ
FLAGS = re.IGNORECASE | re.DOTALL


def parse_answer(text: str | None, words) -> str | None:
    """The label that an answer consists of, else None: one word, at most introduced by `answer`, `label` or `level`.

    >>> parse_answer("Unsafe.", ("safe", "borderline", "unsafe"))
    'unsafe'
    >>> parse_answer("not safe", ("safe", "borderline", "unsafe"))
    """
    if len(text or "") > MOST_CHARACTERS:
        return None
    found = re.fullmatch(rf"{LEAD}({'|'.join(words)}){BEFORE}", text or "", FLAGS)
    return found.group(1).lower() if found else None


def parsed_scores(label: str | None, words) -> np.ndarray:
    """Log-probabilities for a parsed answer; equal ones where there is none."""
    if label is None:
        return np.full(len(words), -np.log(len(words)))
    shares = np.full(len(words), (1 - PARSED_SHARE) / (len(words) - 1))
    shares[list(words).index(label)] = PARSED_SHARE
    return np.log(shares)


def token_text(token) -> str:
    """A token as it stands in the text: its bytes where the server tells them, else without its vocabulary's signs.

    >>> token_text(Token(token="\\u0120un", logprob=-0.1)), token_text(Token(token="<0x75>", logprob=-0.1))
    (' un', 'u')
    """
    if token.bytes and all(0 <= byte < 256 for byte in token.bytes):
        return bytes(token.bytes).decode("utf-8", errors="replace")
    if one := BYTE.fullmatch(token.token):
        return chr(int(one.group(1), 16))
    return token.token.translate(BLANKS)


def begun_label(text: str, words) -> str | None:
    """The one label that a token says or begins, else None; what follows a whole word ends it."""
    found = re.match(r"[\W_]*([^\W_]+)", text)
    if not found:
        return None
    word, ended = found.group(1).lower(), found.end() < len(text)
    fits = [label for label in words if (label == word if ended else label.startswith(word))]
    return fits[0] if len(fits) == 1 else None


def label_scores(mass: dict[str, float], floor: float, words, least: float) -> np.ndarray | None:
    """Log-probabilities of labels from their probabilities at a place, None where these are less than `least` or tie.

    A label that is not listed gets the smallest listed probability or what is left of all, and cannot exceed either.
    """
    left = 1 - sum(mass.values())
    floor = max(min(floor, left) if left > 0 else floor, 1e-12)
    shares = np.array([max(mass.get(word, 0.0), floor) for word in words])
    highest, second = np.sort(shares)[:-3:-1]
    if sum(mass.get(word, 0.0) for word in words) < least or highest - second <= TIE:
        return None
    return np.log(shares)


def first_token_scores(top: list[tuple[str, float]], words, least: float = LEAST_MASS) -> np.ndarray | None:
    """Log-probability of each label among a server's likeliest (token, log-probability) at one place, or None if they
    tell nothing about labels.
    """
    mass: dict[str, float] = {}
    for text, value in top:
        label = begun_label(text, words) or ""
        mass[label] = mass.get(label, 0.0) + float(np.exp(value))
    return label_scores(mass, float(np.exp(min(value for _, value in top))), words, least)


def place_of_answer(texts: list[str], content: str) -> tuple[int, int] | None:
    """Where the answer's first word begins among an answer's tokens: the token's number and how many characters of it
    stand before the word; None if there is no word.
    """
    said = "".join(texts)[:MOST_CHARACTERS]
    start = max(said.find(content.strip()), 0)
    start += re.match(LEAD, said[start:], FLAGS).end()
    for number, text in enumerate(texts):
        if start < len(text):
            return number, start
        start -= len(text)
    return None


def token_scores(tokens: list[Token], content: str, words) -> np.ndarray | None:
    """Log-probabilities of the labels where the answer begins; None if they tell nothing, see `label_scores`.

    What was said is known to its end, so that "un" of "unclear" does not count as "unsafe", and a label of several
    tokens has the product of their probabilities.
    """
    texts = [token_text(token) for token in tokens]
    place = place_of_answer(texts, content)
    if place is None:
        return None
    number, skipped = place
    word, chance = spoken(tokens[number:], texts[number:], skipped, words)
    others = [(token_text(each), each.logprob) for each in tokens[number].top_logprobs or []]
    others = [(text, value) for text, value in others if text != texts[number]]
    return first_token_scores([*others, (word, chance)], words, LEAST_MASS if word in words else LEAST_UNSAID)


def spoken(tokens: list[Token], texts: list[str], skipped: int, words) -> tuple[str, float]:
    """The word that was said from a place on, and the log-probability of its tokens; "?" if it begins no label."""
    rest = "".join(texts)[skipped:]
    word = re.match(r"[^\W_]+|.", rest, re.DOTALL).group()
    label = begun_label(rest[: len(word) + 1], words)
    if label is None:
        return "?", tokens[0].logprob
    reached, chance = -skipped, 0.0
    for token, text in zip(tokens, texts, strict=True):
        if reached >= len(word):
            break
        reached, chance = reached + len(text), chance + token.logprob
    return label, chance


def told(choice: Choice) -> list[Token]:
    """The tokens of an answer, empty where the server gives no log-probabilities or what cannot be any."""
    tokens = (choice.logprobs.content if choice.logprobs else None) or []
    values = [each.logprob for token in tokens for each in (token, *(token.top_logprobs or []))]
    return tokens if all(value <= 1e-3 for value in values) else []


def read_choice(choice: Choice, words) -> tuple[np.ndarray, str]:
    """Scores and outcome of one answer: `ok` where log-probabilities gave the scores, `parsed` where its words did."""
    content = choice.message.content or ""
    if choice.finish_reason == "content_filter" or choice.message.refusal:
        return parsed_scores(None, words), "refused"
    tokens = told(choice) if content.strip() else []
    scores = token_scores(tokens, content, words) if tokens else None
    if scores is not None:
        return scores, "ok"
    label = parse_answer(content, words)
    return parsed_scores(label, words), "parsed" if label else "parse_error"
