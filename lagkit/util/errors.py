"""Every error that lagkit raises on purpose: one clear sentence that says what is wrong and what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lagkit.types import Usage


class LagkitError(Exception):
    """Base of all errors raised on purpose by lagkit."""

    def _render_traceback_(self) -> list[str]:
        """What IPython shows: the sentence says what to do, and the frames behind it are no help."""
        return [f"{type(self).__name__}: {self}"]


class DataError(LagkitError):
    """A data folder, file or record is missing or has the wrong shape."""


class ConfigError(LagkitError):
    """A configuration key, value or policy is unknown or contradicts another."""


class ModelNotFound(LagkitError):
    """A model or embedder could not be found under the name given."""


class MachineTooSmall(LagkitError):
    """This machine has not the disk or the memory that a model needs."""


class UnsupportedModel(LagkitError):
    """The model's keys cannot be re-aligned, so its KV cannot be reused elsewhere."""


class QuestionError(LagkitError):
    """A question fails for a lasting reason: asked again in the same way, it would fail again.

    usage: of the reply that says so, where there is one.
    """

    def __init__(self, said: str = "", usage: Usage | None = None) -> None:
        super().__init__(said)
        self.usage = usage


class ContextTooLong(QuestionError):
    """Injected tokens, prompt and new tokens do not fit into the model's context."""


class ReasoningTooLong(QuestionError):
    """A model's reasoning used up its new tokens before it said anything else."""


class EndpointError(LagkitError):
    """An endpoint cannot be used, whatever it is asked: it is down, refuses the key, or limits the rate too long."""


class RequestRefused(QuestionError):
    """An endpoint does not answer one request with text, for what stands in it or for what it sends instead."""


class RunLocked(LagkitError):
    """Another process is writing to the folder of a run."""


class StoreError(LagkitError):
    """A log store cannot be opened or changed as asked."""


class StoreMismatch(StoreError):
    """The store was built with another model, embedder or format."""


class StoreExists(StoreError):
    """There is a log store already where one was to be made."""


class StoreFull(StoreError):
    """The disk has no room for the database of a store to be changed."""


class StoreLocked(StoreError):
    """Another process is writing to the store."""


class StoreUnreachable(StoreError, EndpointError):
    """The object store of a log store does not answer, refuses the credentials, or limits the rate too long."""


class EmptyStore(StoreError):
    """A search needs logs, and the store has none."""


class NoStranger(LagkitError):
    """No other log can lend its context to a log."""


class DamagedBlock(StoreError):
    """A KV block is missing, truncated or altered where the store keeps it."""


class ClusterError(LagkitError):
    """A cluster cannot be reached or cannot do what is asked, or its workers die again and again."""


class NotebookFailed(LagkitError):
    """A cell of a notebook that was run headlessly failed or took too long."""
