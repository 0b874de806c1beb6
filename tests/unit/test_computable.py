"""Labels that can be checked exactly are, and what may mean two things is left alone."""

import time

import pytest

from rzero_core.computable import Judgement, judge_all


def right(question: str, label: str) -> bool | str | None:
    (found,) = judge_all([(question, label)])
    return "not covered" if found is None else found.right


@pytest.mark.parametrize(
    ("question", "label"),
    [
        ("12+345", "357"),
        ("What is 7/2 - 0.5?", "3"),
        ("Solve for x: 2x+3=7", "x=2"),
        ("Solve $x^2-5x+6=0$.", "2, 3"),
        ("Solve for $t$: $t^2=2$", "\\pm\\sqrt{2}"),
        ("Find all real solutions of x^3=1", "1"),
        ("Solve the equation (x-1)^2=0 for x", "\\{1\\}"),
        ("What is the derivative of $x^3 + 2x$?", "3x^2+2"),
        ("Differentiate \\sin(x^2)", "2x\\cos(x^2)"),
        ("Find the derivative of f(x) = x^2 \\ln x at x = 1", "1"),
        ("Find \\int x^2 dx", "\\frac{x^3}{3}+C"),
        ("Find an antiderivative of 2x", "x^2 + 7"),
        ("Differentiate a x^2 with respect to x", "2a \\cdot x"),
        ("Solve $x^2-5x+6=0$.", "x_1 = 2, x_2 = 3"),
    ],
)
def test_a_right_label_is_right(question: str, label: str) -> None:
    assert right(question, label) is True


@pytest.mark.parametrize(
    ("question", "label"),
    [
        ("12+345", "358"),
        ("Solve for x: 2x+3=7", "3"),
        ("Solve $x^2-5x+6=0$.", "2"),
        ("Solve $x^2-5x+6=0$.", "2, 3, 4"),
        ("Solve $x^2-5x+6=0$.", "2, 2"),
        ("Solve for x: x^2=2", "1.41421356, -1.41421356"),
        ("What is the derivative of $x^3 + 2x$?", "3x^2"),
        ("Find \\int x^2 dx", "x^3"),
    ],
)
def test_a_wrong_label_is_wrong(question: str, label: str) -> None:
    assert right(question, label) is False


@pytest.mark.parametrize(
    "question",
    [
        "How many legs have 2 spiders?",
        "Solve x^2+1=0",  # complex solutions, or none
        "Tom has 2x=4 apples. Solve for x",
        "Solve for y: 2x=4",
        "Solve for x: x + y = 3",
        "Solve for x: \\frac{1}{x} = 2",
        "Find the derivative of |x|",
        "Find \\int_0^1 x dx",
        "Find the derivative of __import__('os').system('true')",
        "Solve for x: x^{999999999}=1",
        "Solve for x: " + "(" * 300 + "x" + ")" * 300 + "=1",
        "9^9^9^9 + 1",
        "What is the derivative of t^2?",  # by t
        "Find an antiderivative of t^2",
        "Find the derivative of x y",  # y may depend on x
        "Find the derivative of \\ln x at x = -1",
        "Solve for x: \\frac{x^2}{x} = 0",  # not defined at 0
        "Solve x(x+1)/x = 1",
        "Solve \\sqrt{x}\\sqrt{x} = -4",
        "1/2 + 1/4 + 1/8...",
        "What is 1 - 0.999...?",
        "Differentiate 1 + x + x^2...",
        "1/2\\frac{3}{4}",
        # Each level multiplies the terms of the one within.
        "Differentiate " + "(1+\\sin(" * 6 + "x" + "))^{7}" * 6,
    ],
)
def test_what_is_not_certain_is_not_covered(question: str) -> None:
    clock = time.monotonic()
    assert right(question, "1") == "not covered"
    assert time.monotonic() - clock < 2


@pytest.mark.parametrize(
    ("question", "label"),
    [
        ("Solve x^2-5x+6=0", "(2, 3)"),  # a point, or an interval
        ("Solve x^2-5x+6=0", "x \\in (2, 3)"),
        ("Solve x^2-5x+6=0", "x = 2, y = 3"),
        ("Solve 2x = 4", "y = 2"),
        ("Differentiate x^2/2", "\\frac{d}{dx} x^2"),  # no quotient of d by dx
        # Right, but too large for floating point to tell.
        ("Differentiate 10^{20}\\tan(x)", "10^{20}\\sec^2(x)"),
        ("Find all real solutions of x^3 = 2" + "0" * 30, "10^{10}\\sqrt[3]{2}"),
    ],
)
def test_a_label_that_may_mean_two_things_is_not_decided(question: str, label: str) -> None:
    assert right(question, label) is None


@pytest.mark.parametrize("label", ["x", "__import__('os')", "\\int", "9^{9^{9^9}}", "1/0"])
def test_a_label_that_is_no_number_never_passes(label: str) -> None:
    assert right("Solve for x: 2x+3=7", label) in (False, None)
    assert right("12+345", label) is False


def test_all_labels_are_judged_in_their_order_with_the_computed_answer() -> None:
    pairs = [("1+1", "2"), ("who?", "2"), ("2*3", "7"), ("Solve x=4", "4")]
    found = judge_all(pairs)
    assert found == [Judgement(True, "2"), None, Judgement(False, "6"), Judgement(True)]
