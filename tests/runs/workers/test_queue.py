"""Who gets what, and what becomes of those whose worker died."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lagkit.runs.workers.queue import BATCHES, GUILTY, Queue


def chunks(queue: Queue) -> list[int]:
    return [len(chunk) for chunk in iter(lambda: queue.take() if queue else [], [])]


def test_chunks_are_taken_in_order_and_are_of_some_batches_while_there_is_much_to_do():
    queue = Queue(range(100), workers=2, room=5)
    assert queue.take() == list(range(BATCHES * 5))
    assert chunks(queue) == [20, 20, 20, 10, 5, 5]
    assert not queue


def test_few_items_are_shared_out_evenly():
    assert chunks(Queue("abcdef", workers=2, room=32)) == [3, 3]
    assert chunks(Queue("ab", workers=3, room=32)) == [1, 1]


def test_suspects_wait_for_the_others_and_are_tried_alone():
    queue = Queue("abcdefghij", workers=1, room=2)
    held = queue.take()
    assert (held, queue.take()) == (list("abcdefgh"), list("ij"))
    assert queue.died(held[1:]) == []  # `a` has ended; `b` and `c` were begun
    assert [queue.take() for _ in range(3)] == [list("defgh"), ["b"], ["c"]]
    assert queue.died(["b"]) == []
    assert queue.take() == ["b"]
    assert queue.died(["b"]) == ["b"]
    assert not queue


@given(st.lists(st.booleans(), min_size=1, max_size=20), st.integers(1, 5), st.data())
def test_every_item_ends_once_and_only_killers_are_guilty(kills, room, data):
    queue, hands, ended, guilty = Queue(range(len(kills)), 3, room), {0: [], 1: [], 2: []}, [], []
    deaths = 0
    while queue or any(hands.values()):
        hand = hands[data.draw(st.sampled_from(sorted(hands)))]
        if not hand and queue:
            hand += queue.take()
        if not hand:
            continue
        item = hand[data.draw(st.integers(0, min(room, len(hand)) - 1))]
        if kills[item]:
            guilty += queue.died(hand)
            deaths += 1
            hand.clear()
        else:
            hand.remove(item)
            ended.append(item)
    assert sorted(ended) == [i for i, kill in enumerate(kills) if not kill]
    assert sorted(guilty) == [i for i, kill in enumerate(kills) if kill]
    assert deaths <= GUILTY * sum(kills)
