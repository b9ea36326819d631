"""Mixing, the tokenizer, and token shards."""

import errno
import json
import random
import shutil
import subprocess
import sys
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from sae_lib.corpus import END_OF_TEXT, Document, TokenShards, build_shards, load_tokenizer, open_corpus, shards, train_tokenizer
from sae_lib.corpus.mixing import cut, interleave, mixture
from sae_lib.errors import BookError
from sae_lib.storage import write_folder

POCKET = "pocket:english=0.9,python=0.09,arabic=0.01"


@pytest.fixture(scope="module")
def corpus():
    return open_corpus(POCKET)


@pytest.fixture(scope="module")
def tokenizer(corpus, tmp_path_factory):
    return train_tokenizer(corpus, 400, 60_000, tmp_path_factory.mktemp("tokenizer") / "tokenizer.json", progress=False)


@pytest.fixture(scope="module")
def built(corpus, tokenizer, tmp_path_factory):
    return build_shards(corpus, tokenizer, tmp_path_factory.mktemp("text") / "shards", 60_000, 6_000, seed=0, progress=False)


def raw(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_cut_loses_nothing_and_ends_at_lines_or_spaces():
    text = "\n".join("word " * 30 for _ in range(40)) + "x" * 500
    pieces = list(cut(text, 200))
    assert "".join(pieces) == text
    assert all(len(piece) <= 200 for piece in pieces)
    assert all(piece[-1] in "\n x" for piece in pieces)


def test_interleaving_keeps_the_order_inside_a_document_and_mixes_between():
    documents = [Document(f"{name}" * 100, "s") for name in "abcd"]
    pieces = [text for text, _, _ in interleave(iter(documents), 10, random.Random(0))]
    assert sorted("".join(pieces)) == sorted("".join(document.text for document in documents))
    assert len({text[0] for text in pieces[:8]}) > 1
    assert sum(is_first for *_, is_first in interleave(iter(documents), 10, random.Random(0))) == 4


def test_the_window_is_bounded_in_characters():
    opened = []

    def documents():
        for i in range(50):
            opened.append(i)
            yield Document("x" * 1000, "s")

    next(interleave(documents(), 10, random.Random(0), held_chars=2500))
    assert len(opened) == 3


def test_shares_in_tokens_come_out_as_stated(corpus, built):
    for stratum in corpus.strata:
        share = built.meta["strata"]["train"][stratum.name]["tokens"] / 60_000
        assert share == pytest.approx(stratum.weight, abs=0.01)
    assert built.meta["strata"]["train"]["pocket/arabic"]["tokens"] > 0


def test_mixture_draws_from_the_stratum_furthest_behind(corpus):
    written = dict.fromkeys((stratum.name for stratum in corpus.strata), 0)
    for drawn in mixture(corpus, "train", lambda pieces: pieces, 200_000, seed=0):
        written[drawn.stratum] += len(drawn.encoded)
        total = sum(written.values())
        for stratum in corpus.strata:
            assert abs(written[stratum.name] - stratum.weight * total) < 2 * 8192


def test_tokenizer_is_byte_level_and_round_trips(tokenizer):
    assert tokenizer.token_to_id(END_OF_TEXT) == 0
    assert tokenizer.get_vocab_size() == 400
    for text in ("A plain sentence.", " شكرا שלום 안녕 \x00\n\t🙂", END_OF_TEXT):
        assert tokenizer.decode(tokenizer.encode(text).ids, skip_special_tokens=False) == text
    assert 0 not in tokenizer.encode(f"it says {END_OF_TEXT} here").ids


def test_the_same_text_gives_the_same_tokenizer_file(corpus, tokenizer, tmp_path):
    paths = [tmp_path / "one.json", tmp_path / "two.json"]
    for path in paths:
        train_tokenizer(open_corpus(POCKET), 400, 60_000, path, progress=False)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert load_tokenizer(paths[0]).to_str() == tokenizer.to_str()


@pytest.mark.parametrize("d_vocab", [256, 65_537])
def test_impossible_vocabularies(corpus, tmp_path, d_vocab):
    with pytest.raises(BookError, match="cannot be had"):
        train_tokenizer(corpus, d_vocab, 1000, tmp_path / "t.json", progress=False)


@pytest.mark.parametrize("content", ["", "{}", '{"version": "1.0"}'])
def test_damaged_tokenizers(tmp_path, content):
    path = tmp_path / "t.json"
    path.write_text(content)
    with pytest.raises(BookError, match="damaged"):
        load_tokenizer(path)
    with pytest.raises(BookError, match="missing"):
        load_tokenizer(tmp_path / "none.json")


def test_shards_have_the_asked_size_and_begin_with_a_separator(built):
    assert built.train.n_tokens == 60_000
    assert built.validation.n_tokens == 6_000
    assert built.train.contexts([0], 16)[0, 0] == 0
    assert sum(count["tokens"] for count in built.meta["strata"]["validation"].values()) == 6_000


def test_every_held_out_token_knows_its_document(corpus, tokenizer, built):
    tokens, documents = (read(np.arange(23), 256).ravel() for read in (built.validation.contexts, built.validation.documents))
    starts = tokens == 0
    assert not (np.diff(documents) != 0)[~starts[1:]].any()  # it changes only where a separator stands
    assert len(np.unique(documents)) < starts.sum()  # the pieces of a long document are one document
    counts = built.meta["strata"]["validation"]
    assert documents.max() < sum(count["documents"] for count in counts.values())
    for number in np.unique(documents)[:5]:
        words = tokenizer.decode(tokens[documents == number].tolist())
        assert any(words[:40] in document.text for name in counts for document in islice(corpus.documents(name, "validation"), 200))
    with pytest.raises(BookError, match="held-out side"):
        built.train.documents([0], 16)


def test_train_and_validation_share_no_document(corpus):
    for stratum in corpus.strata:
        held_out = {document.text for document in islice(corpus.documents(stratum.name, "validation"), 20)}
        assert not held_out & {document.text for document in islice(corpus.documents(stratum.name, "train"), 500)}


def test_contexts_do_not_overlap_and_never_cross_a_file(corpus, tokenizer, tmp_path, monkeypatch, built):
    monkeypatch.setattr(shards, "SHARD_TOKENS", 1000)
    small = build_shards(corpus, tokenizer, tmp_path / "s", 2_500, 500, seed=0, progress=False)
    assert [path.name for path in small.train.files] == [f"train-0000{i}.bin" for i in range(3)]
    assert small.train.n_contexts(300) == 3 + 3 + 1
    whole = np.concatenate([np.fromfile(path, "<u2") for path in small.train.files]).astype(np.int64)
    expected = [whole[start : start + 300] for start in (0, 300, 600, 1000, 1300, 1600, 2000)]
    assert np.array_equal(small.train.contexts(np.arange(7), 300), np.stack(expected))
    assert np.array_equal(small.train.contexts([6, 0, 3, 3], 300), np.stack([expected[i] for i in (6, 0, 3, 3)]))
    assert small.train.contexts([], 300).shape == (0, 300)
    assert np.array_equal(small.train.unigram_counts(400), np.bincount(whole, minlength=400))
    for bad in ([7], [-1]):
        with pytest.raises(IndexError):
            small.train.contexts(bad, 300)


def test_same_arguments_give_the_same_bytes_and_another_seed_others(corpus, tokenizer, tmp_path):
    folders = [
        build_shards(open_corpus(POCKET), tokenizer, tmp_path / name, 5_000, 500, seed=seed, progress=False).folder
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    ]
    assert raw(folders[0]) == raw(folders[1])
    assert raw(folders[0]) != raw(folders[2])


def test_a_finished_folder_is_used_and_another_one_replaced(corpus, tokenizer, built, tmp_path, monkeypatch):
    folder = shutil.copytree(built.folder, tmp_path / "s")
    monkeypatch.setattr(shards, "_fill", lambda *args: pytest.fail("built again"))
    build_shards(corpus, tokenizer, folder, 60_000, 6_000, progress=False)
    monkeypatch.undo()
    assert build_shards(corpus, tokenizer, folder, 6_000, 500, progress=False).train.n_tokens == 6_000
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


def test_a_folder_of_something_else_is_left_alone(corpus, tokenizer, tmp_path):
    (tmp_path / "thesis.doc").write_text("years of work")
    with pytest.raises(BookError, match="holds something that is no token shards"):
        build_shards(corpus, tokenizer, tmp_path, 5_000, 500, progress=False)
    assert (tmp_path / "thesis.doc").read_text() == "years of work"


def test_a_full_disk_leaves_the_old_folder_intact(corpus, tokenizer, built, tmp_path, monkeypatch):
    folder = shutil.copytree(built.folder, tmp_path / "s")
    before = raw(folder)

    def full(file, content):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shards, "_write", full)
    with pytest.raises(BookError, match="No space left on device"):
        build_shards(corpus, tokenizer, folder, 6_000, 500, progress=False)
    assert raw(folder) == before
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


def test_a_stop_between_the_two_renames_brings_the_old_folder_back(built, tmp_path, monkeypatch):
    folder = shutil.copytree(built.folder, tmp_path / "s")
    rename, calls = Path.rename, []

    def stop_at_the_second(self, target):
        calls.append(target)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", stop_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        write_folder(folder, lambda aside: (aside / "new").write_text("new"), replace=True)
    assert raw(folder) == raw(built.folder)
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


def test_a_tokenizer_that_does_not_match(corpus, built, tmp_path):
    other = train_tokenizer(corpus, 300, 20_000, tmp_path / "t.json", progress=False)
    with pytest.raises(BookError, match="made with another tokenizer"):
        TokenShards.open(built.folder, other)


@pytest.mark.parametrize("damage", ["missing", "short", "foreign", "no json", "other json", "odd json"])
def test_damaged_shards_are_named(built, tokenizer, tmp_path, damage):
    folder = shutil.copytree(built.folder, tmp_path / "s")
    path = folder / "train-00000.bin"
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "short":
        path.write_bytes(content[:-2])
    elif damage == "foreign":
        path.write_bytes(b"\0" * len(content))
    else:
        path = folder / "shards.json"
        path.write_text({"no json": "{", "other json": '{"format": 0}', "odd json": '{"format": 2, "files": {"x": 3}}'}[damage])
    with pytest.raises(BookError, match=path.name):
        TokenShards.open(folder, tokenizer)


def test_a_small_corpus_is_read_again_and_says_how_often(tokenizer, tmp_path):
    rows = [json.dumps({"text": f"document {i} " * 20}) for i in range(40)]
    (tmp_path / "a.jsonl").write_text("\n".join(rows))
    built = build_shards(open_corpus(f"files:{tmp_path}/a.jsonl"), tokenizer, tmp_path / "s", 20_000, 1_000, progress=False)
    count = built.meta["strata"]["train"]["a"]
    assert count["epochs"] > 1
    assert 36 * (count["epochs"] - 1) <= count["documents"] <= 40 * count["epochs"]


def test_skipped_files_are_in_the_json(tokenizer, tmp_path):
    (tmp_path / "code").mkdir()
    for i in range(10):
        (tmp_path / "code" / f"{i}.py").write_text(f"x = {i}\n" * 20)
    (tmp_path / "code" / "latin.py").write_bytes(b"\xe9\n")
    (tmp_path / "r.toml").write_text(f'[[source]]\nfrom = "files:{tmp_path}/code/*.py"\nweight = 1\nskip_undecodable = true\n')
    built = build_shards(open_corpus(str(tmp_path / "r.toml")), tokenizer, tmp_path / "s", 2_000, 200, progress=False)
    assert built.meta["skipped"] == {"code": {"n": 1, "first": ["latin.py, line 1"]}}


BIG = r"""
import re, sys
from pathlib import Path
from sae_lib.corpus import build_shards, load_tokenizer, open_corpus
folder = Path(sys.argv[1])
corpus, tokenizer = open_corpus(f"files:{folder}/big.jsonl"), load_tokenizer(folder / "t.json")
built = build_shards(corpus, tokenizer, folder / "s", 100_000, 10_000, progress=False)
assert built.train.n_tokens == 100_000
# A fresh process begins with its parent's `ru_maxrss`, and a test run is large; VmHWM is its own.
print(int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text()).group(1)) // 1024)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="a process's own peak is read from /proc")
def test_a_document_of_50_mb_needs_little_memory(corpus, tmp_path):
    train_tokenizer(corpus, 300, 20_000, tmp_path / "t.json", progress=False)
    with open(tmp_path / "big.jsonl", "w") as file:
        for i in range(2):
            file.write(json.dumps({"text": f"{i} " + "no line ends here, only words " * (50_000_000 // 30)}) + "\n")
    done = subprocess.run([sys.executable, "-c", BIG, str(tmp_path)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 800
