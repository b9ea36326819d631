"""Toy models: what they are asked, gradients against autograd, exact geometry, closed forms, and results known on paper."""

import math

import pytest
import torch

from sae_lib import toy
from sae_lib.errors import BookError


def polygon(n: int) -> torch.Tensor:
    """Unit vectors to the corners of a regular polygon, as columns."""
    angles = 2 * math.pi * torch.arange(n) / n
    return torch.stack([angles.cos(), angles.sin()])


def model_of(W: torch.Tensor, W_out: torch.Tensor | None = None, b: torch.Tensor | None = None) -> toy.ToyFit:
    """One toy model an experiment from its weights."""
    b = torch.zeros(*W.shape[:-2], W.shape[-1]) if b is None else b
    return toy.ToyFit(W, W if W_out is None else W_out, b, torch.zeros(W.shape[:-2]))


# Tasks and inputs


def test_a_task_of_several_densities():
    task = toy.ToyTask.of(4, 2, (1.0, 0.1), 0.5)
    assert torch.allclose(task.density, torch.tensor([1.0, 0.1])[:, None].expand(2, 4))
    assert torch.allclose(task.importance, torch.tensor([1.0, 0.5, 0.25, 0.125]).expand(2, 4))
    assert task.n_features == 4
    assert torch.allclose(task.empty_chance, torch.tensor([0.0, 0.9**4]))


@pytest.mark.parametrize(("groups", "empty"), [("free", 0.9**4), ("together", 0.9**2), ("apart", 0.8**2)])
def test_chance_of_an_empty_input(groups, empty):
    task = toy.ToyTask.of(4, 2, (0.1,), groups=groups, group_size=2)
    assert task.empty_chance.item() == pytest.approx(empty)


@pytest.mark.parametrize("density", [1.0, 0.3, 0.02])
def test_inputs_have_the_density_once_empty_ones_are_counted(density, generator):
    task = toy.ToyTask.of(5, 2, (density,))
    x = toy.draw(task, 200_000, generator)[0]
    assert x.shape == (200_000, 5)
    assert ((x >= 0) & (x <= 1)).all()
    assert (x > 0).any(1).all()
    present = (x > 0).float().mean(0) * (1 - task.empty_chance)
    assert torch.allclose(present, torch.full((5,), density), atol=0.006)
    sizes = x[x > 0]
    assert sizes.mean().item() == pytest.approx(0.5, abs=0.01)
    assert sizes.var().item() == pytest.approx(1 / 12, abs=0.003)


def test_features_are_independent_once_empty_inputs_are_counted(generator):
    density = torch.tensor([[0.5, 0.2, 0.1]])
    task = toy.ToyTask(density, torch.ones(1, 3), 1)
    present = (toy.draw(task, 100_000, generator)[0] > 0).float()
    together = present.T @ present / len(present) * (1 - task.empty_chance)
    expected = density.T @ density
    expected.fill_diagonal_(0)
    assert torch.allclose(together - together.diag().diag(), expected, atol=0.005)
    assert torch.allclose(together.diag(), density[0], atol=0.005)


def test_absolute_values_are_asked_of_signed_inputs(generator):
    task = toy.ToyTask.of(3, 6, (0.5,), target="absolute", hidden_relu=True)
    x = toy.draw(task, 5_000, generator)
    assert x.min() < -0.9
    assert x.max() > 0.9
    assert torch.equal(task.wanted(x), x.abs())


def test_groups_come_together_or_never(generator):
    together = toy.draw(toy.ToyTask.of(4, 2, (0.3,), groups="together", group_size=2), 5_000, generator)[0] > 0
    assert torch.equal(together[:, 0], together[:, 1])
    assert torch.equal(together[:, 2], together[:, 3])
    assert (together[:, 0] != together[:, 2]).any()
    apart_task = toy.ToyTask.of(4, 2, (0.3,), groups="apart", group_size=2)
    apart = toy.draw(apart_task, 50_000, generator)[0] > 0
    assert not (apart[:, 0] & apart[:, 1]).any()
    assert (apart[:, 0] & apart[:, 2]).any()
    assert torch.allclose(apart.float().mean(0) * (1 - apart_task.empty_chance), torch.full((4,), 0.3), atol=0.01)


FINE = {"n_features": 4, "d_hidden": 2, "densities": (0.5,)}


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        ({"n_features": 0}, "at least 1 feature"),
        ({"d_hidden": 0}, "at least 1 feature"),
        ({"importance_base": 0.0}, "importance_base"),
        ({"importance_base": 1.5}, "importance_base"),
        ({"densities": ()}, "at least one density"),
        ({"densities": (0.5, 0.0)}, "above 0"),
        ({"densities": (math.nan,)}, "above 0"),
        ({"groups": "sometimes"}, "choose of"),
        ({"target": "square"}, "choose of"),
        ({"group_size": 3}, "groups of 3"),
        ({"group_size": 4, "groups": "apart"}, "above 1/4"),
    ],
)
def test_impossible_tasks_are_refused(wrong, word):
    with pytest.raises(BookError, match=word):
        toy.ToyTask.of(**(FINE | wrong))


def test_importances_must_fit_the_densities(monkeypatch):
    monkeypatch.setattr("jaxtyping.config.jaxtyping_disable", True)
    with pytest.raises(BookError, match="one shape"):
        toy.ToyTask(torch.full((1, 3), 0.5), torch.ones(1, 2), 1)
    with pytest.raises(BookError, match="importance"):
        toy.ToyTask(torch.full((1, 3), 0.5), torch.tensor([[1.0, 0.0, 1.0]]), 1)


# Models


def test_run_by_hand():
    model = model_of(torch.tensor([[[1.0, -1.0]]]), b=torch.tensor([[0.0, 0.1]]))
    x = torch.tensor([[[0.5, 0.0], [0.0, 0.25]]])
    linear = toy.ToyTask.of(2, 1, (0.5,), output_relu=False)
    assert torch.allclose(toy.run(linear, x, model), torch.tensor([[[0.5, -0.4], [-0.25, 0.35]]]))
    assert torch.allclose(toy.run(toy.ToyTask.of(2, 1, (0.5,)), x, model), torch.tensor([[[0.5, 0.0], [0.0, 0.35]]]))


def test_loss_counts_the_empty_input_at_its_chance():
    task = toy.ToyTask(torch.tensor([[0.5, 0.5]]), torch.tensor([[1.0, 0.5]]), 1)
    model = model_of(torch.zeros(1, 1, 2), b=torch.tensor([[0.5, 0.0]]))
    x = torch.tensor([[[1.0, 2.0], [0.0, 1.0]]])
    # Full inputs: (0.25 + 0.5 * 4 + 0.25 + 0.5) / 2 = 1.5, empty: 0.25, and a quarter of the inputs is empty.
    assert toy.toy_loss(task, x, model).item() == pytest.approx(0.75 * 1.5 + 0.25 * 0.25)


@pytest.mark.parametrize("output_relu", [True, False])
@pytest.mark.parametrize(("target", "hidden_relu"), [("same", False), ("same", True), ("absolute", True)])
def test_gradients_are_autograds(target, hidden_relu, output_relu, generator):
    task = toy.ToyTask.of(6, 3, (0.4, 0.1), 0.8, target=target, hidden_relu=hidden_relu, output_relu=output_relu)
    restarts, batch = 3, 50
    x = toy.draw(task, batch, generator)
    weights = [torch.randn(2 * restarts, 3, 6, generator=generator) for _ in range(2)]
    b = 0.3 * torch.randn(2 * restarts, 6, generator=generator)
    W_in, W_out = weights[0], weights[0] if target == "same" else weights[1]
    model = toy.ToyFit(W_in, W_out, b, torch.zeros(2 * restarts))
    full = torch.nn.functional.pad(x, (0, 0, 0, 1))
    weight = torch.cat([((1 - task.empty_chance) / batch)[:, None].expand(-1, batch), task.empty_chance[:, None]], 1)
    toy.loss_and_gradients(task, full, weight, model)
    ours = [W_in.grad, b.grad] + ([W_out.grad] if target == "absolute" else [])

    leaf_in, leaf_b = W_in.clone().requires_grad_(), b.clone().requires_grad_()
    leaf_out = leaf_in if target == "same" else W_out.clone().requires_grad_()
    leaves = toy.ToyFit(*(tensor.unflatten(0, (2, restarts)) for tensor in (leaf_in, leaf_out, leaf_b, torch.zeros(2 * restarts))))
    toy.toy_loss(task, x, leaves).sum().backward()
    theirs = [leaf_in.grad, leaf_b.grad] + ([leaf_out.grad] if target == "absolute" else [])
    for mine, other in zip(ours, theirs, strict=True):
        assert torch.allclose(mine, other, atol=1e-6, rtol=1e-4)


def test_many_models_learn_what_each_would_learn_alone():
    """A batch of models is the same models: no one sees another's gradient."""
    together = toy.fit(toy.ToyTask.of(4, 2, (0.5, 0.5), 0.8), n_restarts=1, n_steps=50, seed=3)
    start = model_of(together.W[:, :1] * 0 + torch.randn(1, 1, 2, 4, generator=torch.Generator().manual_seed(0)))
    pair = toy.fit(toy.ToyTask.of(4, 2, (0.5, 0.5), 0.8), n_restarts=1, n_steps=50, seed=3, start=start)
    alone = toy.fit(
        toy.ToyTask.of(4, 2, (0.5,), 0.8), n_restarts=1, n_steps=50, seed=3, start=toy.ToyFit(*(tensor[:1] for tensor in start))
    )
    assert torch.allclose(pair.W[0], alone.W[0], atol=1e-5)
    assert torch.allclose(pair.W[0], pair.W[1], atol=1e-5)


def test_best_keeps_the_restart_with_the_lowest_loss():
    loss = torch.tensor([[3.0, 1.0, 2.0], [0.5, 4.0, 4.0]])
    W = torch.arange(12.0).reshape(2, 3, 1, 2)
    best = toy.ToyFit(W, W, W[:, :, 0], loss).best
    assert best.loss.tolist() == [1.0, 0.5]
    assert torch.equal(best.W, torch.stack([W[0, 1], W[1, 0]]))
    assert torch.equal(best.b, torch.stack([W[0, 1, 0], W[1, 0, 0]]))


def test_the_same_seed_gives_the_same_bits():
    task = toy.ToyTask.of(3, 2, (0.5, 0.1), 0.9)
    first, again, other = (toy.fit(task, n_restarts=2, n_steps=20, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(first.W, again.W)
    assert torch.equal(first.b, again.b)
    assert torch.equal(first.loss, again.loss)
    assert not torch.equal(first.W, other.W)
    assert first.W.shape == (2, 2, 2, 3)
    assert first.loss.shape == (2, 2)


def test_a_history_ends_where_it_should():
    steps, states = toy.history(toy.ToyTask.of(3, 2, (0.5,)), n_restarts=2, n_steps=25, every=10, seed=1)
    assert steps == [10, 20, 25]
    assert states.W.shape == (3, 1, 2, 2, 3)
    assert not torch.equal(states.W[0], states.W[1])


@pytest.mark.parametrize("wrong", [{"n_restarts": 0}, {"n_steps": 0}])
def test_a_fit_needs_a_model_and_a_step(wrong):
    with pytest.raises(BookError, match="at least 1"):
        toy.fit(toy.ToyTask.of(3, 2, (0.5,)), **wrong)


@pytest.mark.parametrize(("density", "kept"), [(0.3, 2), (1.0, 1)])
def test_two_features_in_one_dimension_reach_the_closed_form(density, kept):
    """Trained weights do as well as the closed form, and little better this far from a boundary."""
    task = toy.ToyTask.of(2, 1, (density,), 0.8)
    fitted = toy.fit(task, n_restarts=8, n_steps=800).best
    losses = toy.phase_losses(2, torch.tensor(density), torch.tensor(0.8))
    assert fitted.loss.item() == pytest.approx(losses.min().item(), rel=0.05)
    assert int(toy.represented(fitted.W).sum()) == kept


def test_the_linear_model_keeps_the_most_important_features():
    task = toy.ToyTask.of(4, 2, (1.0, 0.1), 0.5, output_relu=False)
    fitted = toy.fit(task, n_restarts=2, n_steps=800).best
    assert toy.represented(fitted.W).tolist() == [[True, True, False, False]] * 2
    assert toy.overlap(fitted.W)[:, :2].max() < toy.ORTHOGONAL


# Geometry


@pytest.mark.parametrize(
    ("W", "expected"), [(torch.eye(2), 1), (torch.tensor([[1.0, -1.0]]), 1 / 2), (polygon(3), 2 / 3), (polygon(5), 2 / 5)]
)
def test_dimensionality_of_regular_figures(W, expected):
    assert torch.allclose(toy.feature_dimensionality(W), torch.full((W.shape[1],), float(expected)), atol=1e-5)
    assert toy.dimensions_per_feature(W).item() == pytest.approx(W.shape[0] / W.shape[1])


def test_dimensionality_of_a_bipyramid_and_of_a_tegum_product():
    triangle = torch.cat([polygon(3), torch.zeros(1, 3)])
    poles = torch.tensor([[0.0, 0.0], [0.0, 0.0], [1.0, -1.0]])
    D = toy.feature_dimensionality(torch.cat([triangle, poles], 1))
    assert torch.allclose(D, torch.tensor([2 / 3] * 3 + [1 / 2] * 2), atol=1e-5)


def test_overlap_by_hand():
    W = torch.tensor([[1.0, 0.6, 0.0], [0.0, 0.8, 0.0]])
    assert torch.allclose(toy.overlap(W), torch.tensor([0.36, 0.36, 0.0]), atol=1e-6)
    assert toy.represented(W).tolist() == [True, True, False]


def test_measures_take_many_models_at_once(generator):
    W = torch.randn(4, 3, 2, 6, generator=generator)
    for measure in (toy.represented, toy.overlap, toy.feature_dimensionality, toy.pair_cosines, toy.collapsed_pairs):
        assert torch.allclose(measure(W)[1, 2].float(), measure(W[1, 2]).float(), atol=1e-6)


def test_a_feature_of_length_zero_has_no_dimension():
    W = torch.tensor([[1.0, 0.0]])
    assert toy.feature_dimensionality(W).tolist() == [1.0, 0.0]
    assert toy.overlap(W)[1] == 0


def test_first_overlap_reads_the_highest_density():
    orthogonal, pair = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[1.0, -1.0], [0.0, 0.0]])
    densities = (1.0, 0.3, 0.1)
    assert torch.allclose(toy.density_of_first_overlap(densities, torch.stack([orthogonal, pair, pair])), torch.tensor([0.3, 0.3]))
    assert toy.density_of_first_overlap(densities, orthogonal.expand(3, -1, -1)).tolist() == [0.0, 0.0]


def test_pairs_by_hand():
    W = torch.tensor([[1.0, -1.0, 0.7, 0.7], [0.0, 0.0, 0.1, 0.0]])
    assert torch.allclose(toy.pair_cosines(W), torch.tensor([-1.0, 0.99]), atol=0.01)
    assert toy.collapsed_pairs(W).tolist() == [False, True]


def test_components_name_the_figures():
    W = torch.zeros(5, 10)
    W[:2, :5] = polygon(5)
    W[2:4, 5:8] = polygon(3)
    W[4, 8:] = torch.tensor([1.0, 0.3])
    parts = toy.components(W)
    assert [(part.figure, len(part.features), round(part.dimensions, 3)) for part in parts] == [
        ("pentagon", 5, 2.0),
        ("triangle", 3, 2.0),
        ("own dimension", 1, pytest.approx(0.917, abs=0.01)),
    ] or parts[-1].figure == "other"
    assert parts[0].features == (0, 1, 2, 3, 4)
    assert toy.components(torch.zeros(2, 3)) == []


@pytest.mark.parametrize(("name", "figure"), [*toy.POLYTOPES.items()])
def test_polytopes_are_recognised_and_no_others(name, figure):
    corners, dimensions = figure
    share = torch.full((corners,), dimensions / corners).numpy()
    assert toy.nearest_polytope(share) == name
    assert toy.nearest_polytope(share - 0.05) == "other"
    assert toy.nearest_polytope(share[:0]) == "other"


def jump_history(at: int, loss_at: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A feature that goes from 1 to 1/2 around one state, and a loss that falls around another."""
    state = torch.arange(200.0)
    D = torch.stack([1 - 0.5 * torch.sigmoid((state - at) / 2), torch.full((200,), 0.5)], 1)
    return D, 1 - 0.4 * torch.sigmoid((state - loss_at) / 2)


def test_a_jump_with_its_drop_is_found():
    (swap,) = toy.swaps(*jump_history(100, 101))
    assert abs(swap.steepest - 100) <= 2
    assert swap.drop == pytest.approx(0.4, abs=0.05)
    assert swap.has_drop(within=2)


def test_a_jump_without_a_drop_at_its_place_is_told_apart():
    (swap,) = toy.swaps(*jump_history(100, 115))
    assert not swap.has_drop(within=2)
    D, loss = jump_history(100, 100)
    (flat,) = toy.swaps(D, torch.ones_like(loss))
    assert not flat.has_drop(within=200)


def test_the_first_tenth_of_training_does_not_count():
    assert toy.swaps(*jump_history(5, 5)) == []
    assert toy.swaps(torch.full((200, 3), 0.5), torch.ones(200)) == []
    with pytest.raises(BookError, match="at least 100"):
        toy.swaps(torch.zeros(50, 2), torch.ones(50))


def test_a_model_without_superposition_passes_an_attack_through():
    task = toy.ToyTask.of(3, 3, (0.5, 0.5))
    pair = torch.tensor([[1.0, -1.0, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, 0.0]])
    damage = toy.attack_damage(task, model_of(torch.stack([torch.eye(3), pair])))
    assert damage[0].item() == pytest.approx(1.0, abs=0.05)
    assert damage[1] > 1.2


# Closed forms


def test_boundary_is_where_the_losses_meet():
    for importance in (0.2, 0.8, 1.0, 1.5, 6.0):
        I = torch.tensor(importance)  # noqa: E741 (the paper's letter)
        p = toy.boundary(I)
        ignore_last, ignore_first, pair = toy.phase_losses(2, p, I)
        assert pair.item() == pytest.approx(torch.minimum(ignore_last, ignore_first).item(), rel=1e-5)
    assert toy.boundary(torch.tensor(1.0)).item() == pytest.approx(4 / 7)


def test_closed_forms_are_what_such_weights_cost(generator):
    """The pair's loss, from the toy's own loss on many inputs."""
    task = toy.ToyTask(torch.full((1, 2), 0.4), torch.tensor([[1.0, 0.6]]), 1)
    x = toy.draw(task, 200_000, generator)
    pair = toy.toy_loss(task, x, model_of(torch.tensor([[[1.0, -1.0]]])))
    ignore = toy.toy_loss(task, x, model_of(torch.tensor([[[1.0, 0.0]]]), b=torch.tensor([[0.0, 0.2]])))
    closed = toy.phase_losses(2, torch.tensor(0.4), torch.tensor(0.6))
    assert pair.item() == pytest.approx(closed[2].item(), rel=0.01)
    assert ignore.item() == pytest.approx(closed[0].item(), rel=0.01)


def test_phases_are_read_off_the_unseen_direction():
    two = torch.tensor([[[1.0, 0.02]], [[0.01, 1.0]], [[0.8, -0.8]]])
    assert toy.phase(two).tolist() == [0, 1, 2]
    three = torch.tensor(
        [
            [[1.0, 0, 0], [0, 1, 0]],
            [[1.0, 0, 0], [0, 0, 1]],
            [[1.0, 0, 0], [0, 1, -1]],
            [[1.0, -1, 0], [0, 0, 1]],
            polygon(3).tolist(),
        ]
    )
    assert toy.phase(three).tolist() == [0, 1, 2, 3, 4]
    assert len(toy.PHASES[3]) == 5
    with pytest.raises(BookError, match="two features in one dimension"):
        toy.phase(torch.eye(3))
    with pytest.raises(BookError, match="2 and 3 features"):
        toy.phase_losses(4, torch.tensor(0.1), torch.tensor(1.0))


def test_one_hot_codes_by_hand():
    losses = toy.code_losses(4).set_index("answers_to")["loss"]
    assert losses[1] == pytest.approx(0.75 * math.log(3))
    assert losses[2] == pytest.approx(math.log(2))
    assert losses[0] == pytest.approx(math.log(4))
    assert losses.idxmin() == 2
    with pytest.raises(BookError, match="at least 2"):
        toy.code_losses(1)


# Neurons


def test_neurons_by_hand():
    W_in = torch.tensor([[[1.0, 0.0, 0.0], [0.6, 0.8, 0.1], [0.0, 0.0, 0.01]]])
    model = model_of(W_in, torch.ones(1, 3, 3))
    assert toy.answers(model)[0].tolist() == [[True, False, False], [True, True, False], [False, False, False]]
    assert toy.polysemantic(model).tolist() == [0.5]
    assert toy.neuron_counts(model).tolist() == [[1.0, 1.0, 1.0, 2.0]]


def test_the_motif_is_told_from_its_neighbours():
    def neuron(reads: list[float], writes: list[float]) -> toy.ToyFit:
        return model_of(torch.tensor([[reads]]), torch.tensor([[writes]]))

    (found,) = toy.motifs(neuron([-0.5, 2.0, 0.0], [2.0, 0.5, 0.0]))
    assert found.features == (1, 0)
    assert found.w_in == (2.0, -0.5)
    assert found.w_out == (0.5, 2.0)
    assert toy.motifs(neuron([0.5, 2.0, 0.0], [2.0, 0.5, 0.0])) == []  # of one sign
    assert toy.motifs(neuron([-1.0, 2.0, 0.0], [2.0, 1.0, 0.0])) == []  # too equal
    assert toy.motifs(neuron([-0.5, 2.0, 1.0], [2.0, 0.5, 1.0])) == []  # a third feature


def test_absolute_value_of_one_feature_is_learnt():
    task = toy.ToyTask.of(1, 2, (0.5,), target="absolute", hidden_relu=True)
    fitted = toy.fit(task, n_restarts=8, n_steps=600).best
    assert fitted.loss.item() < 1e-4
    assert sorted(fitted.W_in[0, :, 0].sign().tolist()) == [-1.0, 1.0]


# Points


def test_points_have_norm_one_and_data_sets_differ():
    task = toy.ToyTask.of(20, 2, (0.1,))
    x = toy.draw_points(task, 7, 2, seed=0)
    assert x.shape == (2, 7, 20)
    assert torch.allclose(x.norm(dim=-1), torch.ones(2, 7))
    assert not torch.equal(x[0], x[1])


def test_few_points_form_a_polygon():
    fitted = toy.fit_points(toy.ToyTask.of(200, 2, (0.02,)), 5, n_datasets=2, n_steps=800)
    assert fitted.h.shape == (2, 2, 5)
    assert fitted.train_loss.max() < 0.1
    assert toy.feature_dimensionality(fitted.h).median().item() == pytest.approx(2 / 5, rel=0.1)
    assert (fitted.model.loss > 3 * fitted.train_loss).all()


def test_more_points_than_a_step_sees_are_drawn_anew(monkeypatch):
    monkeypatch.setattr("sae_lib.toy.points.MOST_POINTS", 8)
    fitted = toy.fit_points(toy.ToyTask.of(10, 2, (0.2,)), 20, n_steps=10)
    assert fitted.x.shape == (1, 20, 10)
    assert fitted.train_loss.isfinite().all()
    with pytest.raises(BookError, match="at least 1"):
        toy.fit_points(toy.ToyTask.of(10, 2, (0.2,)), 0)


def test_a_bump_by_hand():
    n = torch.tensor([3, 10, 100, 1000])
    assert toy.bump(n, torch.tensor([1.0, 1.5, 1.1, 0.8])) == pytest.approx(0.5)
    assert toy.bump(n.flip(0), torch.tensor([1.0, 1.5, 1.1, 0.8]).flip(0)) == pytest.approx(0.5)
    assert toy.bump(n, torch.tensor([1.0, 0.9, 0.85, 0.8])) < 0
