"""The check of pages finds nothing on a sound one, and each fault that is planted."""

from __future__ import annotations

import base64
import copy
import re
from pathlib import Path

import nbformat
import plotly.graph_objects as go
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from lagkit.nightly import pages
from lagkit.util.errors import ConfigError
from lagkit.views import palette, pictures
from lagkit.views.plots.basic import laid_out

pytest.importorskip("playwright.sync_api")
from tools import look

try:
    pictures.browser()
except ConfigError as error:
    pytest.skip(str(error), allow_module_level=True)

PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n").decode()


def sound() -> go.Figure:
    figure = go.Figure(layout={"template": palette.TEMPLATES["light"]})
    for name, height in (("no_logs", 1.0), ("kv_last_round", 2.0)):
        look_ = {"name": name, "marker_color": palette.colour(name)}
        figure.add_bar(x=["one", "two"], y=[height, 3.0], **look_)
    figure.update_xaxes(title_text="case").update_yaxes(title_text="share")
    return laid_out(figure, "Two variants", 400, "Bars are means over two cases.")


def boxes_aside(figure: go.Figure) -> None:
    """Of two colours in each category, only one has values there."""
    figure.data = []
    figure.add_box(x=["one"] * 3, y=[1, 2, 3], marker_color=palette.KV)
    figure.add_box(x=["two"] * 3, y=[1, 2, 3], marker_color=palette.TEXT)
    figure.update_layout(boxmode="group")


def cut(figure: go.Figure) -> None:
    figure.add_annotation(text="A label that begins far outside", x=-0.2, y=0.5, xref="paper", yref="paper", ax=0, ay=0)


def overlapping(figure: go.Figure) -> None:
    for words in ("the one label", "another one"):
        figure.add_annotation(text=words, x=0.5, y=0.5, xref="paper", yref="paper", showarrow=False)


FIGURES = {
    "boxes stand beside “one”": boxes_aside,
    "“A label that begins far outside” is cut": cut,
    "“the one label” overlaps “another one”": overlapping,
    "“one” is behind the legend": lambda figure: figure.update_layout(legend={"y": 0, "yanchor": "top", "x": 0.1}),
    "shows less than half of its marks": lambda figure: figure.update_yaxes(range=[100, 200]),
    "has no caption": lambda figure: figure.update_layout(title_subtitle_text=""),
    "is 1000 pixels high": lambda figure: figure.update_layout(height=1000),
    "has no picture": lambda figure: None,
}
TEXTS = {
    "'nan' in": "nan",
    "'None' in": "None",
    "6 digits: 33.8824": "33.8824",
    "8 digits: 2,230,518.2": "2,230,518.2",
    "raw '<lagkit.model.lm.LM object at 0x'": "&lt;lagkit.model.lm.LM object at 0x7f&gt;",
    "raw 'VBox('": "VBox(children=())",
}
FINE = "3.11.7, 1e-05, 0.00012, 99.97%, 1,234,567 bytes, +12.3 [-4.5, +6.7], none, information"


@pytest.fixture(scope="module")
def found(tmp_path_factory, one_script) -> list[str]:
    """What is found on a sound page, and on one with all faults, each of which is the next figure or the next cell."""
    folder = tmp_path_factory.mktemp("pages")
    pages.write_script(folder)
    planted = []
    for fault, plant in FIGURES.items():
        plant(figure := copy.deepcopy(sound()))
        planted.append(shown(figure, "" if fault == "has no picture" else PNG))
    pale = sound().update_traces(marker_color="#fff3c4")
    written = [
        write(folder / "sound.html", [shown(sound()), cell(FINE)]),
        write(folder / "planted.html", [*planted, shown(pale), *map(cell, TEXTS.values())]),
    ]
    return look.faults(written)


def shown(figure: go.Figure, picture: str = PNG) -> dict[str, object]:
    return {pages.PLOTLY: figure.to_plotly_json()} | ({"image/png": picture} if picture else {})


def cell(text: str) -> dict[str, str]:
    return {"text/html": f"<table><tbody><tr><td>{text}</td></tr></tbody></table>"}


def write(path: Path, outputs: list[dict]) -> Path:
    """A page that shows these MIME bundles."""
    code = new_code_cell("shown", outputs=[new_output("display_data", each) for each in outputs], execution_count=1)
    notebook = nbformat.from_dict(new_notebook(cells=[new_markdown_cell("# Title"), code]))
    page = pages.render(notebook, "Title", pages.SCRIPT, pages.Link("index.html", "Back"))
    path.write_text(page, encoding="utf-8")
    return path


def test_nothing_is_found_on_a_sound_page(found):
    assert [line for line in found if line.startswith("sound.html")] == []


@pytest.mark.parametrize(("number", "fault"), [*enumerate(FIGURES, 1)])
def test_a_fault_of_a_figure_is_found_there(found, number, fault):
    own = [line for line in found if f"figure {number}" in line]
    assert any(fault in line for line in own), found


def test_a_pale_colour_is_found_on_white_alone(found):
    own = [line for line in found if f"figure {len(FIGURES) + 1}, " in line]
    assert own
    assert all(
        re.match(r"planted.html: light: contrast 1\.\d: figure 9, (no_logs|kv_last_round|no logs|KV)", line)
        for line in own
    )


@pytest.mark.parametrize("fault", TEXTS)
def test_a_fault_of_a_text_is_found(found, fault):
    assert any(fault in line for line in found), found


def test_a_notebook_without_pictures_and_captions_is_found(tmp_path):
    bare = {pages.PLOTLY: go.Figure(go.Bar(x=[1], y=[2])).to_plotly_json()}
    cell = new_code_cell("shown", outputs=[new_output("display_data", bare)])
    nbformat.write(new_notebook(cells=[cell]), tmp_path / "bare.ipynb")
    first, second = look.notebook(tmp_path / "bare.ipynb")
    assert (first, second.partition(":")[0]) == ("figure 1 has no picture", "figure 1 has no caption")
