"""Files that are either whole or not there: atomic writes, hashes, JSON and safetensors."""

import contextlib
import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from tqdm import tqdm

from sae_lib.errors import BookError


def project_root() -> Path:
    """The nearest folder upward from the working directory that holds the book, else that directory itself."""
    here = Path.cwd()
    for folder in (here, *here.parents):
        # The build keeps a copy of the book below the project; only the project has the package's metadata.
        if (folder / "_config.yml").is_file() and (folder / "pyproject.toml").is_file():
            return folder
    return here


def write_atomic(path: Path, content: bytes | str | Callable[[Path], None]) -> None:
    """Write a file aside and rename it, so that a reader finds the old file or the new one and never half of one.

    Args:
        path: where the file shall be; missing folders are made.
        content: bytes, text (UTF-8), or a function that writes to the path it is given.

    Raises:
        BookError: the disk refused (full, read-only, no permission); what stood at `path` is untouched.
    """
    path = Path(path)
    aside = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
        os.close(handle)
        aside = Path(name)
        if callable(content):
            content(aside)
        else:
            aside.write_bytes(content.encode() if isinstance(content, str) else content)
        with open(aside, "rb") as written:
            os.fsync(written.fileno())
        aside.chmod(0o644)
        aside.replace(path)
    except OSError as error:
        raise BookError(
            f"could not write {path}: {error.strerror or error}. What was there before is unchanged; "
            "free some space or choose another folder, then run the same command again"
        ) from error
    finally:
        if aside is not None:
            with contextlib.suppress(OSError):
                aside.unlink(missing_ok=True)


def write_folder(folder: Path, fill: Callable[[Path], None], replace: bool = False) -> None:
    """Fill a folder aside and rename it, so that a reader finds all of it or nothing.

    Args:
        folder: where it shall be; missing parents are made.
        fill: writes the files into the folder it is given.
        replace: whether a folder that stands there gives way; it does so once the new one is whole.

    Raises:
        BookError: the disk refused, or a folder stands there and shall not give way; what stood there is untouched.
    """
    # Of a link, what it points to is written anew, and the link stays.
    folder = Path(folder).resolve()
    aside = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.", suffix=".part"))
        new, old = aside / "new", aside / "old"
        new.mkdir()
        fill(new)
        try:
            if replace and folder.exists():
                folder.rename(old)
            new.rename(folder)
        except BaseException:
            if old.exists() and not folder.exists():
                old.rename(folder)
            raise
    except OSError as error:
        raise BookError(
            f"could not write {folder}: {error.strerror or error}. What was there before is unchanged; "
            "free some space or choose another folder, then run the same command again"
        ) from error
    finally:
        if aside is not None:
            shutil.rmtree(aside, ignore_errors=True)


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Let one process at a time make what a folder is to hold; others wait, with a clock, and then find it made.

    Two chapters that are open at once want the same runs. Whoever dies lets go of the folder.

    Raises:
        BookError: the disk refused.
    """
    folder = Path(folder)
    lock = FileLock(folder.parent / f".{folder.name}.lock")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(Timeout):
            lock.acquire(timeout=1)
        if not lock.is_locked:
            with tqdm(desc=f"waiting for another process to finish {folder.name}", bar_format="{desc} {elapsed}", leave=False) as clock:
                while not lock.is_locked:
                    clock.refresh()
                    with contextlib.suppress(Timeout):
                        lock.acquire(timeout=1)
    except OSError as error:
        # Who may only read here can open what is there, and has nobody to wait for.
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise BookError(f"could not make {folder}: {error.strerror or error}. Free some space or choose another folder") from error
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Say of which file or folder it is that the system refuses to read it.

    Raises:
        BookError: it is missing, or may not be read.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise BookError(f"{error.filename or path} is missing") from error
    except OSError as error:
        raise BookError(f"{error.filename or path} cannot be read: {error.strerror or error}; check its permissions") from error


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes, as 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(value: Any) -> str:
    """Twelve hexadecimal digits that change when a JSON-like value changes."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


MEND = "Delete it and run the same command again"
"""What helps with a damaged file that this book wrote."""


def read_json(path: Path, mend: str = MEND) -> Any:
    """Read a JSON file, or say which file is missing, unreadable or damaged, and how to mend that."""
    with reading(path):
        content = Path(path).read_bytes()
    try:
        return json.loads(content.decode())
    except (ValueError, RecursionError) as error:
        raise BookError(f"{path} is damaged: it is no JSON ({error}). {mend}") from None


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON, atomically."""
    write_atomic(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def save_tensors(path: Path, tensors: Mapping[str, Any], metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors as one safetensors file, atomically; `metadata` is a flat table of strings."""
    from safetensors.torch import save

    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_atomic(path, save(contiguous, metadata=dict(metadata or {})))


def load_tensors(path: Path, mend: str = "Delete its folder and run the same command again") -> tuple[dict[str, Any], dict[str, str]]:
    """Read the tensors and the metadata of a safetensors file.

    Args:
        path: the file.
        mend: what the reader can do where it is damaged.

    Raises:
        BookError: the file is missing, cut short, or no safetensors file.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if not path.is_file():
        raise BookError(f"{path} is missing")
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  it is no dict
            return tensors, dict(file.metadata() or {})
    except (SafetensorError, OSError, ValueError) as error:
        raise BookError(f"{path} is damaged or is no safetensors file ({error}). {mend}") from None
