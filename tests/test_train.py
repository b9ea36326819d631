"""The loops learn, repeat to the bit, and survive being killed."""

import json
import math
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import small
import torch
from small import DICTIONARY, MODEL, dictionary_run, held_out, model_run

from sae_lib import parallel
from sae_lib.activations import ActivationStream
from sae_lib.errors import BookError
from sae_lib.resampling import ResamplingSchedule
from sae_lib.runs import Checkpoint
from sae_lib.sae import geometric_median
from sae_lib.storage import load_tensors
from sae_lib.train import DictionaryTraining, _Course, validation_loss

RUNS = pytest.mark.parametrize("run", [model_run, dictionary_run])


def rows_of(steps):
    return [row for _, row in steps if row is not None]


def without_time(rows):
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_the_language_model_learns(model, tokens, tmp_path):
    trained, steps = model_run(model, tokens, tmp_path)
    rows = rows_of(steps)
    assert rows[0]["loss"] > 3.5  # ln 50 = 3.9: it starts knowing nothing
    assert rows[-1]["validation_loss"] < 2.2  # four tokens in five follow from the last one
    assert rows[-1]["n_tokens"] == 36_000
    assert rows[-1]["step"] == rows[-1]["n_steps"] == 150
    assert rows[-1]["validation_loss"] == pytest.approx(validation_loss(trained, held_out(tokens)))


def test_the_learning_rate_rises_and_falls(model, tokens, tmp_path):
    rates = [row["lr"] for row in rows_of(model_run(model, tokens, tmp_path)[1])]
    peak = rates.index(max(rates))
    assert 0 < peak < 10
    assert max(rates) == pytest.approx(1e-2, rel=0.05)
    assert rates[-1] == pytest.approx(1e-3, rel=0.01)


def test_the_dictionary_learns_and_resamples(model, tokens, tmp_path):
    sae, steps = dictionary_run(model, tokens, tmp_path)
    rows = rows_of(steps)
    assert rows[-1]["loss"] < 0.5 * rows[0]["loss"]
    assert sum(row["resampled"] for row in rows) > 0
    assert all(row["loss"] == pytest.approx(row["mse"] + 5e-2 * row["l1"], rel=1e-4) for row in rows)
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(128))


def test_the_bias_starts_at_the_geometric_median(model, tokens, tmp_path):
    recipe = DictionaryTraining(n_activations=48, batch_size=48, lr=0.0, seed=7, n_median=96)
    sae, steps = dictionary_run(model, tokens, tmp_path, recipe)
    rows_of(steps)
    stream = ActivationStream(model, tokens, 48, 7, block_size=480)
    torch.testing.assert_close(sae.b_dec.data, geometric_median(torch.cat(list(stream.batches(2)))))


def test_arms_differ_only_in_what_is_resampled(model, tokens, tmp_path):
    resampled = {}
    for method in ("none", "naive", "paper"):
        schedule = ResamplingSchedule((30, 60), 10, 480, method)
        recipe = DictionaryTraining(4_800, 48, 1e-3, 7, schedule, n_median=200)
        rows = rows_of(dictionary_run(model, tokens, tmp_path / method, recipe)[1])
        resampled[method] = sum(row["resampled"] for row in rows), [row["loss"] for row in rows[:29]]
    assert resampled["none"][0] == 0
    assert min(resampled["naive"][0], resampled["paper"][0]) > 0
    assert resampled["none"][1] == resampled["naive"][1] == resampled["paper"][1]


@RUNS
def test_the_same_seed_gives_the_same_bits(run, model, tokens, tmp_path):
    first, steps = run(model, tokens, tmp_path / "a")
    second, again = run(model, tokens, tmp_path / "b")
    assert without_time(rows_of(steps)) == without_time(rows_of(again))
    assert same(first, second)


@RUNS
@pytest.mark.parametrize("killed_after", [1, 30, 61])
def test_a_run_that_was_given_up_ends_in_the_same_bits(run, killed_after, model, tokens, tmp_path):
    whole, steps = run(model, tokens, tmp_path / "whole")
    rows = rows_of(steps)
    # Written every few steps and not at every one, so that steps are lost and done again.
    _, partial = run(model, tokens, tmp_path / "killed", every_s=0.02)
    for _ in range(killed_after):
        next(partial)
    partial.close()
    resumed, rest = run(model, tokens, tmp_path / "killed")
    assert without_time(rows_of(rest)) == without_time(rows)
    assert same(resumed, whole)


@pytest.mark.parametrize(
    ("kind", "death"),
    [("model", ["--die-in-write", "40"]), ("dictionary", ["--die-in-write", "40"]), ("dictionary", ["--die-at", "61"])],
)
def test_kill_9_at_a_step_or_within_a_write_costs_nothing(kind, death, model, tokens, tmp_path):
    command = [sys.executable, Path(small.__file__), kind, tmp_path / "run"]
    killed = subprocess.run([*command, *death], check=False, capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert (tmp_path / "run" / "checkpoint.safetensors").exists()
    assert not (tmp_path / "run" / "rows.json").exists()
    subprocess.run(command, check=True, capture_output=True)
    run = {"model": model_run, "dictionary": dictionary_run}[kind]
    whole, steps = run(model, tokens, tmp_path / "whole")
    rows = rows_of(steps)
    assert without_time(json.loads((tmp_path / "run" / "rows.json").read_text())) == without_time(rows)
    resumed, _ = load_tensors(tmp_path / "run" / "trained.safetensors")
    assert all(torch.equal(resumed[name], value) for name, value in whole.state_dict().items())


@RUNS
def test_broken_weights_stop_the_run_and_are_not_saved(run, model, tokens, tmp_path):
    trained, steps = run(model, tokens, tmp_path)
    for _ in range(3):
        next(steps)
    name, weight = next(iter(trained.named_parameters()))
    weight.data[0] = math.nan
    with pytest.raises(BookError, match=rf"broke at step 3: loss .*{name} no longer finite; .* The last good state is in "):
        list(steps)
    assert load_tensors(tmp_path / "checkpoint.safetensors")[1]["step"] == "2"


@RUNS
def test_a_loss_that_is_no_number_stops_at_once(run, model, tokens, tmp_path):
    trained, steps = run(model, tokens, tmp_path, every_s=1e9)
    next(steps)
    next(iter(trained.parameters())).data.fill_(math.nan)
    with pytest.raises(BookError, match=r"broke at step 2: loss nan, .*lower its learning rate. No checkpoint had been written"):
        list(steps)


def test_input_that_is_no_number_is_told_from_weights(model, tokens, tmp_path):
    steps = dictionary_run(model, tokens, tmp_path, every_s=1e9)[1]
    next(steps)
    model.blocks[0].mlp.b_in.data[3] = math.inf
    with pytest.raises(BookError, match="from finite weights: its input was not finite"):
        list(steps)


def test_a_loss_that_leaves_all_bounds_stops(model, tokens, tmp_path):
    with pytest.raises(BookError, match=r"the dictionary diverged: its loss is .* at step .*, and was .* at first"):
        list(dictionary_run(model, tokens, tmp_path, replace(DICTIONARY, lr=3.0))[1])


@RUNS
def test_a_checkpoint_of_another_geometry_is_named_and_kept(run, model, tokens, tmp_path):
    other = model_run if run is dictionary_run else dictionary_run
    _, steps = other(model, tokens, tmp_path)
    next(steps)
    next(steps)  # the first step's checkpoint is written when the second is asked for
    steps.close()
    path = tmp_path / "checkpoint.safetensors"
    before = path.read_bytes()
    with pytest.raises(BookError, match=r"checkpoint\.safetensors is of another kind"):
        next(run(model, tokens, tmp_path)[1])
    assert path.read_bytes() == before


@pytest.mark.parametrize(("kind", "how"), [("model", []), ("dictionary", []), ("dictionary", ["--shard"])])
def test_two_processes_take_the_steps_of_one(kind, how, model, tokens, tmp_path):
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*launch, small.__file__, kind, tmp_path / "two", "--steps", "50", *how]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2_000:]
    run, size = {"model": (model_run, {"n_tokens": 12_000}), "dictionary": (dictionary_run, {"n_activations": 2_400})}[kind]
    recipe = replace({"model": MODEL, "dictionary": DICTIONARY}[kind], **size)
    rows = rows_of(run(model, tokens, tmp_path / "one", recipe, every_s=1e9)[1])
    found = json.loads((tmp_path / "two" / "rows.json").read_text())
    assert len(found) == len(rows) == 50
    assert kind == "model" or sum(row["resampled"] for row in rows) > 0
    for one, two in zip(rows, found, strict=True):
        assert two["loss"] == pytest.approx(one["loss"], rel=1e-5)
        assert all(one[name] == two[name] for name in ("step", "dead_share", "resampled", "l0") if name in one)


def test_whether_a_checkpoint_is_due_is_asked_on_the_device_of_the_training(monkeypatch):
    sent = []

    def send(tensors):
        sent.extend(tensors)
        raise InterruptedError

    monkeypatch.setattr(parallel, "is_sharded", lambda _: True)
    monkeypatch.setattr(parallel, "copy_from_first_", send)
    state = SimpleNamespace(checkpoint=Checkpoint(Path()), module=torch.nn.Linear(1, 1), sums=torch.zeros(2, device="meta"))
    with pytest.raises(InterruptedError):
        _Course._is_due(state)
    assert [tensor.device for tensor in sent] == [state.sums.device]


def test_bf16_follows_float32(model, tokens, tmp_path):
    final = {}
    for bf16 in (False, True):
        rows = rows_of(model_run(model, tokens, tmp_path / str(bf16), replace(MODEL, bf16=bf16))[1])
        final[bf16] = rows[-1]["validation_loss"]
    assert final[True] == pytest.approx(final[False], rel=0.02)
