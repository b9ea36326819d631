"""The loops learn, repeat to the bit, and survive being killed."""

import math

import pytest
import torch

from sae_lib.activations import ActivationStream
from sae_lib.errors import BookError
from sae_lib.resampling import ResamplingSchedule
from sae_lib.runs import Checkpoint
from sae_lib.sae import SAEConfig, SparseAutoencoder
from sae_lib.train import DictionaryTraining, ModelTraining, train_dictionary, train_model, validation_loss
from sae_lib.transformer import OneLayerTransformer

MODEL = ModelTraining(n_tokens=36_000, batch_tokens=240, lr=1e-2, seed=5)
DICTIONARY = DictionaryTraining(
    n_activations=4_800, batch_size=48, lr=1e-3, seed=7, resampling=ResamplingSchedule((30, 60), 10, 480), n_median=200
)


def fresh_model(model):
    return OneLayerTransformer(model.cfg, seed=2)


def fresh_dictionary():
    """A dictionary in which a few features cannot fire, so that there is something to resample."""
    sae = SparseAutoencoder(SAEConfig(d_in=32, d_sae=128, l1_coeff=5e-2), seed=2)
    sae.b_enc.data[:9] = -10
    return sae


def held_out(tokens):
    return torch.from_numpy(tokens.contexts(range(350, 400), 12))


def model_run(model, tokens, folder, recipe=MODEL):
    trained = fresh_model(model)
    return trained, train_model(trained, tokens, held_out(tokens), recipe, Checkpoint(folder, every_s=0.0))


def dictionary_run(model, tokens, folder, recipe=DICTIONARY):
    sae = fresh_dictionary()
    stream = ActivationStream(model, tokens, recipe.batch_size, recipe.seed, block_size=480)
    return sae, train_dictionary(sae, stream, recipe, Checkpoint(folder, every_s=0.0))


RUNS = pytest.mark.parametrize("run", [model_run, dictionary_run])


def without_time(rows):
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def test_the_language_model_learns(model, tokens, tmp_path):
    trained, rows = model_run(model, tokens, tmp_path)
    rows = list(rows)
    assert rows[0]["loss"] > 3.5  # ln 50 = 3.9: it starts knowing nothing
    assert rows[-1]["validation_loss"] < 2.2  # four tokens in five follow from the last one
    assert rows[-1]["n_tokens"] == 36_000
    assert rows[-1]["step"] == rows[-1]["n_steps"] == 150
    assert rows[-1]["validation_loss"] == pytest.approx(validation_loss(trained, held_out(tokens)))


def test_the_learning_rate_rises_and_falls(model, tokens, tmp_path):
    rates = [row["lr"] for row in model_run(model, tokens, tmp_path)[1]]
    peak = rates.index(max(rates))
    assert 0 < peak < 10
    assert max(rates) == pytest.approx(1e-2, rel=0.05)
    assert rates[-1] == pytest.approx(1e-3, rel=0.01)


def test_the_dictionary_learns_and_resamples(model, tokens, tmp_path):
    sae, rows = dictionary_run(model, tokens, tmp_path)
    rows = list(rows)
    assert rows[-1]["loss"] < 0.5 * rows[0]["loss"]
    assert sum(row["resampled"] for row in rows) > 0
    assert all(row["loss"] == pytest.approx(row["mse"] + 5e-2 * row["l1"], rel=1e-4) for row in rows)
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(128))


def test_the_bias_starts_at_the_geometric_median(model, tokens, tmp_path):
    recipe = DictionaryTraining(n_activations=48, batch_size=48, lr=0.0, seed=7, n_median=96)
    sae, rows = dictionary_run(model, tokens, tmp_path, recipe)
    list(rows)
    from sae_lib.sae import geometric_median

    stream = ActivationStream(model, tokens, 48, 7, block_size=480)
    torch.testing.assert_close(sae.b_dec.data, geometric_median(torch.cat(list(stream.batches(2)))))


def test_arms_differ_only_in_what_is_resampled(model, tokens, tmp_path):
    resampled = {}
    for method in ("none", "naive", "paper"):
        schedule = ResamplingSchedule((30, 60), 10, 480, method)
        recipe = DictionaryTraining(4_800, 48, 1e-3, 7, schedule, n_median=200)
        rows = list(dictionary_run(model, tokens, tmp_path / method, recipe)[1])
        resampled[method] = sum(row["resampled"] for row in rows), [row["loss"] for row in rows[:29]]
    assert resampled["none"][0] == 0
    assert min(resampled["naive"][0], resampled["paper"][0]) > 0
    assert resampled["none"][1] == resampled["naive"][1] == resampled["paper"][1]


@RUNS
def test_the_same_seed_gives_the_same_bits(run, model, tokens, tmp_path):
    first, rows = run(model, tokens, tmp_path / "a")
    second, again = run(model, tokens, tmp_path / "b")
    assert without_time(rows) == without_time(again)
    assert same(first, second)


@RUNS
@pytest.mark.parametrize("killed_after", [1, 29, 45])
def test_a_killed_run_ends_in_the_same_bits(run, killed_after, model, tokens, tmp_path):
    whole, rows = run(model, tokens, tmp_path / "whole")
    rows = list(rows)
    _, partial = run(model, tokens, tmp_path / "killed")
    for _ in range(killed_after):
        next(partial)
    partial.close()
    resumed, rest = run(model, tokens, tmp_path / "killed")
    assert without_time(rest) == without_time(rows)
    assert same(resumed, whole)


@RUNS
def test_a_loss_that_is_no_number_stops_with_the_step(run, model, tokens, tmp_path):
    trained, rows = run(model, tokens, tmp_path)
    next(iter(trained.parameters())).data.fill_(math.nan)
    with pytest.raises(BookError, match="became nan at step 1;"):
        list(rows)


@RUNS
def test_a_checkpoint_of_another_geometry_is_named_and_kept(run, model, tokens, tmp_path):
    other = model_run if run is dictionary_run else dictionary_run
    _, rows = other(model, tokens, tmp_path)
    next(rows)
    next(rows)  # the first row's checkpoint is written when the second is asked for
    rows.close()
    path = tmp_path / "checkpoint.safetensors"
    before = path.read_bytes()
    with pytest.raises(BookError, match=r"checkpoint\.safetensors is of another kind"):
        next(run(model, tokens, tmp_path)[1])
    assert path.read_bytes() == before


def test_bf16_follows_float32(model, tokens, tmp_path):
    from dataclasses import replace

    final = {}
    for bf16 in (False, True):
        rows = list(model_run(model, tokens, tmp_path / str(bf16), replace(MODEL, bf16=bf16))[1])
        final[bf16] = rows[-1]["validation_loss"]
    assert final[True] == pytest.approx(final[False], rel=0.02)
