"""What a figure leaves in a notebook: an interactive form and a picture, without a network."""

from __future__ import annotations

import base64
import shutil
import subprocess
import sys

import plotly.graph_objects as go
import plotly.io as pio
import pytest

from lagkit.util.errors import ConfigError
from lagkit.views import pictures, plots

needs_browser = pytest.mark.skipif(
    not any(map(shutil.which, pictures.BROWSERS)), reason="no Chromium on this machine (apt-get install chromium)"
)
PLOTLY = "application/vnd.plotly.v1+json"


@pytest.fixture(autouse=True)
def as_before(monkeypatch):
    monkeypatch.delenv("LAGKIT_PICTURES")
    monkeypatch.setattr(pio.renderers, "default", "json")
    monkeypatch.setattr(pio.templates, "default", "plotly")


def bar(height: int | None = None) -> go.Figure:
    return go.Figure(go.Bar(x=[1, 2], y=[3, 4]), {"height": height})


@needs_browser
def test_a_figure_leaves_a_picture_as_high_as_its_layout_and_offers_no_upload():
    plots.for_notebooks()
    for height in (200, 400):
        bundle = bar(height)._repr_mimebundle_()
        assert set(bundle) == {PLOTLY, "image/png"}
        image = base64.b64decode(bundle["image/png"])
        assert image.startswith(b"\x89PNG\r\n\x1a\n")
        assert [int.from_bytes(image[start : start + 4]) for start in (16, 20)] == [1125, height * 5 // 4]
        assert bundle[PLOTLY]["config"]["showSendToCloud"] is False


def test_without_a_browser_figures_leave_html_which_offers_no_upload(monkeypatch):
    monkeypatch.setattr(pictures.shutil, "which", lambda name: None)
    plots.for_notebooks()
    bundle = bar()._repr_mimebundle_()
    assert set(bundle) == {PLOTLY, "text/html"}
    assert len(bundle["text/html"]) < 20_000, "the library itself does not belong into each figure"
    assert '"showSendToCloud": false' in bundle["text/html"]
    with pytest.raises(ConfigError, match=r"No browser was found \(chromium, .*apt-get install chromium"):
        pictures.png(bar().to_dict())


BROKEN = """
import plotly.graph_objects as go
import plotly.io as pio
from lagkit.views import pictures
pictures.BROWSERS, pictures._SECONDS = ("false",), 1
pictures.use_renderers()
first, second = (set(go.Figure()._repr_mimebundle_()) for _ in range(2))
assert first == {"application/vnd.plotly.v1+json"}, first
assert second == {"application/vnd.plotly.v1+json", "text/html"}, second
"""


def test_a_browser_that_does_not_start_costs_the_picture_alone():
    told = subprocess.run([sys.executable, "-c", BROKEN], capture_output=True, text=True, timeout=120)
    assert told.returncode == 0, told.stderr
    assert "The figure could not be drawn with " in told.stderr
