"""The released weights: trained once, shipped in half precision with a manifest, opened by name.

checkpoints/
    MANIFEST.json          for every run its files with their SHA-256, its config, provenance, training curve and measurements;
                           and the address from which the files can be fetched
    tokenizer.json
    A.safetensors, A-0.safetensors, A-2-1of3.safetensors, …

A clone has the folder. An installed package has the manifest only, inside itself, and fetches a file when it is first asked for.
"""

import json
import re
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
from sae_lib.storage import fingerprint, load_tensors, read_json, reading, save_tensors, sha256_of, write_atomic, write_folder, write_json
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
        return load_tokenizer(_path(_manifest()[1]["runs"][TOKENIZER]["files"][0]))
    run = Released(name)
    geometry = _geometry(run.config)
    module = OneLayerTransformer(geometry) if isinstance(geometry, TransformerConfig) else SparseAutoencoder(geometry)
    module.lineage = run.lineage
    return run.load_into(module).eval().requires_grad_(False)


def released_names() -> list[str]:
    """The runs that are released, models first; empty where there is no manifest."""
    if not any((folder / "MANIFEST.json").is_file() for folder in _FOLDERS):
        return []
    return sorted((name for name in _manifest()[1]["runs"] if name != TOKENIZER), key=lambda name: ("/" in name, name))


class Released:
    """A released run, with what a `Run` has: `config`, `provenance`, `log` and `load_into`; and the `lineage` of its weights.

    Args:
        name: such as A or A/1.

    Raises:
        BookError: there is no such run.
    """

    def __init__(self, name: str) -> None:
        runs = _manifest()[1]["runs"]
        if name not in released_names():
            raise BookError(f"there is no released {name!r}; there are {', '.join(released_names())}")
        self._entry = runs[name]
        self.provenance = self._entry["provenance"]
        config = self._entry["config"]
        # A dictionary names its model by the recipe, whatever half precision made of the weights.
        recipe = config.get("model", "") if config["kind"] == "dictionary" else fingerprint(config)
        self.lineage = f"{name[0]}-{recipe}" if recipe else ""
        # Better weights of the same recipe may take the place of these, and what was made of the old ones is not theirs.
        self.config = config | {"weights": [file["sha256"] for file in self._entry["files"]]}

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


def read_manifest(folder: Path) -> dict:
    """The manifest of a folder of released weights.

    Raises:
        BookError: it is missing, damaged, no manifest, or from a newer version.
    """
    path = folder / "MANIFEST.json"
    read = read_json(path, "Restore it from the repository")
    try:
        is_newer = read["format"] > FORMAT
        is_whole = is_newer or _is_whole(read)
    except (LookupError, TypeError, AttributeError, BookError):
        is_whole = False
    if not is_whole:
        raise BookError(f"{path} is no manifest of released weights, or not all of it; restore it from the repository")
    if is_newer:
        raise BookError(f"{path} was written by a newer version of the book (format {read['format']}); update the package")
    return read


def _is_whole(manifest: dict) -> bool:
    """Whether all that is asked of a manifest later is there; it may also raise what a lookup in something else raises."""
    _ = manifest["address"], manifest["runs"][TOKENIZER]["files"][0]
    for name, entry in manifest["runs"].items():
        files = [file["name"] for file in entry["files"] if file["sha256"]]
        if len(files) != int((re.findall(r"-\d+of(\d+)\.", files[0]) or [1])[0]):
            return False
        if name != TOKENIZER:
            _ = _geometry(entry["config"]), entry["provenance"], entry["measured"], entry["log"]
    return manifest["format"] == FORMAT


def _geometry(config: dict) -> TransformerConfig | SAEConfig:
    return (TransformerConfig if config["kind"] == "model" else SAEConfig)(**config["geometry"])


def check_room(folder: Path) -> None:
    """Raise a BookError if a folder holds something that no release wrote, since a release takes the place of all of it."""
    with reading(folder):
        ours = ("MANIFEST.json", "tokenizer.json")
        odd = sorted(path.name for path in folder.glob("*") if path.name not in ours and path.suffix != ".safetensors")
    if odd:
        raise BookError(f"{folder} holds {odd[0]}, which no release wrote, and so it is not replaced; move that elsewhere")


def write_release(folder: Path, runs: Mapping[str, Run], tokenizer: Path, measured: Mapping[str, dict], address: str) -> None:
    """Write the weights of finished runs in half precision with their manifest; an earlier release gives way once all of it is there.

    Args:
        folder: gets the files, and keeps nothing of an earlier release.
        runs: by name.
        tokenizer: the file of the tokenizer that all of them share.
        measured: numbers on held-out text by name, for the cards.
        address: the folder on the net, for packages without a clone.

    Raises:
        BookError: the folder holds something else, a weight is too large for half precision, or the disk refused.
    """
    check_room(folder)

    def fill(aside: Path) -> None:
        write_atomic(aside / "tokenizer.json", tokenizer.read_bytes())
        entries = {TOKENIZER: {"files": [_facts(aside / "tokenizer.json")]}}
        for name, run in runs.items():
            curve = json.loads(run.log.map(lambda value: float(f"{value:.6g}")).to_json(orient="records"))
            entries[name] = {"files": _write_shards(aside, name, run), "config": run.config, "provenance": run.provenance}
            entries[name] |= {"measured": measured.get(name, {}), "log": curve}
        write_json(aside / "MANIFEST.json", {"format": FORMAT, "address": address, "runs": entries})

    write_folder(folder, fill, replace=True)
    _manifest.cache_clear()


def _write_shards(folder: Path, name: str, run: Run) -> list[dict]:
    tensors, _ = load_tensors(run.folder / "weights.safetensors")
    if large := [key for key, tensor in tensors.items() if tensor.abs().max() > torch.finfo(torch.float16).max]:
        raise BookError(f"{run.folder}: {large[0]} has a weight that half precision cannot hold; release another run")
    shards, files = list(_shards({key: tensor.half() for key, tensor in tensors.items()})), []
    for number, shard in enumerate(shards, 1):
        path = folder / (name.replace("/", "-") + (f"-{number}of{len(shards)}" if len(shards) > 1 else "") + ".safetensors")
        save_tensors(path, shard)
        files.append(_facts(path))
    return files


@cache
def _manifest() -> tuple[Path, dict]:
    for folder in _FOLDERS:
        if (folder / "MANIFEST.json").is_file():
            return folder, read_manifest(folder)
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
            f"could not fetch {address} whole ({str(error).splitlines()[0]}). Nothing was kept of it; try again, "
            "update the package if other weights have been released since, or clone the repository"
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
