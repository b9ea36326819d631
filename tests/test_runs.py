import json

import pytest
import torch

from sae_lib.errors import BookError
from sae_lib.runs import Checkpoint, Run, load_or_run
from sae_lib.sae import SAEConfig, SparseAutoencoder


@pytest.fixture(autouse=True)
def runs_here(tmp_path, monkeypatch):
    monkeypatch.setenv("SAE_BOOK_RUNS", str(tmp_path))


def train(sae, calls):
    def steps(checkpoint):
        calls.append("train")
        for step in (1, 2):
            with torch.no_grad():
                sae.b_dec += 1
            yield {"step": step, "n_steps": 2, "loss": 1 / step, "seconds": 0.5}

    return steps


def make(calls, config=None, name="smoke-A-1"):
    sae = SparseAutoencoder(SAEConfig(4, 8, 0.1), seed=0)
    return load_or_run(name, config or {"seed": 0}, train(sae, calls), lambda: sae, facts={"scale": "smoke"})


def test_trains_once_and_then_loads():
    calls = []
    first, second = make(calls), make(calls)
    assert calls == ["train"]
    assert first.folder == second.folder
    loaded = second.load_into(SparseAutoencoder(SAEConfig(4, 8, 0.1), seed=9))
    torch.testing.assert_close(loaded.b_dec.data, torch.full((4,), 2.0))
    assert second.log["loss"].tolist() == [1.0, 0.5]
    assert second.config == {"seed": 0}
    assert second.provenance["scale"] == "smoke"
    assert second.provenance["wall_s"] == 1.0
    assert {"hardware", "versions", "finished", "weights_sha256"} <= set(second.provenance)


def test_another_config_is_another_run():
    calls = []
    assert make(calls).folder != make(calls, {"seed": 1}).folder
    assert len(calls) == 2


def test_an_interrupted_run_is_not_taken_for_a_finished_one(tmp_path):
    def broken(checkpoint):
        yield {"step": 1, "n_steps": 2}
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        load_or_run("smoke-A-1", {"seed": 0}, broken, lambda: None)
    calls = []
    make(calls)
    assert calls == ["train"]


def test_one_altered_byte_is_noticed():
    run = make([])
    weights = run.folder / "weights.safetensors"
    raw = bytearray(weights.read_bytes())
    raw[-1] ^= 1
    weights.write_bytes(raw)
    with pytest.raises(BookError, match=r"weights\.safetensors is not what training wrote"):
        make([])


def test_missing_weights_and_newer_formats_are_named():
    run = make([])
    (run.folder / "weights.safetensors").rename(run.folder / "gone")
    with pytest.raises(BookError, match=r"weights\.safetensors is missing"):
        Run(run.folder)
    (run.folder / "gone").rename(run.folder / "weights.safetensors")
    facts = json.loads((run.folder / "run.json").read_text()) | {"format": 99}
    (run.folder / "run.json").write_text(json.dumps(facts))
    with pytest.raises(BookError, match="newer version"):
        Run(run.folder)


def test_weights_of_another_geometry_are_named():
    run = make([])
    with pytest.raises(BookError, match=r"W_dec is \(8, 4\) there and \(16, 4\) here"):
        run.load_into(SparseAutoencoder(SAEConfig(4, 16, 0.1)))
    with pytest.raises(BookError, match="another kind of model"):
        run.load_into(torch.nn.Linear(4, 8))


def test_a_checkpoint_cut_short_is_named(tmp_path):
    checkpoint = Checkpoint(tmp_path)
    assert checkpoint.load() is None
    checkpoint.save({"x": torch.arange(10)}, 3, [{"step": 3}])
    tensors, step, rows = checkpoint.load()
    assert step == 3
    assert rows == [{"step": 3}]
    assert torch.equal(tensors["x"], torch.arange(10))
    checkpoint.path.write_bytes(checkpoint.path.read_bytes()[:-4])
    with pytest.raises(BookError, match=r"checkpoint\.safetensors is damaged"):
        checkpoint.load()


def test_a_disk_that_fills_while_saving_keeps_the_last_checkpoint(tmp_path, monkeypatch):
    checkpoint = Checkpoint(tmp_path)
    checkpoint.save({"x": torch.arange(10)}, 3, [])

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(BookError, match="No space left"):
        checkpoint.save({"x": torch.arange(20)}, 4, [])
    monkeypatch.undo()
    assert checkpoint.load()[1] == 3
