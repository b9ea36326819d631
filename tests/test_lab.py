"""Names to runs, end to end from the pocket corpus, at a size of its own."""

from dataclasses import replace

import pytest
import torch

from sae_lib import release, scales
from sae_lib.activations import ActivationStream
from sae_lib.errors import BookError
from sae_lib.lab import Lab, _Bar
from sae_lib.metrics import check_fits, evaluate
from sae_lib.resampling import ENCODER_SCALE


def bits(module):
    return b"".join(value.numpy().tobytes() for value in module.state_dict().values())


def test_text_to_dictionary_and_the_same_seed_gives_the_same_bits(tiny, monkeypatch):
    first = Lab("tiny", device="cpu")
    sae = first.dictionary("A/1")
    assert sae.W_enc.shape == (32, 64)
    assert not sae.W_enc.requires_grad
    assert first.log("A")["loss"].iloc[-1] < first.log("A")["loss"].iloc[0]
    assert list(first.log("A/1")["n_activations"])[-1] == 5_952
    monkeypatch.setenv("SAE_BOOK_RUNS", str(tiny / "again"))
    second = Lab("tiny", device="cpu")
    assert bits(second.model("A")) == bits(first.model("A"))
    assert bits(second.dictionary("A/1")) == bits(sae)
    monkeypatch.setenv("SAE_BOOK_RUNS", str(tiny / "other"))
    assert bits(Lab("tiny", seed=1, device="cpu").model("A")) != bits(first.model("A"))


def test_the_truth_is_cut_by_the_runs_own_tokenizer(tiny):
    lab = Lab("tiny", device="cpu")
    assert lab.truth.tokens.shape == (200, 32)
    assert lab.truth.tokens.max() < lab.tokenizer.get_vocab_size()
    assert lab.truth.holds("prose").any()
    assert lab.anthology.holds("script/korean").any()
    assert set(lab.truth.tokens[0].tolist()) != set(lab.shards.train.contexts([0], 32)[0].tolist())


def test_what_exists_is_loaded_and_not_trained_again(tiny, capsys):
    trained = Lab("tiny", device="cpu").dictionary("A/0")
    assert "dictionary A/0" in capsys.readouterr().err
    loaded = Lab("tiny", device="cpu").dictionary("A/0")
    assert "dictionary" not in capsys.readouterr().err
    assert bits(loaded) == bits(trained)


def test_a_resumed_bar_has_the_speed_of_the_training_and_not_of_the_reading(monkeypatch):
    monkeypatch.setenv("TQDM_DISABLE", "0")
    bar = _Bar("model A", "n_tokens", "tokens", ("loss",))
    for step in range(1, 8):
        bar({"n_tokens": 100 * step, "step": step, "n_steps": 10, "loss": 1.0, "seconds": 50.0})
    shown = bar.bar.format_dict
    assert (shown["total"], shown["n"], shown["rate"]) == (1_000, 700, None)
    assert 350 <= shown["elapsed"] < 360
    assert "[05:50<02:30," in str(bar.bar)
    bar.bar.close()


def test_dictionaries_trained_together_read_one_stream_and_are_the_same(tiny, monkeypatch):
    fills = []
    fill = ActivationStream._fill
    monkeypatch.setattr(ActivationStream, "_fill", lambda self, block: fills.append((self.seed, block)) or fill(self, block))
    together = Lab("tiny", device="cpu")
    together.train(["A/0", "A/1", "B/1"])
    stream = [block for seed, block in fills if seed == together._stream_seed("A")]
    assert len(stream) == len(set(stream)) > 0
    kept = {name: bits(together.dictionary(name)) for name in ("A/0", "A/1", "B/1")}
    monkeypatch.setenv("SAE_BOOK_RUNS", str(tiny / "alone"))
    alone = Lab("tiny", device="cpu")
    assert {name: bits(alone.dictionary(name)) for name in kept} == kept


def test_a_sweep_tries_every_setting_once(tiny):
    with pytest.raises(BookError, match="two of the settings are the same"):
        Lab("tiny", device="cpu").sweep("A/1", [{"l1_coeff": 1e-3}, {"l1_coeff": 1e-3}])


def test_a_sweep_changes_what_it_is_told_and_nothing_else(tiny):
    lab = Lab("tiny", device="cpu")
    same, sparse, short, halved = lab.sweep(
        "A/1", [{}, {"l1_coeff": 0.05}, {"n_activations": 640}, {"sae_batch": lab.scale.sae_batch // 2}]
    )
    assert bits(same) == bits(lab.dictionary("A/1"))
    assert lab.log("A/1")["n_activations"].max() == 5_952
    x = lab.model("A").begin(lab.validation(320))[1]
    assert sparse.cfg.l1_coeff == 0.05
    assert sparse.encode(x).count_nonzero() < 0.8 * same.encode(x).count_nonzero()
    assert bits(short) != bits(same) != bits(halved)
    assert len(list((tiny / "runs").glob("tiny-A-1-*"))) == 4


def test_a_tied_start_is_the_papers_resampling_of_every_feature(tiny, monkeypatch):
    plain = Lab("tiny", device="cpu")._new_dictionary("A/1")
    monkeypatch.setitem(scales.SCALES, "tiny", replace(scales.scale("tiny"), tied_start=True))
    lab = Lab("tiny", device="cpu")
    tied = lab._new_dictionary("A/1")
    assert torch.allclose(tied.W_dec, plain.W_dec, atol=1e-6)
    mean_norm = plain.W_enc.norm(dim=0).mean()
    assert torch.allclose(tied.W_enc, ENCODER_SCALE * mean_norm * tied.W_dec.T, atol=1e-6)
    assert not tied.b_enc.any()
    assert lab._dictionary_config("A/1", "paper", False)["start"] == "tied"


def test_features_are_not_spread_over_a_single_process(tiny):
    with pytest.raises(BookError, match="this is one; start the command with torchrun"):
        Lab("tiny", device="cpu").train(["A/1"], shard_features=True)


def test_twins_and_arms_are_runs_of_their_own(tiny):
    lab = Lab("tiny", device="cpu")
    assert bits(lab.model("A")) != bits(lab.model("B"))
    arms = [lab.dictionary("A/1", resampling=method, arm=True) for method in ("paper", "naive", "none")]
    # Here an arm is as long as the run itself, so the paper's arm is that run.
    assert bits(arms[0]) == bits(lab.dictionary("A/1"))
    assert "lambda" in lab.provenance("A/1")
    assert lab.provenance("A/1")["train_tokens"] == 20_000
    assert len(list((tiny / "runs").glob("tiny-A-1-*"))) == 3


@pytest.fixture
def opened(tiny, monkeypatch):
    """A lab that trained, and one that opens what the first one released."""
    first = Lab("tiny", device="cpu")
    first.train(["B", "A/1", "S/1"])
    runs = {name: first.run(name) for name in ("A", "B", "A/1", "S/1")}
    monkeypatch.setattr(release, "_FOLDERS", (tiny / "checkpoints",))
    release._manifest.cache_clear()
    release.write_release(tiny / "checkpoints", runs, first.tokenizer_path, {}, "")
    reader = replace(scales.scale("tiny"), name="opened", corpus_tokens=6_000, model_arm_tokens=5_500, tokenizer_bytes=1, is_released=True)
    monkeypatch.setitem(scales.SCALES, "opened", reader)
    yield first, Lab("opened", device="cpu")
    release._manifest.cache_clear()


def test_released_weights_are_opened_and_not_trained(opened, capsys):
    first, second = opened
    capsys.readouterr()
    assert second.tokenizer.to_str() == first.tokenizer.to_str()
    assert bits(second.model("B")) == bits(first.model("B").half().float())
    halved = first.dictionary("S/1").half().float()
    halved.normalize_decoder_()
    assert bits(second.dictionary("S/1")) == bits(halved)
    assert second.config("A/1").items() > first.run("A/1").config.items()
    assert second.log("A")["step"].tolist() == first.log("A")["step"].tolist()
    assert second.provenance("A/1")["weights_sha256"] == first.provenance("A/1")["weights_sha256"]
    assert second.shards.train.n_tokens == 6_000
    assert "model" not in capsys.readouterr().err
    with pytest.raises(BookError, match="there is no released 'A/0'; there are A, B, A/1, S/1"):
        second.dictionary("A/0")
    with pytest.raises(BookError, match="weights of this scale ship with the book; SCALE=night"):
        second.train(["A/1"])


def test_a_dictionary_fits_its_own_model_and_no_other(opened):
    labs = {"trained": opened[0], "released": opened[1], "another seed": Lab("opened", seed=1, device="cpu")}
    models = {where: {name: lab.model(name) for name in ("A", "B", "S")} for where, lab in labs.items()}
    dictionaries = {where: {name: lab.dictionary(name) for name in ("A/1", "S/1")} for where, lab in labs.items()}
    models["by name"] = {name: release.released(name) for name in ("A", "B")}
    dictionaries["by name"] = {name: release.released(name) for name in ("A/1", "S/1")}
    for given in models.values():
        for fits in dictionaries.values():
            for name, model in given.items():
                for of, sae in fits.items():
                    if of[0] == name:
                        check_fits(model, sae)
                    else:
                        with pytest.raises(
                            BookError, match=f"was trained on model {of[0]}-[0-9a-f]{{12}} and this is {name}-[0-9a-f]{{12}}"
                        ):
                            check_fits(model, sae)
    lab = opened[1]
    with pytest.raises(BookError, match="trained on model A-"):
        evaluate(lab.model("B"), lab.dictionary("A/1"), lab.validation(320))
    assert lab.dictionary("A/1", resampling="none", arm=True).lineage == lab.model("A").lineage
    assert bits(labs["another seed"].model("S")) == bits(lab.model("S"))


def test_arms_are_trained_on_a_released_model(opened):
    _, second = opened
    arm = second.dictionary("A/1", resampling="none", arm=True)
    assert arm.W_enc.shape == (32, 64)
    assert bits(arm) != bits(second.dictionary("A/1"))
    assert bits(second.dictionary("A/1")) != bits(second.dictionary("A/1", arm=True))
    assert [second.log("A", arm=arm)["n_tokens"].iloc[-1] for arm in (True, False)] == [5_120, 19_840]


def test_the_control_has_the_models_weights_in_another_order(tiny):
    lab = Lab("tiny", device="cpu")
    model, control = (dict(lab.model(name).named_parameters()) for name in ("A", "S"))
    for name, weight in model.items():
        is_matrix = weight.ndim > 1 and ".b_" not in name
        assert torch.equal(weight.flatten().sort().values, control[name].flatten().sort().values)
        assert torch.equal(weight, control[name]) != is_matrix, name


def test_held_out_contexts_run_through_the_whole_split(tiny):
    lab = Lab("tiny", device="cpu")
    few, many = lab.validation(320), lab.validation()
    assert few.shape == (10, 32)
    assert many.shape == (62, 32)
    assert few.dtype == torch.int64
    assert torch.equal(few[1], many[9])


@pytest.mark.parametrize(
    ("ask", "named"),
    [
        (lambda lab: lab.model("C"), "no model 'C'"),
        (lambda lab: lab.dictionary("A/9"), "no dictionary 'A/9'"),
        (lambda lab: lab.dictionary("A/1", resampling="often"), "'often' is unknown"),
    ],
)
def test_unknown_names_are_named(tiny, ask, named):
    with pytest.raises(BookError, match=named):
        ask(Lab("tiny", device="cpu"))


@pytest.mark.parametrize("seed", [-1, True, 2**32])
def test_a_seed_out_of_its_range_is_refused_at_once(seed):
    with pytest.raises(BookError, match=f"SEED={seed} is no seed; give a whole number from 0 to 4294967295"):
        Lab("smoke", seed)


def test_an_unknown_scale_lists_those_there_are():
    with pytest.raises(BookError, match="SCALE=foo is unknown; choose one of smoke, laptop, night, released, colab, paper"):
        Lab("foo")
