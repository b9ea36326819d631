"""Templates that refer to each other, read from data files, and the drafts that are drawn from them.

A file holds lists: `== name` opens one, `== name : label/path` one whose text carries a label; every other line is an
entry. In an entry `${noun}` draws from the list `noun` of the same file and `${file/noun}` from another file's,
`${noun#1}` draws once and then keeps the word, `${sentence*3-6| }` draws three to six and joins them by a space,
`${1..9}` is a number, `${@mime}` what the program makes, `⟨label⟩…⟨/⟩` a labelled stretch, and ⏎ a new line.
"""

import random
import re
from collections.abc import Callable, Iterator, Mapping
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

from sae_lib.corpus.documents import Document, Span
from sae_lib.errors import BookError

HEADER = re.compile(r"== (?P<name>[^\s:]+)(?: : (?P<label>\S+))?$")
PIECE = re.compile(
    r"\$\{(?P<slot>[^}]*)\}|⟨(?P<mark>[^⟩]*)⟩|(?P<article>\b[Aa]\(n\) )|\((?P<particle>은/는|이/가|을/를|과/와|으로/로|이라는/라는)\)"
)
SLOT = re.compile(r"(?P<name>[\w.]+(?:/[\w.]+)?)?(?:#(?P<key>\w+))?(?:\*(?P<low>\d+)-(?P<high>\d+)(?:\|(?P<joint>.*))?)?", re.DOTALL)
NUMBER = re.compile(r"(\d+)\.\.(\d+)")
VOWEL = re.compile(r"(?!use|usu|uni(?![mn])|eu|(?:one|once)\b)[aeiou]|honest|honou?r|hour|heir", re.IGNORECASE)
NOT_A_LETTER = re.compile(r"\W*$")

Words = dict[str, str]
Payload = Callable[["Draft"], None]


class Entries(NamedTuple):
    """A list of entries, and the label of all that is drawn from it ("" for none)."""

    entries: list[list]
    label: str


class Draft:
    """A document while it is drawn: pieces of text, and between which of them labels begin and end.

    Args:
        grammar: the lists.
        rng: only `random()` and `getrandbits` are used, which give the same numbers in every version of Python.
        topic: whose words stand in the lists of the topical file.
    """

    def __init__(self, grammar: "Grammar", rng: random.Random, topic: str = "") -> None:
        self.grammar, self.rng, self.random, self.topic = grammar, rng, rng.random, topic
        self.lists = grammar.by_topic[topic]
        self.pieces: list[str] = []
        self.marks: list[tuple[int, str]] = []
        self.kept: Words = {}
        self.late: list[tuple[int, str]] = []

    def between(self, low: int, high: int) -> int:
        """A whole number, both ends included."""
        return low + int(self.random() * (high - low + 1))

    def write(self, name: str, local: Words) -> None:
        """Draw an entry of a list."""
        entries, label = self.lists[name]
        if label:
            self.marks.append((len(self.pieces), label))
        for part in entries[int(self.random() * len(entries))]:
            if type(part) is str:
                self.pieces.append(part)
            else:
                part.write(self, local)
        if label:
            self.marks.append((len(self.pieces), ""))

    def write_labelled(self, text: str, *labels: str) -> None:
        """Append a text under labels, the outermost first."""
        self.marks += [(len(self.pieces), label) for label in labels]
        self.pieces.append(text)
        self.marks += [(len(self.pieces), "")] * len(labels)

    def aside(self, name: str, local: Words) -> str:
        """Draw an entry as plain text, apart from this draft."""
        other = Draft(self.grammar, self.rng, self.topic)
        other.kept = self.kept
        other.write(name, local)
        return other.text()

    def text(self) -> str:
        """The text so far, with articles and particles put right."""
        for i, choice in self.late:
            self.pieces[i] = _article(choice, self.pieces, i) if "(n)" in choice else _particle(choice, self.pieces, i)
        self.late = []
        return "".join(self.pieces)

    def spans(self) -> Iterator[Span]:
        """The labelled stretches; call `text` first."""
        ends = [0, *accumulate(map(len, self.pieces))]
        begun: list[tuple[int, str]] = []
        for i, label in self.marks:
            if label:
                begun.append((ends[i], label))
            else:
                start, label = begun.pop()
                if start < ends[i]:
                    yield Span(start, ends[i], label)


class Draw(NamedTuple):
    """`${name}`."""

    name: str

    def write(self, draft: Draft, local: Words) -> None:
        """Draw one entry."""
        draft.write(self.name, local)


class Kept(NamedTuple):
    """`${name#key}`; a key that begins with a digit is forgotten with the starred entry that it stands in."""

    name: str
    key: str

    def write(self, draft: Draft, local: Words) -> None:
        """Draw the word, or take it again."""
        words = local if self.key[0].isdigit() else draft.kept
        if self.key not in words:
            if not self.name:
                draft.grammar.cast(draft)
            else:
                words[self.key] = draft.aside(self.name, local)
        label = draft.lists[self.name].label if self.name else ""
        draft.write_labelled(words[self.key], *([label] if label else []))


class Repeat(NamedTuple):
    """`${name*low-high|joint}`."""

    name: str
    low: int
    high: int
    joint: str

    def write(self, draft: Draft, local: Words) -> None:
        """Draw several entries, each with number keys of its own."""
        for i in range(draft.between(self.low, self.high)):
            if i and self.joint:
                draft.pieces.append(self.joint)
            draft.write(self.name, {})


class Number(NamedTuple):
    """`${low..high}`."""

    low: int
    high: int

    def write(self, draft: Draft, local: Words) -> None:
        """Draw a number."""
        draft.pieces.append(str(draft.between(self.low, self.high)))


class Mark(NamedTuple):
    """`⟨label⟩`, or the end of a stretch."""

    label: str

    def write(self, draft: Draft, local: Words) -> None:
        """Note the place."""
        draft.marks.append((len(draft.pieces), self.label))


class Late(NamedTuple):
    """An article or a particle, which depends on a neighbour."""

    choice: str

    def write(self, draft: Draft, local: Words) -> None:
        """Leave room for it."""
        draft.late.append((len(draft.pieces), self.choice))
        draft.pieces.append("")


class Made(NamedTuple):
    """`${@name}`."""

    payload: Payload

    def write(self, draft: Draft, local: Words) -> None:
        """Let the program write."""
        self.payload(draft)


class Grammar:
    """All lists of a folder of data files.

    Args:
        folder: its `.txt` files, except that of the labels.
        labels: those that may be used.
        payloads: what `${@name}` may name.
        topical: the file whose list `topics` says which of its lists stand for which: on the topic `sea`, `${noun}` is `sea.noun`.
        cast: called when `${#key}` asks for a word that nobody has fixed; fixes all such words of a draft.

    Raises:
        BookError: a file is malformed; file and line are named.
    """

    def __init__(
        self, folder: Path, labels: Mapping[str, str], payloads: Mapping[str, Payload], topical: str, cast: Callable[[Draft], None]
    ) -> None:
        self.labels, self.payloads, self.cast = labels, payloads, cast
        lists: dict[str, Entries] = {}
        used: dict[str, str] = {}
        for path in sorted(folder.glob("*.txt")):
            if path.stem != "labels":
                lists |= self._read(path, used)
        topics = ["".join(entry) for entry in lists.get(f"{topical}/topics", Entries([], "")).entries]
        self.by_topic = {"": lists}
        for topic in topics:
            prefix = f"{topical}/{topic}."
            own = {f"{topical}/{name.removeprefix(prefix)}": found for name, found in lists.items() if name.startswith(prefix)}
            self.by_topic[topic] = lists | own
        self.topics = topics or [""]
        for name, place in used.items():
            for topic in self.topics:
                if name not in self.by_topic[topic]:
                    raise BookError(f"{place}: there is no list {name}" + (f" on the topic {topic}" if topic else ""))

    def draft(self, rng: random.Random) -> Draft:
        """An empty draft on a topic drawn at random."""
        return Draft(self, rng, self.topics[int(rng.random() * len(self.topics))])

    def _read(self, path: Path, used: dict[str, str]) -> dict[str, Entries]:
        lists: dict[str, Entries] = {}
        entries: list[list] = []
        for number, line in enumerate(read_text(path).split("\n"), 1):
            place = f"{path}, line {number}"
            if line.startswith("== "):
                name, label = header(line, place, self.labels)
                if f"{path.stem}/{name}" in lists:
                    raise BookError(f"{place}: the list {name} is there twice")
                entries = []
                lists[f"{path.stem}/{name}"] = Entries(entries, label)
            elif line.strip() and (lists or not line.startswith("#")):
                if not lists:
                    raise BookError(f"{place}: an entry before the first list; a list begins with a line such as == noun")
                parts = list(self._parts(line, path.stem, place))
                for part in parts:
                    if isinstance(part, Draw | Kept | Repeat) and part.name:
                        used.setdefault(part.name, place)
                entries.append(parts)
        for name, found in lists.items():
            if not found.entries:
                raise BookError(f"{path}: the list {name.partition('/')[2]} is empty")
        return lists

    def _parts(self, line: str, file: str, place: str) -> Iterator:
        text, end, depth = line.replace("⏎", "\n"), 0, 0
        for match in PIECE.finditer(text):
            if match.start() > end:
                yield text[end : match.start()]
            end = match.end()
            if match["slot"] is not None:
                yield self._slot(match["slot"], file, place)
            elif match["mark"] is not None:
                depth += -1 if match["mark"] == "/" else 1
                yield Mark(check_mark(match["mark"], depth, self.labels, place))
            else:
                yield Late(match["article"] or match["particle"])
        if end < len(text):
            yield text[end:]
        if depth:
            raise BookError(f"{place}: a stretch is begun with ⟨…⟩ and not ended with ⟨/⟩")

    def _slot(self, slot: str, file: str, place: str) -> Draw | Kept | Repeat | Number | Made:
        if number := NUMBER.fullmatch(slot):
            low, high = int(number[1]), int(number[2])
            if low > high:
                raise BookError(f"{place}: ${{{slot}}} counts down; write the smaller number first")
            return Number(low, high)
        if slot.startswith("@"):
            if slot[1:] not in self.payloads:
                raise BookError(f"{place}: ${{{slot}}} is made by nothing; there are {', '.join('@' + name for name in self.payloads)}")
            return Made(self.payloads[slot[1:]])
        match = SLOT.fullmatch(slot)
        if match is None or not (match["name"] or match["key"]) or (match["key"] and match["low"]):
            raise BookError(
                f"{place}: ${{{slot}}} is no slot; write ${{name}}, ${{file/name}}, ${{name#key}}, ${{name*2-5|joint}} or ${{1..9}}"
            )
        name = match["name"] or ""
        name = f"{file}/{name}" if name and "/" not in name else name
        if match["key"]:
            return Kept(name, match["key"])
        if match["low"]:
            return Repeat(name, int(match["low"]), int(match["high"]), match["joint"] or "")
        return Draw(name)


def read_text(path: Path) -> str:
    """A data file as text.

    Raises:
        BookError: it is missing or is no UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BookError(f"{path} cannot be read: {error}") from None


def header(line: str, place: str, labels: Mapping[str, str]) -> tuple[str, str]:
    """Name and label ("" for none) of a line that begins with `== `."""
    match = HEADER.fullmatch(line.rstrip())
    if match is None:
        raise BookError(f"{place}: {line!r} opens no list; write == name, or == name : label/path")
    label = match["label"] or ""
    if label and label not in labels:
        raise BookError(f"{place}: unknown label {label!r}; labels.txt lists those there are")
    return match["name"], label


def check_mark(mark: str, depth: int, labels: Mapping[str, str], place: str) -> str:
    """The label of a mark, "" for one that ends a stretch; `depth` is the number of stretches open after it."""
    if depth < 0:
        raise BookError(f"{place}: ⟨/⟩ ends a stretch that was not begun")
    if mark != "/" and mark not in labels:
        raise BookError(f"{place}: unknown label {mark!r}; labels.txt lists those there are")
    return "" if mark == "/" else mark


def passage(text: str, label: str, source: str, labels: Mapping[str, str], place: str) -> Document:
    """A finished text with stretches marked as `⟨label⟩…⟨/⟩`, as a document."""
    pieces: list[str] = []
    begun, spans, n, end = [(0, label)] if label else [], [], 0, 0
    n_open = len(begun)
    for match in re.finditer(r"⟨([^⟩]*)⟩", text):
        pieces.append(text[end : match.start()])
        n, end = n + len(pieces[-1]), match.end()
        mark = check_mark(match[1], len(begun) - n_open + (-1 if match[1] == "/" else 1), labels, place)
        if mark:
            begun.append((n, mark))
        else:
            spans.append((*begun.pop(), n))
    pieces.append(text[end:])
    if len(begun) > n_open:
        raise BookError(f"{place}: a stretch is begun with ⟨…⟩ and not ended with ⟨/⟩")
    spans += [(*start, n + len(pieces[-1])) for start in begun]
    return Document("".join(pieces), source, tuple(Span(start, stop, name) for start, name, stop in spans if start < stop))


def _article(choice: str, pieces: list[str], i: int) -> str:
    follows = next((piece for piece in pieces[i + 1 :] if piece), "")
    return choice[0] + ("n " if VOWEL.match(follows) else " ")


def _particle(choice: str, pieces: list[str], i: int) -> str:
    after_consonant, after_vowel = choice.split("/")
    before = next((stem for piece in reversed(pieces[:i]) if (stem := NOT_A_LETTER.sub("", piece))), "가")
    # A Hangul syllable's code is 28 * (consonant and vowel) + final consonant; 0 is none and 8 is ㄹ.
    final = (ord(before[-1]) - 0xAC00) % 28
    return after_vowel if final == 0 or (final == 8 and after_vowel == "로") else after_consonant
