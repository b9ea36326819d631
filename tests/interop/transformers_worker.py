"""transformers: our model as a GPT-2, loaded from its folder."""

import torch
from transformers import AutoModelForCausalLM
from worker import EXPORTS, FOLDER, answer, inputs


def main() -> None:
    """Load and compute."""
    rows = inputs()["rows"]
    for to in EXPORTS:
        model, report = AutoModelForCausalLM.from_pretrained(FOLDER / to, local_files_only=True, output_loading_info=True)
        assert not report["missing_keys"], report
        assert not report["unexpected_keys"], report
        kept = []
        model.transformer.h[0].mlp.act.register_forward_hook(lambda module, given, post, kept=kept: kept.append(post))
        logits = model.eval()(rows).logits
        answer(f"transformers-{to}", "transformers", logits=logits, mlp_post=kept[0])


if __name__ == "__main__":
    with torch.no_grad():
        main()
