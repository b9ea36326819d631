"""Each clause of the paper's autoencoder by hand."""

import pytest
import torch

from sae_lib.errors import BookError
from sae_lib.sae import SAEConfig, SparseAutoencoder, geometric_median, kaiming_uniform


@pytest.fixture
def tiny() -> SparseAutoencoder:
    """Two inputs, three features, numbers that can be followed by hand."""
    sae = SparseAutoencoder(SAEConfig(d_in=2, d_sae=3, l1_coeff=0.1))
    with torch.no_grad():
        sae.W_enc.copy_(torch.tensor([[1.0, 0.0, -1.0], [0.0, 2.0, 1.0]]))
        sae.b_enc.copy_(torch.tensor([0.0, -1.0, 0.5]))
        sae.W_dec.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]]))
        sae.b_dec.copy_(torch.tensor([1.0, -1.0]))
    return sae


X = torch.tensor([[3.0, 0.0], [1.0, -1.0]])
# x - b_dec = [2, 1] and [0, 0]; times W_enc plus b_enc = [2, 1, -0.5] and [0, -1, 0.5].
ACTS = torch.tensor([[2.0, 1.0, 0.0], [0.0, 0.0, 0.5]])
# acts @ W_dec + b_dec.
X_HAT = torch.tensor([[3.0, 0.0], [1.3, -0.6]])


def test_encode_and_decode_by_hand(tiny):
    torch.testing.assert_close(tiny.encode(X), ACTS)
    torch.testing.assert_close(tiny.decode(ACTS), X_HAT)


@pytest.mark.parametrize(("reduction", "mse"), [("mean", 0.0625), ("sum", 0.125)])
def test_loss_by_hand(tiny, reduction, mse):
    # Errors: none on the first input, (0.3, 0.4) on the second: summed 0.25, averaged over two elements 0.125.
    sae = SparseAutoencoder(SAEConfig(2, 3, 0.1, mse=reduction))
    sae.load_state_dict(tiny.state_dict())
    out = sae(X)
    assert out.mse.item() == pytest.approx(mse)
    assert out.l1.item() == pytest.approx((3.0 + 0.5) / 2)
    assert out.loss.item() == pytest.approx(mse + 0.1 * 1.75)


def test_the_two_reductions_have_the_same_gradient_up_to_d_in():
    mean, total = (SparseAutoencoder(SAEConfig(8, 16, c, mse=m), seed=3) for m, c in (("mean", 0.01), ("sum", 0.08)))
    x = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    for sae in (mean, total):
        sae(x).loss.backward()
    torch.testing.assert_close(total.W_enc.grad, 8 * mean.W_enc.grad)


def test_lambda_is_printed_in_both_units():
    # The paper's 0.004 is 2.05 where the error is summed (paper-facts 1.2).
    assert SAEConfig(512, 4096, 0.004).describe_l1_coeff() == SAEConfig(512, 4096, 2.048, mse="sum").describe_l1_coeff()
    assert "0.004" in SAEConfig(512, 4096, 0.004).describe_l1_coeff()
    assert "2.05" in SAEConfig(512, 4096, 0.004).describe_l1_coeff()


def test_rows_start_with_norm_one_and_kaiming_bounds(sae):
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(64))
    assert sae.W_enc.abs().max() <= 32**-0.5
    drawn = kaiming_uniform(400, 400, fan_in=4, generator=torch.Generator().manual_seed(0))
    assert drawn.abs().max() <= 0.5
    assert drawn.std().item() == pytest.approx(0.5 / 3**0.5, rel=0.01)


def test_projection_leaves_the_gradient_tangent(sae, generator):
    sae(torch.randn(10, 32, generator=generator)).loss.backward()
    before = sae.W_dec.grad.clone()
    sae.project_decoder_gradient_()
    along = (sae.W_dec.grad * sae.W_dec).sum(1)
    torch.testing.assert_close(along, torch.zeros(64), atol=1e-8, rtol=0)
    # What was removed lies along the row.
    removed = before - sae.W_dec.grad
    torch.testing.assert_close(removed, (before * sae.W_dec).sum(1, keepdim=True) * sae.W_dec)


def test_a_tangent_step_lengthens_the_row_and_renormalisation_mends_it(sae, generator):
    optimizer = torch.optim.Adam(sae.parameters(), lr=0.1)
    sae(torch.randn(10, 32, generator=generator)).loss.backward()
    sae.project_decoder_gradient_()
    optimizer.step()
    assert (sae.W_dec.norm(dim=1) > 1.01).any()
    sae.normalize_decoder_()
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(64))


def test_projection_before_backward_is_an_error(sae):
    with pytest.raises(BookError, match="no gradient yet"):
        sae.project_decoder_gradient_()


def test_geometric_median_is_not_the_mean():
    # Three of five points lie at the origin: the median stays there whatever the other two do.
    x = torch.tensor([[0.0, 0.0]] * 3 + [[100.0, 0.0], [0.0, 40.0]])
    assert geometric_median(x, n_steps=500).norm() < 1e-2
    # At the corners of a square it is the centre.
    corners = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0], [2.0, 2.0]])
    torch.testing.assert_close(geometric_median(corners), torch.tensor([1.0, 1.0]))


def test_geometric_median_minimises_the_summed_distance(generator):
    x = torch.randn(200, 5, generator=generator).exp()
    median = geometric_median(x)

    def cost(point):
        return (x - point).norm(dim=1).sum()

    for direction in torch.randn(20, 5, generator=generator):
        assert cost(median) <= cost(median + 0.01 * direction)


@pytest.mark.parametrize("bad", [{"d_sae": 0}, {"l1_coeff": -1.0}, {"l1_coeff": float("nan")}, {"mse": "rms"}])
def test_bad_configs_are_named(bad):
    with pytest.raises(BookError, match=next(iter(bad))):
        SAEConfig(**{"d_in": 4, "d_sae": 8, "l1_coeff": 0.1} | bad)


def test_the_median_of_nothing_is_an_error():
    with pytest.raises(BookError, match="empty sample"):
        geometric_median(torch.empty(0, 3))
