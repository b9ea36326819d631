"""Checks for the exercises: each tells a right answer from a wrong one and says what is wrong with it.

A check is a function of the reader's answer that returns None if it is right, else one sentence.
"""

from collections.abc import Callable
from html import escape
from typing import Any

from IPython.display import HTML

from sae_lib.errors import BookError
from sae_lib.exercises import computing, geometry, superposition

CHECKS: dict[str, Callable[[Any], str | None]] = superposition.CHECKS | geometry.CHECKS | computing.CHECKS
"""Every check by the label of its exercise, without `ex-`."""


def check(name: str, answer: Any) -> HTML:
    """Look at the answer to an exercise.

    Args:
        name: the exercise's label, without `ex-`.
        answer: a number, a table or a function, as the exercise says; None while there is none.

    Returns:
        One line: right, not yet with what is wrong, or that there is no answer.

    Raises:
        BookError: there is no such exercise.
    """
    if name not in CHECKS:
        raise BookError(f"there is no check for an exercise {name!r}; there are {', '.join(CHECKS)}")
    if answer is None:
        return _line("?", "No answer yet", "put yours in place of None and run the cell again.")
    try:
        problem = CHECKS[name](answer)
    except Exception as error:  # the reader's function may fail in any way, and that is an answer too
        problem = f"your answer raised {type(error).__name__}: {error}"
    return _line("✗", "Not yet", problem) if problem else _line("✓", "Right", "")


def _line(mark: str, word: str, text: str) -> HTML:
    said = f"{word}: {escape(text)}" if text else f"{word}."
    return HTML(f'<p class="sae-check"><span aria-hidden="true">{mark}</span> {said}</p>')
