"""Log stores and processes: killed at any moment, reading beside a writer, two that would write."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest

from lagkit.logs.store import LogStore
from lagkit.util.errors import StoreError, StoreLocked
from tests.helpers.killed import clean, die_at_sync, needs_forks
from tests.helpers.stores import files_of, fill, kv, new_store, same, trace, vector


@pytest.fixture
def store(tmp_path):
    with new_store(tmp_path / "store") as store:
        yield store


def endless_writer(path, first, pipe):
    """Add, extend and delete logs for ever, telling each step before and after it is done."""
    with LogStore.open(path, write=True) as store:
        i = first
        while True:
            steps = [("add", i), ("put", i)] + [("delete", i - 1)] * (i % 3 == 0 and i > first)
            for what, n in steps:
                pipe.send(("begun", what, n))
                if what == "add":
                    store.add(trace(n), vector(n), {"last": kv(n), "all": kv(n, tokens=50)})
                elif what == "put":
                    store.put_block(trace(n).id, "more", kv(-n))
                else:
                    store.delete([trace(n).id])
                pipe.send(("done", what, n))
            i += 1


def play_back(pipe, logs, messages=None, open_step=None):
    """Apply what the writer said to `logs` (number -> keys); returns the step that was begun and not done.

    Waits for so many messages, or takes those that there are. `open_step`: what was begun and not done before them.
    """
    while messages != 0 and pipe.poll(20 if messages else 0):
        messages = messages and messages - 1
        try:
            state, what, n = pipe.recv()
        except EOFError:
            break
        open_step = (what, n)
        if state == "done":
            open_step = None
            apply(logs, what, n)
    return open_step


def apply(logs, what, n):
    if what == "add":
        logs[n] = {"last", "all"}
    elif what == "put":
        logs[n] = logs[n] | {"more"}
    else:
        del logs[n]


def held(store):
    """What the store holds, after checking that each trace and block is the one of its number."""
    numbers, expected = {}, {"last": kv, "all": lambda n: kv(n, tokens=50), "more": lambda n: kv(-n)}
    for told in store.traces():
        n = int(told.answer)
        assert told == trace(n)
        numbers[n] = set(store.block_keys(told.id))
        assert all(same(store.block(told.id, key), expected[key](n)) for key in numbers[n])
    return numbers


@needs_forks
def test_kills_at_random_moments_lose_no_committed_log(store):
    store.close()
    logs, chance = {}, random.Random(0)
    for turn in range(10):
        receiver, sender = clean.Pipe(duplex=False)
        child = clean.Process(target=endless_writer, args=(store.path, 1000 * turn, sender))
        child.start()
        sender.close()
        # By steps, not by the clock: a busy machine gets as far as an idle one.
        open_step = play_back(receiver, logs, messages=chance.randrange(1, 20))
        time.sleep(chance.uniform(0, 0.01))
        os.kill(child.pid, signal.SIGKILL)
        child.join(20)
        assert child.exitcode == -signal.SIGKILL
        open_step = play_back(receiver, logs, open_step=open_step)
        with LogStore.open(store.path, write=True) as after:  # the lock went with the process
            found = held(after)
            if found != logs:
                apply(logs, *open_step)
            assert found == logs
            problems = after.verify()
            assert set(problems["problem"]) <= {"is an orphan: no log names this file"}
            assert after.prune()["file"].tolist() == problems["file"].tolist()
            assert after.verify().empty
            if logs:
                n = next(iter(logs))
                assert after.search(vector(n)[None], 1)[0][0].id == trace(n).id
    assert len(logs) > 10


def writer_that_dies(path, step):
    """Add log 2, and die at the call number `step` of those that make a write durable."""
    calls = iter(range(1, step + 1))

    def counted(original):
        def call(*args, **kwargs):
            if next(calls) == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*args, **kwargs)

        return call

    with LogStore.open(path, write=True) as store:
        store._commit = counted(store._commit)
        os.fsync, os.replace, Path.write_bytes = counted(os.fsync), counted(os.replace), counted(Path.write_bytes)
        store.add(trace(2), vector(2), {"a": kv(2), "b": kv(3)})
    os._exit(0)


@needs_forks
def test_a_kill_at_each_step_of_adding_leaves_all_or_nothing(store):
    fill(store, [1])
    store.close()
    orphans = []
    for step in range(1, 20):
        child = clean.Process(target=writer_that_dies, args=(store.path, step))
        child.start()
        child.join(20)
        with LogStore.open(store.path, write=True) as after:
            assert after.ids[0] == trace(1).id
            assert same(after.block(trace(1).id, "last"), kv(1))
            if child.exitcode == 0:
                assert after.block_keys(trace(2).id) == ["a", "b"]
                break
            assert len(after) == 1
            orphans.append(len(after.prune()))
            assert len(files_of(after)) == 1
    # Two blocks of write, sync, rename, sync of one or two folders; then the rows.
    assert child.exitcode == 0
    assert orphans[0] == 0
    assert orphans[-1] == 2
    assert orphans == sorted(orphans)


def writer_that_dies_at_once(path):
    die_at_sync(1)
    new_store(path)


@needs_forks
def test_a_killed_create_can_be_repeated(tmp_path):
    child = clean.Process(target=writer_that_dies_at_once, args=(tmp_path / "s",))
    child.start()
    child.join(20)
    assert child.exitcode == -signal.SIGKILL
    with pytest.raises(StoreError, match="There is no log store at"):
        LogStore.open(tmp_path / "s")
    with new_store(tmp_path / "s") as store:
        fill(store, [1])
        assert store.verify().empty


def patient_writer(path, count, pipe):
    with LogStore.open(path, write=True) as store:
        pipe.send("open")
        for i in range(count):
            store.add(trace(i), vector(i), {"last": kv(i)})
            if i % 5 == 4:
                store.delete([trace(i - 1).id])
        pipe.send("done")


@needs_forks
def test_a_reader_beside_a_writer_sees_only_whole_logs(store):
    store.close()
    receiver, sender = clean.Pipe(duplex=False)
    child = clean.Process(target=patient_writer, args=(store.path, 60, sender))
    child.start()
    assert receiver.recv() == "open"
    started = time.monotonic()
    with pytest.raises(StoreLocked):
        LogStore.open(store.path, write=True)
    assert time.monotonic() - started < 1
    sizes, refusals = set(), []
    with LogStore.open(store.path) as reader:
        while not receiver.poll():
            sizes.add(len(reader))
            for log in reader.ids[-6:]:
                try:
                    n = int(reader.get(log).answer)
                    assert same(reader.block(log, "last"), kv(n))
                except StoreError as error:
                    refusals.append((log, str(error)))
            if sizes != {0}:
                assert reader.search(vector(0)[None], 1)[0][0].id == trace(0).id
        child.join(20)
        assert len(reader) == 60 - 12
        assert len(sizes) > 2
        # Deleted between the listing and the reading, and said so.
        assert all(f"There is no log {log!r}" in said for log, said in refusals)
        assert reader.verify().empty
    LogStore.open(store.path, write=True).close()
