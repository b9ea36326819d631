"""circuit-tracer: our two exports through its own loaders, as a set of one layer."""

import torch
from circuit_tracer.transcoder.single_layer_transcoder import load_transcoder_set
from worker import EXPORTS, FOLDER, answer, inputs

FILES = {"circuit-tracer": ("layer_0.safetensors", None), "gemma-scope": ("params.npz", "gemma-scope")}


def main() -> None:
    """Load and compute."""
    x = inputs()["x"]
    for to in EXPORTS:
        file, kind = FILES[to]
        # The hooks are names here: nothing runs a language model.
        paths, hooks = {0: str(FOLDER / to / file)}, ("mlp.hook_post", "mlp.hook_post")
        coder = load_transcoder_set(paths, "", *hooks, device=torch.device("cpu"), special_load_fn=kind)[0]
        features = coder.encode(x)
        answer(f"circuit-tracer-{to}", "circuit-tracer", features=features, x_hat=coder.decode(features))


if __name__ == "__main__":
    with torch.no_grad():
        main()
