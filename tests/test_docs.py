"""Pages in Markdown: README short enough to be read, links and paths that exist, one question a page."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from functools import cache, partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest
import typer

import lagkit
from lagkit import __main__
from lagkit.nightly import gallery

ROOT = Path(__file__).parents[1]
NAMES = subprocess.run(["git", "ls-files", "-z", "*.md"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
# What was so when it was written; and pages that are made, whose links are tested where they are made.
MADE = {"CHANGELOG.md", "docs/gallery/README.md"}
PAGES = [name for name in NAMES.split("\0") if name and name not in MADE and (ROOT / name).is_file()]
FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")


def prose(name: str) -> str:
    """The text of a page without its code blocks."""
    return FENCE.sub("", (ROOT / name).read_text(encoding="utf-8"))


def words(text: str) -> int:
    """Words of prose and tables; the targets of links are none."""
    return sum(bool(re.search(r"\w", word)) for word in LINK.sub("]", text).split())


@cache
def anchors(path: Path) -> set[str]:
    """The anchors that GitHub gives a page's headings."""
    heads = re.findall(r"^#+ (.+)$", FENCE.sub("", path.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def missing(page: Path, links: list[str]) -> list[str]:
    """The links of a page within the repository that lead nowhere."""
    lost = []
    for link in links:
        if "://" in link or link.startswith("mailto:"):
            continue
        target, _, anchor = link.partition("#")
        path = (page.parent / target).resolve() if target else page
        if not path.exists() or not path.is_relative_to(ROOT) or (anchor and anchor not in anchors(path)):
            lost.append(link)
    return lost


def test_readme_takes_a_few_minutes_to_read():
    assert words(prose("README.md")) <= 700


@pytest.mark.slow
def test_the_cell_of_readme_runs(tmp_path, monkeypatch):
    [cell] = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(encoding="utf-8"), re.M | re.S)
    assert sum(map(bool, cell.splitlines())) == 8
    monkeypatch.chdir(tmp_path)
    small = partial(lagkit.run, log_questions=20, seen_questions=4, unseen_questions=8)
    monkeypatch.setattr(lagkit, "run", small)
    exec(cell, scope := {})
    assert [len(trace.rounds) > 0 for trace in scope["run"].logs] == [True] * 20
    assert set(scope["diff"].index.unique("metric")) >= {"em", "rounds"}
    assert json.loads((tmp_path / "runs" / "mine" / "metrics.json").read_text(encoding="utf-8"))["metrics"]


def test_words_are_those_of_prose_and_tables():
    assert words("# One two\n\n| three | `four` |\n| --- | --- |\n\n[five six](docs/a-b/c.md) - seven.") == 7


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere(name):
    assert missing(ROOT / name, LINK.findall(prose(name))) == []


def test_a_link_that_leads_nowhere_is_found():
    links = ["README.md", "docs/none.md", "README.md#no-such-heading", "#limits", "https://example.org/x", "../x.md"]
    assert missing(ROOT / "README.md", links) == ["docs/none.md", "README.md#no-such-heading", "../x.md"]


@pytest.mark.parametrize("name", PAGES)
def test_paths_of_the_code_that_a_page_names_exist(name):
    named = re.findall(r"(?<![\w/.])((?:lagkit|tools|benchmarks|notebooks|tests)/[\w./-]*\w)", prose(name))
    assert [path for path in named if not (ROOT / path).exists() and not path.startswith("notebooks/NN_")] == []


def test_tests_that_contributing_names_exist():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert re.findall(r"`\w+\.py`", text) == [], "name the folder, too"
    names = [name for path in (ROOT / "tests").rglob("test_*.py") for name in (path.stem, *in_file(path))]
    wanted = " or ".join(re.findall(r'-k "([^"]+)"', text)).split(" or ")
    assert [word for word in wanted if not any(word in name for name in names)] == []
    assert wanted


def in_file(path: Path) -> list[str]:
    return re.findall(r"^def (test_\w+)", path.read_text(encoding="utf-8"), re.MULTILINE)


@pytest.mark.parametrize("name", PAGES)
def test_modules_and_what_is_imported_from_them_exist(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    for module in re.findall(r"(?:`|-m )((?:lagkit|tools|benchmarks|tests)(?:\.\w+)+)", text):
        assert find_spec(module) is not None, module
    for module, wanted in re.findall(r"^from (lagkit[\w.]*) import (\w+)", text, re.MULTILINE):
        assert hasattr(import_module(module), wanted), f"{module}:{wanted}"


def commands(name: str) -> list[str]:
    """The commands of lagkit that a page shows, in blocks of code or in a sentence, without comments."""
    text = (ROOT / name).read_text(encoding="utf-8").replace("\\\n", "")
    blocks = [block for block in FENCE.findall(text) if not block.startswith("```python")]
    blocks += re.findall(r"`(lagkit [^`\n]+)`", FENCE.sub("", text))
    return re.findall(r"(?:^|[ /])lagkit (\w.*?)(?: +#.*)?$", "\n".join(blocks), re.MULTILINE)


@pytest.mark.parametrize(("name", "shown"), [(name, shown) for name in PAGES for shown in commands(name)])
def test_commands_that_a_page_shows_are_understood(name, shown):
    command, words = typer.main.get_command(__main__.app), shlex.split(shown)
    while hasattr(command, "commands"):
        command, words = command.commands[words[0]], words[1:]
    command.make_context(command.name, [*words])
    if command.name in ("run", "encode"):
        assert {word.partition("=")[0] for word in words if "=" in word} <= set(lagkit.RunConfig.keys())


@pytest.mark.parametrize("name", PAGES)
def test_public_names_that_a_page_uses_are_public(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    assert {found for found in re.findall(r"\blag\.(\w+)", text) if found not in lagkit.__all__} == set()


def test_architecture_names_every_room_and_only_files_that_are_there():
    text = prose("docs/architecture.md")
    rooms = [path.name for path in (ROOT / "lagkit").iterdir() if path.is_dir() and (path / "__init__.py").exists()]
    assert [room for room in rooms if f"`{room}/`" not in text] == []
    named = re.findall(r"`((?:\w+/)*\w+\.py)`|`((?:\w+/)+)`", text)
    places = [ROOT, ROOT / "lagkit", *(ROOT / "lagkit").rglob("")]
    assert [path for pair in named if not any((at / (path := "".join(pair))).exists() for at in places)] == []


@pytest.mark.parametrize(
    "name", [name for name in PAGES if re.fullmatch(r"docs/[\w-]+\.md", name) and name != "docs/README.md"]
)
def test_a_page_is_a_question(name):
    title = (ROOT / name).read_text(encoding="utf-8").splitlines()[0]
    assert re.fullmatch(r"# .+\?", title), title
    assert f"({Path(name).name})" in (ROOT / "docs" / "README.md").read_text(encoding="utf-8")


SHARED = ROOT / "docs" / "gallery"


@pytest.mark.parametrize("path", sorted(SHARED.glob("*.ipynb")), ids=lambda path: path.stem)
def test_a_copy_in_the_gallery_keeps_what_is_promised(path):
    assert path.stat().st_size <= gallery.LIMIT
    one = gallery.Executed.read(path)
    assert all(data["image/png"] for data in one.figures)
    assert not any("text/html" in data for data in one.figures)
    assert set(one.notebook.metadata) == {"kernelspec", "language_info"}
    assert (ROOT / "notebooks" / (path.stem.partition("-")[0] + ".ipynb")).exists()  # NAME-MODEL is a second copy


@pytest.mark.parametrize("page", [SHARED / "README.md", ROOT / "README.md"], ids=["gallery", "project"])
def test_pictures_that_a_page_shows_are_there(page):
    shown = re.findall(r"!\[[^\]]*\]\(([^):]+)\)", page.read_text(encoding="utf-8"))
    assert shown
    assert [name for name in shown if not (page.parent / name).is_file()] == []
