"""The two judges: the rules by hand, the model behind an endpoint against a local server."""

import json

import numpy as np
import pytest
from test_endpoint import endpoint, server  # noqa: F401  the fixture

from sae_lib import judges
from sae_lib.endpoint import Nonsense
from sae_lib.errors import BookError
from sae_lib.interpret import Brief, Example
from sae_lib.judges import ChatJudge, Rules, kind_of


def example(text: str, levels: str, group: str = "top", at: int = 0) -> Example:
    return Example(group, tuple(text.split("|")), tuple(map(int, levels)), at)


BRIEF = Brief(
    (example("the| cat| sat", "090"), example("a| cat| ran", "090"), example("the| dog| sat", "000"), example("one|12|\n", "000")),
    raises=(" walked", " talked", " looked"),
    lowers=("12", "!", "77"),
)


@pytest.mark.parametrize(
    ("token", "kind"),
    [
        (" cat", "a lower-case word"), ("cat", "the rest of a word"), (" Cat", "a capitalised word"), ("HTTP", "capitals"),
        ("GATTACA", "letters A, C, G and T"), (" 12", "a number"), ("\n\n", "a line break"), ("  ", "white space"), ("();", "punctuation"),
        ("a9Bf", "letters and digits mixed"), ("\\xd8", "part of a character"), ("<|endoftext|>", "a special token"),
        (" سلام", "arabic script"), ("שלום", "hebrew script"), ("가", "hangul script"), ("é", "latin script"),
        ("€", "other signs"), ("", "other signs"),
    ],
)  # fmt: skip
def test_kinds_of_tokens(token, kind):
    assert kind_of(token) == kind


def test_rules_are_shrunken_means_of_what_is_left():
    rules = Rules()
    brief = Brief((example("x|y", "90"), example("x|x", "99")), (), ())
    found = rules.explain(brief).rules
    # Levels 9, 0, 9, 9 have the mean 6.75; all are of one kind, so the first rule has nothing to say.
    assert found["mean"] == 6.75
    assert found["tables"][0] == {"the rest of a word": 0.0}
    assert found["tables"][1] == {("the rest of a word", "the rest of a word"): 0.0}
    # x leaves 2.25 three times, shrunk by one more at zero; y leaves -6.75 once.
    assert found["tables"][2] == pytest.approx({"x": 6.75 / 4, "y": -6.75 / 2})
    after_nothing, after_x = 2 * (2.25 - 6.75 / 4), (-6.75 / 2) + (2.25 - 6.75 / 4)
    assert found["tables"][3] == pytest.approx({("after", ""): after_nothing / 3, ("after", "x"): after_x / 3})


def test_rules_predict_what_they_saw_and_back_off():
    rules = Rules()
    explanation = rules.explain(BRIEF)
    known, unknown = rules.predict(explanation, [("the", " cat", " sat"), ("one", " frog", " ate")])
    assert max(range(3), key=known.__getitem__) == 1
    assert known[1] > 5
    # A word it never saw gets what words of its kind get: less than the cat, and more than a number.
    assert rules.predict(explanation, [("one", "12")])[0][1] < unknown[1] < known[1]
    assert all(0 <= level <= 9 for row in (known, unknown) for level in row)


def test_rules_speak():
    assert "“ cat”" in Rules().explain(BRIEF).text
    silent = Brief((example("a|b", "00"),), (" x",), ())
    assert Rules().explain(silent).text == "fires on nothing that these rules can name; raises “ x”"


def test_words_escape_what_could_reorder_a_page():
    text = Rules().explain(Brief((example("\u202ecat|\u202ecat", "99"), example("a|b", "00")), (), ())).text
    assert "\u202e" not in text
    assert "“\\u{202e}cat”" in text


def test_rules_call_half_of_the_tokens_plausible():
    called = Rules().plausible(Rules().explain(BRIEF), [" cooked", "99", " booked", "?", "5", " baked"])
    assert called == [True, False, True, False, False, True]


def test_no_examples_no_rules():
    with pytest.raises(BookError, match="no examples"):
        Rules().explain(Brief((), (), ()))


def answer_well(body):
    """What a good judge would say to each of the three questions."""
    shown = json.loads(body["messages"][1]["content"])
    if "examples" in shown:
        return 'Sure: {"explanation": "cats,\\n mostly \\ud800"} as you see'
    if "texts" in shown:
        return json.dumps([[9 * (token == " cat") for token in text] for text in shown["texts"]])
    return json.dumps([int(token.endswith("ed")) for token in shown["tokens"]])


def test_a_model_explains_and_predicts(server):  # noqa: F811
    server.parts = [answer_well]
    judge = ChatJudge(endpoint(server))
    assert judge.name == "tiny"
    explanation = judge.explain(BRIEF)
    assert explanation == ("cats, mostly ?", None)
    assert judge.predict(explanation, [("a", " cat"), ("b",)]) == [[0, 9], [0]]
    assert judge.plausible(explanation, [" walked", "12"]) == [True, False]
    shown = json.loads(server.asked[0]["messages"][1]["content"])
    assert shown["examples"][0] == {"group": "top", "tokens": [["the", 0], [" cat", 9], [" sat", 0]]}
    assert shown["raises"] == [" walked", " talked", " looked"]
    assert json.loads(server.asked[1]["messages"][1]["content"])["explanation"] == "cats, mostly ?"


def ask(server, question):  # noqa: F811
    """One of the three questions, put once: of two texts, or of two tokens."""
    explained = judges.Explanation("cats")
    given = {"explain": (BRIEF,), "predict": (explained, [("a", " cat"), ("b",)]), "plausible": (explained, ["a", "b"])}
    return getattr(ChatJudge(endpoint(server, n_tries=1)), question)(*given[question])


LEVELS, CALLS, WORDS = [[0.0, 9.0], [0.0]], [True, False], "cats [mostly]"


@pytest.mark.parametrize(
    ("question", "answer", "expected"),
    [
        ("predict", "<think> [1, 2] or [[9, 9], [9]]? </think>\n[[0, 9], [0]]", LEVELS),
        ("predict", "so [[9, 9], [9]] will not do\n</think>```json\n[[0, 9], [0]]\n```", LEVELS),
        ("predict", "For the texts [1] and [2] [sic] my levels {0 to 9} are: [[0, 9], [0]] [end]", LEVELS),
        ("predict", "A draft: [[9, 9], [9]]. Better: [[0, 9], [0]]", LEVELS),
        ("plausible", 'Among [" walked", "12"] it is [1, 0]', CALLS),
        ("plausible", "[the first] is [1, 0], see [note", CALLS),
        ("explain", '[A] {not JSON} {"explanation": "cats [mostly]"} {}', WORDS),
    ],
)
def test_an_answer_is_found_among_thoughts_and_prose(server, question, answer, expected):  # noqa: F811
    server.parts = [answer]
    assert ask(server, question) in (expected, judges.Explanation(expected))


NONSENSE = {
    "explain": ["I cannot say", "[]", '{"explanation": 3}', '{"explanation": " "}', json.dumps({"explanation": "word " * 200}), "{" * 5],
    "predict": [
        "<think>[[0, 9], [0]]",
        "<think>[[0, 9], [0]]</think> I cannot say",
        "[[[0, 9], [0]]]",
        "[[0, 9], [0]",
        "[[0, 9]]",
        "[[0, 9], [10]]",
        "[[0, 9], [true]]",
        "[[0, 9], [0.5]]",
        "[[0], [0, 9]]",
        '{"a": 1}',
        "[" * 100_000,
        "[3, 4]",
    ],
    "plausible": ["[1]", "[1, 2]", '["yes", "no"]', "[1, 0, 1]", "no"],
}


@pytest.mark.parametrize(("question", "answer"), [(question, answer) for question, answers in NONSENSE.items() for answer in answers])
def test_nonsense_is_refused(server, question, answer):  # noqa: F811
    server.parts = [answer]
    with pytest.raises(Nonsense):
        ask(server, question)


def test_a_judge_is_named_by_a_word(tmp_path):
    assert isinstance(judges.judge_named("", tmp_path / "kept.jsonl"), Rules)
    named = judges.judge_named("some@org/model@http://127.0.0.1:8080/v1", tmp_path / "kept.jsonl")
    assert (named.endpoint.model, named.endpoint.url) == ("some@org/model", "http://127.0.0.1:8080/v1/chat/completions")
    with pytest.raises(BookError, match="JUDGE='gpt' names no judge"):
        judges.judge_named("gpt", tmp_path)


def test_traits_overlap():
    assert judges._overlap(judges._traits(" Walked"), judges._traits(" Walked")) == 1
    assert judges._overlap(judges._traits(" walked"), judges._traits("77")) == 0
    assert np.isclose(judges._overlap(judges._traits("ab"), judges._traits("ac")), 3 / 7)
