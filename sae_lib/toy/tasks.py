"""What toy models are asked to do, and the inputs they are asked it on.

    x_i = 0 with chance 1 - density_i, else uniform on [0, 1]

Source: Elhage et al. 2022, "Demonstrating Superposition".
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from sae_lib.errors import BookError

GROUPS = ("free", "together", "apart")
TARGETS = ("same", "absolute")


@dataclass(frozen=True, eq=False)
class ToyTask:
    """What the models of some experiments have to do. The experiments differ in densities and importances alone."""

    density: Float[Tensor, "experiment n_features"]
    """Chance that a feature is present in an input."""
    importance: Float[Tensor, "experiment n_features"]
    """Weight of a feature in the loss."""
    d_hidden: int
    """Numbers the model may keep of an input."""
    output_relu: bool = True
    """Whether the output passes a ReLU; False makes a model without a hidden ReLU linear."""
    hidden_relu: bool = False
    """Whether the hidden numbers pass a ReLU, which makes them neurons."""
    target: str = "same"
    """What is to come out: the input itself ("same") or its absolute value ("absolute", on inputs with a sign)."""
    groups: str = "free"
    """Whether the features of a group come independently ("free"), always "together", or never two of them ("apart")."""
    group_size: int = 1
    """Features of a group, which are neighbours."""

    def __post_init__(self) -> None:
        if self.d_hidden < 1 or self.density.shape[-1] < 1:
            raise BookError(f"a toy model needs at least 1 feature and 1 dimension, not {self.density.shape[-1]} and {self.d_hidden}")
        if self.density.shape != self.importance.shape or not len(self.density):
            raise BookError(f"densities {list(self.density.shape)} and importances {list(self.importance.shape)} must be of one shape")
        if not ((self.density > 0) & (self.density <= 1)).all():
            raise BookError("every density of a toy task must lie above 0 and at most at 1")
        if not ((self.importance > 0) & self.importance.isfinite()).all():
            raise BookError("every importance of a toy task must be a number above 0")
        if self.groups not in GROUPS or self.target not in TARGETS:
            raise BookError(f"groups={self.groups!r} and target={self.target!r}: choose of {', '.join(GROUPS)} and of {', '.join(TARGETS)}")
        if self.group_size < 1 or self.n_features % self.group_size:
            raise BookError(f"{self.n_features} features cannot be cut into groups of {self.group_size}")
        if self.groups == "apart" and self.group_chance.max() > 1 + 1e-6:
            raise BookError(f"{self.group_size} features that never meet cannot each have a density above 1/{self.group_size}")

    @classmethod
    def of(
        cls, n_features: int, d_hidden: int, densities: Sequence[float], importance_base: float = 1.0, **more: bool | str | int
    ) -> "ToyTask":
        """One experiment for each density, in which all features are equally dense.

        Args:
            n_features: numbers of an input.
            d_hidden: numbers the model may keep of it.
            densities: chance that a feature is present, one experiment each.
            importance_base: feature i (from 0) has importance importance_base ** i.
            more: further fields.
        """
        if not len(densities):
            raise BookError("a toy task needs at least one density")
        if not 0 < importance_base <= 1:
            raise BookError(f"importance_base is {importance_base}; it must lie above 0 and at most at 1")
        density = torch.tensor(densities, dtype=torch.float32)[:, None].expand(-1, n_features)
        importance = (importance_base ** torch.arange(n_features, dtype=torch.float32)).expand(len(densities), -1)
        return cls(density.contiguous(), importance.contiguous(), d_hidden, **more)

    @property
    def n_features(self) -> int:
        """Numbers of an input."""
        return self.density.shape[1]

    @property
    def group_chance(self) -> Float[Tensor, "experiment group"]:
        """Chance that anything of a group is present."""
        first = self.density[:, :: self.group_size]
        return first * self.group_size if self.groups == "apart" else first if self.groups == "together" else self.density

    @property
    def empty_chance(self) -> Float[Tensor, " experiment"]:
        """Chance that an input holds no feature at all."""
        return (1 - self.group_chance).prod(-1)

    def wanted(self, x: Float[Tensor, "*any n_features"]) -> Float[Tensor, "*any n_features"]:
        """What is to come out for an input."""
        return x.abs() if self.target == "absolute" else x


def draw(task: ToyTask, batch: int, generator: torch.Generator) -> Float[Tensor, "experiment batch n_features"]:
    """Inputs that hold at least one feature, in the proportions that the task's densities give them.

    Most inputs of a sparse task are empty, and all empty inputs are alike: they need not be drawn. The first feature that
    is present is drawn by its chance given that there is one; those before it are absent, those after it as independent
    as ever. All experiments read the same random numbers, so that they differ by their densities alone.

    Args:
        task: its densities and groups.
        batch: inputs for each experiment.
        generator: of the draw.

    Returns:
        Sizes on [0, 1], or on [-1, 1] for a task about absolute values; 0 where a feature is absent.

    Source: Elhage et al. 2022, "Demonstrating Superposition" (the distribution).
    Differs: empty inputs are left out here and weighed in the loss (`toy_loss`) by their exact chance.
    """
    chance = task.group_chance
    n_groups, whole = chance.shape[1], torch.arange(chance.shape[1])
    at_or_before = 1 - (1 - chance.double()).cumprod(-1)
    place = torch.rand(batch, generator=generator, dtype=torch.float64) * at_or_before[:, -1:]
    first = torch.searchsorted(at_or_before, place, right=True).clamp_max(n_groups - 1)[..., None]
    later = torch.rand(batch, n_groups, generator=generator) < chance[:, None]
    present = (whole == first) | (later & (whole > first))
    if task.groups != "free":
        present = present.repeat_interleave(task.group_size, -1)
    if task.groups == "apart":
        present = present & _one_of_each(batch, n_groups, task.group_size, generator)
    size = torch.rand(batch, task.n_features, generator=generator)
    return present * (2 * size - 1 if task.target == "absolute" else size)


def _one_of_each(batch: int, n_groups: int, size: int, generator: torch.Generator) -> Bool[Tensor, "batch n_features"]:
    chosen = torch.randint(size, (batch, n_groups, 1), generator=generator)
    return (torch.arange(size) == chosen).flatten(1)
