"""Where text comes from: files on this machine, a dataset on the hub, the pocket generator.

Each source streams texts, filtered by the value of a meta field and by its own train / validation split where it has one.
"""

import glob
import hashlib
import importlib.metadata
import os
import platform
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from sae_lib.corpus.documents import Record, file_edges, meta_of, read_records, text_of
from sae_lib.errors import BookError
from sae_lib.storage import project_root, reading

FOLDER_SUFFIXES = (".jsonl", ".jsonl.zst", ".txt", ".parquet")
"""What a folder is searched for; a glob or a file name may ask for any other plain text."""
DEFAULT_HUB = "monology/pile-uncopyrighted"
"""The mirror of the Pile that `hub:` alone streams."""
N_VALUES_NAMED = 30
"""How many values of a meta field a message lists."""


class Source(Protocol):
    """A place that text streams from."""

    name: str
    """Short name, used for a stratum that has no other."""
    has_splits: bool
    """Whether the source brings its own train and validation sides."""
    skipped: dict[str, None]
    """Places of undecodable text left out so far, in the order met; empty unless the recipe allows it."""

    def texts(self, split: str | None = None, by: str | None = None, value: str | None = None) -> Iterator[str]:
        """Stream the non-empty texts once, of one side where `has_splits`, of one value of a meta field where `by` is given."""
        ...

    def identity(self) -> Any:
        """A JSON-like value that changes when the text behind the source changes."""
        ...

    def facts(self) -> dict[str, Any]:
        """What a reader wants to know of the source: files, bytes, packages."""
        ...


class FileSource:
    """Files on this machine: one file, a glob, or a folder searched for the known suffixes.

    Files are read in an order drawn from the seed, so that a large glob does not begin with the letter A.
    """

    def __init__(self, spec: str, seed: int = 0, skip_undecodable: bool = False) -> None:
        """Find the files.

        Args:
            spec: path or glob, relative to the project root; `{stdlib}` and `{site-packages}` stand for Python's own folders.
            seed: of the order in which files are read.
            skip_undecodable: leave out, and count, what is no UTF-8 instead of stopping.

        Raises:
            BookError: there is no such path, no file to read in it, or a file that cannot be read.
        """
        if not spec:
            raise BookError("files: names no path; write for instance files:texts or files:texts/*.jsonl.zst")
        self.spec, self.skip_undecodable = spec, skip_undecodable
        self.skipped: dict[str, None] = {}
        self.root, found, is_folder = _find(spec)
        train = [path for path in found if path.name.startswith(("train-", "train."))]
        held_out = [path for path in found if path.name.startswith(("validation-", "validation."))]
        self.has_splits = is_folder and bool(train) and bool(held_out)
        self.files = {"train": train, "validation": held_out} if self.has_splits else {"all": found}
        for side in self.files.values():
            side.sort(key=lambda path: hashlib.sha256(f"{seed}:{self._relative(path)}".encode()).digest())
        self.name = _name_of(spec, self.root)

    def texts(self, split: str | None = None, by: str | None = None, value: str | None = None) -> Iterator[str]:
        """Stream the texts; see `Source.texts`."""
        files = [path for side, paths in self.files.items() if not self.has_splits or split in (side, None) for path in paths]
        skip = self._note if self.skip_undecodable else None
        seen: set[str] = set()
        n_texts = 0
        for path in files:
            for record in read_records(path, (by,) if by else (), skip):
                if not _is_wanted(record, by, value, seen):
                    continue
                if text := text_of(record, skip):
                    n_texts += 1
                    yield text
        if not n_texts:
            raise _no_text(f"files:{self.spec}", by, value, seen)

    def identity(self) -> Any:
        """Relative names, sizes and edge hashes of all files."""
        return [[side, self._relative(path), *file_edges(path)] for side, paths in self.files.items() for path in sorted(paths)]

    def facts(self) -> dict[str, Any]:
        """Counts of files and bytes; versions where Python's own folders are read."""
        paths = [path for side in self.files.values() for path in side]
        facts: dict[str, Any] = {"n_files": len(paths), "n_bytes": sum(path.stat().st_size for path in paths)}
        if "{stdlib}" in self.spec or "{site-packages}" in self.spec:
            facts["python"] = platform.python_version()
        if "{site-packages}" in self.spec:
            installed = {dist.name: dist.version for dist in importlib.metadata.distributions() if dist.name}
            facts["packages"] = dict(sorted(installed.items(), key=lambda item: item[0].lower()))
        return facts

    def _relative(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()

    def _note(self, place: str) -> None:
        self.skipped[place] = None


class HubSource:
    """A dataset of the Hugging Face hub by streaming, or a local folder of parquet or JSON lines read by the same code."""

    def __init__(self, spec: str) -> None:
        """Name the dataset; nothing is fetched yet.

        Args:
            spec: `owner/name`, `owner/name:configuration`, a local folder, or "" for the default mirror of the Pile.
        """
        self.spec = spec or DEFAULT_HUB
        self.path, _, configuration = self.spec.partition(":")
        self.configuration = configuration or None
        local = project_root() / self.path
        with reading(local):
            if local.is_dir():
                self.path = str(local)
        self.name = self.spec.rsplit("/", 1)[-1]
        self.skipped: dict[str, None] = {}
        self._splits: Any = None

    @property
    def has_splits(self) -> bool:
        """Whether the dataset brings a validation split (asks the hub)."""
        splits = self._load()
        return "train" in splits and "validation" in splits

    def texts(self, split: str | None = None, by: str | None = None, value: str | None = None) -> Iterator[str]:
        """Stream the texts; see `Source.texts`."""
        splits = self._load()
        names = [split] if self.has_splits and split else ["train"] if "train" in splits else list(splits)
        seen: set[str] = set()
        n_texts = 0
        for name in names:
            for record in self._records(name, splits[name]):
                if _is_wanted(record, by, value, seen) and (text := text_of(record)):
                    n_texts += 1
                    yield text
        if not n_texts:
            raise _no_text(f"hub:{self.spec}", by, value, seen)

    def identity(self) -> Any:
        """The addresses of the data files, which on the hub hold the revision; edge hashes where they lie on this machine."""
        import datasets

        try:
            builder = datasets.load_dataset_builder(self.path, self.configuration)
        except Exception as error:
            raise self._unreachable(error) from error
        files = {str(split): [str(name) for name in names] for split, names in (builder.config.data_files or {}).items()}
        if Path(self.path).is_dir():
            root = Path(self.path)
            return {split: [[os.path.relpath(name, root), *file_edges(Path(name))] for name in names] for split, names in files.items()}
        return files

    def facts(self) -> dict[str, Any]:
        """The dataset's name and the splits it brings."""
        return {"dataset": self.spec, "splits": sorted(str(split) for split in self._load())}

    def _load(self) -> Any:
        import datasets

        if self._splits is None:
            try:
                self._splits = datasets.load_dataset(self.path, self.configuration, streaming=True)
            except Exception as error:  # the hub, its client and the format readers each have their own
                raise self._unreachable(error) from error
        return self._splits

    def _records(self, split: str, rows: Any) -> Iterator[Record]:
        stream, number = iter(rows), 0
        while True:
            number += 1
            place = f"hub:{self.spec}, {split} row {number}"
            try:
                fields = next(stream)
            except StopIteration:
                return
            except Exception as error:
                raise BookError(f"{place}: the stream broke off ({_first_line(error)}); run the same command again") from error
            yield Record(place, fields)

    def _unreachable(self, error: Exception) -> BookError:
        return BookError(
            f"hub:{self.spec} cannot be opened ({_first_line(error)}); check the name and the network, "
            "or use text of this machine: files:<path>, or pocket:"
        )


def _find(spec: str) -> tuple[Path, list[Path], bool]:
    try:
        parts = Path(spec).expanduser().parts
    except RuntimeError:
        raise BookError(f"files:{spec}: there is no such user here; write the path in full") from None
    n_fixed = next((i for i, part in enumerate(parts) if glob.has_magic(part)), len(parts))
    fixed = str(Path(*parts[:n_fixed]))
    for word, key in (("{stdlib}", "stdlib"), ("{site-packages}", "purelib")):
        fixed = fixed.replace(word, sysconfig.get_paths()[key])
    root = Path(os.path.normpath(project_root() / fixed))
    is_folder = n_fixed == len(parts)
    # Outside a virtual environment the installed packages lie inside the standard library's folder.
    left_out = {"site-packages", "dist-packages"} if "{stdlib}" in spec else set()
    with reading(root):
        if is_folder and root.is_file():
            return root.parent, [_named(root)], False
        if not root.is_dir():
            raise BookError(f"files:{spec}: there is no file or folder {root}")
        # A glob passes over folders that it cannot list, without a word.
        below = list(_below(root, left_out)) if is_folder or "**" in parts else []
        if is_folder:
            found = [path for path in below if path.name.endswith(FOLDER_SUFFIXES)]
        else:
            try:
                found = list(root.glob(str(Path(*parts[n_fixed:]))))
            except ValueError as error:
                raise BookError(f"files:{spec}: {error}; write ** between two slashes, as in files:texts/**/*.md") from None
        n_root = len(root.parts)
        found = [path for path in found if not any(part[0] == "." or part in left_out for part in path.parts[n_root:])]
        if dangling := next((path for path in found if path.is_symlink() and not path.exists()), None):
            raise BookError(f"{dangling} points at a file that is not there; mend that link or remove it")
        found = [_named(path) for path in found if path.is_file()]
    if not found and is_folder:
        raise BookError(
            f"files:{spec}: the folder {root} holds no {', '.join(FOLDER_SUFFIXES)} file; a glob such as files:{spec}/*.md reads other text"
        )
    if not found:
        raise BookError(f"files:{spec}: no file matches in {root}")
    return root, sorted(found), is_folder


def _below(root: Path, left_out: set[str]) -> Iterator[Path]:
    """Every file below a folder but in hidden ones; a folder that cannot be listed is an error, and a link to one is not followed."""

    def refuse(error: OSError) -> None:
        raise error

    for folder, folders, names in os.walk(root, onerror=refuse):
        folders[:] = [name for name in folders if name[0] != "." and name not in left_out]
        yield from (Path(folder, name) for name in names)


def _named(path: Path) -> Path:
    """A path that can be written down, as what a run was trained on."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise BookError(f"the name {str(path)!a} is no UTF-8; rename it") from None
    return path


def _name_of(spec: str, root: Path) -> str:
    for word in ("{stdlib}", "{site-packages}"):
        if word in spec:
            return word.strip("{}")
    fixed = [part for part in Path(spec).parts if not glob.has_magic(part)]
    last = fixed[-1] if fixed else ""
    return last.split(".")[0] if last.strip("./") else root.name


def _is_wanted(record: Record, by: str | None, value: str | None, seen: set[str]) -> bool:
    if by is None:
        return True
    found = meta_of(record, by)
    if len(seen) < N_VALUES_NAMED:
        seen.add(found)
    return found == value


def _no_text(spec: str, by: str | None, value: str | None, seen: set[str]) -> BookError:
    if by is None or not seen:
        return BookError(f"{spec}: no text in it; every file or document there is empty")
    return BookError(f'{spec}: no text whose "{by}" is "{value}" (values met: {", ".join(sorted(seen))})')


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
