"""The pocket corpus: endless labelled text, written for the book, the same for the same seed.

Word lists, templates and passages lie under `pocket_data/`; the grammar draws documents from them. What cannot be a
template, such as base64 or a coding sequence, is made here and labels itself; and what a program, a page or a formula
is made of is found in its finished text.
"""

import base64
import hashlib
import random
import re
from collections.abc import Iterator
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from sae_lib.corpus.documents import Document, Span
from sae_lib.corpus.grammar import Draft, Grammar, header, passage, read_text
from sae_lib.errors import BookError

DATA = Path(str(resources.files("sae_lib.corpus"))) / "pocket_data"

STRATA: dict[str, float] = {
    "english": 0.51,
    "python": 0.14,
    "markdown": 0.07,
    "html": 0.06,
    "javascript": 0.05,
    "json": 0.03,
    "arabic": 0.01,
    "hebrew": 0.01,
    "korean": 0.01,
    "russian": 0.01,
    "chinese": 0.01,
    "base64": 0.01,
    "hex": 0.01,
    "dna": 0.01,
    "web": 0.01,
    "latex": 0.01,
    "legal": 0.01,
    "food": 0.01,
    "chat": 0.01,
    "snake": 0.01,
}
"""Shares of the tokens. Scripts and codes are rare, as they are in real text, and a part of their documents is English."""

ANTHOLOGY_SHARE = 0.02
"""Share of a stratum's documents that are passages of the anthology, where it has some."""
HELD_OUT_PASSAGES = 6
"""One passage in so many is never trained on."""

LEAVES: dict[str, tuple[re.Pattern[str], str]] = {
    "code/python": (
        re.compile(
            r"""(?P<docstring>\"{3}[\s\S]*?\"{3})|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'|(?P<comment>#[^\n]*)"""
            r"""|^ *(?P<def>(?:async def|def|class)\b[^\n]*:)$""",
            re.MULTILINE,
        ),
        "body",
    ),
    "code/javascript": (re.compile(r"(?P<comment>//[^\n]*|/\*[\s\S]*?\*/)"), "body"),
    "markup/html": (re.compile(r"(?P<tag><[^>]*>)"), "text"),
    "markup/latex": (
        re.compile(
            r"(?P<display>\\\[[\s\S]*?\\\]|\\begin\{(?P<env>(?:equation|align|gather)\*?)\}[\s\S]*?\\end\{(?P=env)\})|(?P<inline>\$[^$\n]+\$)"
        ),
        "prose",
    ),
}
"""Leaves that are found in a finished text: a pattern whose groups name them, and what the rest is. A match without a group
is passed over, such as a string in which a hash sign begins no comment."""


class PocketSource:
    """The generator as a source of text; each of its strata is endless, and its two sides are drawn apart."""

    has_splits = True
    name = "pocket"

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        self.skipped: dict[str, None] = {}

    def texts(self, split: str | None = None, by: str | None = None, value: str | None = None) -> Iterator[str]:
        """Stream the texts of stratum `value`, without end."""
        return (document.text for document in self.documents(value or "english", split))

    def documents(self, stratum: str, split: str | None = None) -> Iterator[Document]:
        """Stream the labelled documents of a stratum, without end."""
        return pocket_documents(stratum, self.seed, split or "train")

    def identity(self) -> Any:
        """A hash of the data and of the two files that draw from it, with the seed."""
        digest = hashlib.sha256()
        code = [DATA.parent / "grammar.py", DATA.parent / "pocket.py"]
        for path in [*sorted(DATA.rglob("*.txt")), *code]:
            digest.update(path.read_bytes())
        return [digest.hexdigest()[:16], self.seed]

    def facts(self) -> dict[str, Any]:
        """The seed."""
        return {"seed": self.seed}


def pocket_weights(spec: str) -> dict[str, float]:
    """The strata that a specification asks for, such as "arabic=0.005,english=0.995"; empty means `STRATA`.

    Raises:
        BookError: an unknown stratum, a share that is no positive number, or shares that do not sum to 1.
    """
    if not spec:
        return dict(STRATA)
    weights: dict[str, float] = {}
    for item in spec.split(","):
        name, _, number = (part.strip() for part in item.partition("="))
        _check_stratum(name, f"pocket:{spec}")
        try:
            weight = float(number)
        except ValueError:
            weight = 0.0
        if not 0 < weight <= 1 or name in weights:
            raise BookError(f"pocket:{spec}: {name} needs one share between 0 and 1, as in pocket:english=0.995,{name}=0.005")
        weights[name] = weight
    total = sum(weights.values())
    if abs(total - 1) > 1e-6:
        raise BookError(f"pocket:{spec}: the shares sum to {total:g} instead of 1")
    return weights


def pocket_documents(stratum: str, seed: int = 0, split: str = "train") -> Iterator[Document]:
    """Stream the documents of one stratum, without end; the same for the same seed.

    Args:
        stratum: a key of `STRATA`.
        seed: any integer.
        split: "train" or "validation"; the two have different documents and different passages of the anthology.

    Raises:
        BookError: there is no such stratum.
    """
    _check_stratum(stratum, "pocket")
    digest = hashlib.sha256(f"{stratum}:{seed}:{split}".encode()).digest()
    rng = random.Random(int.from_bytes(digest[:8], "big"))
    grammar, source = pocket_grammar(), f"pocket/{stratum}"
    is_held_out = split == "validation"
    passages = [found for i, found in enumerate(anthology(stratum)) if (i % HELD_OUT_PASSAGES == HELD_OUT_PASSAGES - 1) == is_held_out]
    while True:
        if passages and rng.random() < ANTHOLOGY_SHARE:
            yield passages[int(rng.random() * len(passages))]
        else:
            draft = grammar.draft(rng)
            draft.write(f"{stratum}/document", {})
            yield with_leaves(Document(draft.text(), source, tuple(draft.spans())))


@cache
def anthology(stratum: str) -> tuple[Document, ...]:
    """The passages written for a stratum, in the order of their file; none where there is no such file.

    Raises:
        BookError: there is no such stratum, or the file is malformed.
    """
    _check_stratum(stratum, "anthology")
    return read_anthology(DATA / "anthology" / f"{stratum}.txt", pocket_labels())


def read_anthology(path: Path, labels: dict[str, str]) -> tuple[Document, ...]:
    """The passages of one file; each begins with a line such as `== name : label/path`.

    Raises:
        BookError: the file is malformed; file and line are named.
    """
    if not path.exists():
        return ()
    found: list[tuple[str, str, list[str]]] = []
    for number, line in enumerate(read_text(path).split("\n"), 1):
        place = f"{path}, line {number}"
        if line.startswith("== "):
            found.append((place, header(line, place, labels)[1], []))
        elif found:
            found[-1][2].append(line)
        elif line.strip() and not line.startswith("#"):
            raise BookError(f"{place}: text before the first passage; a passage begins with a line such as == name : label/path")
    source = f"pocket/{path.stem}/anthology"
    return tuple(with_leaves(passage("\n".join(lines).strip("\n") + "\n", label, source, labels, place)) for place, label, lines in found)


@cache
def pocket_labels() -> dict[str, str]:
    """Every label with what it means, parents before children."""
    return read_labels(DATA / "labels.txt")


def read_labels(path: Path) -> dict[str, str]:
    """The labels of a file: on each line a path, two spaces or more, and what it means.

    Raises:
        BookError: a line is malformed, or a label stands before its parent.
    """
    labels: dict[str, str] = {}
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if line and not line.startswith("#"):
            label, _, meaning = line.partition("  ")
            parent = label.rpartition("/")[0]
            if not meaning.strip() or label in labels or (parent and parent not in labels):
                raise BookError(f"{path}, line {number}: write a new label below its parent, two spaces, and what it means")
            labels[label] = meaning.strip()
    return labels


@cache
def pocket_grammar() -> Grammar:
    """The lists of all strata."""
    return Grammar(DATA, pocket_labels(), PAYLOADS, topical="english", cast=_cast)


def with_leaves(document: Document) -> Document:
    """The document with the leaves that its finished text shows, its spans in order, the longer first."""
    spans = list(document.labels)
    for start, end, label in document.labels:
        if label in LEAVES:
            pattern, rest = LEAVES[label]
            done = start
            for match in pattern.finditer(document.text, start, end):
                group = next((name for name, text in match.groupdict().items() if text is not None and name != "env"), None)
                if group is None:
                    continue
                spans += [Span(done, match.start(group), f"{label}/{rest}"), Span(*match.span(group), f"{label}/{group}")]
                done = match.end(group)
            spans.append(Span(done, end, f"{label}/{rest}"))
    ordered = sorted((span for span in spans if span.start < span.end), key=lambda span: (span.start, -span.end, span.label))
    return document._replace(labels=tuple(ordered))


def _check_stratum(name: str, place: str) -> None:
    if name not in STRATA:
        raise BookError(f"{place}: there is no stratum {name!r}; the strata are {', '.join(STRATA)}")


def _cast(draft: Draft) -> None:
    """Who is in an English document, and where: A is a woman or a man, and B another person."""
    lists = [("woman", "she", "her"), ("man", "he", "his")]
    who, he, his = lists[draft.between(0, 1)]
    first = draft.aside(f"english/{who}", {})
    second = first
    while second == first:
        second = draft.aside(f"english/{lists[draft.between(0, 1)][0]}", {})
    draft.kept |= {"A": first, "B": second, "he": he, "He": he.title(), "his": his, "His": his.title()}
    draft.kept |= {name: draft.aside(f"english/{name}", {}) for name in ("town", "surname")}


def _wrapped(text: str, width: int) -> str:
    return "\n".join(text[i : i + width] for i in range(0, len(text), width))


def _base64(kind: str, low: int, high: int, width: int):
    def write(draft: Draft) -> None:
        n_bytes = draft.between(low, high)
        if draft.random() < 0.5:
            raw, of = draft.rng.getrandbits(8 * n_bytes).to_bytes(n_bytes, "big"), "of_bytes"
        else:
            text = draft.aside("english/sentence", {})
            while len(text.encode()) < n_bytes:
                text += " " + draft.aside("english/sentence", {})
            raw, of = text.encode()[:n_bytes], "of_text"
        text = _wrapped(base64.b64encode(raw).decode(), width) if width else base64.b64encode(raw).decode()
        form = f"encoded/base64/{kind}"
        draft.marks += [(len(draft.pieces), form), (len(draft.pieces), f"encoded/base64/{of}")]
        draft.write_labelled(text[0], f"{form}/first")
        draft.write_labelled(text[1:], f"{form}/interior")
        draft.marks += [(len(draft.pieces), "")] * 2

    return write


def _digits(draft: Draft, n: int) -> str:
    return f"{draft.rng.getrandbits(4 * n):0{n}x}"


def _digest(draft: Draft) -> None:
    draft.write_labelled(_digits(draft, (32, 40, 64)[draft.between(0, 2)]), "encoded/hex/digest")


def _dump(draft: Draft) -> None:
    n_lines = draft.between(3, 12)
    raw = draft.rng.getrandbits(128 * n_lines).to_bytes(16 * n_lines, "big")
    if draft.random() < 0.4:
        raw = "".join(draft.aside("english/sentence", {}) + " " for _ in range(n_lines)).encode()[: 16 * n_lines]
    offset, lines = 16 * draft.between(0, 4095), []
    for i in range(0, len(raw) // 16 * 16, 16):
        row = raw[i : i + 16]
        letters = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in row)
        lines.append(f"{offset + i:08x}  {row[:8].hex(' ')}  {row[8:].hex(' ')}  |{letters}|")
    draft.write_labelled("\n".join(lines), "encoded/hex/dump")


def _colour(draft: Draft) -> None:
    draft.write_labelled("#" + _digits(draft, 6), "encoded/hex/literal")


def _word(draft: Draft) -> None:
    draft.write_labelled("0x" + _digits(draft, (4, 8, 16)[draft.between(0, 2)]), "encoded/hex/literal")


def _coding(draft: Draft) -> None:
    sense, stop = ([entry[0] for entry in draft.lists[f"codons/{name}"].entries] for name in ("sense", "stop"))
    codons = [sense[int(draft.random() * len(sense))] for _ in range(draft.between(40, 200))]
    draft.write_labelled(_wrapped("ATG" + "".join(codons) + stop[draft.between(0, len(stop) - 1)], 60), "dna/coding")


def _repeat(draft: Draft) -> None:
    unit = draft.aside("codons/unit", {})
    letters = list(unit * (draft.between(120, 480) // len(unit)))
    for _ in range(len(letters) // 40):
        letters[draft.between(0, len(letters) - 1)] = "ACGT"[draft.between(0, 3)]
    draft.write_labelled(_wrapped("".join(letters), 60), "dna/repeat")


def _primer(draft: Draft) -> None:
    draft.write_labelled("".join("ACGT"[draft.between(0, 3)] for _ in range(draft.between(18, 30))), "dna/primer")


PAYLOADS = {
    "mime": _base64("mime", 60, 300, 76),
    "pem": _base64("pem", 96, 300, 64),
    "inline": _base64("inline", 40, 160, 0),
    "field": _base64("field", 9, 36, 0),
    "digest": _digest,
    "dump": _dump,
    "colour": _colour,
    "word": _word,
    "coding": _coding,
    "repeat": _repeat,
    "primer": _primer,
}
"""What `${@name}` writes."""
