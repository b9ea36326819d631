"""The same one-layer model in the manner of nanoGPT: plain modules, full logits, bfloat16 autocast, `torch.compile`, fused AdamW."""

import contextlib

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn
from turns import Finished, Turns


class Model(nn.Module):
    """Attention and a ReLU MLP, each on its LayerNorm; embedding and unembedding are not tied."""

    def __init__(self, d_model: int, n_heads: int, d_head: int, d_mlp: int, n_ctx: int, d_vocab: int) -> None:
        super().__init__()
        self.n_heads, self.d_head = n_heads, d_head
        self.wte, self.wpe = nn.Embedding(d_vocab, d_model), nn.Embedding(n_ctx, d_model)
        self.ln_1, self.ln_2, self.ln_f = nn.LayerNorm(d_model), nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.qkv, self.proj = nn.Linear(d_model, 3 * n_heads * d_head), nn.Linear(n_heads * d_head, d_model)
        self.up, self.down = nn.Linear(d_model, d_mlp), nn.Linear(d_mlp, d_model)
        self.head = nn.Linear(d_model, d_vocab)

    def forward(self, tokens: Tensor, targets: Tensor) -> Tensor:
        x = self.wte(tokens) + self.wpe(torch.arange(tokens.shape[1]))
        q, k, v = (part.unflatten(-1, (self.n_heads, self.d_head)).transpose(1, 2) for part in self.qkv(self.ln_1(x)).chunk(3, dim=-1))
        x = x + self.proj(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))
        x = x + self.down(F.relu(self.up(self.ln_2(x))))
        return F.cross_entropy(self.head(self.ln_f(x)).flatten(0, 1), targets.flatten())


def parameters(model: Model, d_model: int, n_heads: int, d_head: int) -> dict[str, Tensor]:
    """Views of the parameters under the book's names and in the book's shapes."""
    views = {"embed.W_E": model.wte.weight, "pos_embed.W_pos": model.wpe.weight}
    for name, norm in (("blocks.0.ln1", model.ln_1), ("blocks.0.ln2", model.ln_2), ("ln_final", model.ln_f)):
        views |= {f"{name}.w": norm.weight, f"{name}.b": norm.bias}
    weights = model.qkv.weight.view(3, n_heads, d_head, d_model).transpose(2, 3)
    for name, weight, bias in zip("QKV", weights, model.qkv.bias.view(3, n_heads, d_head), strict=True):
        views |= {f"blocks.0.attn.W_{name}": weight, f"blocks.0.attn.b_{name}": bias}
    views |= {"blocks.0.attn.W_O": model.proj.weight.T.unflatten(0, (n_heads, d_head)), "blocks.0.attn.b_O": model.proj.bias}
    views |= {"blocks.0.mlp.W_in": model.up.weight.T, "blocks.0.mlp.b_in": model.up.bias}
    views |= {"blocks.0.mlp.W_out": model.down.weight.T, "blocks.0.mlp.b_out": model.down.bias}
    return views | {"unembed.W_U": model.head.weight.T, "unembed.b_U": model.head.bias}


def main() -> None:
    """Train until told to stop."""
    turns = Turns()
    settings, geometry = turns.settings, turns.settings["geometry"]
    n_ctx, batch = geometry["n_ctx"], settings["batch_tokens"] // geometry["n_ctx"]
    tokens = np.memmap(settings["tokens"], "<u2", mode="r")
    model = Model(**geometry)
    with torch.no_grad():
        views = parameters(model, *(geometry[name] for name in ("d_model", "n_heads", "d_head")))
        for name, start in load_file(settings["start"]).items():
            views[name].copy_(start)
    groups = [
        {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": 0.1},
        {"params": [p for p in model.parameters() if p.ndim == 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=settings["lr"], betas=(0.9, 0.95), fused=True)
    compiled = torch.compile(model)
    rng = np.random.default_rng(0)
    with contextlib.suppress(Finished):
        while True:
            step = turns.step()
            for group in optimizer.param_groups:
                group["lr"] = settings["lr"] * min(1.0, (step + 1) / settings["warmup"])
            starts = rng.integers(len(tokens) - n_ctx, size=batch)
            rows = torch.stack([torch.from_numpy(tokens[i : i + n_ctx + 1].astype(np.int64)) for i in starts])
            with torch.autocast("cpu", torch.bfloat16, enabled=settings["bf16"]):
                loss = compiled(rows[:, :-1], rows[:, 1:])
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
    turns.finish(views)


if __name__ == "__main__":
    main()
