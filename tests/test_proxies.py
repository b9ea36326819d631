"""Proxies against strings counted by hand, with letters that the tokenizer splits into bytes."""

import itertools
import math

import numpy as np
import pytest
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from sae_lib import proxies
from sae_lib.errors import BookError
from sae_lib.proxies import OTHER, TokenTable

END = "<|endoftext|>"


def byte_level(text: list[str], n_merges: int = 0) -> Tokenizer:
    """A byte-level BPE with so many merges; with none, every byte is a token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=257 + n_merges,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(text, trainer)
    return tokenizer


@pytest.fixture(scope="module")
def bytewise():
    tokenizer = byte_level(["a"])
    return tokenizer, TokenTable(tokenizer)


def rows(tokenizer: Tokenizer, *texts: str) -> np.ndarray:
    """One context a text; texts of equal length in tokens."""
    return np.array([tokenizer.encode(text).ids for text in texts])


def uniform(table: TokenTable) -> np.ndarray:
    return np.ones(len(table), dtype=np.int64)


# The table of bytes


def test_table_gives_back_every_byte(bytewise):
    tokenizer, table = bytewise
    assert sorted(table.bytes_of[1:]) == [bytes([byte]) for byte in range(256)]
    text = "né ثوب 한국 \t\n\x00"
    assert b"".join(table.bytes_of[token] for token in tokenizer.encode(text).ids) == text.encode()


def test_table_with_merges_and_special_tokens():
    tokenizer = byte_level(["the cat and the hat and the mat"] * 5, n_merges=12)
    table = TokenTable(tokenizer)
    the = tokenizer.encode("a the").ids[-1]
    assert table.bytes_of[the] == b" the"
    assert table.text(the) == " the"
    assert table.special.tolist() == [True] + [False] * (len(table) - 1)
    assert table.text(0) == END
    assert len(table) == tokenizer.get_vocab_size()


def test_text_of_pieces_of_characters(bytewise):
    tokenizer, table = bytewise
    assert [table.text(token) for token in tokenizer.encode("ث").ids] == ["\\xd8", "\\xab"]
    assert table.text(5000) == "<unused 5000>"
    hostile = byte_level(["<script>"] * 20, n_merges=7)
    assert TokenTable(hostile).text(hostile.encode("<script>").ids[0]) == "<"


def test_table_refuses_other_tokenizers():
    with pytest.raises(BookError, match="byte-level"):
        TokenTable(Tokenizer(models.WordLevel({"日": 0, "a": 1}, unk_token="a")))
    tokenizer = byte_level(["a"])
    tokenizer.add_tokens([AddedToken("日", special=False)])
    assert TokenTable(tokenizer).special[-1]


# base64 and DNA


def test_base64_by_hand(bytewise):
    tokenizer, table = bytewise
    # All 257 tokens equally likely: a character that belongs scores ln(257 / 64), one that does not ln(257e-10).
    good, bad = math.log(257 / 64), math.log(257 * OTHER)
    ratio = proxies.base64_proxy(rows(tokenizer, "aZ0+/=-b"), table, uniform(table))
    # Five that belong do not outweigh one that does not, so the run for "-" begins at "-".
    assert ratio[0] == pytest.approx([good, 2 * good, 3 * good, 4 * good, 5 * good, 5 * good + bad, bad, good])
    assert proxies.in_class("base64", ratio)[0].tolist() == [True] * 5 + [False, False, True]


def test_base64_uses_the_unigram_shares(bytewise):
    tokenizer, table = bytewise
    ids = rows(tokenizer, "ab")
    counts = np.zeros(len(table), dtype=np.int64)
    counts[ids[0, 0]], counts[0] = 900, 100  # a has share 0.9; b never occurs and counts as one in 1,000
    ratio = proxies.base64_proxy(ids, table, counts)
    a, b = math.log(1 / 64 / 0.9), math.log(1 / 64 / 0.001)
    assert ratio[0] == pytest.approx([a, b])  # a is negative, so the best run for b begins at b


def test_a_long_run_carries_over_what_follows(bytewise):
    tokenizer, table = bytewise
    good, bad = math.log(257 / 64), math.log(257 * OTHER)
    ratio = proxies.base64_proxy(rows(tokenizer, "a" * 20 + " x"), table, uniform(table))
    assert ratio[0, 20] == pytest.approx(20 * good + bad, rel=1e-5)
    assert ratio[0, 21] == pytest.approx(21 * good + bad, rel=1e-5)


def test_best_run_equals_every_run_tried():
    generator = np.random.default_rng(0)
    score = generator.normal(size=(5, 17))
    apart = generator.random((5, 17)) < 0.15
    fast = proxies._best_run(score, apart)
    for row in range(5):
        for end in range(17):
            starts = [end]
            while starts[-1] > 0 and not apart[row, starts[-1]] and not apart[row, starts[-1] - 1]:
                starts.append(starts[-1] - 1)
            assert fast[row, end] == pytest.approx(max(score[row, start : end + 1].sum() for start in starts))


def test_dna_by_hand(bytewise):
    tokenizer, table = bytewise
    good, bad = math.log(257 / 4), math.log(257 * OTHER)
    ratio = proxies.dna_proxy(rows(tokenizer, "CAT x", "c CAT"), table, uniform(table))
    # Every run of two or more that ends at "x" takes in the space, and the best one then takes all of CAT.
    assert ratio[0] == pytest.approx([0, 2 * good, 3 * good, 3 * good + bad, 3 * good + 2 * bad])
    assert ratio[1] == pytest.approx([0, 2 * bad, bad + good, 2 * good, 3 * good])
    assert proxies.in_class("dna", ratio).tolist() == [[False, True, True, False, False], [False, False, False, True, True]]


def test_one_token_of_dna_is_not_enough():
    tokenizer = byte_level(["CAT CAT CAT sat"] * 9, n_merges=3)
    table = TokenTable(tokenizer)
    ids = rows(tokenizer, "CAT")
    assert ids.shape == (1, 1)
    assert not proxies.in_class("dna", proxies.dna_proxy(ids, table, uniform(table))).any()


@pytest.mark.parametrize("name", ["base64", "dna"])
def test_runs_stop_at_the_end_of_a_document(bytewise, name):
    tokenizer, table = bytewise
    joined = rows(tokenizer, f"CATCATCATCAT{END}CA")
    alone = rows(tokenizer, "CA")
    ratio = proxies.proxy(name, joined, table, uniform(table))
    assert not proxies.in_class(name, ratio)[0, 12]
    assert ratio[0, 13:] == pytest.approx(proxies.proxy(name, alone, table, uniform(table))[0])


def test_broken_characters_do_not_belong(bytewise):
    tokenizer, table = bytewise
    ratio = proxies.base64_proxy(rows(tokenizer, "ثث"), table, uniform(table))
    assert ratio[0] == pytest.approx([math.log(257 * OTHER)] * 4)
    # A whole letter in one token is one character, not two.
    tokenizer = byte_level(["ثثث"] * 20, n_merges=1)
    table = TokenTable(tokenizer)
    letter = rows(tokenizer, "ث")
    assert letter.shape == (1, 1)
    assert proxies.base64_proxy(letter, table, uniform(table))[0, 0] == pytest.approx(math.log(258 * OTHER))


# Scripts


def test_split_arabic_by_hand(bytewise):
    tokenizer, table = bytewise
    # ث is d8 ab, ب is d8 a8; « is c2 ab, ¨ is c2 a8. Tokens: d8 ab | d8 a8 | c2 ab | x
    ids = rows(tokenizer, "ثب«x")
    ratio = proxies.script_proxy("arabic", ids, table)
    # d8 is always Arabic (2 of 2); ab and a8 complete letters and look back; c2 never is; « and x are not.
    probability = np.array([1, 1, 1, 1, OTHER, OTHER, OTHER])
    assert ratio[0] == pytest.approx(np.log(probability / probability.mean()), rel=1e-6)
    assert proxies.in_class("arabic", ratio)[0].tolist() == [True] * 4 + [False] * 3


def test_a_first_byte_takes_the_share_of_its_occurrences(bytewise):
    tokenizer, table = bytewise
    # d6 begins both Armenian (U+0561, d5 a1 .. d6 80) and Hebrew points (U+05B0, d6 b0).
    ids = rows(tokenizer, "ր\u05b0\u05b0\u05b0xx")
    ratio = proxies.script_proxy("hebrew", ids, table)
    p = np.array([0.75, OTHER, 0.75, 1, 0.75, 1, 0.75, 1, OTHER, OTHER])
    assert ratio[0] == pytest.approx(np.log(p / p.mean()), rel=1e-6)


def test_three_byte_hangul(bytewise):
    tokenizer, table = bytewise
    ids = rows(tokenizer, "한a국b語c")  # 語 is not Hangul, and shares no first byte with it
    ratio = proxies.script_proxy("korean", ids, table)
    assert proxies.in_class("korean", ratio)[0].tolist() == [True] * 3 + [False] + [True] * 3 + [False] * 5


def test_a_middle_byte_looks_back(bytewise):
    tokenizer, table = bytewise
    # ed 95 9c is Hangul; d7 95 is Hebrew. The middle byte 95 of the one is no sign of the other.
    ids = rows(tokenizer, "한וa")
    assert proxies.in_class("hebrew", proxies.script_proxy("hebrew", ids, table))[0].tolist() == [False] * 3 + [True] * 2 + [False]
    # ea b0 80 is Hangul, ea b0 cut short is not known: the share of ea b0 is that of the one letter that can be read.
    ga = tokenizer.encode("가").ids
    cut = np.array([[*ga, tokenizer.encode("a").ids[0]], [*tokenizer.encode("aa").ids, *ga[:2]]])
    ratio = proxies.script_proxy("korean", cut, table)
    assert proxies.in_class("korean", ratio).tolist() == [[True, True, True, False], [False, False, True, True]]
    state, inside, opening = proxies._touched(proxies.SCRIPTS["korean"], cut, table, False)
    assert opening.tolist() == [[0, 0xEAB000, 0, 0], [0, 0, 0, 0xEAB000]]
    assert inside.tolist() == [[True, True, False, False], [False, False, True, True]]
    assert state.tolist() == [[2, 2, 2, 0], [0, 0, 1, 1]]


def test_a_letter_cut_by_the_context(bytewise):
    tokenizer, table = bytewise
    letter = tokenizer.encode("ث").ids  # d8 ab
    quote, x = tokenizer.encode("«").ids, tokenizer.encode("x").ids[0]  # c2 ab
    ids = np.array([[*letter, x, letter[0]], [letter[1], x, *quote]])
    p_ab = 0.5  # of the two occurrences of ab that can be read, one is Arabic; the third began before its context
    p = np.array([[1, 1, OTHER, 1], [p_ab, OTHER, OTHER, OTHER]])
    ratio = proxies.script_proxy("arabic", ids, table)
    assert ratio == pytest.approx(np.log(p / p.mean()), rel=1e-5)


def test_the_next_context_does_not_complete_a_letter(bytewise):
    tokenizer, table = bytewise
    d8, ab = tokenizer.encode("ث").ids
    x = tokenizer.encode("x").ids[0]
    ratio = proxies.script_proxy("arabic", np.array([[x, d8], [ab, x]]), table)
    assert (ratio == 0).all()  # nothing here can be read as Arabic, so nothing is


def test_malformed_bytes_are_in_no_script(bytewise):
    tokenizer, table = bytewise
    d8, ab = tokenizer.encode("ث").ids
    x = tokenizer.encode("x").ids[0]
    ids = np.array([[d8, x, ab, ab, d8, ab, ab]])  # only tokens 4 and 5 are a letter
    state, inside, _ = proxies._touched(proxies.SCRIPTS["arabic"], ids, table, False)
    assert state[0].tolist() == [0, 0, 0, 0, 2, 2, 0]
    assert inside[0].tolist() == [False, False, False, False, True, False, False]
    only = np.array([[ab, ab]])
    assert (proxies._touched(proxies.SCRIPTS["arabic"], only, table, False)[0] == 1).all()


def test_no_letter_crosses_a_special_token(bytewise):
    tokenizer, table = bytewise
    d8, ab = tokenizer.encode("ث").ids
    state, inside, _ = proxies._touched(proxies.SCRIPTS["arabic"], np.array([[d8, 0, ab, d8, ab, 0]]), table, False)
    assert state[0].tolist() == [0, 0, 0, 2, 2, 0]
    assert inside[0].tolist() == [False, False, False, True, False, False]


def test_the_glued_space():
    tokenizer = byte_level([" ثوب ثوب ثوب"] * 20, n_merges=8)
    table = TokenTable(tokenizer)
    ids = rows(tokenizer, " ثوب x y")
    assert table.text(int(ids[0, 0])) == " ثوب"
    strict = proxies.in_class("arabic", proxies.script_proxy("arabic", ids, table))
    lenient = proxies.in_class("arabic", proxies.script_proxy("arabic", ids, table, ignore_space=True))
    assert not strict.any()
    assert lenient[0].tolist() == [True] + [False] * (ids.shape[1] - 1)


def test_a_token_of_a_space_and_half_a_letter(bytewise):
    tokenizer = byte_level([" ث ب ت ج ح" * 3], n_merges=1)
    table = TokenTable(tokenizer)
    ids = rows(tokenizer, "x ث")
    assert table.text(int(ids[0, 1])) == " \\xd8"
    assert proxies.in_class("arabic", proxies.script_proxy("arabic", ids, table))[0].tolist() == [False, False, True]
    lenient = proxies.script_proxy("arabic", ids, table, ignore_space=True)
    assert proxies.in_class("arabic", lenient)[0].tolist() == [False, True, True]


def test_scripts_do_not_mix_and_absence_is_zero(bytewise):
    tokenizer, table = bytewise
    ids = rows(tokenizer, "ثוب한a")
    member = {name: proxies.in_class(name, proxies.script_proxy(name, ids, table))[0].tolist() for name in proxies.SCRIPTS}
    assert member["hebrew"] == [False, False, True, True, False, False, False, False, False, False]
    assert member["korean"] == [False] * 6 + [True] * 3 + [False]
    assert member["arabic"] == [True, True, False, False, True, True, False, False, False, False]
    assert (proxies.script_proxy("arabic", rows(tokenizer, "abc"), table) == 0).all()


def test_batches_do_not_change_the_ratio(bytewise):
    tokenizer, table = bytewise
    ids = np.random.default_rng(0).integers(0, len(table), (40, 13))
    ids[:, 4:6] = tokenizer.encode("ث").ids
    whole = proxies.script_proxy("arabic", ids, table)
    assert np.array_equal(whole, proxies.script_proxy("arabic", ids, table, batch_tokens=30))


def test_the_stream_is_read_as_python_reads_it():
    text = "He said ثوب أبيض, then שלום and 한국어. ééñ 語 🙂 END"
    tokenizer = byte_level([text] * 3, n_merges=25)
    table = TokenTable(tokenizer)
    ids = tokenizer.encode(text).ids
    for name, blocks in proxies.SCRIPTS.items():
        lies_in = [any(low <= ord(letter) <= high for low, high in blocks) for letter in text for _ in letter.encode()]
        state, _, _ = proxies._touched(blocks, np.array([ids]), table, False)
        where = 0
        for token, found in zip(ids, state[0], strict=True):
            end = where + len(table.bytes_of[token])
            assert (found == 2) == all(lies_in[where:end]), (name, table.text(token))
            where = end


# What callers may get wrong


def test_proxy_dispatches_and_takes_tensors(bytewise):
    tokenizer, table = bytewise
    ids = rows(tokenizer, "ثCAT")
    for name in proxies.PROXIES:
        ratio = proxies.proxy(name, ids, table, uniform(table))
        assert ratio.shape == ids.shape
        assert ratio.dtype == np.float32
        assert np.isfinite(ratio).all()
        assert np.array_equal(ratio, proxies.proxy(name, torch.from_numpy(ids), table, torch.from_numpy(uniform(table))))


# Rules


def stretches(bytewise, name: str, text: str) -> list[str]:
    """What of a text a rule takes."""
    tokenizer, table = bytewise
    named = proxies.cheap_proxy(name, rows(tokenizer, text), table)[0]
    runs = itertools.groupby(zip(text, named, strict=True), key=lambda pair: pair[1])
    return ["".join(letter for letter, _ in run) for taken, run in runs if taken]


def test_matches_touch_every_token_of_a_match(bytewise):
    tokenizer, table = bytewise
    found = proxies.matches(r"[0-9]{3,}", rows(tokenizer, "ab12345 67"), table)
    assert found.tolist() == [[False] * 2 + [True] * 5 + [False] * 3]
    contexts = torch.from_numpy(rows(tokenizer, "ab12", "345c"))
    assert proxies.matches(r"[0-9]{3,}", contexts, table).tolist() == [[False] * 4, [True] * 3 + [False]]
    assert not proxies.matches(r"x", contexts, table).any()


def test_a_token_longer_than_the_match_is_touched():
    tokenizer = byte_level(["the cat and the hat and the mat"] * 5, n_merges=12)
    ids = rows(tokenizer, "a the")
    assert proxies.matches(r"h", ids, TokenTable(tokenizer)).tolist() == [[False] * (ids.shape[1] - 1) + [True]]


def test_matches_of_a_group_of_lines_and_over_documents(bytewise):
    tokenizer, table = bytewise
    ids = rows(tokenizer, "a = b\nc\nd")
    assert proxies.matches(r"^(\w) = (?=b)", ids, table).tolist() == [[True] + [False] * 8]
    assert proxies.matches(r"=", ids, table, whole_line=True).tolist() == [[True] * 5 + [False] * 4]
    assert proxies.matches(r"d", ids, table, whole_line=True).tolist() == [[False] * 8 + [True]]
    ids[0, 3] = 0
    assert proxies.matches(r"=", ids, table, whole_line=True).tolist() == [[True] * 3 + [False] * 6]
    assert not proxies.matches(r"= ?b", ids, table).any()


@pytest.mark.parametrize(
    ("name", "text", "taken"),
    [
        ("URL and HTTP", "see https://a.example/b?c=1 or (http://d.example).", ["https://a.example/b?c=1", "http://d.example"]),
        ("URL and HTTP", "GET /x HTTP/1.1\nHost: y", ["GET /x HTTP/1.1"]),
        ("URL and HTTP", "HTTP/1.1 404 Not Found\nGET well soon", ["HTTP/1.1 404 Not Found"]),
        ("code comment", "x = 1  # one\ny = 2", ["# one"]),
        ("code comment", "  # note\nx", ["# note"]),
        ("code comment", "# above\nimport re\n", ["# above"]),
        ("code comment", "# A heading\n\nProse follows.", []),
        ("code comment", "f();  // why\nhttp://a.b/c\nn = 7 // 2", ["// why"]),
        ("code comment", "a /* b\nc */ d", ["/* b\nc */"]),
        ("def", "def f(x: int = g(1)) -> str:\n    return x", ["def f(x: int = g(1)) -> str:"]),
        ("def", "    async def f(\n  x,\n):\n  y", ["async def f(\n  x,\n):"]),
        ("def", "the def jam (leppard)", []),
        ("legal", "The plaintiff sued pursuant to law.\nNo such word.", ["The plaintiff sued pursuant to law."]),
        ("legal", "Notwithstanding the rain we went out.", []),
        ("nutrition", "Protein: 9.9 g\nBoil.", ["Protein: 9.9 g"]),
        ("nutrition", "4 g of sugar, 717 kcal", ["4 g of sugar, 717 kcal"]),
        ("nutrition", "an iron will and fat chance in 1990", []),
        ("the in mathematics", "the proof of the lemma\nthe cat", ["the", "the"]),
        ("the in mathematics", "the theme\nthen", []),
        ("LaTeX", r"Let $x_1$ be" + "\nit cost $5 and $10", ["Let $x_1$ be"]),
        ("LaTeX", "\\section{One}\nC:\\lefty", ["\\section{One}"]),
        ("chat", "<ann> hi\n[12:34] <@bob> yo\nsaid", ["<ann> hi", "[12:34] <@bob> yo"]),
        ("chat", "*** ann has joined #x\n<p> text\n* a point", ["*** ann has joined #x"]),
        ("snake capitals", "MAX_SIZE = Max_Size + A_1 and SHOUT", ["MAX_SIZE", "A_1"]),
        ("hexadecimal", "md5 deadbeef01 0x1F #a0b1c2 12345678 abcdefab", ["deadbeef01", "0x1F", "#a0b1c2"]),
        ("hexadecimal", "0000eef0  43 6f 72 61 20  |Cora |\nx", ["0000eef0  43 6f 72 61 20  |Cora |"]),
        ("base64 run", "x " + "aB3+" * 8 + " y", ["aB3+" * 8]),
        ("base64 run", "aB3+" * 7 + " " + "ab" * 20, []),
    ],
)
def test_rules_by_hand(bytewise, name, text, taken):
    assert stretches(bytewise, name, text) == taken


def test_every_rule_says_what_it_takes():
    assert all(rule.takes and rule.pattern for rule in proxies.PATTERNS.values())


def test_tokens_that_hold_pieces_of_characters(bytewise):
    tokenizer, table = bytewise
    assert table.broken[tokenizer.encode("aث").ids].tolist() == [False, True, True]
    assert not table.broken[0]


def test_bad_input_is_named(bytewise):
    tokenizer, table = bytewise
    ids = rows(tokenizer, "ab")
    with pytest.raises(BookError, match="klingon"):
        proxies.proxy("klingon", ids, table, uniform(table))
    with pytest.raises(BookError, match="klingon"):
        proxies.in_class("klingon", np.zeros(3))
    with pytest.raises(BookError, match="dna"):
        proxies.script_proxy("dna", ids, table)
    with pytest.raises(BookError, match="257"):
        proxies.base64_proxy(ids + 200, table, uniform(table))
    with pytest.raises(BookError, match="unigram_counts"):
        proxies.base64_proxy(ids, table, uniform(table)[:5])
    with pytest.raises(BookError, match="unigram_counts"):
        proxies.dna_proxy(ids, table, 0 * uniform(table))
    with pytest.raises(BookError, match="no tokens"):
        proxies.script_proxy("arabic", ids[:0], table)
    with pytest.raises(BookError, match="no rule is named 'sonnet'"):
        proxies.cheap_proxy("sonnet", rows(tokenizer, "a"), table)
    with pytest.raises(BookError, match="use the tokenizer"):
        proxies.cheap_proxy("chat", np.array([[9_999]]), table)
