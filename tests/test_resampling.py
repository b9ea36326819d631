"""Each clause of the paper's resampling (paper-facts 1.3), statistical where the clause is."""

import pytest
import torch
from scipy.stats import chisquare

from sae_lib import resampling
from sae_lib.errors import BookError
from sae_lib.resampling import ResamplingSchedule, dead_features, draw_inputs, input_losses, reinitialise, reset_adam
from sae_lib.sae import SAEConfig, SparseAutoencoder


def test_the_default_schedule_is_the_papers():
    schedule = ResamplingSchedule()
    assert [step for step in range(1, 200_001) if schedule.is_due(step)] == [25_000, 50_000, 75_000, 100_000]
    assert schedule.window == 12_500
    assert schedule.n_inputs == 819_200
    assert not ResamplingSchedule(method="none").is_due(25_000)


def test_dead_means_no_firing_in_the_window():
    # After step 100 with a window of 10: the steps 91..100 count.
    last_fired = torch.tensor([0, 90, 91, 100])
    assert dead_features(last_fired, step=100, window=10).tolist() == [True, True, False, False]


def test_losses_are_those_of_the_current_dictionary(sae, generator):
    x = torch.randn(20, 32, generator=generator).relu()
    losses = input_losses(sae, x)
    for i in range(20):
        assert losses[i].item() == pytest.approx(sae(x[i : i + 1]).loss.item(), rel=1e-5)
    with torch.no_grad():
        sae.b_dec += 1
    assert not torch.allclose(input_losses(sae, x), losses)


def test_the_draw_is_proportional_to_squared_loss(generator):
    # A dictionary of one silent feature: the loss of x is |x|^2 / d_in, so inputs of norm 1, sqrt 2, sqrt 3, 2 have
    # losses in ratio 1 : 2 : 3 : 4 and must be drawn in ratio 1 : 4 : 9 : 16.
    sae = SparseAutoencoder(SAEConfig(d_in=4, d_sae=1, l1_coeff=0.1))
    with torch.no_grad():
        sae.b_enc.fill_(-100)
    x = torch.diag(torch.tensor([1.0, 2.0, 3.0, 4.0]).sqrt())
    counts = torch.zeros(4)
    n = 4_000
    for _ in range(n):
        counts[draw_inputs(sae, [x[:1], x[1:]], 1, generator).argmax()] += 1
    expected = torch.tensor([1.0, 4.0, 9.0, 16.0]) / 30 * n
    assert chisquare(counts.numpy(), expected.numpy()).pvalue > 0.001
    # And not to the loss itself, which is what an unsquared rule would do.
    assert chisquare(counts.numpy(), (torch.tensor([1.0, 2.0, 3.0, 4.0]) / 10 * n).numpy()).pvalue < 1e-6


def test_no_input_is_drawn_twice_and_order_of_batches_does_not_matter_for_the_set(sae, generator):
    x = torch.randn(50, 32, generator=generator)
    drawn = draw_inputs(sae, x.split(7), 50, generator)
    assert len(drawn.unique(dim=0)) == 50


def test_too_few_inputs_is_an_error(sae, generator):
    with pytest.raises(BookError, match="5 features are dead but only 3"):
        draw_inputs(sae, [torch.randn(3, 32)], 5, generator)


def test_reinitialised_features_by_the_clauses(sae, generator):
    with torch.no_grad():
        sae.b_enc.copy_(torch.randn(64, generator=generator))
    before = {name: value.clone() for name, value in sae.state_dict().items()}
    dead = torch.zeros(64, dtype=torch.bool)
    dead[[3, 17, 40]] = True
    x = 5 * torch.randn(3, 32, generator=generator)
    live_norm = before["W_enc"][:, ~dead].norm(dim=0).mean()
    reinitialise(sae, dead, x)
    unit = x / x.norm(dim=1, keepdim=True)
    torch.testing.assert_close(sae.W_dec[dead].detach(), unit)
    torch.testing.assert_close(sae.W_enc[:, dead].detach(), 0.2 * live_norm * unit.T)
    assert (sae.b_enc[dead] == 0).all()
    for name, entries in (("W_dec", ~dead), ("b_enc", ~dead)):
        assert torch.equal(sae.state_dict()[name][entries], before[name][entries])
    assert torch.equal(sae.W_enc[:, ~dead], before["W_enc"][:, ~dead])
    assert torch.equal(sae.b_dec, before["b_dec"])


def test_all_features_dead_and_an_input_of_zeros_stay_finite(sae):
    reinitialise(sae, torch.ones(64, dtype=torch.bool), torch.zeros(64, 32))
    assert all(value.isfinite().all() for value in sae.state_dict().values())
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(64))


def test_adam_is_zeroed_at_exactly_the_changed_entries(sae, generator):
    optimizer = torch.optim.Adam(sae.parameters(), lr=1e-3)
    for _ in range(3):
        sae(torch.randn(10, 32, generator=generator)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    before = {p: {k: v.clone() for k, v in optimizer.state[p].items()} for p in sae.parameters()}
    dead = torch.zeros(64, dtype=torch.bool)
    dead[[0, 63]] = True
    reset_adam(optimizer, sae, dead)
    masks = {sae.W_enc: dead.expand(32, 64), sae.b_enc: dead, sae.W_dec: dead[:, None].expand(64, 32)}
    masks[sae.b_dec] = torch.zeros(32, dtype=torch.bool)
    for parameter, mask in masks.items():
        for moment in ("exp_avg", "exp_avg_sq"):
            now, then = optimizer.state[parameter][moment], before[parameter][moment]
            assert (now[mask] == 0).all()
            assert torch.equal(now[~mask], then[~mask])
        assert optimizer.state[parameter]["step"] == before[parameter]["step"]


@pytest.mark.parametrize("method", ["paper", "naive"])
def test_a_resampling_changes_the_dead_and_only_them(sae, generator, method):
    optimizer = torch.optim.Adam(sae.parameters())
    dead = torch.zeros(64, dtype=torch.bool)
    dead[:10] = True
    before = sae.W_dec.detach().clone()
    n = resampling.resample_dead_features(sae, optimizer, dead, [torch.rand(100, 32)], method, generator)
    changed = (sae.W_dec != before).any(1)
    assert n == 10
    assert torch.equal(changed, dead)
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(64))
    assert (sae.b_enc[dead] == 0).all()


def test_nothing_dead_reads_nothing(sae, generator):
    def never():
        raise AssertionError("the inputs were read")
        yield

    optimizer = torch.optim.Adam(sae.parameters())
    assert resampling.resample_dead_features(sae, optimizer, torch.zeros(64, dtype=torch.bool), never(), "paper", generator) == 0


def test_unknown_method_is_named():
    with pytest.raises(BookError, match="'kaiming' is unknown"):
        ResamplingSchedule(method="kaiming")
