"""The paper's language model: one attention block, one ReLU MLP, nothing else.

    resid_pre  = W_E[token] + W_pos[position]
    resid_mid  = resid_pre + Attention(LayerNorm(resid_pre))
    mlp_post   = ReLU(LayerNorm(resid_mid) @ W_in + b_in)          <- what the dictionary reads
    resid_post = resid_mid + mlp_post @ W_out + b_out
    logits     = LayerNorm(resid_post) @ W_U + b_U

Parameter and hook names are TransformerLens', so that a state dict loads there unchanged.

Source: Bricken et al. 2023, "Problem Setup" (widths, ReLU, LayerNorm before the unembedding).
Differs: heads, context length, positions and vocabulary are not stated in the paper; ours are in `scales`.
"""

import math
from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformer_lens import HookedRootModule
from transformer_lens.hook_points import HookPoint

from sae_lib.errors import BookError

HOOK = "blocks.0.mlp.hook_post"
"""Where the dictionary reads: the MLP activations after the ReLU."""


@dataclass(frozen=True)
class TransformerConfig:
    """The sizes of a one-layer transformer."""

    d_model: int
    """Width of the residual stream."""
    n_heads: int
    """Attention heads."""
    d_head: int
    """Width of one head."""
    d_mlp: int
    """MLP neurons."""
    n_ctx: int
    """Longest context, in tokens."""
    d_vocab: int
    """Vocabulary size."""

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value < 1:
                raise BookError(f"{name} is {value}; a transformer needs at least 1")


class Embed(nn.Module):
    """Token embedding, `W_E[token]`."""

    def __init__(self, cfg: TransformerConfig) -> None:
        super().__init__()
        self.W_E = nn.Parameter(torch.empty(cfg.d_vocab, cfg.d_model))

    def forward(self, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos d_model"]:
        return F.embedding(tokens, self.W_E)


class PosEmbed(nn.Module):
    """Learned positions, `W_pos[position]`."""

    def __init__(self, cfg: TransformerConfig) -> None:
        super().__init__()
        self.W_pos = nn.Parameter(torch.empty(cfg.n_ctx, cfg.d_model))

    def forward(self, tokens: Int[Tensor, "batch pos"], start: int = 0) -> Float[Tensor, "pos d_model"]:
        return self.W_pos[start : start + tokens.shape[1]]


class LayerNorm(nn.Module):
    """Layer normalisation with TransformerLens' parameter names, `w` and `b`."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.ones(width))
        self.b = nn.Parameter(torch.zeros(width))
        self.hook_normalized = HookPoint()

    def forward(self, x: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_model"]:
        return self.hook_normalized(F.layer_norm(x, x.shape[-1:], self.w, self.b, eps=1e-5))


class KeyValueCache:
    """Keys and values of the tokens that were already read, so that a model that writes reads each token once."""

    def __init__(self) -> None:
        self.k: Float[Tensor, "batch head pos d_head"] | None = None
        self.v: Float[Tensor, "batch head pos d_head"] | None = None

    def __len__(self) -> int:
        return 0 if self.k is None else self.k.shape[2]

    def extend(
        self, k: Float[Tensor, "batch head pos d_head"], v: Float[Tensor, "batch head pos d_head"]
    ) -> tuple[Float[Tensor, "batch head key d_head"], Float[Tensor, "batch head key d_head"]]:
        """Append new positions; returns all of them, old and new."""
        if self.k is not None:
            k, v = torch.cat([self.k, k], 2), torch.cat([self.v, v], 2)
        self.k, self.v = k, v
        return k, v


class Attention(nn.Module):
    """Causal multi-head attention."""

    def __init__(self, cfg: TransformerConfig) -> None:
        super().__init__()
        heads = (cfg.n_heads, cfg.d_model, cfg.d_head)
        self.W_Q = nn.Parameter(torch.empty(heads))
        self.W_K = nn.Parameter(torch.empty(heads))
        self.W_V = nn.Parameter(torch.empty(heads))
        self.W_O = nn.Parameter(torch.empty(cfg.n_heads, cfg.d_head, cfg.d_model))
        self.b_Q = nn.Parameter(torch.zeros(cfg.n_heads, cfg.d_head))
        self.b_K = nn.Parameter(torch.zeros(cfg.n_heads, cfg.d_head))
        self.b_V = nn.Parameter(torch.zeros(cfg.n_heads, cfg.d_head))
        self.b_O = nn.Parameter(torch.zeros(cfg.d_model))
        self.hook_q, self.hook_k, self.hook_v, self.hook_z = HookPoint(), HookPoint(), HookPoint(), HookPoint()

    def forward(self, x: Float[Tensor, "batch pos d_model"], cache: KeyValueCache | None = None) -> Float[Tensor, "batch pos d_model"]:
        q = self.hook_q(_by_head(x, self.W_Q, self.b_Q))
        k = self.hook_k(_by_head(x, self.W_K, self.b_K))
        v = self.hook_v(_by_head(x, self.W_V, self.b_V))
        q, k, v = (heads.transpose(1, 2) for heads in (q, k, v))
        if cache is not None:
            k, v = cache.extend(k, v)
        z = self.hook_z(attend(q, k, v).transpose(1, 2))
        return F.linear(z.flatten(2), self.W_O.flatten(0, 1).T, self.b_O)


def _by_head(
    x: Float[Tensor, "batch pos d_model"], weight: Float[Tensor, "head d_model d_head"], bias: Float[Tensor, "head d_head"]
) -> Float[Tensor, "batch pos head d_head"]:
    # One product for all heads: [d_model, head * d_head].
    return F.linear(x, weight.transpose(1, 2).flatten(0, 1), bias.flatten()).unflatten(-1, bias.shape)


def attend(
    q: Float[Tensor, "batch head pos d_head"], k: Float[Tensor, "batch head key d_head"], v: Float[Tensor, "batch head key d_head"]
) -> Float[Tensor, "batch head pos d_head"]:
    """What each position takes from itself and those before it.

        z = softmax(q @ k.T / sqrt(d_head), with later positions left out) @ v

    The queries are those of the last positions, where there are more keys than queries.
    PyTorch's fused function does it, but for training on a processor, where its backward pass takes longer than all else.
    """
    n_q, n_k = q.shape[-2], k.shape[-2]
    if n_q != n_k:
        earlier = torch.ones(n_q, n_k, dtype=torch.bool, device=q.device).tril(n_k - n_q)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=earlier)
    if q.device.type != "cpu" or not (q.requires_grad and torch.is_grad_enabled()):
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)
    later = torch.full((n_q, n_q), -math.inf, dtype=q.dtype).triu(1)
    with torch.autocast("cpu", enabled=False):
        scores = torch.baddbmm(later, q.flatten(0, 1), k.flatten(0, 1).mT, alpha=q.shape[-1] ** -0.5)
        return (torch.softmax(scores, -1) @ v.flatten(0, 1)).view_as(q)


class MLP(nn.Module):
    """The two halves of the MLP, so that the model can stop between them."""

    def __init__(self, cfg: TransformerConfig) -> None:
        super().__init__()
        self.W_in = nn.Parameter(torch.empty(cfg.d_model, cfg.d_mlp))
        self.b_in = nn.Parameter(torch.zeros(cfg.d_mlp))
        self.W_out = nn.Parameter(torch.empty(cfg.d_mlp, cfg.d_model))
        self.b_out = nn.Parameter(torch.zeros(cfg.d_model))
        self.hook_pre, self.hook_post = HookPoint(), HookPoint()

    def up(self, x: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_mlp"]:
        return self.hook_post(F.relu(self.hook_pre(F.linear(x, self.W_in.T, self.b_in))))

    def down(self, post: Float[Tensor, "batch pos d_mlp"]) -> Float[Tensor, "batch pos d_model"]:
        return F.linear(post, self.W_out.T, self.b_out)


class Block(nn.Module):
    """Attention and MLP, each on its own LayerNorm, each added to the residual stream."""

    def __init__(self, cfg: TransformerConfig) -> None:
        super().__init__()
        self.ln1, self.ln2 = LayerNorm(cfg.d_model), LayerNorm(cfg.d_model)
        self.attn, self.mlp = Attention(cfg), MLP(cfg)
        self.hook_resid_pre, self.hook_attn_out, self.hook_resid_mid = HookPoint(), HookPoint(), HookPoint()
        self.hook_mlp_out, self.hook_resid_post = HookPoint(), HookPoint()


class Unembed(nn.Module):
    """Residual stream to logits, untied from the embedding, with a bias."""

    def __init__(self, cfg: TransformerConfig) -> None:
        super().__init__()
        self.W_U = nn.Parameter(torch.empty(cfg.d_model, cfg.d_vocab))
        self.b_U = nn.Parameter(torch.zeros(cfg.d_vocab))

    def forward(self, x: Float[Tensor, "batch pos d_model"]) -> Float[Tensor, "batch pos d_vocab"]:
        return F.linear(x, self.W_U.T, self.b_U)


class _Stopped(Exception):  # noqa: N818  it is no error
    """Carries the activation out of a forward pass that stops at a hook."""


class OneLayerTransformer(HookedRootModule):
    """A one-layer transformer with TransformerLens' names for parameters and hooks.

    Args:
        cfg: the sizes.
        seed: seeds the initial weights and nothing else.

    Source: Bricken et al. 2023, "Problem Setup".
    Differs: matrices start normal with deviation 1/sqrt(fan-in), the two that write to the residual
    stream divided by sqrt(2); the paper does not state its initialisation.
    """

    lineage = ""
    """Which trained model it is, such as A-e21f8aa11508: name and fingerprint of its recipe, where they are known; not saved."""

    def __init__(self, cfg: TransformerConfig, seed: int = 0) -> None:
        super().__init__()
        self.cfg = cfg
        self.embed, self.pos_embed = Embed(cfg), PosEmbed(cfg)
        self.hook_embed, self.hook_pos_embed = HookPoint(), HookPoint()
        self.blocks = nn.ModuleList([Block(cfg)])
        self.ln_final, self.unembed = LayerNorm(cfg.d_model), Unembed(cfg)
        self._initialise(seed)
        self.setup()

    def _initialise(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        for name, weight in self.named_parameters():
            kind = name.rsplit(".", 1)[-1]
            if not kind.startswith("W_"):
                continue
            fan_in = {"W_O": self.cfg.n_heads * self.cfg.d_head, "W_out": self.cfg.d_mlp}.get(kind, self.cfg.d_model)
            scale = 2**-0.5 if kind in ("W_O", "W_out") else 1.0
            nn.init.normal_(weight, std=scale * fan_in**-0.5, generator=generator)

    @property
    def W_out(self) -> Float[Tensor, "d_mlp d_model"]:
        """What each neuron writes to the residual stream."""
        return self.blocks[0].mlp.W_out

    @property
    def W_U(self) -> Float[Tensor, "d_model d_vocab"]:
        """The unembedding."""
        return self.unembed.W_U

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.embed.W_E.device

    def begin(
        self, tokens: Int[Tensor, "batch pos"], cache: KeyValueCache | None = None
    ) -> tuple[Float[Tensor, "batch pos d_model"], Float[Tensor, "batch pos d_mlp"]]:
        """Run the model up to its MLP activations.

        Args:
            tokens: token ids, at most `n_ctx` a row.
            cache: of the tokens before these, which it is told of as well; None if these are the first.

        Returns:
            The residual stream between attention and MLP, and the non-negative activations at `HOOK`.

        Raises:
            BookError: the rows are longer than the context or hold an id outside the vocabulary.
        """
        start = 0 if cache is None else len(cache)
        if start + tokens.shape[1] > self.cfg.n_ctx:
            raise BookError(f"a context of {start + tokens.shape[1]} tokens is longer than the model's {self.cfg.n_ctx}; cut it")
        if tokens.device.type == "cpu" and tokens.numel() and not 0 <= int(tokens.min()) <= int(tokens.max()) < self.cfg.d_vocab:
            raise BookError(f"token ids must lie in 0..{self.cfg.d_vocab - 1}; these come from another tokenizer")
        block = self.blocks[0]
        resid_pre = block.hook_resid_pre(self.hook_embed(self.embed(tokens)) + self.hook_pos_embed(self.pos_embed(tokens, start)))
        attn_out = block.hook_attn_out(block.attn(block.ln1(resid_pre), cache))
        resid_mid = block.hook_resid_mid(resid_pre + attn_out)
        return resid_mid, block.mlp.up(block.ln2(resid_mid))

    def finish(
        self, resid_mid: Float[Tensor, "batch pos d_model"], mlp_post: Float[Tensor, "batch pos d_mlp"]
    ) -> Float[Tensor, "batch pos d_vocab"]:
        """Run the model from (possibly replaced) MLP activations to the logits."""
        block = self.blocks[0]
        mlp_out = block.hook_mlp_out(block.mlp.down(mlp_post))
        return self.unembed(self.ln_final(block.hook_resid_post(resid_mid + mlp_out)))

    def forward(
        self, tokens: Int[Tensor, "batch pos"], stop_at_hook: str | None = None
    ) -> Float[Tensor, "batch pos d_vocab"] | Float[Tensor, "..."]:
        """Logits of the next token at every position, or the activation at a hook without computing what follows it.

        Args:
            tokens: token ids, at most `n_ctx` a row.
            stop_at_hook: a hook name such as `HOOK`; None runs to the end.

        Raises:
            BookError: no hook has that name.
        """
        if stop_at_hook is None:
            return self.finish(*self.begin(tokens))
        if stop_at_hook not in self.hook_dict:
            raise BookError(f"no hook is named {stop_at_hook!r}; the hooks are {', '.join(self.hook_dict)}")

        def stop(activation: Tensor, hook: HookPoint) -> None:
            raise _Stopped(activation)

        with self.hooks(fwd_hooks=[(stop_at_hook, stop)]):
            try:
                self.finish(*self.begin(tokens))
            except _Stopped as stopped:
                return stopped.args[0]
        raise BookError(f"the forward pass never reached {stop_at_hook!r}")

    def token_loss(self, logits: Float[Tensor, "batch pos d_vocab"], tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos-1"]:
        """Negative log-likelihood of each token but the first, in nats."""
        predicted = logits[:, :-1].flatten(0, 1)
        return F.cross_entropy(predicted, tokens[:, 1:].flatten(), reduction="none").view(tokens.shape[0], -1)

    def loss(self, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, ""]:
        """Mean negative log-likelihood of the next token, in nats.

            loss = mean over positions of -log softmax(logits)[next token]

        The logits of the whole batch are never in memory together.
        """
        resid_mid, mlp_post = self.begin(tokens)
        block = self.blocks[0]
        resid_post = block.hook_resid_post(resid_mid + block.hook_mlp_out(block.mlp.down(mlp_post)))
        x = self.ln_final(resid_post)[:, :-1].flatten(0, 1)
        return _LinearCrossEntropy.apply(x, self.unembed.W_U, self.unembed.b_U, tokens[:, 1:].flatten())


class _LinearCrossEntropy(torch.autograd.Function):
    """Mean cross-entropy of `x @ W + b`, with its gradients, some hundred rows at a time.

    The logits of 8,192 tokens over 8,192 words are 268 MB; in pieces they stay near the processor. The gradient of a
    row's loss at its logits is softmax minus the one-hot target, so the probabilities are all that is kept of a piece.
    The bias rides along as one more column of the input and one more row of the weights.
    """

    ROWS = 512

    @staticmethod
    def forward(ctx, x, W, b, targets):
        kind = x.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
        # Autocast would have every softmax in float32, of which only two bytes are kept.
        with torch.autocast(kind, enabled=False):
            total, dx, dW = _LinearCrossEntropy.gradients(x, torch.cat([W, b[None]]), targets, dtype)
        ctx.save_for_backward(dx, dW)
        ctx.n_rows = len(x)
        return total / len(x)

    @staticmethod
    def gradients(x, W, targets, dtype):
        """Summed loss, and its gradients at x and W; the last row of W is the bias."""
        n, (d, words) = len(x), (len(W) - 1, W.shape[1])
        wide_x, wide_W = (torch.zeros(shape, dtype=dtype, device=x.device) for shape in ((n, d + 32), (d + 32, words)))
        wide_x[:, :d], wide_x[:, d], wide_W[: d + 1] = x, 1, W
        low_x, low_W, ones = wide_x[:, :d], wide_W[:d].T, wide_x.new_ones(1, n)
        dx, dW, total = torch.empty_like(x, dtype=dtype), torch.zeros_like(W, dtype=torch.float32), torch.zeros((), device=x.device)
        room = wide_x.new_empty(min(_LinearCrossEntropy.ROWS, n), words)
        size, first = len(room), torch.arange(len(room), device=x.device) * words
        pieces = zip(*(tensor.split(size) for tensor in (wide_x, low_x, dx, targets)), strict=True)
        for wide_rows, rows, d_rows, target in pieces:
            logits = torch.mm(wide_rows, wide_W, out=room[: len(rows)])
            gradient = torch.softmax(logits, -1, out=logits)
            flat, at = gradient.view(-1), first[: len(rows)] + target
            probability = flat[at]
            total -= probability.float().clamp_min(torch.finfo(torch.float32).tiny).log().sum()
            flat[at] = probability - 1
            dW[:d] += rows.T.contiguous() @ gradient
            dW[d] += (ones[:, : len(rows)] @ gradient)[0]
            torch.mm(gradient, low_W, out=d_rows)
        return total, dx.to(x.dtype), dW.to(W.dtype)

    @staticmethod
    def backward(ctx, upstream):
        dx, dW = ctx.saved_tensors
        scale = upstream / ctx.n_rows
        return dx * scale, dW[:-1] * scale, dW[-1] * scale, None


def with_shuffled_weights(model: OneLayerTransformer, seed: int) -> OneLayerTransformer:
    """The control: every weight matrix has its entries permuted at random; biases and LayerNorms stay.

    Args:
        model: left as it is.
        seed: of the permutations.

    Source: Bricken et al. 2023, appendix on the model with shuffled weights.
    """
    generator = torch.Generator().manual_seed(seed)
    control = OneLayerTransformer(model.cfg)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            entries = weight.detach().cpu().flatten()
            order = torch.randperm(len(entries), generator=generator) if ".b_" not in name and weight.ndim > 1 else slice(None)
            control.get_parameter(name).copy_(entries[order].view_as(weight))
    return control
