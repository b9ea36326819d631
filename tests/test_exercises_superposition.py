"""Exercises of chapter 1: right answers pass, and each likely mistake is told apart."""

import math
import re

import pytest
import torch

from sae_lib import exercises
from sae_lib.errors import BookError

RIGHT = {
    "superposition-turn": lambda importance: 4 * importance / (2 + 5 * importance),
    "superposition-polygon": lambda n: 2 / n,
    "superposition-code": (3, math.log(3)),
    "superposition-density": 0.5 * 0.7 ** torch.arange(20.0)[None],
}

WRONG = [
    ("superposition-turn", lambda importance: 4 / 7, "equal importance only"),
    ("superposition-turn", lambda importance: 2 * importance / (1 + importance), "mean"),
    ("superposition-turn", lambda importance: 3.0, "no density"),
    ("superposition-turn", lambda importance: 0.3, "not equal"),
    ("superposition-turn", lambda importance: 1 / 0, "ZeroDivisionError"),
    ("superposition-polygon", lambda n: 1 / n, "span two"),
    ("superposition-polygon", lambda n: n / 2, "denominator"),
    ("superposition-polygon", lambda n: 0.4, "sum to"),
    ("superposition-code", (2, 1.2), "another number leaves fewer"),
    ("superposition-code", (9, 1.2), "0 to 6"),
    ("superposition-code", (3, math.log2(3)), "bits"),
    ("superposition-code", (3, 0.5), "share either state"),
    ("superposition-code", 3, "TypeError"),
    ("superposition-density", torch.ones(20), r"\[1, 20\]"),
    ("superposition-density", torch.full((1, 20), 2.0), "at most at 1"),
    ("superposition-density", torch.full((1, 20), 0.2), "equally dense"),
    ("superposition-density", 0.01 * 1.2 ** torch.arange(20.0)[None], "should fall"),
    ("superposition-density", 0.9 ** torch.arange(1.0, 21.0)[None], "0.7 times"),
]


@pytest.mark.parametrize("name", RIGHT)
def test_right_answers_are_right(name):
    assert "Right" in exercises.check(name, RIGHT[name]).data


@pytest.mark.parametrize(("name", "answer", "word"), WRONG)
def test_wrong_answers_hear_what_is_wrong(name, answer, word):
    said = exercises.check(name, answer).data
    assert "Not yet" in said
    assert re.search(word, said)


def test_no_answer_and_no_exercise():
    assert "No answer yet" in exercises.check("superposition-turn", None).data
    with pytest.raises(BookError, match="no check"):
        exercises.check("superposition-trun", 1)


def test_what_a_reader_raises_is_escaped():
    def loud(n: int) -> float:
        raise ValueError("<script>")

    assert "<script>" not in exercises.check("superposition-polygon", loud).data
