"""Documents, and the files they are read from as a stream: JSON lines (plain or zstandard), parquet, plain text.

Every reader is lazy, holds one document at a time, and names file and line when something cannot be read.
"""

import codecs
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import zstandard

from sae_lib.errors import BookError
from sae_lib.storage import reading

MAX_LINE_BYTES = 2**27
"""Longest line of a JSON lines file, in bytes (128 MiB); it bounds the memory that one document can ask for."""
MAX_TEXT_CHARS = 10**6
"""A plain-text file longer than this many characters is read as several documents, cut at line ends."""
EDGE_BYTES = 2**16
"""How much of a file's head and tail enters its fingerprint, in bytes."""

Skip = Callable[[str], None]
"""Called with the place of something undecodable that is left out; without one, such a thing is an error."""


class Span(NamedTuple):
    """A stretch of a document of which the truth is known."""

    start: int
    """First character."""
    end: int
    """One past the last character."""
    label: str
    """What it is, such as "arabic"."""


class Document(NamedTuple):
    """One text, where it came from, and what is known about its parts."""

    text: str
    source: str
    """Name of the stratum, such as "arabic" or "pocket/arabic"."""
    labels: tuple[Span, ...] = ()
    """Known stretches, in order, not overlapping; only the pocket corpus has them."""


class Record(NamedTuple):
    """One row of a file before it becomes a document."""

    place: str
    """File and line, for messages."""
    fields: dict[str, Any]
    """At least `text`; often `meta`."""


def file_edges(path: Path) -> list:
    """Size of a file and a hash of its head and tail: what a fingerprint knows of it without reading it all."""
    with reading(path):
        size = path.stat().st_size
        with open(path, "rb") as file:
            digest = hashlib.sha256(file.read(EDGE_BYTES))
            if size > EDGE_BYTES:
                file.seek(-EDGE_BYTES, os.SEEK_END)
                digest.update(file.read(EDGE_BYTES))
    return [size, digest.hexdigest()[:16]]


def read_records(path: Path, columns: tuple[str, ...] = (), skip: Skip | None = None) -> Iterator[Record]:
    """Stream the records of one file; its name decides the format.

    Args:
        path: `.jsonl`, `.jsonl.zst` or `.parquet`; anything else is plain text.
        columns: fields wanted besides `text` and `meta` (parquet reads no others).
        skip: called for each undecodable line of JSON and each undecodable file of text, which is then left out; of parquet
            nothing is.

    Raises:
        BookError: the file cannot be read; file and line are named.
    """
    with reading(path):
        if path.name.endswith((".jsonl", ".jsonl.zst")):
            yield from _json_records(path, skip)
        elif path.suffix == ".parquet":
            yield from _parquet_records(path, columns)
        else:
            yield from _text_records(path, skip)


def text_of(record: Record, skip: Skip | None = None) -> str:
    """The text of a record; "" where it is empty or was skipped.

    Raises:
        BookError: there is no text field, or it holds half of a surrogate pair and so is no Unicode text.
    """
    text = record.fields.get("text")
    if not isinstance(text, str):
        raise BookError(f'{record.place}: no string field "text"')
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            if skip is None:
                raise BookError(f"{record.place}: the text is no Unicode (half of a surrogate pair at character {error.start})") from None
            skip(record.place)
            return ""
    return text


def meta_of(record: Record, field: str) -> str:
    """The value of a field of `meta`, or of the record itself, as text.

    Raises:
        BookError: the record has no such field.
    """
    meta = record.fields.get("meta")
    for fields in (meta if isinstance(meta, dict) else {}, record.fields):
        if fields.get(field) is not None:
            return str(fields[field])
    known = ", ".join(sorted(meta)) if isinstance(meta, dict) else "none"
    raise BookError(f'{record.place}: no field "{field}" in its meta, by which the recipe mixes (fields there: {known})')


def _json_records(path: Path, skip: Skip | None) -> Iterator[Record]:
    chunks = _zst_chunks(path) if path.suffix == ".zst" else _chunks(path, 2**20)
    for number, line in _lines(chunks, path):
        place = f"{path}, line {number}"
        try:
            content = line.decode("utf-8")
        except UnicodeDecodeError as error:
            if skip is None:
                raise BookError(f"{place}: byte {error.start + 1} of the line is no UTF-8") from None
            skip(place)
            continue
        content = content.lstrip("\ufeff").strip()
        if not content:
            continue
        try:
            fields = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise BookError(f"{place}: no JSON ({error})") from None
        if not isinstance(fields, dict):
            raise BookError(f'{place}: no JSON object with a field "text"')
        yield Record(place, fields)


def _chunks(path: Path, size: int) -> Iterator[bytes]:
    with open(path, "rb") as file:
        while chunk := file.read(size):
            yield chunk


def _zst_chunks(path: Path) -> Iterator[bytes]:
    # `stream_reader` takes a frame that is cut short for a finished one; `decompressobj` says whether it ended.
    frame = None
    try:
        for chunk in _chunks(path, 2**14):
            while chunk:
                frame = frame or zstandard.ZstdDecompressor().decompressobj()
                yield frame.decompress(chunk)
                chunk = frame.unused_data if frame.eof else b""
                frame = None if frame.eof else frame
    except zstandard.ZstdError as error:
        raise BookError(f"{path} is damaged or is no zstandard file ({error}); fetch it again") from None
    if frame is not None:
        raise BookError(f"{path} is cut short: its last zstandard frame does not end; fetch it again")


def _lines(chunks: Iterator[bytes], path: Path) -> Iterator[tuple[int, bytes]]:
    number, held, n_held = 1, [], 0
    for chunk in chunks:
        *whole, rest = chunk.split(b"\n")
        if whole:
            held.append(whole[0])
            yield number, b"".join(held)
            for i, line in enumerate(whole[1:], 1):
                yield number + i, line
            number, held, n_held = number + len(whole), [], 0
        held.append(rest)
        n_held += len(rest)
        if n_held > MAX_LINE_BYTES:
            raise BookError(f"{path}, line {number}: longer than {MAX_LINE_BYTES >> 20} MiB; is this a file of JSON lines?")
    if n_held:
        yield number, b"".join(held)


def _text_records(path: Path, skip: Skip | None) -> Iterator[Record]:
    try:
        if skip is not None:
            # The file is left out as a whole, so its decoding is checked before its first document.
            for _ in _decoded(path):
                pass
        yield from _text_documents(path)
    except _UndecodableError as error:
        if skip is None:
            raise BookError(
                f"{path}, line {error.line}: the bytes are no UTF-8. Save the file as UTF-8, leave it out, "
                "or write skip_undecodable = true beside it in a recipe"
            ) from None
        skip(f"{path}, line {error.line}")


class _UndecodableError(Exception):
    """Bytes that are no UTF-8, on a line of a plain-text file."""

    def __init__(self, line: int) -> None:
        self.line = line


def _decoded(path: Path) -> Iterator[str]:
    decoder, n_lines = codecs.getincrementaldecoder("utf-8-sig")(), 1
    try:
        for chunk in _chunks(path, 2**20):
            yield decoder.decode(chunk)
            n_lines += chunk.count(b"\n")
        yield decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        raise _UndecodableError(n_lines + error.object.count(b"\n", 0, error.start)) from None


def _text_documents(path: Path) -> Iterator[Record]:
    held, n_lines = "", 1
    for text in _decoded(path):
        held += text
        while len(held) > MAX_TEXT_CHARS:
            end = held.rfind("\n", MAX_TEXT_CHARS // 2, MAX_TEXT_CHARS) + 1 or MAX_TEXT_CHARS
            yield Record(f"{path}, line {n_lines}", {"text": held[:end]})
            n_lines += held.count("\n", 0, end)
            held = held[end:]
    if held:
        yield Record(f"{path}, line {n_lines}", {"text": held})


def _parquet_records(path: Path, columns: tuple[str, ...]) -> Iterator[Record]:
    import pyarrow
    import pyarrow.parquet

    try:
        file = pyarrow.parquet.ParquetFile(path, pre_buffer=False)
        names = file.schema_arrow.names
        if "text" not in names:
            raise BookError(f'{path}: no column "text" (columns there: {", ".join(names)})')
        wanted = [name for name in names if name in {"text", "meta", *columns}]
        row = 0
        for batch in file.iter_batches(batch_size=64, columns=wanted):
            for i in range(batch.num_rows):
                row += 1
                place = f"{path}, row {row}"
                try:
                    fields = {name: batch.column(name)[i].as_py() for name in wanted}
                except UnicodeDecodeError:
                    raise BookError(f"{place}: the text is no UTF-8") from None
                yield Record(place, fields)
    except pyarrow.ArrowException as error:
        raise BookError(f"{path} is damaged or is no parquet file ({error}); fetch it again") from None
