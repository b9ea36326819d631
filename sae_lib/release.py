"""The released weights: trained once, shipped in half precision with a manifest, opened by name.

checkpoints/
    MANIFEST.json          for every run its files with their SHA-256, its config, provenance, training curve and measurements;
                           and the address from which the files can be fetched
    tokenizer.json
    A.safetensors, A-0.safetensors, A-2-1of3.safetensors, …

A clone has the folder. An installed package has the manifest only, inside itself, and fetches a file when it is first asked for.
"""

import json
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import pandas as pd
import torch
from tokenizers import Tokenizer
from torch import Tensor

from sae_lib.corpus.tokenizer import load_tokenizer
from sae_lib.errors import BookError
from sae_lib.runs import Run, load_state
from sae_lib.sae import SAEConfig, SparseAutoencoder
from sae_lib.storage import load_tensors, read_json, save_tensors, sha256_of, write_atomic, write_json
from sae_lib.transformer import OneLayerTransformer, TransformerConfig

FORMAT = 1
"""Version of the folder's layout."""
LARGEST = 15 * 2**20
"""Bytes of tensors in a file, at most; longer tensors are cut into rows."""
TOKENIZER = "tokenizer"
_FOLDERS = (Path(__file__).parents[1] / "checkpoints", Path(__file__).parent / "checkpoints")
"""Of a clone, and of an installed package."""


def released(name: str) -> OneLayerTransformer | SparseAutoencoder | Tokenizer:
    """A released model (A, B), dictionary (A/0, A/1, …) or the tokenizer of both, ready to use.

    Args:
        name: of the run, or "tokenizer".

    Returns:
        Float32 weights on the CPU, without gradients; rounded to half precision when they were shipped.

    Raises:
        BookError: there is no such run, or a file of it is missing, altered, from a newer version, or cannot be fetched.
    """
    if name == TOKENIZER:
        (file,) = _manifest()[1]["runs"][TOKENIZER]["files"]
        return load_tokenizer(_path(file))
    run = Released(name)
    geometry = run.config["geometry"]
    is_model = run.config["kind"] == "model"
    module = OneLayerTransformer(TransformerConfig(**geometry)) if is_model else SparseAutoencoder(SAEConfig(**geometry))
    return run.load_into(module).eval().requires_grad_(False)


def released_names() -> list[str]:
    """The runs that are released, models first; empty where there is no manifest."""
    if not any((folder / "MANIFEST.json").is_file() for folder in _FOLDERS):
        return []
    return sorted((name for name in _manifest()[1]["runs"] if name != TOKENIZER), key=lambda name: ("/" in name, name))


class Released:
    """A released run, with what a `Run` has: `config`, `provenance`, `log` and `load_into`.

    Args:
        name: such as A or A/1.

    Raises:
        BookError: there is no such run.
    """

    def __init__(self, name: str) -> None:
        if name not in released_names():
            raise BookError(f"there is no released {name!r}; there are {', '.join(released_names()) or 'none here'}")
        self._entry = _manifest()[1]["runs"][name]
        self.provenance, self.measured = self._entry["provenance"], self._entry["measured"]
        # Better weights of the same recipe may take the place of these, and what was made of the old ones is not theirs.
        self.config = self._entry["config"] | {"weights": [file["sha256"] for file in self._entry["files"]]}

    @property
    def log(self) -> pd.DataFrame:
        """The training curve, one row a logged step."""
        return pd.DataFrame(self._entry["log"])

    def load_into(self, module: torch.nn.Module) -> torch.nn.Module:
        """Put the weights into a module of the same geometry.

        Raises:
            BookError: a file is missing, altered or cannot be fetched; names or shapes differ.
        """
        pieces: dict[str, Tensor] = {}
        for file in self._entry["files"]:
            pieces |= load_tensors(_path(file))[0]
        names = dict.fromkeys(key.partition(":")[0] for key in pieces)
        rows = {name: sorted((key for key in pieces if key.partition(":")[0] == name), key=_place) for name in names}
        whole = {name: torch.cat([pieces[key] for key in keys]) for name, keys in rows.items()}
        load_state(module, whole, Path(self._entry["files"][0]["name"]))
        if isinstance(module, SparseAutoencoder):
            # Half precision leaves the directions a little off their length of 1.
            module.normalize_decoder_()
        return module


def write_release(folder: Path, runs: Mapping[str, Run], tokenizer: Path, measured: Mapping[str, dict], address: str) -> None:
    """Write the weights of finished runs in half precision, and the manifest last.

    Args:
        folder: gets the files; those of an earlier release are replaced, and what is left over of it is deleted.
        runs: by name.
        tokenizer: the file of the tokenizer that all of them share.
        measured: numbers on held-out text by name, for the cards.
        address: the folder on the net, for packages without a clone.

    Raises:
        BookError: a weight is too large for half precision, or the disk refused.
    """
    entries = {}
    write_atomic(folder / "tokenizer.json", tokenizer.read_bytes())
    entries[TOKENIZER] = {"files": [_facts(folder / "tokenizer.json")]}
    for name, run in runs.items():
        files = []
        tensors, _ = load_tensors(run.folder / "weights.safetensors")
        if large := [key for key, tensor in tensors.items() if tensor.abs().max() > torch.finfo(torch.float16).max]:
            raise BookError(f"{run.folder}: {large[0]} has a weight that half precision cannot hold; release another run")
        shards = list(_shards({key: tensor.half() for key, tensor in tensors.items()}))
        for number, shard in enumerate(shards, 1):
            path = folder / (name.replace("/", "-") + (f"-{number}of{len(shards)}" if len(shards) > 1 else "") + ".safetensors")
            save_tensors(path, shard)
            files.append(_facts(path))
        curve = json.loads(run.log.map(lambda value: float(f"{value:.6g}")).to_json(orient="records"))
        entries[name] = {"files": files, "config": run.config, "provenance": run.provenance}
        entries[name] |= {"measured": measured.get(name, {}), "log": curve}
    write_json(folder / "MANIFEST.json", {"format": FORMAT, "address": address, "runs": entries})
    kept = {file["name"] for entry in entries.values() for file in entry["files"]}
    for path in folder.glob("*.safetensors"):
        if path.name not in kept:
            path.unlink()
    _manifest.cache_clear()


@cache
def _manifest() -> tuple[Path, dict]:
    for folder in _FOLDERS:
        path = folder / "MANIFEST.json"
        if not path.is_file():
            continue
        read = read_json(path)
        if not isinstance(read, dict) or not isinstance(read.get("format"), int) or not isinstance(read.get("runs"), dict):
            raise BookError(f"{path} is no manifest of released weights; restore it from the repository")
        if read["format"] > FORMAT:
            raise BookError(f"{path} was written by a newer version of the book (format {read['format']}); update the package")
        return folder, read
    raise BookError(
        f"there is no {_FOLDERS[0] / 'MANIFEST.json'}, so nothing is released here; clone the repository or install the package"
    )


def _path(file: dict) -> Path:
    """The file of a manifest's entry, whole: from the clone, or fetched."""
    folder, _ = _manifest()
    if folder != _FOLDERS[0]:
        return _fetched(file)
    path = folder / file["name"]
    remedy = f"restore it with: git checkout -- {path}"
    if not path.is_file():
        raise BookError(f"{path} is missing, a part of the released weights; {remedy}")
    if sha256_of(path) != file["sha256"]:
        raise BookError(f"{path} is not what was released (its SHA-256 differs); {remedy}")
    return path


def _fetched(file: dict) -> Path:
    import pooch

    address = f"{_manifest()[1]['address']}/{file['name']}"
    try:
        found = pooch.retrieve(address, f"sha256:{file['sha256']}", file["name"], pooch.os_cache("sae_lib"), progressbar=True)
    except (OSError, ValueError) as error:
        raise BookError(
            f"could not fetch {address} whole ({str(error).splitlines()[0]}). Nothing was kept of it; try again, or clone the repository"
        ) from None
    return Path(found)


def _facts(path: Path) -> dict:
    return {"name": path.name, "bytes": path.stat().st_size, "sha256": sha256_of(path)}


def _shards(tensors: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """Tensors in files of at most `LARGEST` bytes; a piece's key is `name:number of its first row`."""
    shard, room = {}, LARGEST
    for name, tensor in tensors.items():
        start, row = 0, tensor.nbytes // len(tensor)
        while start < len(tensor):
            if shard and room < row:
                yield shard
                shard, room = {}, LARGEST
            piece = tensor[start : start + max(1, room // row)]
            shard[f"{name}:{start}"] = piece
            start, room = start + len(piece), room - piece.nbytes
    yield shard


def _place(key: str) -> int:
    return int(key.partition(":")[2])
