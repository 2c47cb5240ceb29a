"""Text in Markdown: whatever it spells, renderers make plain text and code of it, and nothing to click, load or run."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from html.parser import HTMLParser
from importlib import import_module

import pandas as pd
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from jinja2 import UndefinedError
from nbconvert.filters import markdown2html

from lagkit.util.markdown import framed, literal, page, table

RENDERERS: dict[str, Callable[[str], str]] = {"nbconvert": markdown2html}
try:
    from markdown_it import MarkdownIt
except ImportError:
    pass
else:
    RENDERERS["markdown-it"] = MarkdownIt("gfm-like", {"linkify": False}).render
    RENDERERS["commonmark"] = MarkdownIt("commonmark").render
try:
    cmarkgfm = import_module("cmarkgfm")  # GitHub's own, where it is installed
except ImportError:
    pass
else:
    RENDERERS["GitHub"] = partial(cmarkgfm.github_flavored_markdown_to_html, options=cmarkgfm.Options.CMARK_OPT_UNSAFE)

PIECES = [
    "[",
    "]",
    "(",
    ")",
    ":",
    "!",
    "`",
    "``",
    "```",
    "~~~",
    "<",
    ">",
    "&",
    "&#106;",
    "&lt;",
    "\\",
    "$",
    "$$",
    "|",
    "#",
]
PIECES += ["- ", "1. ", "* ", "[ ] ", "[x] ", "[r]: ", "[^1]", "javascript:x", "http://a.b", "<script>", "<img src=x>"]
PIECES += ["www.", "www.a.b", "me@a.b", "mailto:", "@", "a.b"]
PIECES += [
    "<a href=x>",
    "<http://a.b>",
    "<a@b.c>",
    "![x](y)",
    "\\(",
    "\\[",
    "\\begin{a}",
    "\n",
    "    ",
    "x",
    "=",
    "---",
    '"',
]
SHAPES: dict[str, Callable[[str], str]] = {
    "list": lambda text: f"- {literal(text)}\n- [r] {literal(text)}",
    "title": lambda text: f"# {literal(text)}\n\n{literal('[r]')}",
    "table": lambda text: table(["a", text], [["`x`", text], [text, "b"]]),
}
PLAIN = {"p", "ul", "li", "h1", "table", "thead", "tbody", "tr", "th", "td", "code", "em", "strong", "del", "s"}


class Found(HTMLParser):
    """Elements beyond those of plain text, and what they are told; nbconvert adds an anchor to each heading."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.beyond: list[str] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        if tag == "a" and named.get("class") == "anchor-link" and str(named["href"]).startswith("#"):
            return
        if tag not in PLAIN or set(named) - {"id", "style"}:
            self.beyond.append(str(self.get_starttag_text()))

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("renderer", RENDERERS)
@given(text=st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=3)), max_size=8).map("".join))
@example("[r]: javascript:alert(1)")
@example("[r]: <javascript:alert(1)> 'x'")
@example("``<img src=x onerror=alert(1)>`")
@example("\\`<b>`")
@example("`a|b` | `c")
@example("---")
@example("-- -")
@example("***")
@example("_ _ _")
@example("mailto:me@a.b, xmpp:me@a.b/c, www.a.b, http://me@a.b")
def test_no_text_becomes_a_link_an_element_or_a_script(renderer, shape, text):
    assert Found(RENDERERS[renderer](SHAPES[shape](text))).beyond == []


@pytest.mark.parametrize("renderer", RENDERERS)
@pytest.mark.parametrize(
    "text",
    [
        "[r]: javascript:x",
        "![x](http://a.b) [a][r] <b> &lt; &amp; 50 $ and 60 $",
        "https://example.org/?a=b&copy=1",
        "\\(x\\) \\begin{a} \\`x",
        "- x",
        "1. x",
        "# x",
        "~~~",
        "[x] done",
        "---",
        "\\[x\\] \\\\(y\\\\) &#92;",
        "-3.2 [-4.0, 1.0] points",
        "www.example.org, WWW.example.org, me.too+x@mail.example.org, @me, x@y",
    ],
)
def test_text_is_read_letter_by_letter(renderer, text):
    assert Found(RENDERERS[renderer](f"- {literal(text)}")).text.strip() == text


def test_code_stays_code():
    assert (
        literal("`kv_last_round` against `a<b>&lt;`: [1, 2] https://x")
        == "`kv_last_round` against `a<b>&lt;`: [1, 2] https:\\//x"
    )


def test_what_github_makes_links_of_is_taken_apart():
    """Of addresses without brackets; an escape or an entity in front of the @ would not do."""
    assert literal("www.a.b me@a.b `www.a.b me@a.b`") == "www\\.a.b me@<!-- -->a.b `www.a.b me@a.b`"
    assert literal("a www. b, me @a.b, me@b") == "a www. b, me @a.b, me@b"


def test_a_frame_is_a_table_in_which_text_stays_text_and_missing_values_are_empty():
    frame = pd.DataFrame({"kl": [0.00123, None], "share": [0.5, 1.0]}, index=["`kv`", "a|b <i>"])
    told = framed(frame, {"share": ("share", ".0%"), "kl": ("KL", lambda value: f"{value:.0e}")}, "variant")
    assert told.splitlines() == [
        "| variant | share | KL |",
        "| --- | --- | --- |",
        "| `kv` | 50% | 1e-03 |",
        "| a\\|b &lt;i> | 100% |  |",
    ]


def test_a_page_needs_every_part_that_its_template_names(tmp_path):
    template = tmp_path / "page.md.j2"
    template.write_text("# {{ title }}\n\n{% if rest %}\n{{ rest }}\n{% endif %}\n")
    assert page(template, title="A < B", rest="") == "# A < B\n\n"
    with pytest.raises(UndefinedError, match="'rest' is undefined"):
        page(template, title="A")
