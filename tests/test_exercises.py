"""Right answers pass, and each likely mistake is called by its name: the answers of the chapters on geometry and on computing."""

import answers_computing as for_computing
import pytest
import test_exercises_geometry as for_geometry
from IPython.display import HTML

from sae_lib import exercises
from sae_lib.exercises import computing, geometry

CHECKS = geometry.CHECKS | computing.CHECKS
RIGHT = for_geometry.RIGHT | for_computing.RIGHT
WRONG = for_geometry.WRONG + for_computing.WRONG


def test_every_check_has_a_right_answer():
    assert set(RIGHT) == set(CHECKS)
    assert len(CHECKS) == len(computing.CHECKS) + len(geometry.CHECKS)


@pytest.mark.parametrize(("label", "answer"), [(label, answer) for label, answers in RIGHT.items() for answer in answers])
def test_right_answers_pass(label, answer):
    assert CHECKS[label](answer) is None
    assert "Right" in exercises.check(label, answer).data


@pytest.mark.parametrize(("label", "answer", "word"), WRONG)
def test_mistakes_are_called_by_name(label, answer, word):
    said = CHECKS[label](answer)
    assert said
    assert word in said
    assert "Not yet" in exercises.check(label, answer).data


@pytest.mark.parametrize("label", CHECKS)
def test_no_answer_and_one_that_fails_are_reported(label):
    assert "No answer yet" in exercises.check(label, None).data
    for broken in (lambda *_: 1 / 0, "text"):
        shown = exercises.check(label, broken)
        assert isinstance(shown, HTML)
        assert "raised" in shown.data
