"""TransformerLens 3.9: our model as a `HookedTransformer`."""

import json

import torch
from safetensors.torch import load_file
from transformer_lens import HookedTransformer, HookedTransformerConfig
from worker import EXPORTS, FOLDER, answer, inputs


def main() -> None:
    """Load and compute."""
    rows = inputs()["rows"]
    for to in EXPORTS:
        model = HookedTransformer(HookedTransformerConfig(**json.loads((FOLDER / to / "config.json").read_text()), device="cpu"))
        missing, unexpected = model.load_state_dict(load_file(FOLDER / to / "model.safetensors"), strict=False)
        assert not unexpected
        assert set(missing) <= {"blocks.0.attn.mask", "blocks.0.attn.IGNORE"}
        logits, cache = model.run_with_cache(rows)
        answer(f"transformer-lens-3-{to}", "transformer-lens", logits=logits, mlp_post=cache["blocks.0.mlp.hook_post"])


if __name__ == "__main__":
    with torch.no_grad():
        main()
