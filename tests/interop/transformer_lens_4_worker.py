"""TransformerLens 4: our model as a `TransformerBridge`, through its own conversion of 3.x checkpoints."""

import json

import torch
from safetensors.torch import load_file
from transformer_lens.config import TransformerBridgeConfig
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.model_bridge.sources import native  # noqa: F401  registers the architecture
from transformer_lens.utilities.tl_checkpoint_conversion import convert_tl_checkpoint
from worker import EXPORTS, FOLDER, answer, inputs


def main() -> None:
    """Load and compute."""
    rows = inputs()["rows"]
    for to in EXPORTS:
        cfg = TransformerBridgeConfig(**json.loads((FOLDER / to / "config.json").read_text()), device="cpu")
        model = TransformerBridge.boot_native(cfg)
        model.load_state_dict(convert_tl_checkpoint(load_file(FOLDER / to / "model.safetensors"), cfg))
        logits, cache = model.run_with_cache(rows)
        answer(f"transformer-lens-4-{to}", "transformer-lens", logits=logits, mlp_post=cache["blocks.0.mlp.hook_post"])


if __name__ == "__main__":
    with torch.no_grad():
        main()
