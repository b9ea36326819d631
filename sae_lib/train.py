"""The two training loops: one for the language model, one for dictionaries.

Each is a generator of log rows and prints nothing. Every random choice is a function of the seed and the step,
so a run that was killed continues from its checkpoint to the same bits.
"""

import contextlib
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from sae_lib import parallel
from sae_lib.activations import ContextOrder, Stream, seeded
from sae_lib.corpus import TokenSplit
from sae_lib.errors import BookError
from sae_lib.machine import keep_freed_memory
from sae_lib.resampling import ResamplingSchedule, dead_features, resample_dead_features
from sae_lib.runs import Checkpoint, load_state
from sae_lib.sae import SparseAutoencoder, geometric_median
from sae_lib.step import CompiledStep, DictionaryStep, ReadableStep
from sae_lib.transformer import OneLayerTransformer

LOG_ROWS = 100
"""A training curve has about so many rows."""

DIVERGED, ROWS_ABOVE = 3.0, 10
"""A run is stopped whose loss is more than three times that of its first row for ten rows; resampling leaves a peak that passes."""


@dataclass(frozen=True)
class ModelTraining:
    """How a language model is trained."""

    n_tokens: int
    """Tokens seen in all; more than the corpus holds means several epochs."""
    batch_tokens: int
    """Tokens a step."""
    lr: float
    """Peak learning rate of AdamW."""
    seed: int
    """Seeds the order of the contexts."""
    weight_decay: float = 0.1
    """On matrices only."""
    warmup_share: float = 0.03
    """Share of the steps over which the rate rises from zero."""
    final_share: float = 0.1
    """Where the cosine ends, as a share of the peak rate."""
    clip: float = 1.0
    """Largest norm of the gradient."""
    bf16: bool = False
    """Products in bfloat16, weights in float32."""


@dataclass(frozen=True)
class DictionaryTraining:
    """How a dictionary is trained."""

    n_activations: int
    """Activation vectors seen in all."""
    batch_size: int
    """Activation vectors a step (8,192 in the paper)."""
    lr: float
    """Adam's learning rate, constant as in the paper."""
    seed: int
    """Seeds the order of the activations and every draw."""
    resampling: ResamplingSchedule = field(default_factory=ResamplingSchedule)
    """When and how dead features are resampled."""
    n_median: int = 16_384
    """Activations whose geometric median `b_dec` starts from."""
    bf16: bool = False
    """Products in bfloat16, weights in float32."""


def _autocast(device: torch.device, on: bool) -> contextlib.AbstractContextManager:
    return torch.autocast(device.type, torch.bfloat16) if on else contextlib.nullcontext()


class _Course:
    """Where a training run is: steps done, rows written, sums since the last row, and all that a checkpoint must hold.

    Args:
        what: "model" or "dictionary", for messages.
        n_steps: of the whole run.
        module: trained in place.
        optimizer: its own.
        checkpoint: resumed from if it exists.
        n_sums: values of a step that a row gives the means of.
        counters: further tensors that are part of the state; filled from the checkpoint.
    """

    def __init__(
        self,
        what: str,
        n_steps: int,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        checkpoint: Checkpoint,
        n_sums: int,
        **counters: Tensor,
    ) -> None:
        keep_freed_memory()
        self.what, self.n_steps, self.module, self.optimizer, self.checkpoint = what, n_steps, module, optimizer, checkpoint
        self.every = max(1, n_steps // LOG_ROWS)
        self.sums, self.seconds = torch.zeros(n_sums, device=module.device), torch.zeros((), dtype=torch.float64)
        self.counters = {"sums": self.sums, "seconds": self.seconds, **counters}
        self.first, self.rows, self.resumed = 1, [], False
        if saved := checkpoint.load():
            tensors, done, self.rows = saved
            self.first, self.resumed = done + 1, True
            self._restore(tensors)
        self._since = time.monotonic()

    def steps(self) -> range:
        """The numbers of the steps to do."""
        return range(self.first, self.n_steps + 1)

    def add(self, step: int, values: Tensor) -> None:
        """Add what a step measured; on a processor, where looking costs nothing, it is looked at."""
        self.sums += values
        if self.sums.device.type == "cpu":
            self._check(step)

    def is_logged(self, step: int) -> bool:
        """Whether a row follows this step."""
        return step % self.every == 0 or step == self.n_steps

    def means(self, step: int) -> list[float]:
        """The means of what was added since the last row; the next sums begin at zero."""
        self._check(step)
        means = (self.sums / ((step - 1) % self.every + 1)).tolist()
        self.sums.zero_()
        return means

    def log(self, step: int, loss: float, row: dict) -> dict:
        """Append a row, and stop a run whose loss has left all bounds."""
        self._clock()
        self.rows.append({"step": step, "n_steps": self.n_steps} | row | {"seconds": self.seconds.item()})
        self.seconds.zero_()
        if len(self.rows) > ROWS_ABOVE and all(row["loss"] > DIVERGED * self.rows[0]["loss"] for row in self.rows[-ROWS_ABOVE:]):
            raise BookError(
                f"the {self.what} diverged: its loss is {loss:.3g} at step {step}, and was {self.rows[0]['loss']:.3g} at first; "
                f"lower its learning rate. {self._kept()}"
            )
        return self.rows[-1]

    def save_if_due(self, step: int) -> None:
        """Write a checkpoint now and then, never of a state that is no longer finite."""
        if step < self.n_steps and self._is_due():
            self._check(step, weights=True)
            self._clock()
            state = {f"module.{name}": parallel.whole(value) for name, value in self.module.state_dict().items()}
            moments = {
                f"adam.{key}.{name}": parallel.whole(value)
                for name, parameter in self.module.named_parameters()
                for key, value in self.optimizer.state[parameter].items()
            }
            self.checkpoint.save(state | moments | self.counters, step, self.rows)

    def _is_due(self) -> bool:
        # Where the sums are, since processes that share accelerators send each other nothing else.
        due = torch.tensor(self.checkpoint.is_due(), device=self.sums.device)
        if any(map(parallel.is_sharded, self.module.parameters())):
            # The parts are put together by all processes, whose clocks differ.
            parallel.copy_from_first_([due])
        return bool(due)

    def _clock(self) -> None:
        now = time.monotonic()
        self.seconds += now - self._since
        self._since = now

    def _restore(self, tensors: dict[str, Tensor]) -> None:
        path = self.checkpoint.path
        load_state(self.module, {name[7:]: tensor for name, tensor in tensors.items() if name.startswith("module.")}, path)
        try:
            for name, parameter in self.module.named_parameters():
                for key in ("step", "exp_avg", "exp_avg_sq"):
                    value = tensors[f"adam.{key}.{name}"]
                    self.optimizer.state[parameter][key] = value if key == "step" else parallel.like(value.to(parameter.device), parameter)
            for name, counter in self.counters.items():
                counter.copy_(tensors[name])
        except KeyError as missing:
            raise BookError(f"{path} lacks {missing}; delete it and run the same command again") from None

    def _check(self, step: int, weights: bool = False) -> None:
        finite = bool(torch.isfinite(self.sums).all())
        if finite and not weights:
            return
        bad = [name for name, value in self.module.state_dict().items() if not torch.isfinite(value).all()]
        if finite and not bad:
            return
        cause = f"{', '.join(bad[:3])} no longer finite; lower its learning rate"
        if not bad:
            cause = "from finite weights: its input was not finite, or the weights have grown too large; look at the data and the rate"
        raise BookError(f"the {self.what} broke at step {step}: loss {self.sums.sum().item():.3g}, {cause}. {self._kept()}")

    def _kept(self) -> str:
        path = self.checkpoint.path
        return f"The last good state is in {path}" if path.exists() else "No checkpoint had been written"


def train_model(
    model: OneLayerTransformer, train: TokenSplit, validation: Tensor, recipe: ModelTraining, checkpoint: Checkpoint
) -> Iterator[dict]:
    """Train a language model in place and yield its curve: the rows of `model_steps`.

    Source: Bricken et al. 2023, "Problem Setup" (Adam).
    """
    return (row for _, row in model_steps(model, train, validation, recipe, checkpoint) if row is not None)


def model_steps(
    model: OneLayerTransformer, train: TokenSplit, validation: Tensor, recipe: ModelTraining, checkpoint: Checkpoint
) -> Iterator[tuple[int, dict | None]]:
    """Train a language model in place, step by step.

    Args:
        model: changed in place.
        train: the tokens.
        validation: held-out contexts [n, n_ctx], for `validation_loss`.
        recipe: how.
        checkpoint: resumed from, and written every few minutes.

    Yields:
        Every step's number, and with a hundredth of them a row: step, n_steps, n_tokens, loss and validation_loss
        (nats a token), lr, and seconds since the last row. A resumed run yields its old rows first.

    Raises:
        BookError: the loss is no longer a number or has left all bounds, the checkpoint does not fit, or the processes
            do not divide the batch.

    Source: Bricken et al. 2023, "Problem Setup" (Adam).
    Differs: AdamW, warm-up, cosine and clipping are ours; the paper states none of them.
    """
    device, n_ctx = model.device, model.cfg.n_ctx
    batch = max(1, recipe.batch_tokens // n_ctx)
    mine = parallel.share(batch, "contexts")
    n_steps = max(1, recipe.n_tokens // (batch * n_ctx))
    order = ContextOrder(train, n_ctx, recipe.seed)
    matrices = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    vectors = [parameter for parameter in model.parameters() if parameter.ndim == 1]
    groups = [{"params": matrices, "weight_decay": recipe.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=recipe.lr, betas=(0.9, 0.95), fused=True)
    course = _Course("model", n_steps, model, optimizer, checkpoint, n_sums=1)
    yield from ((row["step"], row) for row in course.rows.copy())
    loss_of = _Loss(model)
    if parallel.world() > 1:
        loss_of = nn.parallel.DistributedDataParallel(loss_of)
    for step in course.steps():
        for group in optimizer.param_groups:
            group["lr"] = recipe.lr * _cosine(step, n_steps, recipe.warmup_share, recipe.final_share)
        tokens = order.contexts((step - 1) * batch + parallel.rank() * mine, mine).to(device)
        with _autocast(device, recipe.bf16):
            loss = loss_of(tokens)
        measured = loss.detach() / parallel.world()
        parallel.sum_([measured])
        course.add(step, measured)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        row = None
        if course.is_logged(step):
            (mean,) = course.means(step)
            row = {"n_tokens": step * batch * n_ctx, "loss": mean, "validation_loss": validation_loss(model, validation, recipe.bf16)}
            row = course.log(step, mean, row | {"lr": optimizer.param_groups[0]["lr"]})
        yield step, row
        course.save_if_due(step)


class _Loss(nn.Module):
    """A model's loss as a forward pass, which is what `DistributedDataParallel` wraps."""

    def __init__(self, model: OneLayerTransformer) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor) -> Tensor:
        return self.model.loss(tokens)


def _cosine(step: int, n_steps: int, warmup_share: float, final_share: float) -> float:
    warmup = max(1, int(n_steps * warmup_share))
    if step <= warmup:
        return step / warmup
    progress = (step - warmup) / max(1, n_steps - warmup)
    return final_share + (1 - final_share) * 0.5 * (1 + math.cos(math.pi * progress))


@torch.no_grad()
def validation_loss(model: OneLayerTransformer, contexts: Tensor, bf16: bool = False) -> float:
    """Mean next-token loss over held-out contexts [n, n_ctx], in nats."""
    total = 0.0
    for rows in contexts.split(32):
        with _autocast(model.device, bf16):
            total += model.loss(rows.to(model.device)).item() * len(rows)
    return total / len(contexts)


def train_dictionary(sae: SparseAutoencoder, stream: Stream, recipe: DictionaryTraining, checkpoint: Checkpoint) -> Iterator[dict]:
    """Train a dictionary in place and yield its curve: the rows of `dictionary_steps`.

    Source: Bricken et al. 2023, "Sparse Autoencoder Setup" and its appendix.
    """
    return (row for _, row in dictionary_steps(sae, stream, recipe, checkpoint) if row is not None)


def dictionary_steps(
    sae: SparseAutoencoder, stream: Stream, recipe: DictionaryTraining, checkpoint: Checkpoint
) -> Iterator[tuple[int, dict | None]]:
    """Train a dictionary in place, step by step.

    Args:
        sae: changed in place.
        stream: where the activations come from; several dictionaries may read one, a step each in turn.
        recipe: how.
        checkpoint: resumed from, and written every few minutes.

    Yields:
        Every step's number, and with a hundredth of them a row: step, n_steps, n_activations, loss, mse, l1 (their means
        since the last row), l0 (of this step's batch), dead_share (no firing within the resampling window, or since the
        start), resampled (features, since the last row), and seconds since the last row. A resumed run yields its old
        rows first.

    Raises:
        BookError: the loss is no longer a number or has left all bounds, or the checkpoint does not fit.

    Source: Bricken et al. 2023, "Sparse Autoencoder Setup" and its appendix.
    Differs: the schedule of resampling scales with the run where the run is shorter than the paper's (`scales`).
    """
    device = sae.device
    n_steps = max(1, recipe.n_activations // recipe.batch_size)
    optimizer = torch.optim.Adam(sae.parameters(), lr=recipe.lr, fused=True)
    last_fired = torch.zeros(sae.cfg.d_sae, dtype=torch.int64, device=device)
    resampled = torch.zeros((), dtype=torch.int64)
    course = _Course("dictionary", n_steps, sae, optimizer, checkpoint, 2, last_fired=last_fired, resampled=resampled)
    if not course.resumed:
        sample = torch.cat([x.float() for x in stream.batches(-(-recipe.n_median // recipe.batch_size))])[: recipe.n_median]
        sae.b_dec.data.copy_(parallel.like(geometric_median(sample), sae.b_dec))
    yield from ((row["step"], row) for row in course.rows.copy())
    sharded = parallel.is_sharded(sae.W_dec)
    take_step = ReadableStep(sae) if sharded else (CompiledStep if device.type == "cuda" else DictionaryStep)(sae, recipe.bf16)
    for step in course.steps():
        x = stream.batch(step - 1).to(device)
        done = take_step(x, recipe.batch_size)
        measured = torch.stack([done.mse, done.l1])
        if not sharded:
            parallel.sum_([*(parameter.grad for parameter in sae.parameters()), done.activation_sums, measured])
        course.add(step, measured)
        sae.project_decoder_gradient_()
        optimizer.step()
        sae.normalize_decoder_()
        last_fired.masked_fill_(done.activation_sums > 0, step)
        if recipe.resampling.is_due(step):
            resampled += _resample(sae, optimizer, last_fired, stream, recipe, step)
        row = None
        if course.is_logged(step):
            mse, l1 = course.means(step)
            loss = mse + sae.cfg.l1_coeff * l1
            dead = dead_features(last_fired, step, min(step, recipe.resampling.window)).float().mean().item()
            n_active = done.fired.count_nonzero()
            parallel.sum_([n_active])
            row = {"n_activations": step * recipe.batch_size, "loss": loss, "mse": mse, "l1": l1}
            row |= {"l0": n_active.item() / recipe.batch_size, "dead_share": dead, "resampled": resampled.item()}
            row = course.log(step, loss, row)
            resampled.zero_()
        yield step, row
        course.save_if_due(step)


def _resample(
    sae: SparseAutoencoder,
    optimizer: torch.optim.Optimizer,
    last_fired: Tensor,
    stream: Stream,
    recipe: DictionaryTraining,
    step: int,
) -> int:
    """Resample at this step, on inputs drawn from all over the stream's order of contexts; process 0 decides for all.

    Where the features are spread, all processes decide alike: each has its part of the losses' sum and the same generator.
    """
    dead = dead_features(last_fired, step, recipe.resampling.window)
    sharded = parallel.is_sharded(sae.W_dec)
    if sharded or parallel.rank() == 0:
        candidates = stream.elsewhere(step)
        batches = candidates.batches(-(-recipe.resampling.n_inputs // recipe.batch_size))
        with _autocast(sae.device, recipe.bf16):
            resample_dead_features(sae, optimizer, dead, batches, recipe.resampling.method, seeded(recipe.seed, 2, step))
    if not sharded:
        moments = [optimizer.state[parameter][key] for parameter in sae.parameters() for key in ("exp_avg", "exp_avg_sq")]
        parallel.copy_from_first_([*(parameter.data for parameter in sae.parameters()), *moments])
    # A resampled feature is given a whole window before it can count as dead again.
    last_fired[dead] = step
    return int(dead.sum())
