"""Lock and record of a run's folder: one writer at a time, and the same settings and data for all its answers."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from lagkit.datasets.loaders import Dataset
from lagkit.model.api.requests import Requests
from lagkit.model.prompts.prompt import Prompt
from lagkit.runs import fingerprints
from lagkit.runs.config import RunConfig
from lagkit.runs.manifest import MANIFEST, read_manifest
from lagkit.types import Question
from lagkit.util.errors import ConfigError, RunLocked
from lagkit.util.files import intact, write, write_json
from lagkit.util.progress import warn

LOCK, RECORD = "run.lock", "made_with.json"

# Settings that may change between resumptions of one run: they decide what is answered next, not what an answer is.
_MAY_CHANGE = {
    *("out", "store", "data", "policies", "splits", "seen_questions", "unseen_questions"),
    *("device", "batch_size", "blocks", "api"),
}
_ANSWERS = ("traces", "online")  # folders of which a run has one once it has answers
_NAMED = 3  # ids of questions in a message

Facts = dict[str, Any]


class Claim:
    """A run's claim to its folder.

    Settings and data of the answers are recorded twice, so that either file may be lost: in `manifest.json`, with
    digests of all questions, gold answers and passages, and in `made_with.json`, also with those of each question.
    """

    def __init__(self, config: RunConfig, prompt: Prompt, dataset: Dataset, logged: Sequence[Question]) -> None:
        self.out = Path(config.out)
        questions = {q.id: [fingerprints.of_question(q), fingerprints.of_gold(q)] for q in dataset.questions}
        asked, gold = (fingerprints.of_logs(f"{id} {pair[i]}" for id, pair in questions.items()) for i in (0, 1))
        self._now: Facts = {
            "settings": config.flat(),
            "prompt": {"name": prompt.name, "hash": prompt.hash},
            "data": {"questions": asked, "answers": gold, "passages": fingerprints.of_passages(dataset.passages)},
        }
        self._detail: Facts = {"logged": [question.id for question in logged], "questions": questions}
        self._holder: int | None = None  # the process that has the folder by this claim; a fork of it has not

    @contextmanager
    def held(self) -> Iterator[bool]:
        """Lock the folder until the block ends, and record settings and data; yields False where it is locked already.

        Raises RunLocked, with nothing changed, where another process has the lock, and as `check`.
        """
        if self._holder == os.getpid():
            yield False
            return
        with alone(FileLock(self.out / LOCK, thread_local=False)):
            self._holder = os.getpid()
            try:
                for sentence in self.check():
                    warn(sentence)
                self._note()
                yield True
            finally:
                self._holder = None

    def check(self) -> list[str]:
        """Sentences on what has changed in the data since the run's answers were given. Writes nothing.

        Raises ConfigError where they have other settings, another prompt, other passages, other log questions or no
        question unchanged, and DataError for a damaged record.
        """
        if not any((self.out / name).exists() for name in _ANSWERS):
            return []
        before = recorded(self.out)
        if not before:
            raise ConfigError(
                f"{self.out} holds answers, and neither {RECORD} nor {MANIFEST} to say under which settings they were "
                "given: choose another folder."
            )
        if changed := _changed(before, self._now):
            raise ConfigError(f"{self.out} holds a run with other settings ({changed}): choose another folder.")
        asked, gold = self._differing(before, 0), self._differing(before, 1)
        if other := self._other_data(before, asked):
            raise ConfigError(
                f"{self.out} holds a run on other data ({other} changed after it was begun): put back what was there, "
                "or choose another folder."
            )
        told = []
        if asked:
            told.append(f"Changed since they were asked: {_named(asked)}. They are asked again, with all that depends.")
        if gold:
            told.append(f"Gold answers or hops changed of {_named(gold)}. What was answered is scored anew.")
        return told

    def _other_data(self, before: Facts, asked: list[str]) -> str:
        """The part of the data whose change makes the answers useless, in words; empty if there is none."""
        if before.get("data", {}).get("passages") != self._now["data"]["passages"]:
            return "the passages"
        if "questions" not in before:  # all that is left is the manifest
            same = before["data"]["questions"] == self._now["data"]["questions"]
            return "" if same else "the questions"
        if other := sorted({*before["logged"]} ^ {*self._detail["logged"]}):
            return f"the choice of log questions: {_named(other)}"
        return "the questions" if asked and len(asked) == len(before["questions"]) else ""

    def _differing(self, before: Facts, part: int) -> list[str]:
        """Ids of recorded questions that are gone or whose digest number `part` has changed."""
        now, were = self._detail["questions"], before.get("questions", {})
        return [id for id, pair in were.items() if id not in now or now[id][part] != pair[part]]

    def _note(self) -> None:
        record = {**self._now, **self._detail}
        if _record(self.out) != record:
            write(self.out / RECORD, json.dumps(record) + "\n")
        noted = read_manifest(self.out)
        if noted != (now := {**noted, **self._now}):
            write_json(self.out / MANIFEST, now)


@contextmanager
def alone(lock: FileLock) -> Iterator[None]:
    """Hold a lock, whose folder is created if missing; raises RunLocked at once where another process holds it."""
    folder = Path(lock.lock_file).parent
    folder.mkdir(parents=True, exist_ok=True)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise RunLocked(
            f"Another process, or another run of this one, is writing to {folder}: wait until it ends, or choose "
            "another folder."
        ) from error
    try:
        yield
    finally:
        lock.release()


def recorded(out: Path) -> Facts:
    """The recorded `settings`, `prompt` and `data` of a run's answers; empty without. Raises DataError if damaged."""
    noted = read_manifest(out)
    return _record(out) or (noted if noted.get("settings") else {})


def _record(out: Path) -> Facts:
    path = out / RECORD
    if not path.exists():
        return {}
    with intact(path, f"delete it, and the run resumes by what {MANIFEST} says"):
        record = json.loads(path.read_text(encoding="utf-8"))
        if lacking := {"settings", "prompt", "data", "logged", "questions"} - set(record):
            raise ValueError(f"it lacks {min(lacking)}")
        pairs = record["questions"].values()
        if not all(isinstance(record[name], dict) for name in ("settings", "prompt", "data")):
            raise ValueError("its settings, prompt or data are no mapping")
        if not all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
            raise ValueError("its questions are no pairs of digests")
        return dict(record)


def _changed(before: Facts, now: Facts) -> str:
    """The settings that have changed since the answers were given; empty if none has."""
    # A setting that is newer than the run had its default.
    defaults = RunConfig.parse({"data": ".", "out": "."}).flat()
    earlier = {"prompt": before.get("prompt"), **defaults, **before["settings"]}
    later = {"prompt": now["prompt"], **now["settings"]}
    earlier["temperature"], later["temperature"] = _temperature(earlier), _temperature(later)
    differing = [k for k in later if k not in _MAY_CHANGE and later[k] != earlier.get(k)]
    return ", ".join(f"{k} was {earlier.get(k)!r} and is {later[k]!r}" for k in differing)


def _temperature(settings: Facts) -> float | None:
    """The one of the settings of `api` that answers depend on."""
    return Requests(**(settings.get("api") or {})).temperature


def _named(ids: Sequence[str]) -> str:
    """The number of questions, and the first ids."""
    more = ", ..." if len(ids) > _NAMED else ""
    return f"{len(ids)} question{'s' if len(ids) > 1 else ''} ({', '.join(ids[:_NAMED])}{more})"
