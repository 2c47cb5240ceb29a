"""Letters that answers and responses name: the forms that models write and harnesses read, and what only looks so."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lagkit.datasets.letters import choice_letter, stated_letter

# Text, then what is read strictly, and flexibly, of ten options.
ANSWERS = [
    ("(B)", "B", "B"),
    ("The answer is (B).", "B", "B"),
    ("(B), that is (B)", "B", "B"),
    (" ( B ) ", None, "B"),
    ("(E) P(R) = 7/16", "E", "E"),  # parentheses of functions name no option
    ("(E) P(A) = 7/16", "E", "E"),
    ("(C) f(x) = (R)", "C", "C"),  # R is no option
    ("P(A) = 0.5", None, None),
    ("(A) or (B)", None, None),
    ("Not (A) but (B): the answer is B", None, "B"),
    # A letter, and nothing else
    ("B", None, "B"),
    ("b", None, "B"),
    ("(b)", None, "B"),
    (" B. ", None, "B"),
    ("[B]", None, "B"),
    ("[[B]]", None, "B"),
    ("**B**", None, "B"),
    ("$B$", None, "B"),
    ("Option B", None, "B"),
    ("option (b)", None, "B"),
    ("I", None, "I"),
    ("B.\nBecause it flows.", None, "B"),
    ("Four sides of 6 metres are 24.\n\nB", None, "B"),
    # Labels
    ("B) the Danube", None, "B"),
    ("B: the Danube", None, "B"),
    ("B. The Danube", None, "B"),
    ("B - the Danube", None, "B"),
    ("Option B: the Danube", None, "B"),
    # LaTeX
    (r"\boxed{B}", None, "B"),
    (r"\boxed{\text{B}}", None, "B"),
    (r"$\boxed{\textbf{(B)}}$", "B", "B"),
    (r"\boxed{B. the Danube}", None, "B"),
    (r"The final answer is $\boxed{\mathrm{D}}$.", None, "D"),
    (r"The answer is \(B\).", None, "B"),
    (r"\boxed{42}", None, None),
    (r"\boxed{A = 3}", None, None),
    # Answers, options, choices
    ("The answer is B because it flows", None, "B"),
    ("The answer is A because it flows", None, "A"),
    ("The answer to the question is therefore B.", None, "B"),
    ("The correct answer is: B", None, "B"),
    ("The correct option is C.", None, "C"),
    ("The correct choice is (C).", "C", "C"),
    ("The best answer is option C.", None, "C"),
    ("Answer: B", None, "B"),
    ("ANSWER: B", None, "B"),
    ("answer: b", None, "B"),
    ("answer: (c)", None, "C"),
    ("answer is b)", None, "B"),
    ("Answer: $B$", None, "B"),
    ("**Answer:** B", None, "B"),
    ("**Answer: (B) the Danube**", "B", "B"),
    ("Final answer: C", None, "C"),
    ("### Final Answer\n\n**C**", None, "C"),
    ("The answer is:\nB", None, "B"),
    ("Answer: B\nExplanation: A is dry.", None, "B"),
    ("B is the correct answer.", None, "B"),
    ("Therefore, B is correct.", None, "B"),
    ("So option B is right, not A.", None, "B"),
    ("(B) is correct, since (A) is dry.", None, "B"),
    ("I choose option B", None, "B"),
    ("I would go with (b)", None, "B"),
    ("First I said the answer is A, now the answer is C.", None, "C"),
    # What is no letter of an option
    ("The answer is: I think it is B", None, "B"),
    ("Answer: I think so", None, None),
    ("I don't know", None, None),
    ("A river in Austria", None, None),
    ("The answer is a river", None, None),
    ("The answer is A river", None, None),
    ("The answer is Austria", None, None),
    ("The answer is C++", None, None),
    ("The answer is B-cells", None, None),
    ("E. coli is a bacterium", None, None),
    ("Vitamin C is right for you", None, None),
    ("The answer is not B.", None, None),
    ("The answer isn't B.", None, None),
    ("The answer is B or C.", None, None),
    ("A) dry\nB) wet\nC) cold", None, None),
    ("Answer choices: (A) dry (B) wet", None, None),
    ("(K)", None, None),
    ("The answer is K", None, None),
    ("the Danube", None, None),
    ("", None, None),
    (None, None, None),
]


@pytest.mark.parametrize(("text", "strict", "flexible"), ANSWERS)
def test_the_letter_of_an_answer(text, strict, flexible):
    assert choice_letter(text, 10, strict=True) == strict
    assert choice_letter(text, 10, strict=False) == flexible


@pytest.mark.parametrize("text", ["(D)", "The answer is D", "D", r"\boxed{D}", "D) the Danube", "I", "(I)"])
def test_only_letters_of_the_options_count(text):
    assert choice_letter(text, 3, strict=False) is None
    assert choice_letter(f"{text}\n(B)", 3, strict=True) == "B"


@pytest.mark.parametrize(
    ("response", "letter"),
    [
        ("It flows. The answer is (C)", "C"),
        ("The side is 6, so the area is 36.\nAnswer: C", "C"),
        ("It flows. <ans>(C)", "C"),  # cut off before the tag is closed
        ("Let us look at (A), which flows through Vienna and", None),  # only mentioned
        ("A) dry: wrong.\nB) wet: it may be.", None),
        ("<subquestion>Which river flows through Vienna?</subquestion>", None),
    ],
)
def test_the_letter_that_a_whole_response_states(response, letter):
    assert stated_letter(response, 10) == letter


@given(st.text(alphabet="ABCabc() .:answeri", max_size=25))
def test_flexible_extraction_agrees_wherever_strict_finds_a_letter(text):
    strict = choice_letter(text, 3, strict=True)
    assert strict is None or choice_letter(text, 3, strict=False) == strict


@pytest.mark.parametrize(
    "part", ["answer is ", "answer: (", "\n", " ", "(A", "<ans>", r"\boxed{", "option\n", "A ", "-"]
)
def test_long_texts_are_read_in_linear_time(part):
    began = time.perf_counter()
    stated_letter(part * (200_000 // len(part)), 10)
    assert time.perf_counter() - began < 20, "0.5 s when idle; quadratic, it would take minutes"
