"""Executed notebooks made to be shared: offline pages with an index, and copies that GitHub shows with pictures."""

from __future__ import annotations

import base64
import json
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import nbformat
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbconvert.preprocessors import ClearMetadataPreprocessor
from nbformat import NotebookNode

from lagkit.nightly import pages
from lagkit.nightly.pages import PLOTLY, without_widgets
from lagkit.util.errors import DataError
from lagkit.util.files import intact, write
from lagkit.util.markdown import literal
from lagkit.util.terminal import tell
from lagkit.views.pictures import alt_text

LIMIT = 4_000_000  # bytes of a copy: a token view of 28 x 12 heads takes 1.3 MB
_KEPT = {"kernelspec", ("language_info", "name", "file_extension", "mimetype", "pygments_lexer")}
_PROGRESS = re.compile(r"^.+: \d+(?: of \d+)?, \d+ s\n", re.MULTILINE)
_PERSONAL = re.compile(r"/(?:home|root|tmp|work|Users)/[^\s\"'\\]*")


def make(folder: Path, where: Path, copies: Path | None) -> None:
    """Write pages of the executed notebooks in `folder` to `where`, and copies of them to `copies`."""
    if copies and copies.resolve().is_relative_to(folder.resolve()):
        raise DataError(f"The copies in {copies} would be taken for executed notebooks: choose another folder.")
    executed = find(folder)
    if copies:
        tell(f"Copies: {write_copies(executed, copies)}")
    tell(f"Pages: {write_pages(executed, where)}")


@dataclass(frozen=True)
class Executed:
    """A notebook that came to its end."""

    path: Path
    notebook: NotebookNode

    @classmethod
    def read(cls, path: Path) -> Executed:
        """Raises DataError if the file is no notebook, was not executed, or did not come to its end."""
        try:
            notebook = nbformat.read(path, as_version=4)
        except (ValueError, OSError) as error:
            raise DataError(f"{path} cannot be read as a notebook ({' '.join(str(error).split())}).") from error
        code = [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]
        if any(output.output_type == "error" for cell in code for output in cell.outputs):
            raise DataError(f"{path} holds an error: run the notebook again, and make the gallery then.")
        if not code or any(cell.execution_count is None for cell in code):
            raise DataError(f"{path} was not run to its end: run it again, and make the gallery then.")
        return cls(path, notebook)

    @property
    def name(self) -> str:
        """The file's name without its suffix, also that of its page, copy and picture."""
        return self.path.stem

    @property
    def title(self) -> str:
        """As its page is titled, with what stands behind a hyphen in the file's name: `05_attention-laptop`."""
        return self.opening[0] + "".join(f" ({other})" for other in self.name.split("-")[1:])

    @cached_property
    def opening(self) -> tuple[str, str]:
        """The title, and the first sentence after it, as Markdown; raises DataError if there are none."""
        first = next((cell.source for cell in self.notebook.cells if cell.cell_type == "markdown"), "")
        title, *blocks = [block.strip() for block in re.split(r"\n\s*\n", first)]
        if not title.startswith("# ") or not blocks:
            raise DataError(f"{self.path} must begin with a Markdown cell of a `# title` and a paragraph.")
        return title.removeprefix("# ").strip(), _first_sentence(blocks[0])

    @cached_property
    def sentence(self) -> str:
        """What the notebook is shown with: the first sentence of its verdict, or of its opening, as Markdown."""
        return _first_sentence(self.verdict.removeprefix("> **Verdict.** ")) or self.opening[1]

    @cached_property
    def figures(self) -> list[NotebookNode]:
        """MIME bundles of the outputs that hold a Plotly figure, in order."""
        return [data for data in _bundles(self.notebook) if PLOTLY in data]

    @cached_property
    def preview(self) -> bytes | None:
        """The first figure as a PNG; None where there is no figure, or it was shown without a picture."""
        return base64.b64decode(self._first["image/png"]) if self._first else None

    @cached_property
    def shows(self) -> str:
        """What the preview shows, in words."""
        return alt_text(self._first[PLOTLY]) if self._first else ""

    @cached_property
    def _first(self) -> NotebookNode | None:
        return next((data for data in self.figures if "image/png" in data), None)

    @cached_property
    def verdict(self) -> str:
        """What `lag.conclude` filled in under the title, as Markdown; empty where there is none."""
        tagged = [cell for cell in self.notebook.cells if pages.FIRST in cell.metadata.get("tags", [])]
        said = [output.data.get("text/markdown", "") for cell in tagged for output in cell.outputs if "data" in output]
        return "".join(said[:1])

    @cached_property
    def made(self) -> dict[str, str]:
        """Time, duration, parameters given, code, versions and machine of the execution, as far as known."""
        run = self.notebook.metadata.get("papermill", {})
        facts: dict[str, str] = {}
        if run.get("end_time"):
            facts["made"] = f"{run['end_time'][:16].replace('T', ' ')} UTC, in {run['duration']:.0f} s"
        given = {name: value for name, value in run.get("parameters", {}).items() if name not in ("out", "run")}
        facts["parameters"] = ", ".join(f"{name}={value!r}" for name, value in given.items()) or "defaults"
        if version := self.notebook.metadata.get("language_info", {}).get("version"):
            facts["Python"] = version
        return facts | _recorded(self.path.parent / "metrics.json")


def _first_sentence(text: str) -> str:
    """A text up to its first full stop, question mark or exclamation mark before a space and a capital or a mark."""
    return re.split(r"(?<=[.?!])\s+(?=[^\sa-z\d])", " ".join(text.split()), maxsplit=1)[0]


def _bundles(notebook: NotebookNode) -> list[NotebookNode]:
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return [output.data for cell in code for output in cell.outputs if "data" in output]


def _recorded(path: Path) -> dict[str, str]:
    """Code and machine as `lab.conclude` noted them in `metrics.json`; empty if there is none."""
    if not path.exists():
        return {}
    with intact(path, "run its notebook again"):
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    facts = {}
    if git := record.get("git"):
        facts["commit"] = git["commit"][:10] + (" with changes" if git["changed"] else "")
    if machine := record.get("machine"):
        gpu = f", {machine['gpu']}" if machine["gpu"] else ""
        facts["machine"] = f"{machine['system']} {machine['processor']}, {machine['cores']} cores{gpu}"
    return facts


def find(folder: Path) -> list[Executed]:
    """All executed notebooks in `folder` and below, by name; raises DataError if there are none or two of a name."""
    paths = sorted(p for p in folder.rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts)
    if not paths:
        raise DataError(f"There is no executed notebook in {folder}: make some with `lagkit notebook`.")
    names: dict[str, Path] = {}
    for path in paths:
        if path.stem in names:
            raise DataError(f"{names[path.stem]} and {path} have one name: their pages would replace each other.")
        names[path.stem] = path
    return [Executed.read(names[name]) for name in sorted(names)]


def write_pages(executed: Sequence[Executed], folder: Path) -> Path:
    """Write a page for each notebook, the index, previews and plotly.js into `folder`; returns the index's path.

    Raises DataError, before anything is written, if a page would load something over the network.
    """
    back = pages.Link("index.html", "All notebooks")
    texts = {one.name: _page(one, pages.SCRIPT, back) for one in executed}
    folder.mkdir(parents=True, exist_ok=True)
    pages.write_script(folder)
    for one in executed:
        write(folder / f"{one.name}.html", texts[one.name])
        if one.preview:
            write(folder / f"{one.name}.png", one.preview)
    return write(folder / "index.html", pages.template("gallery.html.j2").render(executed=executed, html=_html))


def write_page(executed: Path, page: Path) -> Path:
    """Write one file that shows an executed notebook without a network, plotly.js in it; returns its path.

    Raises DataError, before anything is written, as `Executed.read`, and if the page would load something.
    """
    text = _page(Executed.read(executed))
    page.parent.mkdir(parents=True, exist_ok=True)
    return write(page, text)


def _page(one: Executed, script: str = "", back: pages.Link | None = None) -> str:
    """As `pages.render`; raises DataError if the page would load something over the network."""
    text = pages.render(one.notebook, one.title, script, back)
    if found := pages.loaded(text):
        raise DataError(f"The page of {one.path} would load {found[0]}: pages work offline, take it out.")
    return text


def _html(text: str) -> str:
    """Markdown as HTML; HTML in it is text, and links of schemes that run scripts lead nowhere."""
    renderer = IPythonRenderer(escape=True, allow_harmful_protocols=False)
    return str(MarkdownWithMath(renderer=renderer).render(text)).strip()


def write_copies(executed: Sequence[Executed], folder: Path) -> Path:
    """Write the copies, a PNG of each one's first figure and a `README.md` that shows them; returns its path.

    Raises DataError, before anything is written, for a copy above `LIMIT` bytes, one that names a path of the machine
    and one whose figures have no pictures.
    """
    texts = {one.name: copy_of(one) for one in executed}
    folder.mkdir(parents=True, exist_ok=True)
    parts = [
        "# Gallery",
        "The notebooks as they were run, with figures that show here as pictures and can be explored when a copy is "
        "opened in JupyterLab. Made by `make gallery`, which writes pages that work offline too.",
    ]
    for one in executed:
        write(folder / f"{one.name}.ipynb", texts[one.name])
        parts += [f"## [{one.title}]({one.name}.ipynb)", one.sentence]
        if one.preview:
            write(folder / f"{one.name}.png", one.preview)
            parts.append(f"[![{literal(one.shows)}]({one.name}.png)]({one.name}.ipynb)")
    return write(folder / "README.md", "\n\n".join(parts) + "\n")


def copy_of(one: Executed) -> str:
    """The text of one copy: without times, durations and this machine's folders. Raises DataError as `write_copies`."""
    if any("image/png" not in data for data in one.figures):
        raise DataError(
            f"{one.path} has figures without pictures: install Chromium and kaleido (the extra `dev`), then run it "
            "again."
        )
    clear = ClearMetadataPreprocessor(preserve_nb_metadata_mask=_KEPT, clear_cell_metadata=False)
    notebook, _ = clear.preprocess(without_widgets(one.notebook), {})
    for cell in notebook.cells:
        # Papermill leaves times in all cells, and the preprocessor clears those of code alone.
        cell.metadata = NotebookNode({name: tags for name, tags in cell.metadata.items() if name == "tags" and tags})
        if cell.cell_type == "code":
            for output in cell.outputs:
                if PLOTLY in output.get("data", {}):
                    output.metadata = NotebookNode({"image/png": {"alt": alt_text(output.data[PLOTLY])}})
                if output.output_type == "stream":  # lines of progress differ from run to run
                    output.text = _PROGRESS.sub("", output.text)
            cell.outputs = [output for output in cell.outputs if output.get("text") != ""]
    figures = [data for data in _bundles(notebook) if PLOTLY in data]
    images = [data.pop("image/png") for data in figures]  # whose letters may spell a path
    text = nbformat.writes(notebook)
    # Folders whose names say nothing to a reader: of the project, the user, and for scratch.
    for root in sorted({str(Path.cwd()), str(Path.home()), tempfile.gettempdir()} - {"/"}, key=len, reverse=True):
        # Also at the end of a way up to the root, by which a path leads there from a notebook's folder.
        text = re.sub(rf"(?:\.\.(?:/\.\.)*)?{re.escape(json.dumps(f'{root}/')[1:-1])}", "", text)
    if named := _PERSONAL.search(text):
        raise DataError(f"The copy of {one.path} would name {named[0]}, a path of this machine: take it out.")
    notebook = nbformat.reads(text, as_version=4)
    for data, image in zip((data for data in _bundles(notebook) if PLOTLY in data), images, strict=True):
        data["image/png"] = image
    text = f"{nbformat.writes(notebook)}\n"
    if (size := len(text.encode())) > LIMIT:
        raise DataError(
            f"The copy of {one.path} would take {size / 1e6:.1f} MB, and {LIMIT / 1e6:.1f} MB are allowed: show fewer "
            "points or fewer figures."
        )
    return text
