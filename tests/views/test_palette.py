"""Colours that can be read on white and on dark, told apart by colour-blind eyes, and names for people."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from lagkit.policy import POLICIES
from lagkit.views import palette

# What colour-blind eyes see of linear RGB: Machado, Oliveira and Fernandes (2009), severity 1.
EYES = {
    "usual": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
}
FORMS = [palette.NONE, palette.KV, palette.TEXT, palette.NOTES, palette.COPY]
PAIRS = {
    **{f"forms of logs {a} {b}": (a, b) for a, b in combinations(FORMS, 2)},
    "seen and unseen": (palette.SEEN, palette.UNSEEN),
    "gain and loss": (palette.GAIN, palette.LOSS),
}


def linear(colour: str) -> np.ndarray:
    channels = np.array([int(colour[at : at + 2], 16) for at in (1, 3, 5)]) / 255
    return np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)


def contrast(a: str, b: str) -> float:
    """Contrast ratio as WCAG 2 has it."""
    low, high = sorted(linear(colour) @ [0.2126, 0.7152, 0.0722] for colour in (a, b))
    return (high + 0.05) / (low + 0.05)


def lab(rgb: np.ndarray) -> np.ndarray:
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ rgb
    x, y, z = np.cbrt(np.maximum(xyz / [0.95047, 1.0, 1.08883], 0.008856))
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def distance(a: str, b: str, eyes: str) -> float:
    """Distance in CIELAB of what these eyes see; 2.3 is just noticeable."""
    seen = [lab(np.clip(np.array(EYES[eyes]) @ linear(colour), 0, 1)) for colour in (a, b)]
    return float(np.linalg.norm(seen[0] - seen[1]))


def test_the_measures_agree_with_published_values():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#767676", "#ffffff") == pytest.approx(4.54, abs=0.01)
    assert distance("#ff0000", "#00ff00", "usual") == pytest.approx(170.6, abs=1)
    assert distance("#ff0000", "#00ff00", "deuteranopia") < 0.6 * distance("#ff0000", "#00ff00", "usual")


@pytest.mark.parametrize("page", [palette.WHITE, palette.DARK])
@pytest.mark.parametrize("colour", [palette.NONE, *palette.SERIES])
def test_every_colour_stands_out_on_white_and_on_dark(colour, page):
    assert contrast(colour, page) >= 3


@pytest.mark.parametrize("eyes", EYES)
@pytest.mark.parametrize("pair", PAIRS)
def test_what_stands_side_by_side_differs_for_all_eyes(pair, eyes):
    assert distance(*PAIRS[pair], eyes) > 25


@pytest.mark.parametrize("theme", palette.TEMPLATES)
def test_templates_are_for_the_pages_that_the_colours_were_chosen_for(theme):
    layout = palette.TEMPLATES[theme].layout
    assert layout.paper_bgcolor == layout.plot_bgcolor == {"light": palette.WHITE, "dark": palette.DARK}[theme]
    assert contrast(layout.font.color, layout.paper_bgcolor) > 10
    assert list(layout.colorway) == palette.SERIES


def test_a_variant_has_one_colour_whatever_stands_beside_it():
    for beside in (["no_logs"], ["text_last_round", "kv_block"], ["seen"]):
        assert palette.colours([*beside, "kv_last_round"])["kv_last_round"] == palette.KV
    assert palette.colours(["no_logs+passages=2", "cheatsheet"]) == {
        "no_logs+passages=2": palette.NONE,
        "cheatsheet": palette.NOTES,
    }
    others = palette.colours(["append", "kv_last_round", "dedup"])
    assert len({*others.values()}) == 3
    assert palette.dashes(["kv_last_round", "kv_block", "text_last_round"]) == {
        "kv_last_round": "solid",
        "kv_block": "dot",
        "text_last_round": "solid",
    }


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("no_logs", "no logs"),
        ("kv_last_round", "KV, last round"),
        ("kv_block", "KV, last round, read alone"),
        ("text_all_rounds_user_turn", "text, all rounds, in the user turn"),
        ("cheatsheet", "notes"),
        ("copy_nearest", "copied answer"),
        ("no_logs+max_rounds=10", "no logs, max rounds 10"),
        ("kv/last_round/conversation/front", "KV, last round, read with its conversation"),
        ("unseen", "unseen"),
    ],
)
def test_names_are_for_people(name, read):
    assert palette.readable(name) == read


def test_no_two_variants_are_called_alike():
    assert len({palette.readable(name) for name in POLICIES}) == len(POLICIES)


def test_variants_in_a_sentence_are_called_as_people_read_them():
    assert palette.reworded("Against kv_last_round_prefix, no_logs and my_kv_block") == (
        "Against KV, last round, behind the head, no logs and my_kv_block"
    )
