"""The two training loops: one for the language model, one for dictionaries.

Each is a generator of log rows and prints nothing. Every random choice is a function of the seed and the step,
so a run that was killed continues from its checkpoint to the same bits.
"""

import contextlib
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from sae_lib.activations import ContextOrder, Stream, seeded
from sae_lib.corpus import TokenSplit
from sae_lib.errors import BookError
from sae_lib.resampling import ResamplingSchedule, dead_features, resample_dead_features
from sae_lib.runs import Checkpoint, load_state
from sae_lib.sae import SparseAutoencoder, geometric_median
from sae_lib.step import loss_and_gradients
from sae_lib.transformer import OneLayerTransformer

LOG_ROWS = 100
"""A training curve has about so many rows."""


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


def has_bf16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 matrices in hardware."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    cpuinfo = Path("/proc/cpuinfo")
    return cpuinfo.exists() and any(flag in cpuinfo.read_text() for flag in ("amx_bf16", "avx512_bf16"))


def _autocast(device: torch.device, on: bool) -> contextlib.AbstractContextManager:
    return torch.autocast(device.type, torch.bfloat16) if on else contextlib.nullcontext()


def _optimizer_tensors(optimizer: torch.optim.Optimizer, module: nn.Module) -> dict[str, Tensor]:
    return {
        f"adam.{key}.{name}": value
        for name, parameter in module.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def _restore(module: nn.Module, optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor], path: Path) -> None:
    load_state(module, {name[7:]: tensor for name, tensor in tensors.items() if name.startswith("module.")}, path)
    for name, parameter in module.named_parameters():
        for key in ("step", "exp_avg", "exp_avg_sq"):
            optimizer.state[parameter][key] = tensors[f"adam.{key}.{name}"].to("cpu" if key == "step" else parameter.device)


def _check_finite(value: float, step: int, what: str) -> None:
    if not math.isfinite(value):
        raise BookError(f"the {what}'s loss became {value} at step {step}; lower its learning rate. The last checkpoint is kept")


def train_model(
    model: OneLayerTransformer, train: TokenSplit, validation: Tensor, recipe: ModelTraining, checkpoint: Checkpoint
) -> Iterator[dict]:
    """Train a language model in place and yield its curve.

    Args:
        model: changed in place.
        train: the tokens.
        validation: held-out contexts [n, n_ctx], for `validation_loss`.
        recipe: how.
        checkpoint: resumed from, and written every few minutes.

    Yields:
        Rows with step, n_steps, n_tokens, loss and validation_loss (nats a token), lr, and seconds since the last row.

    Raises:
        BookError: the loss is no longer a number, or the checkpoint does not fit.

    Source: Bricken et al. 2023, "Problem Setup" (Adam).
    Differs: AdamW, warm-up, cosine and clipping are ours; the paper states none of them.
    """
    device = model.device
    n_ctx = model.cfg.n_ctx
    batch = max(1, recipe.batch_tokens // n_ctx)
    n_steps = max(1, recipe.n_tokens // (batch * n_ctx))
    order = ContextOrder(train, n_ctx, recipe.seed)
    matrices = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    vectors = [parameter for parameter in model.parameters() if parameter.ndim == 1]
    groups = [{"params": matrices, "weight_decay": recipe.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=recipe.lr, betas=(0.9, 0.95), fused=True)
    first, rows = 0, []
    if saved := checkpoint.load():
        tensors, first, rows = saved
        _restore(model, optimizer, tensors, checkpoint.path)
        yield from rows
    log_every, since, total = max(1, n_steps // LOG_ROWS), time.monotonic(), 0.0
    for step in range(first + 1, n_steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = recipe.lr * _cosine(step, n_steps, recipe.warmup_share, recipe.final_share)
        tokens = order.contexts((step - 1) * batch, batch).to(device)
        with _autocast(device, recipe.bf16):
            loss = model.loss(tokens)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        total += loss.item()
        _check_finite(total, step, "model")
        if step % log_every == 0 or step == n_steps:
            n = (step - 1) % log_every + 1
            now = time.monotonic()
            held_out = validation_loss(model, validation, recipe.bf16)
            rate = optimizer.param_groups[0]["lr"]
            rows.append(
                {"step": step, "n_steps": n_steps, "n_tokens": step * batch * n_ctx, "loss": total / n}
                | {"validation_loss": held_out, "lr": rate, "seconds": now - since}
            )
            since, total = now, 0.0
            yield rows[-1]
            # Only at a logged step, so that the running mean of the loss need not be kept.
            if checkpoint.is_due() and step < n_steps:
                state = {f"module.{name}": value for name, value in model.state_dict().items()}
                checkpoint.save(state | _optimizer_tensors(optimizer, model), step, rows)


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
    """Train a dictionary in place and yield its curve.

    Args:
        sae: changed in place.
        stream: where the activations come from.
        recipe: how.
        checkpoint: resumed from, and written every few minutes.

    Yields:
        Rows with step, n_steps, n_activations, loss, mse, l1 (their means since the last row), l0 (of this step's batch),
        dead_share (no firing within the resampling window, or since the start), resampled (features, since the last
        row), and seconds since the last row.

    Raises:
        BookError: the loss is no longer a number, or the checkpoint does not fit.

    Source: Bricken et al. 2023, "Sparse Autoencoder Setup" and its appendix.
    Differs: the schedule of resampling scales with the run where the run is shorter than the paper's (`scales`).
    """
    device = sae.device
    n_steps = max(1, recipe.n_activations // recipe.batch_size)
    optimizer = torch.optim.Adam(sae.parameters(), lr=recipe.lr, fused=True)
    last_fired = torch.zeros(sae.cfg.d_sae, dtype=torch.int64, device=device)
    first, rows = 0, []
    if saved := checkpoint.load():
        tensors, first, rows = saved
        _restore(sae, optimizer, tensors, checkpoint.path)
        last_fired = tensors["last_fired"].to(device)
        yield from rows
    else:
        sample = torch.cat([x.float() for x in stream.batches(-(-recipe.n_median // recipe.batch_size))])[: recipe.n_median]
        sae.b_dec.data.copy_(geometric_median(sample))
    log_every, since = max(1, n_steps // LOG_ROWS), time.monotonic()
    sums, resampled = torch.zeros(2, device=device), 0
    for step in range(first + 1, n_steps + 1):
        x = stream.batch(step - 1).to(device)
        done = loss_and_gradients(sae, x, recipe.bf16)
        sae.project_decoder_gradient_()
        optimizer.step()
        sae.normalize_decoder_()
        last_fired.masked_fill_(done.activation_sums > 0, step)
        sums += torch.stack([done.mse, done.l1])
        if recipe.resampling.is_due(step):
            resampled += _resample(sae, optimizer, last_fired, stream, recipe, step)
        if step % log_every == 0 or step == n_steps:
            n = (step - 1) % log_every + 1
            now = time.monotonic()
            mse, l1 = (sums / n).tolist()
            loss = mse + sae.cfg.l1_coeff * l1
            _check_finite(loss, step, "dictionary")
            dead = dead_features(last_fired, step, min(step, recipe.resampling.window)).float().mean().item()
            l0 = done.feature_acts.count_nonzero().item() / len(x)
            rows.append(
                {"step": step, "n_steps": n_steps, "n_activations": step * recipe.batch_size, "loss": loss, "mse": mse}
                | {"l1": l1, "l0": l0, "dead_share": dead, "resampled": resampled, "seconds": now - since}
            )
            since, resampled = now, 0
            sums.zero_()
            yield rows[-1]
            if checkpoint.is_due() and step < n_steps:
                state = {f"module.{name}": value for name, value in sae.state_dict().items()}
                checkpoint.save(state | _optimizer_tensors(optimizer, sae) | {"last_fired": last_fired}, step, rows)


def _resample(
    sae: SparseAutoencoder,
    optimizer: torch.optim.Optimizer,
    last_fired: Tensor,
    stream: Stream,
    recipe: DictionaryTraining,
    step: int,
) -> int:
    """Resample at this step, on inputs drawn from all over the stream's order of contexts."""
    dead = dead_features(last_fired, step, recipe.resampling.window)
    candidates = stream.elsewhere(step)
    batches = candidates.batches(-(-recipe.resampling.n_inputs // recipe.batch_size))
    with _autocast(sae.device, recipe.bf16):
        n = resample_dead_features(sae, optimizer, dead, batches, recipe.resampling.method, seeded(recipe.seed, 2, step))
    # A resampled feature is given a whole window before it can count as dead again.
    last_fired[dead] = step
    return n
