"""SAELens: our two exports, and dictionaries of its own for us to read."""

import numpy as np
import torch
from sae_lens import SAE, JumpReLUSAE, JumpReLUSAEConfig, StandardSAE, StandardSAEConfig
from worker import EXPORTS, FOLDER, answer, inputs


def gemma_scope() -> SAE:
    """Our params.npz in SAELens' JumpReLU; its own Gemma loader downloads, and knows Gemma's widths only."""
    with np.load(FOLDER / "gemma-scope" / "params.npz") as archive:
        state = {name: torch.from_numpy(archive[name]) for name in archive.files}
    d_in, d_sae = state["W_enc"].shape
    sae = JumpReLUSAE(JumpReLUSAEConfig(d_in=d_in, d_sae=d_sae, apply_b_dec_to_input=False))
    sae.load_state_dict(state)
    return sae


def save(name: str, sae: SAE, x: torch.Tensor) -> None:
    """A dictionary with biases that matter, as SAELens saves it, and what it computes."""
    generator = torch.Generator().manual_seed(5)
    for bias in (sae.b_enc, sae.b_dec):
        bias.data += 0.1 * torch.randn(bias.shape, generator=generator)
    sae.save_model(FOLDER / f"saved-{name}")
    features = sae.encode(x)
    answer(f"saved-{name}", "sae-lens", features=features, x_hat=sae.decode(features))


def main() -> None:
    """Load, compute, save."""
    x = inputs()["x"]
    for to in EXPORTS:
        sae = gemma_scope() if to == "gemma-scope" else SAE.load_from_disk(FOLDER / to)
        features = sae.encode(x)
        if to == "saelens":
            assert (sae.cfg.architecture(), sae.cfg.metadata.hook_name) == ("standard", "blocks.0.mlp.hook_post")
            assert sae.cfg.metadata.prepend_bos is False
        answer(f"saelens-{to}", "sae-lens", features=features, x_hat=sae.decode(features))
    save("standard", StandardSAE(StandardSAEConfig(d_in=512, d_sae=1_024)), x)
    save("standard-unsubtracted", StandardSAE(StandardSAEConfig(d_in=512, d_sae=1_024, apply_b_dec_to_input=False)), x)
    save("jumprelu-at-zero", JumpReLUSAE(JumpReLUSAEConfig(d_in=512, d_sae=1_024, apply_b_dec_to_input=False)), x)


if __name__ == "__main__":
    torch.manual_seed(0)
    with torch.no_grad():
        main()
