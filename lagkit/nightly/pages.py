"""Pages of executed notebooks by nbconvert. They need no network: figures are drawn by a plotly.js beside the page."""

from __future__ import annotations

import json
import re
from copy import deepcopy
from functools import partial
from html import escape
from html.parser import HTMLParser
from pathlib import Path
from secrets import token_urlsafe
from typing import Any, NamedTuple

import jinja2
import plotly.io as pio
from nbconvert import HTMLExporter
from nbformat import NotebookNode
from plotly.offline import get_plotlyjs
from traitlets.config import Config

from lagkit.util import files
from lagkit.views.palette import TEMPLATES as LOOKS
from lagkit.views.pictures import CONFIG, alt_text
from lagkit.views.scripts import SCRIPTS

PLOTLY = "application/vnd.plotly.v1+json"
WIDGET = "application/vnd.jupyter.widget-view+json"
SCRIPT = "plotly.min.js"
BADGES, FIRST = "badges", "verdict"  # tags of the two cells under a notebook's title
TEMPLATES = Path(__file__).parent / "templates"
_HEIGHT = "450px"  # of a figure whose layout says none
_IMAGE = re.compile(r"!\[([^\]]*)\]\([^)]*\)")
_LOADS = re.compile(r"""(?:@import|url\()\s*["']?(?:https?:)?//[^\s"')]+""")


class Link(NamedTuple):
    """A relative address and the words to click."""

    address: str
    words: str


def without_widgets(notebook: NotebookNode) -> NotebookNode:
    """A copy of the notebook with the snapshot of each widget, which needs a kernel, or a sentence in its place."""
    copy: NotebookNode = deepcopy(notebook)
    for output in (output for cell in copy.cells for output in cell.get("outputs", ())):
        if "text/html" in output.get("data", {}):
            output.data.pop(WIDGET, None)
        if WIDGET in output.get("data", {}):
            output.data = NotebookNode({"text/markdown": "*A widget stands here in JupyterLab, with a kernel.*"})
        for script in SCRIPTS:
            if script in (html := output.get("data", {}).get("text/html", "")):
                output.data["text/html"] = html.replace(script, "")  # of which a page needs one for all outputs
    return copy


def render(notebook: NotebookNode, title: str, script: str = "", back: Link | None = None) -> str:
    """The page of a notebook. script: where plotly.js is; empty: in the page. back: the page that lists this one.

    What the notebook shows may come from anybody: of all scripts on the page, only those that bear a random number
    are run.
    """
    nonce, options = token_urlsafe(), Config()
    options.NbConvertBase.display_data_priority = [
        PLOTLY,
        *HTMLExporter().default_config.NbConvertBase.display_data_priority,
    ]
    options.ClearMetadataPreprocessor.enabled = True  # states of widgets, above all
    options.ClearMetadataPreprocessor.clear_cell_metadata = False
    options.TagRemovePreprocessor.enabled = True
    options.TagRemovePreprocessor.remove_input_tags = {FIRST}
    exporter = HTMLExporter(config=options, template_file=str(TEMPLATES / "notebook.html.j2"))
    exporter.register_filter("figure", partial(_figure, nonce=nonce))
    exporter.register_filter("in_the_dark", _in_the_dark)
    own = "".join(SCRIPTS).replace("<script>", f'<script nonce="{nonce}">')
    resources = {"nonce": nonce, "script": script, "back": back, "own": own, "metadata": {"name": title}}
    resources |= {"dark": json.dumps(LOOKS["dark"].to_plotly_json()), "plotly": "" if script else get_plotlyjs()}
    shown = without_widgets(notebook)
    for cell in shown.cells:
        if BADGES in cell.metadata.get("tags", []):  # whose pictures would come over the network
            cell.source = _IMAGE.sub(r"\1", cell.source).replace("\n", " · ")
    return str(exporter.from_notebook_node(shown, resources=resources)[0])


def _in_the_dark(style: str) -> str:
    """A style sheet, without its comments, for readers who want a dark page."""
    bare = re.sub(r"/\*.*?\*/", "", style, flags=re.DOTALL)
    begun = re.sub("(<style[^>]*>)", r"\1@media (prefers-color-scheme: dark) {", bare)
    return begun.replace("</style>", "}</style>")


def _figure(output: NotebookNode, nonce: str) -> str:
    """A figure as an element that plotly.js fills, with its picture for readers without scripts, and both in words."""
    figure = output.data[PLOTLY]
    html: str = pio.to_html(
        {part: figure[part] for part in ("data", "layout")},
        config=CONFIG,
        include_plotlyjs=False,
        full_html=False,
        validate=False,
        default_height=_HEIGHT,
    )
    # The last script is Plotly's own: JSON inside it holds no "<", and what a layout smuggles in stands before it.
    before, tag, after = html.rpartition("<script")
    alt = escape(alt_text(figure))
    picture = escape(output.data.get("image/png", "").replace("\n", ""))
    instead = f'<noscript><img alt="{alt}" src="data:image/png;base64,{picture}"></noscript>' if picture else ""
    return f'<div role="img" aria-label="{alt}">{before}{tag} nonce="{nonce}"{after}{instead}</div>'


def write_script(folder: Path) -> Path:
    """Write plotly.js into `folder`, once for all pages; returns its path."""
    path = folder / SCRIPT
    return path if path.exists() else files.write(path, get_plotlyjs())


def template(name: str) -> jinja2.Template:
    """A template of this room: values are escaped, a name that is not given is an error."""
    loader = jinja2.FileSystemLoader(TEMPLATES)
    options: dict[str, Any] = {"autoescape": True, "trim_blocks": True, "lstrip_blocks": True}
    return jinja2.Environment(loader=loader, undefined=jinja2.StrictUndefined, **options).get_template(name)


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
