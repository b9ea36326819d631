"""With and without the projection: equal but for it."""

from dataclasses import replace

import pytest
import small
import torch

from sae_lib import projection
from sae_lib.errors import BookError
from sae_lib.resampling import ResamplingSchedule
from sae_lib.sae import SAEConfig, SparseAutoencoder

CFG = SAEConfig(d_in=32, d_sae=64, l1_coeff=1e-2)
RECIPE = replace(small.DICTIONARY, n_activations=960, resampling=ResamplingSchedule((), 10, 480))


def test_only_the_projection_is_left_out():
    kinds = SparseAutoencoder(CFG, 3), projection.Unprojected(CFG, 3)
    x = torch.rand(8, 32, generator=torch.Generator().manual_seed(0))
    for sae in kinds:
        sae(x).loss.backward()
        sae.project_decoder_gradient_()
    assert torch.equal(kinds[0].W_enc.grad, kinds[1].W_enc.grad)
    along = [(sae.W_dec.grad * sae.W_dec).sum(1).abs().max() for sae in kinds]
    assert along[0] < 1e-6 < along[1]


def test_pairs_differ_and_are_the_same_again(model, tokens):
    table = projection.with_and_without(model, tokens, CFG, RECIPE, (1, 2))
    assert table["seed"].tolist() == [1, 2]
    assert (table["gain"] == table["without"] - table["with"]).all()
    assert (table["gain"] != 0).all()
    assert table["gain"].abs().max() < table["with"].max()
    assert table.equals(projection.with_and_without(model, tokens, CFG, RECIPE, (1, 2)))


def test_pairs_start_as_the_dictionaries_of_the_scale_do(model, tokens, monkeypatch):
    started = []

    def only_begin(sae, *_):
        started.append(sae)
        yield 1, {"loss": float(len(started))}

    monkeypatch.setattr(projection, "dictionary_steps", only_begin)
    for tied in (False, True):
        projection.with_and_without(model, tokens, CFG, RECIPE, (1, 2), tied_start=tied)
    along = [torch.nn.functional.cosine_similarity(sae.W_enc.T, sae.W_dec, dim=1) for sae in started]
    assert all(cosine.max() < 0.9 for cosine in along[:4])
    assert all(torch.allclose(cosine, torch.ones(64)) for cosine in along[4:])


def test_one_seed_is_too_few(model, tokens):
    with pytest.raises(BookError, match="1 seeds tell no spread"):
        projection.with_and_without(model, tokens, CFG, RECIPE, (1,))
