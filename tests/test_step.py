"""The written-out gradients against autograd on the readable loss."""

import pytest
import torch

from sae_lib.sae import SAEConfig, SparseAutoencoder
from sae_lib.step import CompiledStep, DictionaryStep, ReadableStep


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


@pytest.mark.parametrize("make", [DictionaryStep, ReadableStep, lambda sae: CompiledStep(sae, backend="aot_eager")])
def test_float32_gradients_and_loss_are_autograds(make, trained, generator):
    x = torch.randn(50, 32, generator=generator).relu()
    out = trained(x)
    out.loss.backward()
    wanted = gradients(trained)
    step = make(trained)(x)
    for name, found in gradients(trained).items():
        assert relative(found, wanted[name]) < 1e-5, name
    torch.testing.assert_close(step.mse, out.mse)
    torch.testing.assert_close(step.l1, out.l1)
    assert torch.equal(step.fired != 0, out.feature_acts > 0)
    torch.testing.assert_close(step.activation_sums, out.feature_acts.sum(0))


@pytest.mark.parametrize("shape", [(50, 96), (33, 95), (64, 600)], ids=str)
@pytest.mark.parametrize("share", [0.02, 0.0], ids=["few", "none"])
def test_few_that_fire_give_the_same_gradients(shape, share, generator):
    batch, d_sae = shape
    sae = SparseAutoencoder(SAEConfig(d_in=32, d_sae=d_sae, l1_coeff=3e-3), seed=4)
    x = torch.randn(batch, 32, generator=generator)
    with torch.no_grad():
        pre = (x - sae.b_dec) @ sae.W_enc
        sae.b_enc.fill_(-pre.quantile(1 - share) - (0 if share else 1))
    out = sae(x)
    out.loss.backward()
    wanted = gradients(sae)
    step = DictionaryStep(sae)
    assert (out.feature_acts > 0).float().mean() < step.few
    step._over_all = None  # it must not be needed
    done = step(x)
    for name, found in gradients(sae).items():
        assert (found - wanted[name]).norm() <= 1e-5 * wanted[name].norm(), name
    torch.testing.assert_close([done.mse, done.l1, done.activation_sums], [out.mse, out.l1, out.feature_acts.sum(0)])
    assert torch.equal(done.fired != 0, out.feature_acts > 0)


def test_bf16_gradients_point_the_same_way(trained, generator):
    x = torch.randn(200, 32, generator=generator).relu()
    DictionaryStep(trained)(x)
    wanted = gradients(trained)
    for step in (DictionaryStep(trained, bf16=True), CompiledStep(trained, bf16=True, backend="aot_eager")):
        step(x)
        for name, found in gradients(trained).items():
            assert found.dtype == torch.float32
            assert relative(found, wanted[name]) < 0.05, name


def test_old_gradients_are_replaced_not_added_to(trained, generator):
    x = torch.randn(20, 32, generator=generator)
    step = DictionaryStep(trained)
    step(x)
    first = gradients(trained)
    step(x)
    assert all(torch.equal(first[name], found) for name, found in gradients(trained).items())


def test_parts_of_a_batch_add_up(trained, generator):
    x = torch.randn(50, 32, generator=generator).relu()
    step = DictionaryStep(trained)
    whole = step(x)
    mse, wanted = whole.mse.clone(), gradients(trained)
    sums = {name: torch.zeros_like(value) for name, value in wanted.items()}
    parts = torch.zeros(())
    for part in (x[:20], x[20:]):
        parts += step(part, n_inputs=50).mse
        for name, found in gradients(trained).items():
            sums[name] += found
    assert parts.item() == pytest.approx(mse.item(), rel=1e-5)
    assert all(relative(sums[name], wanted[name]) < 1e-5 for name in wanted)


def test_two_thousand_bf16_steps_end_where_the_readable_ones_do(generator):
    planted = torch.nn.functional.normalize(torch.randn(64, 32, generator=generator), dim=1)

    def batches():
        draw = torch.Generator().manual_seed(1)
        for _ in range(2_000):
            present = torch.rand(128, 64, generator=draw) < 0.05
            yield (present * torch.rand(128, 64, generator=draw)) @ planted

    ends = {}
    for kind in ("readable", "whole", "few"):
        sae = SparseAutoencoder(SAEConfig(d_in=32, d_sae=96, l1_coeff=3e-3), seed=4)
        optimizer = torch.optim.Adam(sae.parameters(), lr=1e-3)
        step = DictionaryStep(sae, bf16=True)
        step.few = 1 if kind == "few" else 0
        for x in batches():
            if kind == "readable":
                optimizer.zero_grad()
                sae(x).loss.backward()
            else:
                step(x)
            sae.project_decoder_gradient_()
            optimizer.step()
            sae.normalize_decoder_()
        with torch.no_grad():
            out = sae(torch.cat(list(batches())[-50:]))
        ends[kind] = out.loss.item(), (out.feature_acts > 0).sum(-1).float().mean().item()
    wanted_loss, wanted_l0 = ends.pop("readable")
    assert 1 < wanted_l0 < 20
    for loss, l0 in ends.values():
        assert loss == pytest.approx(wanted_loss, rel=0.01)
        assert l0 == pytest.approx(wanted_l0, rel=0.03)
