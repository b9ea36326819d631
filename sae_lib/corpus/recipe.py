"""From a specification to a corpus: weighted strata over sources, and the split into train and validation."""

import hashlib
import tomllib
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from sae_lib.corpus.documents import Document
from sae_lib.corpus.pocket import PocketSource, pocket_weights
from sae_lib.corpus.sources import FileSource, HubSource, Source
from sae_lib.errors import BookError
from sae_lib.storage import fingerprint, project_root

VALIDATION_SHARE = 0.05
"""Share of the documents held out, where a source brings no validation side of its own."""
SPECS = "pocket:, files:<path>, hub:<owner/name>, or the path of a .toml recipe"
RECIPE_KEYS = {"source", "description"}
SOURCE_KEYS = {"from", "weight", "by", "weights", "name", "skip_undecodable"}


class Stratum(NamedTuple):
    """A part of the corpus with a fixed share of its tokens."""

    name: str
    weight: float
    """Share of the tokens; the weights of a corpus sum to 1."""


class Part(NamedTuple):
    """A stratum and where its text comes from."""

    name: str
    weight: float
    source: Source
    by: str | None = None
    """Field of `meta` that selects the documents; None takes them all."""
    value: str | None = None


class Corpus:
    """Weighted strata of text; `open_corpus` makes one.

    Documents go to the validation side by a hash of their text, so a document is on the same side in every run; a source
    that brings its own validation files or split keeps it.
    """

    def __init__(self, spec: str, seed: int, parts: list[Part], recipe: Any = None) -> None:
        names = [part.name for part in parts]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise BookError(f'{spec}: two strata are called {twice[0]!r}; give one of their sources another name = "…"')
        total = sum(part.weight for part in parts)
        self.spec, self.seed, self._recipe = spec, seed, recipe
        self._parts = {part.name: part._replace(weight=part.weight / total) for part in parts}
        self._exceptions: dict[str, bytes | None] = {}
        self.strata = [Stratum(part.name, part.weight) for part in self._parts.values()]

    def documents(self, stratum: str, split: str | None = None) -> Iterator[Document]:
        """Stream the documents of one stratum once, lazily.

        Args:
            stratum: a name in `strata`.
            split: "train", "validation", or None for both.

        Raises:
            BookError: an unknown stratum, unreadable text, or no document on the side asked for.
        """
        part = self._part(stratum)
        if isinstance(part.source, PocketSource):
            yield from (document._replace(source=stratum) for document in part.source.documents(part.value or "", split))
        else:
            yield from (Document(text, stratum) for text in self._texts(part, split))

    def skipped(self, stratum: str) -> dict[str, Any]:
        """How many undecodable files or lines were left out so far, and the first of them."""
        places = self._part(stratum).source.skipped
        return {"n": len(places), "first": [_short(place) for place in list(places)[:5]]}

    def facts(self) -> dict[str, Any]:
        """What the shards' JSON says of each source: files, bytes, versions of installed packages that were read."""
        return {part.source.name: part.source.facts() for part in self._parts.values()}

    @cached_property
    def fingerprint(self) -> str:
        """Twelve digits that change with the recipe, the seed, or the text behind it."""
        identities: dict[int, Any] = {id(part.source): None for part in self._parts.values()}
        for part in self._parts.values():
            identities[id(part.source)] = identities[id(part.source)] or part.source.identity()
        strata = [[part.name, part.weight, part.by, part.value, identities[id(part.source)]] for part in self._parts.values()]
        return fingerprint({"spec": self._recipe or self.spec, "seed": self.seed, "strata": strata})

    def _part(self, stratum: str) -> Part:
        if stratum not in self._parts:
            raise BookError(f"{self.spec}: there is no stratum {stratum!r}; the strata are {', '.join(self._parts)}")
        return self._parts[stratum]

    def _texts(self, part: Part, split: str | None) -> Iterator[str]:
        if split is None or part.source.has_splits:
            yield from part.source.texts(split, part.by, part.value)
            return
        exception, n_texts = self._exception(part), 0
        for text in part.source.texts(None, part.by, part.value):
            digest = _digest(text)
            is_held_out = _is_held_out(digest) or digest == exception
            if is_held_out == (split == "validation"):
                n_texts += 1
                yield text
        if not n_texts:
            raise BookError(
                f"{self.spec}: every document of {part.name} falls on the held-out side, so none is left to train on; "
                "give more documents, or a folder with train-* and validation.* files"
            )

    def _exception(self, part: Part) -> bytes | None:
        """The one document that is held out when the hash holds out none, as happens with a handful of documents."""
        if part.name not in self._exceptions:
            lowest, n_distinct, exception = b"\xff" * 8, set[bytes](), None
            for text in part.source.texts(None, part.by, part.value):
                digest = _digest(text)
                n_distinct.add(digest)
                lowest = min(lowest, digest)
                if _is_held_out(digest) and len(n_distinct) > 1:
                    break
            else:
                exception = lowest
            if len(n_distinct) < 2:
                raise BookError(
                    f"{part.name}: one document only, so none can be held out for validation; "
                    "give more documents, or a folder with train-* and validation.* files"
                )
            self._exceptions[part.name] = exception
        return self._exceptions[part.name]


def open_corpus(spec: str, seed: int = 0) -> Corpus:
    """Open the text that a specification names; nothing but file names is read yet.

    Args:
        spec: one of
            `pocket:` or `pocket:english=0.995,arabic=0.005` (the strata named, by their shares);
            `files:<file, folder or glob>`, relative to the project root; `{stdlib}` and `{site-packages}` stand for Python's folders;
            `hub:<owner/name>` or `hub:<owner/name>:<configuration>`, or a local folder read by the same code;
            `<recipe>.toml`: sources mixed by weight.
        seed: of the order in which files are read and of the pocket corpus.

    Raises:
        BookError: the specification, the recipe or a path in it is wrong.
    """
    if spec.endswith(".toml") and not spec.startswith(("pocket:", "files:", "hub:")):
        return _open_recipe(spec, seed)
    return Corpus(spec, seed, _parts(spec, seed))


def _parts(spec: str, seed: int, name: str = "", skip_undecodable: bool = False) -> list[Part]:
    kind, colon, rest = spec.partition(":")
    if kind == "pocket" and colon:
        source = PocketSource(seed)
        return [Part(f"{name or 'pocket'}/{stratum}", weight, source, None, stratum) for stratum, weight in pocket_weights(rest).items()]
    if kind == "files" and colon:
        files = FileSource(rest, seed, skip_undecodable)
        return [Part(name or files.name, 1.0, files)]
    if kind == "hub" and colon:
        hub = HubSource(rest)
        return [Part(name or hub.name, 1.0, hub)]
    raise BookError(f"{spec!r} names no text; write {SPECS}")


def _open_recipe(spec: str, seed: int) -> Corpus:
    path = project_root() / spec
    try:
        recipe = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BookError(f"there is no recipe {path}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise BookError(f"{path} is no TOML file: {error}") from None
    _known_keys(recipe, RECIPE_KEYS, str(path))
    tables = recipe.get("source")
    if not isinstance(tables, list) or not tables or not all(isinstance(table, dict) for table in tables):
        raise BookError(f"{path}: no [[source]] table; a recipe has one for each source")
    parts: list[Part] = []
    for number, table in enumerate(tables, 1):
        parts += _source_parts(table, seed, f"{path}, source {number}")
    return Corpus(spec, seed, parts, recipe)


def _source_parts(table: dict[str, Any], seed: int, place: str) -> list[Part]:
    _known_keys(table, SOURCE_KEYS, place)
    origin = _typed(table, "from", str, place)
    weight = _weight(table, "weight", place)
    name = _typed(table, "name", str, place, "")
    by = _typed(table, "by", str, place, "")
    weights = _typed(table, "weights", dict, place, {})
    skip = _typed(table, "skip_undecodable", bool, place, False)
    if bool(by) != bool(weights):
        raise BookError(f"{place}: `by` and [source.weights] go together; one of them is missing")
    try:
        parts = _parts(origin, seed, name, skip)
    except BookError as error:
        raise BookError(f"{place}, key from: {error}") from error
    if by and origin.startswith("pocket:"):
        raise BookError(f"{place}: a pocket source takes its shares in `from`, as in pocket:english=0.995,arabic=0.005, and no `by`")
    if by:
        source = parts[0].source
        total = sum(_weight(weights, value, f"{place}, weights") for value in weights)
        prefix = f"{name}/" if name else ""
        return [Part(f"{prefix}{value}", weight * weights[value] / total, source, by, value) for value in weights]
    total = sum(part.weight for part in parts)
    return [part._replace(weight=weight * part.weight / total) for part in parts]


def _known_keys(table: dict[str, Any], known: set[str], place: str) -> None:
    for key in table:
        if key not in known:
            raise BookError(f"{place}: unknown key {key!r}; the keys are {', '.join(sorted(known))}")


def _typed(table: dict[str, Any], key: str, kind: type, place: str, default: Any = None) -> Any:
    value = table.get(key, default)
    if value is None:
        raise BookError(f"{place}: key {key!r} is missing")
    if not isinstance(value, kind):
        raise BookError(f"{place}: key {key!r} is {value!r}, which is no {kind.__name__}")
    return value


def _weight(table: dict[str, Any], key: str, place: str) -> float:
    value = table.get(key)
    if value is None:
        raise BookError(f"{place}: key {key!r} is missing")
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise BookError(f"{place}: key {key!r} is {value!r}; a weight is a positive number")
    return float(value)


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=8).digest()


def _is_held_out(digest: bytes) -> bool:
    return int.from_bytes(digest, "big") < VALIDATION_SHARE * 2**64


def _short(place: str) -> str:
    path, _, line = place.rpartition(", ")
    return f"{Path(path).name}, {line}"
