"""Who gets what, and what becomes of those whose worker died."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lagkit.runs.workers.queue import GUILTY, Queue


def test_a_worker_is_given_what_it_has_room_for_in_order():
    queue = Queue("abcde")
    assert (queue.take((), 2), queue.take("ab", 3), queue.take((), 3)) == (["a", "b"], ["c"], ["d", "e"])
    assert queue.take((), 3) == []
    for item in "abcde":
        assert queue.left
        queue.ended(item)
    assert not queue.left


def test_an_item_that_ended_cannot_end_again():
    queue = Queue("a")
    queue.take((), 1)
    queue.ended("a")
    with pytest.raises(KeyError):
        queue.ended("a")


def test_suspects_wait_for_the_others_and_are_tried_alone():
    queue = Queue("abcd")
    assert queue.died(queue.take((), 2)) == []
    assert queue.take((), 4) == ["c", "d", "a", "b"]
    queue.ended("c")
    queue.ended("d")
    assert queue.died("ab") == []
    assert (queue.take((), 4), queue.take("a", 4), queue.take((), 4)) == (["a"], [], ["b"])
    queue.ended("b")
    assert queue.died("a") == ["a"]
    assert not queue.left


@given(st.lists(st.booleans(), min_size=1, max_size=20), st.data())
def test_every_item_ends_once_and_only_killers_are_guilty(kills, data):
    queue, hands, ended, guilty = Queue(range(len(kills))), {0: [], 1: [], 2: []}, [], []
    deaths = 0
    while queue.left:
        worker = data.draw(st.sampled_from(sorted(hands)))
        hand = hands[worker]
        hand += queue.take(hand, 4)
        assert len(set().union(*hands.values())) == sum(map(len, hands.values()))
        if not hand:
            continue
        item = hand[data.draw(st.integers(0, len(hand) - 1))]
        if kills[item]:
            guilty += queue.died(hand)
            deaths += 1
            hand.clear()
        else:
            queue.ended(item)
            hand.remove(item)
            ended.append(item)
    assert sorted(ended) == [i for i, kill in enumerate(kills) if not kill]
    assert sorted(guilty) == [i for i, kill in enumerate(kills) if kill]
    assert deaths <= GUILTY * sum(kills)
