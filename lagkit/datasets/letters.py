"""The letter by which an answer or a response names an option of a multiple-choice question."""

from __future__ import annotations

import re
import string

# What surrounds a letter and says nothing: Markdown, quotes, and LaTeX's fonts and mathematics.
_MARKS = re.compile(r"[*`\"'\u2018\u2019\u201c\u201d$]|\\[()\[\]]|\\(?:text|math)(?:bf|rm|sf|it)?\b")

# A letter in parentheses that are not those of a function: (A), but not P(A).
_BRACKETED = re.compile(r"(?<![\w)\]])\(([A-Z])\)")

# Where words go on behind it, `A` is an article and `I` a pronoun; and what names two options chooses none.
_ENDS = r"(?![\w+#/^-]| ?=|\W{0,3}(?i:or|and)\W{1,3}[A-HJ-Z]\b)"
_LETTER = (
    rf"[ (\[{{<]*([A-Z](?= ?[)\]}}>]){_ENDS}|[a-z](?= ?[)\]}}>])|[B-HJ-Z]{_ENDS}"
    rf"|[AI]{_ENDS}(?! (?!because\b|since\b|as\b)[a-z])|[a-z](?=[^\w\n]*$))"
)
_OPTION = r"(?:(?:the )?(?:correct )?(?:answer|option|choice|letter) )?"
_RIGHT = r"(?: is| must be| seems)(?: the)?(?: most)? (?:correct|right|best|answer)\b"

# In the order in which they are looked for; the last place where a response says such a thing counts.
_STATED = tuple(
    re.compile(pattern, re.MULTILINE)
    for pattern in (
        r"\\f?boxed\W{0,4}([A-Za-z])(?= ?[)}\].:])",  # \boxed{B}, \boxed{\text{B}}, \boxed{B. the Danube}
        rf"<ans>{_LETTER}",  # a response that ends before its tag is closed
        rf"(?i:\b(?:answer|option|choice)(?: is)? ?[:=] ?{_OPTION}){_LETTER}",  # Answer: B
        rf"(?i:\b(?:answer|option|choice|one)\b[^.\n]{{0,40}}?\bis:? (?:thus |therefore )?{_OPTION}){_LETTER}",
        rf"(?i:\banswer\b)[^\w\n]*\n{_LETTER}[^\w\n]*$",  # a heading, and the letter under it
        rf"(?<!\w)\(([A-Z])\)(?i:{_RIGHT})",  # (B) is correct
        rf"(?:^|[.,;:] |\b(?i:option|choice|so|thus|hence|therefore|that) )([A-Z])(?i:{_RIGHT})",  # Option B is right
        rf"(?i:\b(?:choose|chose|pick|select|go with|going with) {_OPTION}){_LETTER}",  # I choose B
        r"^[^\w\n]*(?i:(?:option|choice|answer)[^\w\n]+)?([A-Za-z])[^\w\n]*\Z",  # a last line that is a letter
        r"\A[^\w\n]*([A-Z])[^\w\n]*\n",  # a first line that is a letter
    )
)
# Labels of lines: `B) the Danube`, `Option B: …`, `B. The Danube`, but not `E. coli`. Of several, none is chosen.
_LABEL = re.compile(
    r"^[^\w\n]*(?i:(?:option|choice|answer) )?"
    r"(?:([A-Z])(?: ?[):\]]| [-\u2013\u2014])(?:\s|$)|([A-HJ-Z])\.(?:\s[^a-z\s]|$))",
    re.MULTILINE,
)


def choice_letter(answer: str | None, n_choices: int, *, strict: bool) -> str | None:
    """The option that an answer names, as a letter from A to the last of `n_choices`; None when it names none.

    Strict: one letter in parentheses, as `(B)`, which may be repeated; not those of functions, as in `P(A)`. Flexible:
    failing that, what `stated_letter` finds.
    """
    bracketed = set(_options(_BRACKETED, answer or "", n_choices))
    if len(bracketed) == 1:
        return bracketed.pop()
    return None if strict else stated_letter(answer or "", n_choices)


def stated_letter(response: str, n_choices: int) -> str | None:
    """The option that a whole response states, tagged or not; None when it states none.

    By the first form of `_STATED` (those of public harnesses) that is found, where it is found last; failing these, by
    the only label that opens a line. A letter that is merely mentioned is no answer.
    """
    text = re.sub(r"[^\S\n]+", " ", _MARKS.sub("", response))
    text = re.sub(r" ?\n\s*", "\n", text).strip()
    for pattern in _STATED:
        if found := _options(pattern, text, n_choices):
            return found[-1]
    labels, bracketed = (set(_options(pattern, text, n_choices)) for pattern in (_LABEL, _BRACKETED))
    return labels.pop() if len(labels) == 1 and len(bracketed) < 2 else None


def _options(pattern: re.Pattern[str], text: str, n_choices: int) -> list[str]:
    """The letters that a pattern finds, as capitals, without those of no option."""
    letters = (match[match.lastindex or 0].upper() for match in pattern.finditer(text))
    return [letter for letter in letters if letter in string.ascii_uppercase[:n_choices]]
