"""Digests of what answers depend on: questions as they are asked, gold answers, passages, logs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from itertools import chain

from lagkit.logs.embedcache import VectorCache
from lagkit.types import Passage, Question

_LENGTH = 16  # hex digits


def of_question(question: Question) -> str:
    """Digest of a question as an agent is asked it."""
    return _of(question.kind, question.text, *question.choices)


def of_gold(question: Question) -> str:
    """Digest of the gold answers, hops and category, by which an answer is scored."""
    hops = chain.from_iterable((hop.id, hop.question, hop.answer, hop.passage_id or "") for hop in question.hops)
    return _of(str(len(question.answers)), *question.answers, question.category, *hops)


def of_passages(passages: Iterable[Passage]) -> str:
    """Digest of passages in their order, by which equal scores are ranked."""
    return _of(*chain.from_iterable((passage.id, passage.title, passage.text) for passage in passages))


def of_logs(ids: Iterable[str]) -> str:
    """Digest of a set of logs by their ids, which are digests of their content."""
    return hashlib.sha256("\n".join(sorted(ids)).encode()).hexdigest()[:_LENGTH]


def _of(*parts: str) -> str:
    return VectorCache.key(*parts).hex()[:_LENGTH]
