"""Reading files: every format, and every way in which a file can be bad."""

import errno
import json
import os
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from sae_lib.corpus import documents, open_corpus
from sae_lib.corpus.documents import read_records, text_of
from sae_lib.errors import BookError


def texts(path):
    return [text_of(record) for record in read_records(path)]


def lines(*rows):
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def test_json_lines_plain_and_zstandard(tmp_path):
    content = lines({"text": "one"}, {"text": "שלום", "meta": {"category": "hebrew"}}) + b"\n" + lines({"text": "three"})
    (tmp_path / "a.jsonl").write_bytes(content)
    # Two frames, as tools that append write them.
    (tmp_path / "a.jsonl.zst").write_bytes(zstandard.compress(content[:20]) + zstandard.compress(content[20:]))
    assert texts(tmp_path / "a.jsonl") == texts(tmp_path / "a.jsonl.zst") == ["one", "שלום", "three"]


def test_last_line_needs_no_line_end_and_a_byte_order_mark_is_no_text(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"text": "one"}\r\n{"text": "two"}')
    assert texts(path) == ["one", "two"]


def test_parquet(tmp_path):
    table = pa.table({"text": ["one", "two"], "other": [1, 2], "meta": [{"category": "a"}, {"category": "b"}]})
    pq.write_table(table, tmp_path / "a.parquet")
    records = list(read_records(tmp_path / "a.parquet"))
    assert [record.fields for record in records] == [{"text": "one", "meta": {"category": "a"}}, {"text": "two", "meta": {"category": "b"}}]


def test_plain_text_of_any_suffix_is_one_document(tmp_path):
    (tmp_path / "a.py").write_text("x = 'é'\n", encoding="utf-8")
    assert texts(tmp_path / "a.py") == ["x = 'é'\n"]


def test_a_long_text_file_is_several_documents_cut_at_line_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(documents, "MAX_TEXT_CHARS", 100)
    whole = "".join(f"line {i}\n" for i in range(60))
    (tmp_path / "a.txt").write_text(whole)
    found = texts(tmp_path / "a.txt")
    assert "".join(found) == whole
    assert len(found) > 3
    assert all(len(text) <= 100 and text.endswith("\n") for text in found)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"text": "one"}\n{"text": \n', "line 2: no JSON"),
        (b'{"text": "one"}\n\n[1]\n', "line 3: no JSON object"),
        (b'{"text": "one"}\n{"body": "two"}\n', 'line 2: no string field "text"'),
        (b'{"text": "one"}\n{"text": null}\n', 'line 2: no string field "text"'),
        (b'{"text": "one"}\n{"text": "tw\xff"}\n', "line 2: byte 13 of the line is no UTF-8"),
        (b'{"text": "\\ud800"}\n', "line 1: the text is no Unicode"),
        (b"[" * 100_000, "line 1: no JSON"),
    ],
)
def test_bad_json_lines_name_file_and_line(tmp_path, content, message):
    path = tmp_path / "bad.jsonl"
    path.write_bytes(content)
    with pytest.raises(BookError) as error:
        texts(path)
    assert f"{path}, {message}" in str(error.value)


@pytest.mark.parametrize("size", [0, 2**20 + 1])
def test_bytes_that_are_no_utf8_name_the_line_of_a_text_file(tmp_path, size):
    path = tmp_path / "bad.txt"
    path.write_bytes(b"a" * size + b"\nsecond\nthi\xe9rd\n")
    with pytest.raises(BookError, match=rf"{path.name}, line 3: the bytes are no UTF-8"):
        texts(path)


def test_a_truncated_zst_is_an_error_and_not_an_end(tmp_path):
    content = zstandard.compress(lines(*({"text": f"document {i} " * 50} for i in range(2000))))
    path = tmp_path / "cut.jsonl.zst"
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(BookError, match=r"cut\.jsonl\.zst is cut short"):
        texts(path)


@pytest.mark.parametrize("name", ["bad.jsonl.zst", "bad.parquet"])
def test_a_file_of_another_format_is_named(tmp_path, name):
    (tmp_path / name).write_bytes(b"this is neither" * 100)
    with pytest.raises(BookError, match=rf"{name} is damaged"):
        texts(tmp_path / name)


def test_parquet_without_text_column(tmp_path):
    pq.write_table(pa.table({"body": ["one"]}), tmp_path / "a.parquet")
    with pytest.raises(BookError, match=r'a\.parquet: no column "text" \(columns there: body\)'):
        texts(tmp_path / "a.parquet")


def test_a_line_without_end_is_refused_before_it_fills_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(documents, "MAX_LINE_BYTES", 2**20)
    path = tmp_path / "long.jsonl"
    path.write_bytes(b"x" * 2**22)
    with pytest.raises(BookError, match="line 1: longer than 1 MiB"):
        texts(path)


def test_folder_takes_known_suffixes_and_its_own_validation(tmp_path):
    for name, text in [("train-00.jsonl", "train"), ("validation.jsonl", "held out")]:
        (tmp_path / name).write_bytes(lines({"text": text}))
    (tmp_path / "README.md").write_text("read me")
    corpus = open_corpus(f"files:{tmp_path}")
    (stratum,) = corpus.strata
    assert [document.text for document in corpus.documents(stratum.name, "train")] == ["train"]
    assert [document.text for document in corpus.documents(stratum.name, "validation")] == ["held out"]
    assert [document.text for document in open_corpus(f"files:{tmp_path}/*.md").documents(tmp_path.name)] == ["read me"]


@pytest.mark.parametrize("spec", ["files:{}/nothing", "files:{}/*.txt", "files:{}", "files:", "{}/text", ""])
def test_missing_corpus(tmp_path, spec):
    with pytest.raises(BookError):
        open_corpus(spec.format(tmp_path))


def test_an_impossible_glob_is_explained(tmp_path):
    with pytest.raises(BookError, match="between two slashes"):
        open_corpus(f"files:{tmp_path}/**.md")


def test_a_path_that_cannot_be_looked_at_is_named(tmp_path):
    for spec in (f"files:{'x' * 300}", f"hub:{'x' * 300}"):
        # Newer Pythons say that it is not there.
        with pytest.raises(BookError, match=r"x cannot be read: File name too long|no file or folder|cannot be opened"):
            _ = open_corpus(spec).fingerprint
    with pytest.raises(BookError, match=r"files:~nobody-of-that-name/texts: there is no such user here"):
        open_corpus("files:~nobody-of-that-name/texts")


@pytest.mark.parametrize("pattern", ["", "/**/*.txt"])
def test_folders_that_cannot_be_listed_are_named_and_hidden_ones_are_not_looked_at(tmp_path, monkeypatch, pattern):
    for name in ("open", "closed", ".hidden"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.txt").write_text(name)
    (tmp_path / "link").symlink_to("open")
    shut, scandir = ["hidden"], os.scandir

    def refuse(path):
        if str(path).endswith(tuple(shut)):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert open_corpus(f"files:{tmp_path}{pattern}").facts()[tmp_path.name]["n_files"] == 2
    shut.append("closed")
    with pytest.raises(BookError, match=r"/closed cannot be read: Permission denied; check its permissions"):
        open_corpus(f"files:{tmp_path}{pattern}")


@pytest.mark.parametrize("pattern", ["", "/*.txt"])
def test_a_link_that_points_nowhere_is_named(tmp_path, pattern):
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "b.txt").symlink_to("gone.txt")
    with pytest.raises(BookError, match=r"b\.txt points at a file that is not there; mend that link or remove it"):
        open_corpus(f"files:{tmp_path}{pattern}")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems keep such names out")
def test_a_name_that_is_no_utf8_is_refused(tmp_path):
    for spec in ("files:{}", "files:{}/*.txt", "files:{}/caf\udce9.txt"):
        (tmp_path / "caf\udce9.txt").write_text("text")
        with pytest.raises(BookError, match=r"caf\\udce9\.txt' is no UTF-8; rename it"):
            open_corpus(spec.format(tmp_path))


def test_empty_corpus(tmp_path):
    (tmp_path / "a.txt").write_text("")
    corpus = open_corpus(f"files:{tmp_path}")
    with pytest.raises(BookError, match="no text in it"):
        list(corpus.documents(tmp_path.name, "train"))


def test_code_folders_are_found_and_read_in_an_order_of_the_seed():
    first, second = (open_corpus("files:{stdlib}/json/*.py", seed) for seed in (0, 1))
    read = [[document.text for document in corpus.documents("stdlib")] for corpus in (first, second)]
    assert read[0] != read[1]
    assert sorted(read[0]) == sorted(read[1])
    assert "python" in first.facts()["stdlib"]


def test_fingerprint_follows_the_content(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("one")
    before = open_corpus(f"files:{path}").fingerprint
    assert open_corpus(f"files:{path}").fingerprint == before
    path.write_text("two")
    assert open_corpus(f"files:{path}").fingerprint != before
    assert open_corpus(f"files:{path}", seed=1).fingerprint != before


def test_hub_reads_a_local_folder_with_its_splits(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "train-00.jsonl").write_bytes(lines(*({"text": f"train {i}", "meta": {"category": "a"}} for i in range(5))))
    (tmp_path / "validation.jsonl").write_bytes(lines({"text": "held out", "meta": {"category": "a"}}))
    corpus = open_corpus(f"hub:{tmp_path}")
    (stratum,) = corpus.strata
    assert [document.text for document in corpus.documents(stratum.name, "train")] == [f"train {i}" for i in range(5)]
    assert [document.text for document in corpus.documents(stratum.name, "validation")] == ["held out"]
    assert len(corpus.fingerprint) == 12


def test_hub_reads_parquet(tmp_path):
    (tmp_path / "data").mkdir()
    pq.write_table(pa.table({"text": [f"row {i}" for i in range(40)]}), tmp_path / "data" / "train-00000-of-00001.parquet")
    corpus = open_corpus(f"hub:{tmp_path}")
    assert len(list(corpus.documents(corpus.strata[0].name))) == 40


def test_hub_that_cannot_be_reached(monkeypatch):
    def refuse(*args, **kwargs):
        raise ConnectionError("Couldn't reach the hub\nat length")

    monkeypatch.setattr("datasets.load_dataset", refuse)
    with pytest.raises(BookError, match=r"hub:owner/name cannot be opened \(Couldn't reach the hub\)"):
        next(open_corpus("hub:owner/name").documents("name"))


def test_hub_stream_that_breaks_off(monkeypatch):
    def rows():
        yield {"text": "one"}
        raise OSError("reset by peer")

    monkeypatch.setattr("datasets.load_dataset", lambda *args, **kwargs: {"train": rows()})
    with pytest.raises(BookError, match=r"hub:owner/name, train row 2: the stream broke off \(reset by peer\)"):
        list(open_corpus("hub:owner/name").documents("name"))
