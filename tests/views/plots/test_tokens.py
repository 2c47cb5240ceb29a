"""The token view: small numbers that say what the model's say, a page that recolours, and colours that can be read."""

from __future__ import annotations

import base64
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from nbformat.v4 import new_code_cell, new_notebook, new_output

from lagkit.logs.encode import Encoder
from lagkit.nightly.pages import Link, render, write_script
from lagkit.policy import POLICIES
from lagkit.studies import tokens
from lagkit.util.errors import DataError
from lagkit.views import palette
from lagkit.views.plots.tokens import DEEPEST, pack, view
from lagkit.views.scripts import TOKENS
from tests.helpers.lms import short_prompt, tiny_lm, trace_of
from tests.views.test_palette import contrast

LOG = trace_of("The river starts in the hills.", "It passes the old town.", "It ends in the <ans>Black Sea</ans>")
ANSWERS = pd.DataFrame(
    {"answer": ["Black Sea", ""], "right": [1.0, 0.0], "gold": [-0.1, -9.0]},
    index=pd.Index(["its own context", "round 1 hidden"], name="read before"),
)


@pytest.fixture(scope="module")
def attention() -> tokens.TokenAttention:
    return tokens.encoding(Encoder(tiny_lm(), short_prompt()), LOG, POLICIES["kv_last_round"])


def large(layers: int, heads: int, asking: int, pieces: int) -> tokens.TokenAttention:
    """Attention of a model of this size over eight rounds."""
    made = [tokens.Piece(f" w{i}", (i,), f"round {8 * i // pieces + 1}" if i else tokens.FIRST) for i in range(pieces)]
    draw = torch.Generator().manual_seed(1)
    found = torch.randn(layers, heads, asking, pieces, generator=draw).mul(2).softmax(-1)
    even = dict.fromkeys((piece.part for piece in made), 1 / 9)
    return tokens.TokenAttention("q", "kept", tuple(made), tuple(range(pieces - asking, pieces)), found, even)


def unpacked(levels: torch.Tensor) -> torch.Tensor:
    return (levels.float() / 255) ** 2


def test_eight_bits_hold_the_attention_and_its_shares(attention):
    packed, (layers, heads, asking, pieces) = pack(attention), attention.rows.shape
    assert packed.index is None
    assert packed.queries == list(range(asking))
    rows = attention.rows.permute(2, 0, 1, 3).reshape(-1, pieces)
    torch.testing.assert_close(unpacked(packed.weights), rows, atol=0.004, rtol=0)
    assert (unpacked(packed.weights)[rows < 0.01] - rows[rows < 0.01]).abs().max() < 5e-4
    shares = attention.shares.permute(2, 0, 1, 3).reshape(-1, len(attention.parts))
    torch.testing.assert_close(unpacked(packed.shares), shares, atol=0.004, rtol=0)
    assert packed.nbytes == layers * heads * asking * (pieces + len(attention.parts))


def test_a_large_model_fits_by_its_strongest_tokens():
    big = large(32, 32, 30, 300)
    packed = pack(big)
    assert packed.nbytes <= 1_000_000
    assert len(packed.queries) > 10
    assert packed.queries[0] == 0
    assert packed.queries == sorted(set(packed.queries))
    assert packed.index is not None
    assert packed.index.shape[-1] >= 12
    row, at = 5 * 1024 + 77, packed.index[5 * 1024 + 77].tolist()
    true = big.rows[77 // 32, 77 % 32, packed.queries[5]]
    torch.testing.assert_close(unpacked(packed.weights[row]), true[at], atol=0.004, rtol=0)
    assert set(at) == set(true.topk(len(at)).indices.tolist())
    assert packed.covered == pytest.approx(0.4, abs=0.3)
    shown = view(big)
    assert re.search(
        r"\d+ of 30 kept tokens can be asked, in 1,024 heads: [\d,]+ kB in 8 bits\. Of each row the ", shown.html
    )
    assert len(shown.html) < 1_500_000


def test_a_limit_under_which_nothing_fits_is_said():
    with pytest.raises(
        DataError, match=r"Attention of 64 heads takes [\d,]+ bytes for one token, above the limit of 99: "
    ):
        view(large(8, 8, 4, 40), limit=99)


def test_the_page_says_in_words_what_the_colours_say(attention):
    html = view(attention, ANSWERS).html
    shares = attention.by_part()["share"]
    for part, share in shares.items():
        assert re.search(rf'<th scope="row">{part}</th><td>\d+</td><td class="share">{share:.1%}</td>', html)
    assert '<td class="left">Black Sea</td><td class="left">right</td><td>90.5%</td>' in html
    assert "<i>none yet</i>" in html
    deepest = max(map(float, re.findall(r"--a:([\d.]+)", html)))
    assert deepest == DEEPEST
    for part in ("weights", "shares"):
        assert base64.b64decode(re.search(rf'data-{part}="([^"]+)"', html)[1])


def test_no_text_becomes_a_tag_or_leaves_an_attribute():
    evil = "</script><script>window.pwned=1</script>\"' onload=window.pwned=2 {{ 7*7 }}"
    found = tokens.encoding(
        Encoder(tiny_lm(), short_prompt()), trace_of(evil, evil, question=evil), POLICIES["kv_last_round"]
    )
    html = view(found, ANSWERS.assign(answer=evil).rename(index={"its own context": evil})).html
    assert "<script" not in html
    assert "window.pwned=1</" not in html
    assert html.count("&lt;/script&gt;") >= 2
    assert "{{ 7*7 }}" in html
    assert view(found)._repr_html_().count("<script>") == 1


@pytest.mark.parametrize("theme", palette.TEMPLATES)
def test_text_stands_out_on_the_deepest_colour(theme):
    layout = palette.TEMPLATES[theme].layout
    page, weight = (np.array([*bytes.fromhex(one[1:])]) for one in (layout.paper_bgcolor, palette.KV))
    mixed = "#" + bytes((page + DEEPEST * (weight - page)).round().astype(int).tolist()).hex()
    assert contrast(layout.font.color, mixed) >= 4.5
    assert contrast(palette.KV, layout.paper_bgcolor) >= 3
    assert contrast(palette.TEXT, layout.paper_bgcolor) >= 3


@pytest.fixture(scope="module", params=["alone", "gallery"])
def path(request, attention, tmp_path_factory) -> Path:
    """The view on a page of its own, and on one of the gallery, where only the gallery's own scripts run."""
    path, shown = tmp_path_factory.mktemp("view") / "page.html", view(attention, ANSWERS)._repr_html_()
    if request.param == "alone":
        path.write_text(f"<!doctype html><meta charset=utf-8>{shown}", encoding="utf-8")
    else:
        cell = new_code_cell("1", outputs=[new_output("display_data", data={"text/html": shown})], execution_count=1)
        write_script(path.parent)
        made = render(new_notebook(cells=[cell]), "t", "plotly.min.js", Link("index.html", "Back"))
        assert made.count("A token view stays as it is") == 1
        assert TOKENS not in made
        path.write_text(made, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def window(browser):
    return browser.new_page(viewport={"width": 1000, "height": 800}, color_scheme="dark")


@pytest.fixture
def page(path, window):
    """The page, opened anew."""
    faults: list[str] = []
    told = {
        "pageerror": lambda error: faults.append(str(error)),
        "console": lambda said: faults.append(said.text) if said.type in ("error", "warning") else None,
    }
    for event, note in told.items():
        window.on(event, note)
    window.goto(path.as_uri())
    yield window
    for event, note in told.items():
        window.remove_listener(event, note)
    assert faults == []


def opacities(page) -> list[float]:
    return page.evaluate(
        "[...document.querySelectorAll('.lagkit-tokens .t')].map(t => +t.style.getPropertyValue('--a'))"
    )


def expected(attention, query: int, layer: int, head: int) -> list[float]:
    row = attention.rows[layer, head, query].tolist()
    most = max(weight for weight, piece in zip(row, attention.pieces, strict=True) if piece.part != tokens.FIRST)
    return [DEEPEST * min(1, weight / most) for weight in row]


def shares_shown(page) -> dict[str, float]:
    rows = page.locator(".shares tbody tr").all()
    return {one.locator("th").inner_text(): float(one.locator(".share").inner_text()[:-1]) / 100 for one in rows}


def test_a_click_on_a_head_recolours_the_text_and_the_keyboard_does_too(page, attention):
    before = opacities(page)
    canvas = page.locator("canvas").nth(1)
    box = canvas.bounding_box()
    layers, heads = attention.weights.shape[:2]
    canvas.click(position={"x": box["width"] * 2.5 / heads, "y": box["height"] * 1.5 / layers})
    assert opacities(page) != before
    assert opacities(page) == pytest.approx(expected(attention, 0, 1, 2), abs=0.03)
    assert "From the mean of all kept tokens, in layer 1, head 2. Strongest: “" in page.locator(".status").inner_text()
    canvas.press("ArrowRight")
    assert opacities(page) == pytest.approx(expected(attention, 0, 1, 3), abs=0.03)
    page.locator(".menus select").nth(1).select_option("0")
    page.locator(".menus select").nth(0).select_option("2")
    assert opacities(page) == pytest.approx(expected(attention, 2, 0, 3), abs=0.03)
    page.locator(".t.can").nth(4).click()
    assert opacities(page) == pytest.approx(expected(attention, 5, 0, 3), abs=0.03)
    assert page.locator(".t.chosen").text_content() == attention.pieces[attention.asking[4]].text
    own = dict(zip(attention.parts, attention.shares[0, 3, 5].tolist(), strict=True))
    assert shares_shown(page) == pytest.approx(own, abs=0.006)
    page.locator(".menus select").nth(0).select_option("0")
    page.locator(".menus select").nth(1).select_option("-1")
    page.locator(".menus select").nth(2).select_option("-1")
    assert opacities(page) == pytest.approx(before, abs=0.03)
    assert shares_shown(page) == pytest.approx(attention.by_part()["share"].to_dict(), abs=0.003)


def test_shares_stay_with_their_parts_when_the_table_is_sorted(page, attention):
    head = page.locator(".shares thead th").nth(2)
    head.click()  # of a page that sorts its tables
    page.locator(".menus select").nth(2).select_option("1")
    own = attention.shares[:, 1, 0].mean(dim=0)
    assert shares_shown(page) == pytest.approx(dict(zip(attention.parts, own.tolist(), strict=True)), abs=0.004)


def test_a_large_model_s_maps_stand_side_by_side(browser, tmp_path):
    path = tmp_path / "large.html"
    path.write_text(f"<!doctype html><meta charset=utf-8>{view(large(32, 32, 6, 200))._repr_html_()}", encoding="utf-8")
    for width in (700, 1300):
        page = browser.new_page(viewport={"width": width, "height": 800})
        page.goto(path.as_uri())
        assert page.locator("canvas").count() == 8
        boxes = [one.bounding_box() for one in page.locator("canvas").all()]
        assert all(90 <= box["width"] <= 140 and box["x"] + box["width"] <= width for box in boxes)
        assert len({box["y"] for box in boxes}) < 8
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.close()


def test_numbers_that_do_not_fit_leave_the_page_as_it_is(browser, attention, tmp_path):
    path = tmp_path / "broken.html"
    html = re.sub(r'data-weights="[^"]{8}', 'data-weights="', view(attention)._repr_html_(), count=1)
    path.write_text(f"<!doctype html><meta charset=utf-8>{html}", encoding="utf-8")
    page = browser.new_page()
    page.goto(path.as_uri())
    assert page.locator("canvas").count() == 0
    assert page.locator(".shares tbody tr").count() == len(attention.parts)
    page.close()


def test_a_text_says_the_shares(attention):
    assert repr(view(attention)).startswith(LOG.question)
    assert "round 2" in repr(view(replace(attention, title="t")))
