import json
import signal
import threading
from pathlib import Path

import pytest
import torch

from sae_lib.errors import BookError
from sae_lib.runs import Checkpoint, Run, Stopped, finish, run_steps, runs_folder, stoppable
from sae_lib.sae import SAEConfig, SparseAutoencoder
from sae_lib.storage import save_tensors


@pytest.fixture(autouse=True)
def runs_here(tmp_path, monkeypatch):
    monkeypatch.setenv("SAE_BOOK_RUNS", str(tmp_path))


def train(sae, calls):
    def steps(checkpoint):
        calls.append("train")
        for step in (1, 2):
            with torch.no_grad():
                sae.b_dec += 1
            yield step, {"step": step, "n_steps": 2, "loss": 1 / step, "seconds": 0.5}

    return steps


def make(calls, config=None, name="smoke-A-1"):
    sae = SparseAutoencoder(SAEConfig(4, 8, 0.1), seed=0)
    return finish([run_steps(name, config or {"seed": 0}, train(sae, calls), lambda: sae, facts={"scale": "smoke"})])[0]


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


def test_who_waited_finds_the_run_trained():
    module, seen = torch.nn.Linear(2, 2), []

    def run(name):
        def train(checkpoint):
            seen.append(name)
            yield 1, {"step": 1, "n_steps": 1, "loss": 1.0}
            yield 2, None

        return run_steps("shared", {"x": 1}, train, lambda: module)

    first = run("first")
    next(first)
    found = []
    second = threading.Thread(target=lambda: found.append(finish([run("second")])[0].folder))
    second.start()
    second.join(0.5)
    assert second.is_alive()
    assert finish([first])[0].folder.is_dir()
    second.join(30)
    assert seen == ["first"]
    assert len(found) == 1


def test_another_config_is_another_run():
    calls = []
    assert make(calls).folder != make(calls, {"seed": 1}).folder
    assert len(calls) == 2


def test_an_interrupted_run_is_not_taken_for_a_finished_one(tmp_path):
    def broken(checkpoint):
        yield 1, None
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        finish([run_steps("smoke-A-1", {"seed": 0}, broken, lambda: None)])
    calls = []
    make(calls)
    assert calls == ["train"]


def test_too_little_memory_is_said_in_a_line_and_other_errors_are_not_hidden():
    def hungry(checkpoint):
        yield 1, None
        torch.empty(2**60)

    with pytest.raises(BookError, match=r"smoke-A-1 does not fit into memory \(.*\); choose a smaller scale"):
        finish([run_steps("smoke-A-1", {}, hungry, lambda: None)])

    def broken(checkpoint):
        yield 1, None
        raise RuntimeError("shape mismatch")

    with pytest.raises(RuntimeError, match="shape mismatch"):
        finish([run_steps("smoke-A-1", {}, broken, lambda: None)])


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


@pytest.mark.parametrize("content", ["{}", "[]", '{"format": "2", "weights_sha256": ""}'])
def test_a_folder_whose_facts_are_none_is_named(content):
    run = make([])
    (run.folder / "run.json").write_text(content)
    with pytest.raises(BookError, match=r"run\.json describes no run; delete .* and run the same command again"):
        Run(run.folder)


def test_a_curve_or_a_config_that_is_gone_is_named():
    run = make([])
    (run.folder / "log.jsonl").write_text("{")
    with pytest.raises(BookError, match=r"log\.jsonl is missing or damaged"):
        _ = run.log
    (run.folder / "log.jsonl").unlink()
    with pytest.raises(BookError, match=r"log\.jsonl is missing or damaged"):
        _ = run.log
    (run.folder / "config.json").write_text("[]")
    with pytest.raises(BookError, match=r"config\.json holds no config"):
        _ = run.config


def test_a_folder_of_runs_is_seen_from_the_project(tmp_path, monkeypatch):
    for name in ("_config.yml", "pyproject.toml", "chapters/07.ipynb"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path / "chapters")
    for given, found in (("", tmp_path / "runs"), ("mine/runs", tmp_path / "mine" / "runs"), ("/there", Path("/there"))):
        monkeypatch.setenv("SAE_BOOK_RUNS", given)
        assert runs_folder() == found


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


def test_a_checkpoint_of_another_run_or_version_is_named_and_kept(tmp_path):
    Checkpoint(tmp_path / "a").save({"x": torch.arange(10)}, 3, [])
    path = tmp_path / "b" / "checkpoint.safetensors"
    path.parent.mkdir()
    path.write_bytes((tmp_path / "a" / "checkpoint.safetensors").read_bytes())
    with pytest.raises(BookError, match="belongs to the run a"):
        Checkpoint(path.parent).load()
    for layout, word in (("99", "newer"), ("1", "older")):
        save_tensors(path, {}, {"format": layout, "run": "b", "step": "3", "rows": "[]"})
        with pytest.raises(BookError, match=f"an? {word} version"):
            Checkpoint(path.parent).load()
    save_tensors(path, {}, {"step": "3"})
    with pytest.raises(BookError, match="no checkpoint of this book"):
        Checkpoint(path.parent).load()
    assert path.exists()


def counting(checkpoint, seen, n_steps=5, ask_at=None):
    """Steps that note what they do; one of them asks the process to stop."""
    saved = checkpoint.load()
    for step in range(saved[1] + 1 if saved else 1, n_steps + 1):
        seen.append(step)
        if step == ask_at:
            signal.raise_signal(signal.SIGINT)
        yield step, None
        if checkpoint.is_due() and step < n_steps:
            checkpoint.save({"x": torch.tensor(step)}, step, [])


def test_the_run_that_is_behind_goes_first():
    seen = []
    module = SparseAutoencoder(SAEConfig(2, 2, 0.1))
    sizes = {"a": 2, "b": 4}
    runs = [run_steps(name, {}, lambda c, n=n: counting(c, seen, n), lambda: module) for name, n in sizes.items()]
    assert [run.provenance["name"] for run in finish(runs)] == ["a", "b"]
    assert seen == [1, 1, 2, 2, 3, 4]


def test_ctrl_c_saves_every_run_and_the_same_command_goes_on(tmp_path):
    seen, before = [], signal.getsignal(signal.SIGINT)
    module = SparseAutoencoder(SAEConfig(2, 2, 0.1))

    def both(ask_at=None):
        asked = {"a": ask_at, "b": None}
        return [run_steps(name, {}, lambda c, at=at: counting(c, seen, 5, at), lambda: module) for name, at in asked.items()]

    with pytest.raises(Stopped, match="stopped after step 3; all of it is saved"):
        finish(both(ask_at=3))
    assert seen == [1, 1, 2, 2, 3]  # b is asked before its third
    assert len(list(tmp_path.glob("*/checkpoint.safetensors"))) == 2
    finish(both())
    assert seen[5:] == [4, 3, 4, 5, 5]
    assert signal.getsignal(signal.SIGINT) is before


def test_a_second_ctrl_c_ends_at_once():
    with stoppable():
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


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
