"""The written-out gradients against autograd on the readable loss."""

import pytest
import torch

from sae_lib.sae import SAEConfig, SparseAutoencoder
from sae_lib.step import loss_and_gradients


@pytest.fixture(params=["mean", "sum"])
def trained(request, generator):
    sae = SparseAutoencoder(SAEConfig(d_in=32, d_sae=96, l1_coeff=3e-3, mse=request.param), seed=4)
    with torch.no_grad():
        for parameter in sae.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return sae


def gradients(sae):
    return {name: parameter.grad.clone() for name, parameter in sae.named_parameters()}


def relative(a, b):
    return ((a - b).norm() / b.norm()).item()


def test_float32_gradients_and_loss_are_autograds(trained, generator):
    x = torch.randn(50, 32, generator=generator).relu()
    out = trained(x)
    out.loss.backward()
    wanted = gradients(trained)
    step = loss_and_gradients(trained, x)
    for name, found in gradients(trained).items():
        assert relative(found, wanted[name]) < 1e-5, name
    torch.testing.assert_close(step.mse, out.mse)
    torch.testing.assert_close(step.l1, out.l1)
    torch.testing.assert_close(step.feature_acts, out.feature_acts)
    torch.testing.assert_close(step.activation_sums, out.feature_acts.sum(0))


def test_bf16_gradients_point_the_same_way(trained, generator):
    x = torch.randn(200, 32, generator=generator).relu()
    loss_and_gradients(trained, x)
    wanted = gradients(trained)
    loss_and_gradients(trained, x, bf16=True)
    for name, found in gradients(trained).items():
        assert found.dtype == torch.float32
        assert relative(found, wanted[name]) < 0.05, name


def test_old_gradients_are_replaced_not_added_to(trained, generator):
    x = torch.randn(20, 32, generator=generator)
    loss_and_gradients(trained, x)
    first = gradients(trained)
    loss_and_gradients(trained, x)
    assert all(torch.equal(first[name], found) for name, found in gradients(trained).items())
