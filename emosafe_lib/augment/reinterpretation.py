"""Re-interpretations of training messages: by a chat model or by offline templates, bounded, private, auditable.

Augmentation by a chat API costs money and sends the words of people in distress to somebody else. So the requests are
made first (`requests_for`), shown with an upper estimate of their cost (`estimate`), and only then sent (`reinterpret`),
with a journal that never pays twice (`journal`) and checks that count every reply they reject (`acceptance`).
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from emosafe_lib.augment import acceptance, cost, diversity, tactics
from emosafe_lib.augment.journal import Answer, Journal, journal_path
from emosafe_lib.augment.providers import template
from emosafe_lib.augment.requests import Request, by_level, requests_for
from emosafe_lib.study.parameters import AugmentationParams

PROVIDER_NOTES = {
    "template": "offline templates; no language model wrote any of these texts",
    "openai": "a chat model behind an OpenAI-compatible server",
    "openai-batch": "a chat model behind the Batch API",
    "replay": "replies recorded earlier; no request was sent",
}

NOTHING_ACCEPTED = "No re-interpretation was accepted, so there is nothing to show here."


@dataclass
class Augmented:
    """Accepted rows (columns of `rows.row_features`, sorted by id) and the card that tells how they came about."""

    rows: pd.DataFrame
    card: dict


def estimate(rows: pd.DataFrame, params: AugmentationParams) -> dict:
    """What a run would ask for and cost at most; nothing is sent.

    Returns
    -------
    requests, requests per target level, tokens (upper estimates) and US dollars (upper estimate)
    """
    requests = requests_for(rows, params)
    return {"requests": len(requests), "by_level": by_level(requests), **cost.estimate(requests, params)}


def reinterpret(rows: pd.DataFrame, params: AugmentationParams, journal_dir: Path) -> Augmented:
    """Re-interpret training rows.

    Parameters
    ----------
    rows : the merged rows, all splits; only those of the training split become parents
    journal_dir : where journals live; a rerun there pays only for what is missing

    Raises
    ------
    AugmentationError : no usable key, a cap would be exceeded, another run holds the journal, or the server said that
        it is pointless to go on; finished answers stay in the journal
    """
    requests = requests_for(rows, params)
    path, live = journal_path(journal_dir, params), params.provider in ("openai", "openai-batch")
    with Journal(path, tactics.settings(params), durable=live) as journal:
        known = sum(request.key in journal.answers for request in requests)
        answer_all(rows, [request for request in requests if request.key not in journal.answers], params, journal)
        judge = acceptance.local_judge(rows) if params.second_judge == "local" else None
        accepted, rejected = acceptance.accept(requests, journal.failed | journal.answers, rows, params, judge)
        accepted = accepted.sort_values("id", ignore_index=True)
        return Augmented(accepted, card_of(params, requests, journal, known, accepted, rejected))


def answer_all(rows: pd.DataFrame, todo: list[Request], params: AugmentationParams, journal: Journal) -> None:
    """Have the provider answer what the journal does not hold yet; `replay` answers nothing."""
    if params.provider == "template":
        model = tactics.settings(params)["model"]
        for request, content in template.answers(rows, todo):
            journal.answered(Answer(request.key, "ok", content, model))
    elif params.provider == "openai" and todo:
        from emosafe_lib.augment.providers import openai_chat

        openai_chat.answer_all(todo, params, journal)
    elif params.provider == "openai-batch" and todo:
        from emosafe_lib.augment.providers import openai_batch

        openai_batch.answer_all(todo, params, journal)


def card_of(
    params: AugmentationParams,
    requests: list[Request],
    journal: Journal,
    known: int,
    accepted: pd.DataFrame,
    rejected: Counter,
) -> dict:
    """The augmentation card: counts, cost and origin, no text."""
    mine = [journal.answers[request.key] for request in requests if request.key in journal.answers]
    return {
        "provider": params.provider,
        "provider_note": PROVIDER_NOTES[params.provider],
        "model": tactics.settings(params)["model"],
        "models_answered": dict(sorted(Counter(answer.model for answer in mine).items())),
        "prompt_version": tactics.PROMPT_VERSION,
        "requested": len(requests),
        "requested_by_level": by_level(requests),
        "answered": len(mine),
        "from_journal": known,
        "accepted": len(accepted),
        "accepted_by_level": {level: int(n) for level, n in accepted["safety"].value_counts().sort_index().items()},
        "rejected": {reason: rejected[reason] for reason in acceptance.REASONS if rejected[reason]},
        "cost_usd": round(sum(answer.cost_usd for answer in mine), 6),
        "tokens": sum(answer.prompt_tokens + answer.completion_tokens for answer in mine),
        "failed_requests": dict(sorted(Counter(answer.note for answer in journal.failed.values()).items())),
        "usage_doubted": sum(answer.note == "usage doubted" for answer in mine),
        "lost_in_flight": len(journal.open),
        "torn_lines": journal.torn,
        "diversity": diversity.summary(accepted),
    }
