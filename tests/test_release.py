"""Released weights: what is written can be opened, and nothing else can."""

import errno
import http.server
import json
import shutil
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import pytest
import torch

import sae_lib
from sae_lib import release
from sae_lib.corpus import open_corpus, train_tokenizer
from sae_lib.errors import BookError
from sae_lib.runs import finish, run_steps
from sae_lib.sae import SAEConfig, SparseAutoencoder
from sae_lib.transformer import OneLayerTransformer, TransformerConfig

GEOMETRY = {"d_model": 8, "n_heads": 2, "d_head": 4, "d_mlp": 16, "n_ctx": 6, "d_vocab": 300}
SAE = {"d_in": 16, "d_sae": 48, "l1_coeff": 1e-3, "mse": "mean"}


def trained(module, kind, geometry):
    """A finished run of a module that was not trained at all."""
    rows = [(1, {"step": 1, "n_steps": 1, "loss": 1 / 3, "seconds": 0.1})]
    return finish([run_steps(kind, {"kind": kind, "geometry": geometry}, lambda checkpoint: iter(rows), lambda: module)])[0]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    return train_tokenizer(open_corpus("pocket:"), 300, 20_000, path, progress=False)


@pytest.fixture
def modules(generator):
    found = {"A": OneLayerTransformer(TransformerConfig(**GEOMETRY), seed=3), "A/1": SparseAutoencoder(SAEConfig(**SAE), seed=3)}
    with torch.no_grad():
        for module in found.values():
            for parameter in module.parameters():
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    found["A/1"].normalize_decoder_()
    return found


@pytest.fixture
def folder(modules, tmp_path, monkeypatch, tokenizer):
    """A release of both, a file of which holds a few rows only."""
    monkeypatch.setenv("SAE_BOOK_RUNS", str(tmp_path / "runs"))
    monkeypatch.setattr(release, "LARGEST", 1_500)
    monkeypatch.setattr(release, "_FOLDERS", (tmp_path / "checkpoints", tmp_path / "share"))
    runs = {"A": trained(modules["A"], "model", GEOMETRY), "A/1": trained(modules["A/1"], "dictionary", SAE)}
    path = tmp_path / "tokenizer.json"
    tokenizer.save(str(path))
    release.write_release(tmp_path / "checkpoints", runs, path, {"A/1": {"l0": 9.5}}, "http://127.0.0.1:9")
    yield tmp_path / "checkpoints"
    release._manifest.cache_clear()


def shard(folder, number):
    """One of the files that A/1 is cut into."""
    (path,) = folder.glob(f"A-1-{number}of*")
    return path


@pytest.mark.parametrize("name", ["A", "A/1"])
def test_what_was_released_comes_back_in_half_precision(folder, modules, name):
    back = sae_lib.released(name)
    assert type(back) is type(modules[name])
    wanted = modules[name].state_dict()
    assert back.state_dict().keys() == wanted.keys()
    for key, tensor in back.state_dict().items():
        assert tensor.dtype == torch.float32
        half = wanted[key].half().float()
        assert torch.equal(tensor, half / half.norm(dim=1, keepdim=True) if key == "W_dec" else half), key
        assert not tensor.requires_grad
    assert not back.training


def test_other_weights_of_the_same_recipe_are_another_run(folder):
    manifest = json.loads((folder / "MANIFEST.json").read_text())
    before = release.Released("A/1").config
    manifest["runs"]["A/1"]["files"][0]["sha256"] = "0" * 64
    (folder / "MANIFEST.json").write_text(json.dumps(manifest))
    release._manifest.cache_clear()
    assert release.Released("A/1").config != before


def test_the_tokenizer_comes_too(folder, tokenizer):
    assert sae_lib.released("tokenizer").encode("feature").ids == tokenizer.encode("feature").ids


def test_files_are_cut_to_size_and_listed_with_their_hashes(folder):
    manifest = json.loads((folder / "MANIFEST.json").read_text())
    files = [file for entry in manifest["runs"].values() for file in entry["files"]]
    assert {file["name"] for file in files} | {"MANIFEST.json"} == {path.name for path in folder.iterdir()}
    assert len(manifest["runs"]["A/1"]["files"]) > 1
    assert all((folder / file["name"]).stat().st_size == file["bytes"] for file in files)
    shards = [file for file in files if file["name"].endswith(".safetensors")]
    assert max(file["bytes"] for file in shards) < release.LARGEST + 1_500, "a header takes some hundred bytes more"


def test_a_released_run_says_where_it_comes_from(folder):
    run = release.Released("A/1")
    assert run.config.keys() == {"kind", "geometry", "weights"}
    assert (run.config["kind"], run.config["geometry"], len(run.config["weights"])) == ("dictionary", SAE, len(list(folder.glob("A-1-*"))))
    assert json.loads((folder / "MANIFEST.json").read_text())["runs"]["A/1"]["measured"] == {"l0": 9.5}
    assert run.provenance["versions"]["torch"]
    assert run.log["loss"].tolist() == [pytest.approx(1 / 3, rel=1e-5)]
    assert release.released_names() == ["A", "A/1"]


def test_an_unknown_name_is_told_the_others(folder):
    with pytest.raises(BookError, match="there is no released 'A/7'; there are A, A/1"):
        sae_lib.released("A/7")


def test_without_a_manifest_nothing_is_released(tmp_path, monkeypatch):
    monkeypatch.setattr(release, "_FOLDERS", (tmp_path,))
    release._manifest.cache_clear()
    assert release.released_names() == []
    for name in ("tokenizer", "A/1"):
        with pytest.raises(BookError, match="nothing is released here; clone the repository"):
            sae_lib.released(name)


def test_one_altered_byte_is_refused(folder):
    path = shard(folder, 2)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(BookError, match=r"A-1-2of\d+.safetensors is not what was released .* git checkout"):
        sae_lib.released("A/1")


def test_a_missing_shard_is_named(folder):
    shard(folder, 2).unlink()
    with pytest.raises(BookError, match=r"A-1-2of\d+.safetensors is missing, .* git checkout"):
        sae_lib.released("A/1")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"format": 99, "runs": {}}', "newer version of the book"),
        ('{"runs": {}}', "no manifest of released weights"),
        ("[]", "no manifest of released weights"),
        ('{"format": 1, "address": "", "runs": {}}', "no manifest of released weights"),
        ('{"format": 1, "address": "", "runs": {"tokenizer": {"files": [{"name": "x"}]}}}', "no manifest of released weights"),
        ("{", "is damaged"),
    ],
)
def test_a_manifest_that_cannot_be_read_is_refused(folder, content, message):
    (folder / "MANIFEST.json").write_text(content)
    release._manifest.cache_clear()
    for name in ("A/1", "tokenizer"):
        with pytest.raises(BookError, match=message):
            sae_lib.released(name)


@pytest.mark.parametrize(
    "damage",
    [
        lambda manifest: manifest["runs"]["A/1"].pop("log"),
        lambda manifest: manifest["runs"]["A/1"]["files"].pop(),
        lambda manifest: manifest["runs"]["A/1"]["files"].clear(),
        lambda manifest: manifest["runs"]["A/1"]["config"].update(geometry=None),
        lambda manifest: manifest["runs"]["A/1"]["config"]["geometry"].update(colour=1),
        lambda manifest: manifest["runs"]["A/1"]["config"]["geometry"].update(d_sae="many"),
        lambda manifest: manifest.update(format=0),
    ],
)
def test_a_manifest_that_is_not_all_there_is_refused(folder, damage):
    manifest = json.loads((folder / "MANIFEST.json").read_text())
    damage(manifest)
    (folder / "MANIFEST.json").write_text(json.dumps(manifest))
    release._manifest.cache_clear()
    with pytest.raises(BookError, match=r"MANIFEST\.json is no manifest of released weights, or not all of it; restore it"):
        sae_lib.released("A")


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("failure", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_a_release_that_fails_halfway_leaves_the_one_before(folder, modules, tmp_path, monkeypatch, failure):
    before, written, save = contents(folder), [], release.save_tensors

    def fill(path, tensors):
        if len(written) == 2:
            raise failure
        written.append(path)
        save(path, tensors)

    with torch.no_grad():
        modules["A"].embed.W_E += 1
    run = trained(modules["A"], "model", GEOMETRY | {"seed": 1})
    monkeypatch.setattr(release, "save_tensors", fill)
    with pytest.raises((BookError, KeyboardInterrupt)):
        release.write_release(folder, {"A": run}, tmp_path / "tokenizer.json", {}, "")
    assert len(written) == 2
    assert contents(folder) == before
    assert not list(tmp_path.glob("*.part"))


def test_what_no_release_wrote_is_not_replaced(folder, modules, tmp_path):
    (folder / "notes.md").write_text("mine")
    before = contents(folder)
    with pytest.raises(BookError, match=r"checkpoints holds notes\.md, which no release wrote"):
        release.write_release(folder, {}, tmp_path / "tokenizer.json", {}, "")
    assert contents(folder) == before


def test_a_second_release_leaves_nothing_of_the_first(folder, modules, tmp_path):
    before = {path.name for path in folder.iterdir()}
    run = trained(modules["A"], "model", GEOMETRY)
    release.write_release(folder, {"A": run}, tmp_path / "tokenizer.json", {}, "")
    assert release.released_names() == ["A"]
    assert {path.name for path in folder.iterdir()} == {name for name in before if not name.startswith("A-1-")}


def test_a_weight_too_large_is_refused(folder, modules, tmp_path):
    with torch.no_grad():
        modules["A/1"].b_enc[3] = 1e6
    run = trained(modules["A/1"], "dictionary", SAE | {"l1_coeff": 2e-3})
    with pytest.raises(BookError, match="b_enc has a weight that half precision cannot hold"):
        release.write_release(folder, {"A/1": run}, tmp_path / "tokenizer.json", {}, "")


@pytest.fixture
def elsewhere(folder, tmp_path, monkeypatch):
    """An installed package: the manifest only, and a server that has the files."""
    handler = type("Quiet", (http.server.SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), lambda *a: handler(*a, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    (tmp_path / "share").mkdir()
    manifest = json.loads((folder / "MANIFEST.json").read_text()) | {"address": f"http://127.0.0.1:{server.server_port}"}
    (tmp_path / "share" / "MANIFEST.json").write_text(json.dumps(manifest))
    monkeypatch.setattr(release, "_FOLDERS", (tmp_path / "no clone", tmp_path / "share"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    release._manifest.cache_clear()
    yield tmp_path / "cache"
    server.shutdown()
    server.server_close()
    thread.join()


def test_elsewhere_files_are_fetched_once(elsewhere, folder, modules, capfd):
    wanted = modules["A/1"].W_enc.half().float()
    assert torch.equal(sae_lib.released("A/1").W_enc, wanted)
    for path in folder.glob("A-1*"):
        path.unlink()
    assert torch.equal(sae_lib.released("A/1").W_enc, wanted)


def test_a_fetched_file_that_is_not_what_was_released_is_not_kept(elsewhere, folder):
    shard(folder, 1).write_bytes(b"something else")
    with pytest.raises(BookError, match=r"could not fetch http.*A-1-1of\d+.safetensors whole .*Nothing was kept"):
        sae_lib.released("A/1")
    assert not list(elsewhere.rglob("A-1-1of*"))


def test_a_file_that_cannot_be_fetched_is_named(elsewhere, folder):
    shard(folder, 1).unlink()
    with pytest.raises(BookError, match=r"could not fetch .*A-1-1of\d+.safetensors whole .*404"):
        sae_lib.released("A/1")
    assert not list(elsewhere.rglob("A-1-1of*"))


def test_an_installed_package_finds_the_manifest_in_itself(tmp_path):
    root, source = Path(__file__).parents[1], tmp_path / "source"
    shutil.copytree(root / "sae_lib", source / "sae_lib", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "requirements-run.txt", "README.md", "LICENSE", "checkpoints/MANIFEST.json"):
        (source / name).parent.mkdir(exist_ok=True)
        shutil.copy2(root / name, source / name)
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "--wheel-dir", tmp_path, source]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "installed")
    files = {path.relative_to(source / "sae_lib") for path in (source / "sae_lib").rglob("*") if path.is_file()}
    inside = {
        path.relative_to(tmp_path / "installed" / "sae_lib") for path in (tmp_path / "installed/sae_lib").rglob("*") if path.is_file()
    }
    assert inside == files | {Path("checkpoints/MANIFEST.json")}
    shutil.rmtree(source)
    ask = "import sys; sys.path.insert(0, sys.argv[1]); from sae_lib import release; print(release.__file__, *release.released_names())"
    told = subprocess.run(
        [sys.executable, "-c", ask, tmp_path / "installed"], cwd=tmp_path, check=True, capture_output=True, text=True
    ).stdout.split()
    runs = json.loads((root / "checkpoints/MANIFEST.json").read_text())["runs"]
    assert told[0] == str(tmp_path / "installed/sae_lib/release.py")
    assert sorted(told[1:]) == sorted(set(runs) - {"tokenizer"})
