"""Pages that need no network: one for each notebook, an index, and plotly.js once for all of them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from copy import deepcopy
from html.parser import HTMLParser
from pathlib import Path
from secrets import token_urlsafe
from typing import NamedTuple

import jinja2
import plotly.io as pio
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbformat import NotebookNode
from plotly.offline import get_plotlyjs

from lagkit.nightly.gallery.executed import PLOTLY, Executed, outputs
from lagkit.nightly.gallery.pictures import HEIGHT
from lagkit.util.errors import DataError
from lagkit.util.files import write

SCRIPT = "plotly.min.js"
_TEMPLATES = Path(__file__).parent / "templates"
_LOADS = re.compile(r"""(?:@import|url\()\s*["']?(?:https?:)?//[^\s"')]+""")


class Link(NamedTuple):
    """A relative address and the words to click."""

    address: str
    words: str


def write_pages(executed: Sequence[Executed], folder: Path, previews: Mapping[str, bytes]) -> Path:
    """Write a page for each notebook, the index, previews and plotly.js into `folder`; returns the index's path.

    previews: the name of a notebook -> a PNG of its first figure. Raises DataError, before anything is written, if a
    page would load something over the network.
    """
    pages = {one.name: page(one) for one in executed}
    for one in executed:
        if found := loaded(pages[one.name]):
            raise DataError(f"The page of {one.path} would load {found[0]}: a gallery works offline, take it out.")
    folder.mkdir(parents=True, exist_ok=True)
    write(folder / SCRIPT, get_plotlyjs())
    for name, text in pages.items():
        write(folder / f"{name}.html", text)
    for name, image in previews.items():
        write(folder / f"{name}.png", image)
    return write(folder / "index.html", index(executed, set(previews)))


def page(one: Executed) -> str:
    """A notebook's page; figures are drawn by the plotly.js beside it."""
    return render(one.notebook, one.opening[0], SCRIPT, Link("index.html", "All notebooks"))


def render(notebook: NotebookNode, title: str, script: str, back: Link) -> str:
    """A page of a notebook without live parts. script: where plotly.js is. back: the page that lists this one.

    What the notebook shows may come from anybody: of all scripts on the page, only those that bear a number which is
    drawn here are run.
    """
    exporter = HTMLExporter(template_file=str(_TEMPLATES / "page.html.j2"))
    nonce = token_urlsafe()
    notebook = _with_drawn_figures(notebook, nonce)
    notebook.metadata["title"] = title
    resources = {"nonce": nonce, "script": script, "back": back}
    return exporter.from_notebook_node(notebook, resources=resources)[0]


def index(executed: Sequence[Executed], previewed: set[str]) -> str:
    """The page that lists the notebooks: title, question, preview, and what each was made with."""
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(_TEMPLATES), autoescape=True)
    entries = [
        {
            "name": one.name,
            "title": _html(one.opening[0]).strip().removeprefix("<p>").removesuffix("</p>"),
            "question": _html(one.opening[1]),
            "preview": one.name in previewed,
            "figures": len(one.figures),
            "made": one.made,
        }
        for one in executed
    ]
    return environment.get_template("index.html.j2").render(entries=entries)


def loaded(page: str) -> list[str]:
    """What a page would fetch over the network by itself: scripts, styles, pictures and frames; links are no fetch."""
    parser = _Sources()
    parser.feed(page)
    return parser.found


class _Sources(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self._in_style = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._in_style = tag == "style"
        for name, value in attrs:
            fetched = name in ("src", "srcset", "poster", "data") or (name == "href" and tag == "link")
            if fetched and re.match(r"\s*(?:https?:)?//", value or ""):
                self.found.append(str(value))

    def handle_data(self, data: str) -> None:
        if self._in_style:
            self.found += _LOADS.findall(data)
            self._in_style = False


def _with_drawn_figures(notebook: NotebookNode, nonce: str) -> NotebookNode:
    """A copy of the notebook whose figures are elements that plotly.js fills."""
    notebook = deepcopy(notebook)
    figures = [output for output in outputs(notebook) if PLOTLY in output.get("data", {})]
    for number, output in enumerate(figures, 1):
        output.data = NotebookNode({"text/html": _element(output.data[PLOTLY], number, nonce)})
    return notebook


def _element(figure: NotebookNode, number: int, nonce: str) -> str:
    html: str = pio.to_html(
        {part: figure[part] for part in ("data", "layout")},
        config={"responsive": True, "displaylogo": False, "showSendToCloud": False},
        include_plotlyjs=False,
        full_html=False,
        validate=False,
        div_id=f"figure-{number}",
        default_height=f"{figure['layout'].get('height', HEIGHT)}px",
    )
    # The last script is Plotly's own: JSON inside it holds no "<", and what a layout smuggles in stands before it.
    before, tag, after = html.rpartition("<script")
    return f'{before}{tag} nonce="{nonce}"{after}'


def _html(text: str) -> str:
    """Markdown as HTML; HTML in it is text, and links of schemes that run scripts lead nowhere."""
    renderer = IPythonRenderer(escape=True, allow_harmful_protocols=False)
    return MarkdownWithMath(renderer=renderer).render(text)
