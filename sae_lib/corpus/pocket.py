"""The pocket corpus: endless labelled text, written for the book, the same for the same seed.

Word lists and sentence templates lie under `pocket_data/`, one entry a line. A stratum draws documents from them with
the two methods of `random.Random` that give the same numbers in every version of Python.
"""

import base64
import hashlib
import random
import re
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from importlib import resources
from typing import Any, ClassVar

from sae_lib.corpus.documents import Document, Span
from sae_lib.errors import BookError

WEIGHTS: dict[str, float] = {
    "english": 0.60,
    "python": 0.20,
    "markdown": 0.10,
    "html": 0.07,
    "arabic": 0.006,
    "hebrew": 0.006,
    "korean": 0.006,
    "dna": 0.006,
    "base64": 0.006,
}
"""Shares of the tokens, where a specification names none. Scripts and codes are rare, as they are in real text."""

SLOT = re.compile(r"\$\{(?:([A-Za-z_.0-9]+))?(?:#(\w+))?\}")
ARTICLE = re.compile(r"\ba\(n\) (?=(\w+))")
PARTICLE = re.compile(r"(.)(”?)\((은/는|이/가|을/를|과/와|으로/로|이라는/라는)\)")
PAYLOAD = "\0"
RANDOM_SHARE = 0.5
"""Share of base64 that encodes random bytes; the rest encodes English text."""

Bound = dict[str, str]
Segment = tuple[str, str | None]
Slot = tuple[str, str | None]
"""A list to draw from, and the key under which the word is kept."""


class Grammar:
    """Named lists of templates that refer to each other.

    An entry such as `the ${noun}` draws an entry of the list `noun`; `${noun#1}` draws once and then keeps the word
    under the key 1; `${#A}` takes a word that the caller has fixed.
    """

    def __init__(self, *files: str) -> None:
        self.lists: dict[str, list[list[str | Slot]]] = {}
        for file in files:
            for name, lines in _lists(file).items():
                self.lists[name] = [_parts(line) for line in lines]

    def with_topic(self, topic: str) -> "Grammar":
        """The same grammar, in which `noun` means `<topic>.noun`, and so on."""
        topical = Grammar()
        topical.lists = {name.removeprefix(f"{topic}."): entries for name, entries in self.lists.items()}
        return topical

    def draw(self, name: str, rng: random.Random, bound: Bound) -> str:
        """Draw an entry of a list and fill its slots; `bound` holds, and receives, the kept words."""
        out: list[str] = []
        parts: list[str | Slot] = [(name, None)]
        while parts:
            part = parts.pop()
            if isinstance(part, str):
                out.append(part)
            elif part[1] is None:
                entries = self.lists[part[0]]
                parts += entries[int(rng.random() * len(entries))]
            else:
                if part[1] not in bound:
                    bound[part[1]] = self.draw(part[0], rng, bound)
                out.append(bound[part[1]])
        return "".join(out)


class PocketSource:
    """The generator as a source of text; each of its strata is endless."""

    has_splits = False
    name = "pocket"

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        self.skipped: dict[str, None] = {}

    def texts(self, split: str | None = None, by: str | None = None, value: str | None = None) -> Iterator[str]:
        """Stream the texts of stratum `value`, without end."""
        return (document.text for document in self.documents(value or "english"))

    def documents(self, stratum: str) -> Iterator[Document]:
        """Stream the labelled documents of a stratum, without end."""
        return pocket_documents(stratum, self.seed)

    def identity(self) -> Any:
        """A hash of the word lists and of this file, with the seed."""
        digest = hashlib.sha256()
        for file in [*sorted(_data().iterdir(), key=lambda file: file.name), resources.files("sae_lib.corpus") / "pocket.py"]:
            if file.name.endswith((".txt", ".py")):
                digest.update(file.read_bytes())
        return [digest.hexdigest()[:16], self.seed]

    def facts(self) -> dict[str, Any]:
        """The seed."""
        return {"seed": self.seed}


def pocket_weights(spec: str) -> dict[str, float]:
    """The strata that a specification asks for, such as "arabic=0.005,english=0.6"; empty means `WEIGHTS`.

    Raises:
        BookError: an unknown stratum, or a weight that is no positive number.
    """
    if not spec:
        return dict(WEIGHTS)
    weights: dict[str, float] = {}
    for item in spec.split(","):
        name, _, number = (part.strip() for part in item.partition("="))
        if name not in WEIGHTS:
            raise BookError(f"pocket:{spec}: there is no stratum {name!r}; the strata are {', '.join(WEIGHTS)}")
        try:
            weight = float(number)
        except ValueError:
            weight = 0.0
        if not 0 < weight < float("inf") or name in weights:
            raise BookError(f"pocket:{spec}: {name} needs one positive number, as in pocket:english=0.9,{name}=0.005")
        weights[name] = weight
    return weights


def pocket_documents(stratum: str, seed: int = 0) -> Iterator[Document]:
    """Stream the documents of one stratum, without end; the same for the same seed.

    Args:
        stratum: a key of `WEIGHTS`.
        seed: any integer.

    Raises:
        BookError: there is no such stratum.
    """
    if stratum not in WEIGHTS:
        raise BookError(f"pocket: there is no stratum {stratum!r}; the strata are {', '.join(WEIGHTS)}")
    digest = hashlib.sha256(f"{stratum}:{seed}".encode()).digest()
    rng = random.Random(int.from_bytes(digest[:8], "big"))
    write = Writer.BY_STRATUM[stratum]
    while True:
        yield _document(write(rng), f"pocket/{stratum}")


class Writer:
    """One function a stratum: draws a document as segments of text, each with its label or None."""

    @staticmethod
    def english(rng: random.Random) -> list[Segment]:
        """A titled story, a dialogue or a description about one topic and two people."""
        grammar, bound = _topical(rng)
        paragraphs = [_english(grammar, "title", rng, bound)] if rng.random() < 0.3 else []
        first = [_english(grammar, "opening", rng, bound)]
        for _ in range(_between(rng, 1, 4)):
            paragraphs.append(" ".join(first + [_english(grammar, "sentence", rng, bound) for _ in range(_between(rng, 3, 7))]))
            first = []
        return [("\n\n".join(paragraphs) + "\n", "english")]

    @staticmethod
    def python(rng: random.Random) -> list[Segment]:
        """A module: imports, constants, then functions, classes and statements."""
        grammar = _grammar("python.txt")
        head = [grammar.draw("import", rng, {}) for _ in range(_between(rng, 0, 4))]
        head += [grammar.draw("constant", rng, {}) for _ in range(_between(rng, 0, 2))]
        blocks = ["\n".join(head) + "\n"] if head else []
        blocks += [grammar.draw("block", rng, {}) for _ in range(_between(rng, 2, 6))]
        return [("\n\n".join(blocks), "python")]

    @staticmethod
    def markdown(rng: random.Random) -> list[Segment]:
        """A page with headings, lists, tables and quotations."""
        grammar, bound = _topical(rng, "markdown.txt")
        parts = ["# ", _english(grammar, "title", rng, bound), "\n\n"]
        parts += [_english(grammar, "block", rng, bound, keeps=False) for _ in range(_between(rng, 3, 9))]
        return [("".join(parts), "markdown")]

    @staticmethod
    def html(rng: random.Random) -> list[Segment]:
        """A page, or a fragment of one."""
        grammar, bound = _topical(rng, "html.txt")
        body = [_english(grammar, "block", rng, bound, keeps=False) for _ in range(_between(rng, 3, 9))]
        if rng.random() < 0.6:
            body = [_english(grammar, "head", rng, bound), *body, _english(grammar, "foot", rng, bound)]
        return [("".join(body), "html")]

    @staticmethod
    def arabic(rng: random.Random) -> list[Segment]:
        """Arabic prose, sometimes quoted between English sentences."""
        return _foreign("arabic", rng)

    @staticmethod
    def hebrew(rng: random.Random) -> list[Segment]:
        """Hebrew prose, sometimes quoted between English sentences."""
        return _foreign("hebrew", rng)

    @staticmethod
    def korean(rng: random.Random) -> list[Segment]:
        """Korean prose, sometimes quoted between English sentences."""
        return _foreign("korean", rng)

    @staticmethod
    def dna(rng: random.Random) -> list[Segment]:
        """Sequence records, primers and mentions; sequences are half motifs and half chance."""
        grammar, bound = _topical(rng, "dna.txt")
        segments: list[Segment] = []
        for _ in range(_between(rng, 1, 4)):
            frame = _english(grammar, "block", rng, bound, keeps=False)
            is_record = frame.startswith((">", "@"))
            sequence = _sequence(grammar, rng, _between(rng, 60, 600) if is_record else _between(rng, 12, 40))
            segments += _framed(frame, _wrapped(sequence, 60) if is_record else sequence, "dna")
        return segments

    @staticmethod
    def base64(rng: random.Random) -> list[Segment]:
        """Attachments, certificates, data addresses and literals, of random bytes or of English text."""
        grammar, bound = _topical(rng, "base64.txt")
        segments: list[Segment] = []
        for _ in range(_between(rng, 1, 3)):
            is_block = rng.random() < 0.5
            n_bytes = _between(rng, 80, 500) if is_block else _between(rng, 24, 160)
            raw = rng.getrandbits(8 * n_bytes).to_bytes(n_bytes, "big")
            if rng.random() >= RANDOM_SHARE:
                raw = " ".join(_english(grammar, "sentence", rng, bound) for _ in range(1 + n_bytes // 50)).encode()[:n_bytes]
            payload = base64.b64encode(raw).decode()
            frame = _english(grammar, "plain" if is_block else "inline", rng, bound, keeps=False)
            segments += _framed(frame, _wrapped(payload, 64) if is_block else payload, "base64")
        return segments

    BY_STRATUM: ClassVar[Mapping[str, Callable[[random.Random], list[Segment]]]] = {
        "english": english,
        "python": python,
        "markdown": markdown,
        "html": html,
        "arabic": arabic,
        "hebrew": hebrew,
        "korean": korean,
        "dna": dna,
        "base64": base64,
    }


def _document(segments: list[Segment], source: str) -> Document:
    labels: list[Span] = []
    end = 0
    for text, label in segments:
        start, end = end, end + len(text)
        if label and text:
            labels.append(Span(start, end, label))
    return Document("".join(text for text, _ in segments), source, tuple(labels))


def _between(rng: random.Random, low: int, high: int) -> int:
    return low + int(rng.random() * (high - low + 1))


def _topical(rng: random.Random, *files: str) -> tuple[Grammar, Bound]:
    topics = _lists("english.txt")["topics"]
    grammar = _topic_grammar(topics[int(rng.random() * len(topics))], *files)
    women, men = grammar.lists["woman"], grammar.lists["man"]
    pick = [(group is women, group[int(rng.random() * len(group))][0]) for group in (women if rng.random() < 0.5 else men, men, women)]
    is_woman, first = pick[0]
    second = pick[1 if is_woman else 2][1]
    he, his = ("she", "her") if is_woman else ("he", "his")
    bound = {"A": first, "B": second, "he": he, "He": he.title(), "his": his, "His": his.title()}
    bound |= {name: grammar.draw(name, rng, bound) for name in ("town", "surname")}
    return grammar, bound


def _english(grammar: Grammar, name: str, rng: random.Random, bound: Bound, keeps: bool = True) -> str:
    text = grammar.draw(name, rng, bound if keeps else dict(bound))
    return ARTICLE.sub(_article, text) if "a(n)" in text else text


def _article(match: re.Match[str]) -> str:
    word = match[1].lower()
    sounds_vowel = word.startswith(("hon", "hour")) or (word[0] in "aeiou" and not word.startswith(("use", "uni", "eu", "one")))
    return "an " if sounds_vowel else "a "


def _foreign(language: str, rng: random.Random) -> list[Segment]:
    own = _grammar(f"{language}.txt")

    def paragraph(low: int, high: int) -> str:
        text = " ".join(own.draw("sentence", rng, {}) for _ in range(_between(rng, low, high)))
        return PARTICLE.sub(_particle, text) if language == "korean" else text

    if rng.random() < 0.7:
        return [("\n\n".join(paragraph(3, 7) for _ in range(_between(rng, 1, 4))), language), ("\n", None)]
    grammar, bound = _topical(rng)
    return [
        (_english(grammar, "sentence", rng, bound) + " ", None),
        (paragraph(1, 3), language),
        (" " + _english(grammar, "sentence", rng, bound) + "\n", None),
    ]


def _particle(match: re.Match[str]) -> str:
    before, quote, (after_consonant, after_vowel) = match[1], match[2], match[3].split("/")
    # A Hangul syllable's code is 28 * (consonant and vowel) + final consonant; 0 is none and 8 is ㄹ.
    final = (ord(before) - 0xAC00) % 28
    takes_second = final == 0 or (final == 8 and after_vowel == "로")
    return before + quote + (after_vowel if takes_second else after_consonant)


def _sequence(grammar: Grammar, rng: random.Random, n: int) -> str:
    out: list[str] = []
    n_letters = 0
    while n_letters < n:
        bits = rng.getrandbits(12)
        part = grammar.draw("motif", rng, {}) if bits & 1 else "".join("ACGT"[bits >> shift & 3] for shift in (1, 3, 5))
        out.append(part)
        n_letters += len(part)
    return "".join(out)[:n]


def _wrapped(text: str, width: int) -> str:
    return "\n".join(text[i : i + width] for i in range(0, len(text), width))


def _framed(frame: str, payload: str, label: str) -> list[Segment]:
    before, _, after = frame.partition(PAYLOAD)
    return [(before, None), (payload, label), (after, None)]


def _data() -> Any:
    return resources.files("sae_lib.corpus") / "pocket_data"


@cache
def _lists(file: str) -> dict[str, list[str]]:
    lists: dict[str, list[str]] = {}
    entries: list[str] = []
    for line in (_data() / file).read_text(encoding="utf-8").splitlines():
        if line.startswith("== "):
            entries = lists.setdefault(line[3:], [])
        elif line and (lists or not line.startswith("#")):
            entries.append(line)
    return lists


def _parts(line: str) -> list[str | Slot]:
    """The pieces of an entry, last first, as `Grammar.draw` takes them from the end of a list."""
    text = line.replace("\\\\n", "\1").replace("\\n", "\n").replace("\1", "\\n").replace("${payload}", PAYLOAD)
    parts: list[str | Slot] = []
    end = 0
    for slot in SLOT.finditer(text):
        if slot.start() > end:
            parts.append(text[end : slot.start()])
        parts.append((slot[1] or "", slot[2]))
        end = slot.end()
    if end < len(text):
        parts.append(text[end:])
    return parts[::-1]


@cache
def _grammar(*files: str) -> Grammar:
    return Grammar(*files)


@cache
def _topic_grammar(topic: str, *files: str) -> Grammar:
    return _grammar("english.txt", *files).with_topic(topic)
