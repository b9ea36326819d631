"""Our transformer against TransformerLens (4.x here, 3.9 in `test_transformer_lens_3`), and against torch's own layers."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from sae_lib.errors import BookError
from sae_lib.storage import save_tensors
from sae_lib.transformer import HOOK, OneLayerTransformer, TransformerConfig, attend

GEOMETRY = {"n_layers": 1, "d_model": 16, "n_ctx": 12, "d_head": 8, "n_heads": 2, "d_mlp": 32, "d_vocab": 50, "act_fn": "relu"}


@pytest.fixture
def rows() -> torch.Tensor:
    return torch.randint(0, 50, (3, 12), generator=torch.Generator().manual_seed(0))


@pytest.fixture
def odd_model(model) -> OneLayerTransformer:
    """A model whose biases and gains are not their starting zeros and ones."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim <= 2:
                parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    return model


def test_same_logits_in_transformer_lens_4(odd_model, rows):
    from transformer_lens.config import TransformerBridgeConfig
    from transformer_lens.model_bridge import TransformerBridge
    from transformer_lens.model_bridge.sources import native  # noqa: F401  registers the architecture
    from transformer_lens.utilities.tl_checkpoint_conversion import convert_tl_checkpoint

    cfg = TransformerBridgeConfig(**GEOMETRY, normalization_type="LN", device="cpu")
    bridge = TransformerBridge.boot_native(cfg)
    bridge.load_state_dict(convert_tl_checkpoint(odd_model.state_dict(), cfg))
    with torch.no_grad():
        logits, cache = bridge.run_with_cache(rows)
        assert (logits - odd_model(rows)).abs().max() < 1e-5
        assert (cache[HOOK] - odd_model(rows, stop_at_hook=HOOK)).abs().max() < 1e-5


def test_same_logits_in_transformer_lens_3(odd_model, rows, tmp_path):
    """`make` puts TransformerLens 3.9 beside the environment, since 4.0 took `HookedTransformer` away."""
    folder = Path(sys.prefix) / "transformer-lens-3.9"
    assert folder.is_dir(), f"{folder} is missing; `make test` installs it"
    with torch.no_grad():
        state = odd_model.state_dict() | {"rows": rows, "logits": odd_model(rows), "post": odd_model(rows, stop_at_hook=HOOK)}
    save_tensors(tmp_path / "model.safetensors", state)
    script = f"""
import torch, transformer_lens
from safetensors.torch import load_file
from transformer_lens import HookedTransformer, HookedTransformerConfig
state = load_file({str(tmp_path / "model.safetensors")!r})
rows, logits, post = state.pop("rows"), state.pop("logits"), state.pop("post")
model = HookedTransformer(HookedTransformerConfig(**{GEOMETRY!r}, normalization_type="LN", device="cpu"))
missing, unexpected = model.load_state_dict(state, strict=False)
assert not unexpected and set(missing) <= {{"blocks.0.attn.mask", "blocks.0.attn.IGNORE"}}, (missing, unexpected)
with torch.no_grad():
    theirs, cache = model.run_with_cache(rows)
print("difference", float(max((theirs - logits).abs().max(), (cache[{HOOK!r}] - post).abs().max())))
"""
    environment = os.environ | {"PYTHONPATH": str(folder)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.split("difference ")[1]) < 1e-5


def test_attention_and_mlp_against_torch(odd_model, rows):
    block = odd_model.blocks[0]
    x = odd_model.embed.W_E[rows] + odd_model.pos_embed.W_pos
    normed = F.layer_norm(x, (16,), block.ln1.w, block.ln1.b)
    attended = torch.zeros_like(x)
    mask = torch.ones(12, 12).tril().bool()
    for head in range(2):
        q, k, v = (normed @ getattr(block.attn, f"W_{n}")[head] + getattr(block.attn, f"b_{n}")[head] for n in "QKV")
        pattern = (q @ k.transpose(1, 2) / 8**0.5).masked_fill(~mask, -torch.inf).softmax(-1)
        attended = attended + pattern @ v @ block.attn.W_O[head]
    x = x + attended + block.attn.b_O
    post = (F.layer_norm(x, (16,), block.ln2.w, block.ln2.b) @ block.mlp.W_in + block.mlp.b_in).relu()
    x = x + post @ block.mlp.W_out + block.mlp.b_out
    logits = F.layer_norm(x, (16,), odd_model.ln_final.w, odd_model.ln_final.b) @ odd_model.unembed.W_U + odd_model.unembed.b_U
    torch.testing.assert_close(odd_model(rows), logits, atol=1e-5, rtol=1e-5)


def test_attention_written_out_is_the_fused_one(generator):
    q, k, v, up = (torch.randn(3, 2, 12, 8, generator=generator, requires_grad=True) for _ in range(4))
    wanted = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    found = attend(q, k, v)
    torch.testing.assert_close(found, wanted)
    for ours, theirs in zip(*(torch.autograd.grad(z, (q, k, v), up) for z in (found, wanted)), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)
    with torch.no_grad():
        assert torch.equal(attend(q, k, v), F.scaled_dot_product_attention(q, k, v, is_causal=True))


def test_loss_and_its_gradients_are_the_plain_cross_entropy(odd_model):
    odd_model.requires_grad_(True)
    rows = torch.randint(0, 50, (70, 12), generator=torch.Generator().manual_seed(3))
    plain = odd_model.token_loss(odd_model(rows), rows).mean()
    wanted = torch.autograd.grad(plain, list(odd_model.parameters()))
    loss = odd_model.loss(rows)
    found = torch.autograd.grad(2 * loss, list(odd_model.parameters()))
    torch.testing.assert_close(loss, plain)
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, 2 * theirs, atol=1e-6, rtol=1e-4)


def test_stopping_at_a_hook_gives_its_activation_and_leaves_no_hook(odd_model, rows):
    _, cache = odd_model.run_with_cache(rows)
    for name in (HOOK, "blocks.0.hook_resid_mid", "blocks.0.attn.hook_z", "ln_final.hook_normalized"):
        torch.testing.assert_close(odd_model(rows, stop_at_hook=name), cache[name])
    assert not any(point.fwd_hooks for point in odd_model.hook_dict.values())
    with pytest.raises(BookError, match=r"no hook is named 'blocks\.9'"):
        odd_model(rows, stop_at_hook="blocks.9")


def test_begin_and_finish_make_the_whole(odd_model, rows):
    resid_mid, post = odd_model.begin(rows)
    torch.testing.assert_close(odd_model.finish(resid_mid, post), odd_model(rows))
    assert (post >= 0).all()


def test_a_later_token_never_changes_an_earlier_prediction(odd_model, rows):
    changed = rows.clone()
    changed[:, -1] = (changed[:, -1] + 1) % 50
    torch.testing.assert_close(odd_model(changed)[:, :-1], odd_model(rows)[:, :-1])


def test_the_seed_makes_the_weights():
    cfg = TransformerConfig(16, 2, 8, 32, 12, 50)
    first, again, other = (OneLayerTransformer(cfg, seed=s).unembed.W_U for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_bad_input_is_named(model):
    with pytest.raises(BookError, match="longer than the model's 12"):
        model(torch.zeros(1, 13, dtype=torch.int64))
    with pytest.raises(BookError, match=r"0\.\.49"):
        model(torch.full((1, 3), 50))
    with pytest.raises(BookError, match="d_mlp is 0"):
        TransformerConfig(16, 2, 8, 0, 12, 50)
