"""Dictionaries and models in the forms that other packages read, and dictionaries of theirs in ours.

    saelens               cfg.json, sae_weights.safetensors    as it is
    dictionary_learning   config.json, ae.pt                   as it is, matrices transposed
    sparsify              cfg.json, sae.safetensors            W_enc transposed; k = d_sae, so that TopK keeps all that ReLU keeps
    gemma-scope           params.npz                           b_dec folded into b_enc; threshold 0
    circuit-tracer        layer_0.safetensors                  b_dec folded into b_enc; W_enc transposed
    transformer-lens      config.json, model.safetensors       the language model as it is
    hf                    config.json, model.safetensors       the language model as a GPT-2 of one layer

Everything is written in float32. Nothing is ever unpickled: `ae.pt` is written, since dictionary_learning asks for it,
and never read.

Source: ours; the paper publishes no weights. The layouts are those of SAELens 6.54, dictionary_learning 0.1,
eai-sparsify 1.3, Gemma Scope, circuit-tracer 0.5, TransformerLens 3.9 and transformers 5.
"""

import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from tokenizers import Tokenizer
from torch import Tensor

from sae_lib.corpus.tokenizer import END_OF_TEXT
from sae_lib.errors import BookError
from sae_lib.runs import load_state
from sae_lib.sae import SAEConfig, SparseAutoencoder
from sae_lib.storage import load_tensors, read_json, reading, save_tensors, write_atomic, write_folder, write_json
from sae_lib.transformer import HOOK, OneLayerTransformer

Weights = Mapping[str, Tensor]

FETCH = "Fetch it again from where it came"
"""What helps with a damaged file that others wrote."""
CANNOT = "use it with the package it came from; what can be read here is ReLU, of SAELens or of Gemma Scope"
"""What is left to do with a dictionary of another kind."""


@dataclass(frozen=True)
class Facts:
    """What other packages ask about a dictionary or a model besides its weights."""

    model: str
    """Name of the language model."""
    n_ctx: int
    """Context length it was trained with, in tokens."""
    corpus: str
    """The text."""
    hook: str = HOOK
    """Where the dictionary reads, by TransformerLens' name."""
    lineage: str = ""
    """Which model exactly, as `SparseAutoencoder.lineage` says it; an export fills it in."""


class Imported(NamedTuple):
    """A foreign dictionary, read."""

    sae: SparseAutoencoder
    """Its weights in ours; `l1_coeff` is 0, since no format says it."""
    package: str
    """Whose form it was in."""
    architecture: str
    """What that package calls it."""
    model: str
    """The language model, as far as the form says it."""
    hook: str
    """Where it reads, as far as the form says it."""

    def describe(self) -> str:
        """Four lines on what it is."""
        norms = self.sae.W_dec.norm(dim=1)
        return (
            f"{self.package} dictionary, architecture {self.architecture}\n"
            f"d_in {self.sae.cfg.d_in}, d_sae {self.sae.cfg.d_sae}\n"
            f"model {self.model or 'not stated'}, hook {self.hook or 'not stated'}\n"
            f"norms of the decoder's rows {norms.min():.4g} to {norms.max():.4g} (the paper's are 1)"
        )


def export_dictionary(sae: SparseAutoencoder, folder: Path, to: str, facts: Facts, force: bool = False) -> Path:
    """Write a dictionary in the form that another package reads.

    The other package computes the same features and the same reconstruction, to rounding:

        f     = ReLU((x - b_dec) @ W_enc + b_enc) = ReLU(x @ W_enc + b_enc'),    b_enc' = b_enc - b_dec @ W_enc
        x_hat = f @ W_dec + b_dec

    Args:
        sae: the dictionary.
        folder: where it shall be, whole or not at all.
        to: a form of `DICTIONARIES`.
        facts: where it comes from.
        force: replace an export that stands there, once the new one is whole.

    Returns:
        The folder.

    Raises:
        BookError: there is no such form, a folder stands there, or the disk refused.

    Source: ours; the paper publishes no weights.
    """
    form = check_form(DICTIONARIES, to, "dictionary")
    check_room(folder, force)
    weights = {name: tensor.detach().float().cpu() for name, tensor in sae.state_dict().items()}
    facts = replace(facts, lineage=sae.lineage)
    write_folder(folder, lambda aside: form.write(weights, sae.cfg, facts, aside), replace=force)
    return Path(folder)


def export_model(
    model: OneLayerTransformer, folder: Path, to: str, facts: Facts, tokenizer: Tokenizer | None = None, force: bool = False
) -> Path:
    """Write a language model in the form that another package reads.

    Args:
        model: the one-layer transformer.
        folder: where it shall be, whole or not at all.
        to: a form of `MODELS`.
        facts: where it comes from.
        tokenizer: written beside it, if given.
        force: replace an export that stands there, once the new one is whole.

    Returns:
        The folder.

    Raises:
        BookError: there is no such form, a folder stands there, the model's geometry has no place in it, or the disk refused.

    Source: ours; the paper publishes no weights.
    """
    form = check_form(MODELS, to, "model")
    check_room(folder, force)
    weights = {name: tensor.detach().float().cpu() for name, tensor in model.state_dict().items()}

    def fill(aside: Path) -> None:
        form.write(weights, model.cfg, facts, aside)
        if tokenizer is not None:
            write_atomic(aside / "tokenizer.json", tokenizer.to_str(pretty=True))
            special = dict.fromkeys(("bos_token", "eos_token", "unk_token"), END_OF_TEXT)
            length = {"model_max_length": model.cfg.n_ctx}
            write_json(aside / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast"} | special | length)

    write_folder(folder, fill, replace=force)
    return Path(folder)


def check_form(forms: "Mapping[str, Form]", to: str, kind: str) -> "Form":
    """The form of that name.

    Raises:
        BookError: there is none; the message lists those there are.
    """
    if to not in forms:
        raise BookError(f"a {kind} cannot be exported to {to!r}; the forms of a {kind} are {', '.join(forms)}")
    return forms[to]


def check_room(folder: Path, force: bool = False) -> None:
    """Whether an export may be written there.

    Raises:
        BookError: something stands there, and it is no export or `force` was not given.
    """
    folder = Path(folder)
    with reading(folder):
        if not folder.exists():
            return
        if not folder.is_dir():
            raise BookError(f"{folder} is a file; name another folder with --out")
        names = {entry.name for entry in folder.iterdir()}
    # What is not of an export's making is not an export's to delete.
    known = {file for form in (DICTIONARIES | MODELS).values() for file in form.files} | {"tokenizer.json", "tokenizer_config.json"}
    if odd := sorted(names - known):
        raise BookError(f"{folder} holds {odd[0]}, which no export wrote, and so it is not replaced; name another folder with --out")
    if not force:
        raise BookError(f"{folder} exists already; replace it with --force, or name another folder with --out")


def folded_bias(
    W_enc: Float[Tensor, "d_in d_sae"], b_enc: Float[Tensor, " d_sae"], b_dec: Float[Tensor, " d_in"]
) -> Float[Tensor, " d_sae"]:
    """Encoder bias of the same dictionary where `b_dec` is not subtracted from the input.

        b_enc' = b_enc - b_dec @ W_enc

    Args:
        W_enc: encoder.
        b_enc: encoder bias, in activation units.
        b_dec: what was subtracted from the input; its negative, to fold back.

    Source: ours; it multiplies out the encoder of Bricken et al. 2023, "Sparse Autoencoder Setup".
    """
    return (b_enc.double() - b_dec.double() @ W_enc.double()).float()


def _write_saelens(weights: Weights, cfg: SAEConfig, facts: Facts, folder: Path) -> None:
    """SAELens: our names, our shapes, our formula.

    A version of 6 or later must be stated, or the file is taken for an older one that begins every context with a token of its own.
    """
    save_tensors(folder / "sae_weights.safetensors", weights)
    metadata = {
        "sae_lens_version": "6.54.12",
        "sae_lens_training_version": None,
        "model_name": facts.model,
        "model_lineage": facts.lineage,
        "hook_name": facts.hook,
        "context_size": facts.n_ctx,
        "prepend_bos": False,
        "dataset_path": facts.corpus,
    }
    settings = {
        "architecture": "standard",
        "d_in": cfg.d_in,
        "d_sae": cfg.d_sae,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": "none",
    }
    write_json(folder / "cfg.json", settings | {"metadata": metadata})


def _write_dictionary_learning(weights: Weights, cfg: SAEConfig, facts: Facts, folder: Path) -> None:
    """dictionary_learning: the paper's autoencoder by other names; it wants a pickle, of tensors and nothing else.

    Its squared error is summed over the elements of an input, so `l1_penalty` is our weight times d_in where ours is averaged.
    """
    state = {
        "bias": weights["b_dec"].clone(),
        "encoder.weight": weights["W_enc"].T.contiguous(),
        "encoder.bias": weights["b_enc"].clone(),
        "decoder.weight": weights["W_dec"].T.contiguous(),
    }
    # On a full disk torch raises an error of its own, about positions in an archive.
    content = BytesIO()
    torch.save(state, content)
    write_atomic(folder / "ae.pt", content.getvalue())
    trainer = {
        "trainer_class": "StandardTrainer",
        "dict_class": "AutoEncoder",
        "activation_dim": cfg.d_in,
        "dict_size": cfg.d_sae,
        "l1_penalty": cfg.l1_coeff * (cfg.d_in if cfg.mse == "mean" else 1),
        "layer": 0,
        "lm_name": facts.model,
        "submodule_name": facts.hook,
    }
    write_json(folder / "config.json", {"trainer": trainer, "buffer": {"ctx_len": facts.n_ctx, "d_submodule": cfg.d_in}})


def _write_sparsify(weights: Weights, cfg: SAEConfig, facts: Facts, folder: Path) -> None:
    """sparsify: it knows TopK only, but takes the k largest *after* ReLU, so k = d_sae is ReLU itself.

    The numbers are ours; the speed that sparsify draws from a small k is lost.
    """
    state = {"encoder.weight": weights["W_enc"].T, "encoder.bias": weights["b_enc"], "W_dec": weights["W_dec"], "b_dec": weights["b_dec"]}
    save_tensors(folder / "sae.safetensors", state, {"model": facts.model, "hook": facts.hook})
    settings = {
        "activation": "topk",
        "expansion_factor": max(1, cfg.d_sae // cfg.d_in),
        "normalize_decoder": True,
        "num_latents": cfg.d_sae,
        "k": cfg.d_sae,
        "multi_topk": False,
        "skip_connection": False,
        "transcode": False,
        "d_in": cfg.d_in,
    }
    write_json(folder / "cfg.json", settings)


def _write_gemma_scope(weights: Weights, cfg: SAEConfig, facts: Facts, folder: Path) -> None:
    """Gemma Scope: JumpReLU without a subtracted bias; with all thresholds at zero it is ReLU."""
    arrays = dict(weights) | {"b_enc": folded_bias(weights["W_enc"], weights["b_enc"], weights["b_dec"])}
    arrays["threshold"] = torch.zeros(cfg.d_sae)

    def save(aside: Path) -> None:
        with open(aside, "wb") as file:
            np.savez(file, **{name: tensor.numpy() for name, tensor in arrays.items()})

    write_atomic(folder / "params.npz", save)


def _write_circuit_tracer(weights: Weights, cfg: SAEConfig, facts: Facts, folder: Path) -> None:
    """circuit-tracer: a ReLU transcoder's file, in which W_enc lies transposed and no bias is subtracted.

    It loads and encodes, but it is no transcoder: it gives back the MLP activations it reads, and not what the MLP writes to the
    residual stream. The file says so in its metadata, and no `config.yaml` offers it as a transcoder set.
    """
    state = dict(weights) | {"b_enc": folded_bias(weights["W_enc"], weights["b_enc"], weights["b_dec"]), "W_enc": weights["W_enc"].T}
    meta = {"kind": "autoencoder, no transcoder", "model": facts.model, "reads": facts.hook, "reconstructs": facts.hook}
    save_tensors(folder / "layer_0.safetensors", state, meta)


def _write_transformer_lens(weights: Weights, cfg: Any, facts: Facts, folder: Path) -> None:
    """TransformerLens: the names and shapes of 2.x and 3.x, which 4.x converts; `config.json` holds a HookedTransformerConfig."""
    save_tensors(folder / "model.safetensors", weights, {"format": "pt", "model": facts.model})
    sizes = {name: getattr(cfg, name) for name in ("d_model", "n_heads", "d_head", "d_mlp", "n_ctx", "d_vocab")}
    write_json(folder / "config.json", {"n_layers": 1} | sizes | {"act_fn": "relu", "normalization_type": "LN", "eps": 1e-5})


def _write_hf(weights: Weights, cfg: Any, facts: Facts, folder: Path) -> None:
    """Hugging Face: a GPT-2 of one layer with ReLU, which any of its tools loads.

    GPT-2's unembedding has no bias. What the last LayerNorm normalises has mean zero, n @ 1 = 0, so ours is folded in exactly:

        logits = (n * w + b) @ W_U + b_U = (n + 1) @ W_U'
        W_U'   = (w * W_U, every column less its mean) + 1 @ (b @ W_U + b_U) / d_model
    """
    if cfg.n_heads * cfg.d_head != cfg.d_model:
        raise BookError(
            f"GPT-2's heads share its width, and {cfg.n_heads} heads of {cfg.d_head} are not {cfg.d_model}; "
            "export to transformer-lens instead"
        )
    block, layer = "blocks.0.", "transformer.h.0."
    W_U, w, b = (weights[name].double() for name in ("unembed.W_U", "ln_final.w", "ln_final.b"))
    scaled = w[:, None] * W_U
    bias = b @ W_U + weights["unembed.b_U"].double()
    state = {
        "transformer.wte.weight": weights["embed.W_E"],
        "transformer.wpe.weight": weights["pos_embed.W_pos"],
        # [head, d_model, d_head] to [d_model, head * d_head], for queries, keys and values side by side.
        f"{layer}attn.c_attn.weight": torch.cat([weights[f"{block}attn.W_{n}"].transpose(0, 1).flatten(1) for n in "QKV"], dim=1),
        f"{layer}attn.c_attn.bias": torch.cat([weights[f"{block}attn.b_{n}"].flatten() for n in "QKV"]),
        f"{layer}attn.c_proj.weight": weights[f"{block}attn.W_O"].flatten(0, 1),
        f"{layer}attn.c_proj.bias": weights[f"{block}attn.b_O"],
        f"{layer}mlp.c_fc.weight": weights[f"{block}mlp.W_in"],
        f"{layer}mlp.c_fc.bias": weights[f"{block}mlp.b_in"],
        f"{layer}mlp.c_proj.weight": weights[f"{block}mlp.W_out"],
        f"{layer}mlp.c_proj.bias": weights[f"{block}mlp.b_out"],
        "transformer.ln_f.weight": torch.ones(cfg.d_model),
        "transformer.ln_f.bias": torch.ones(cfg.d_model),
        "lm_head.weight": (scaled - scaled.mean(0) + bias / cfg.d_model).float().T,
    }
    for theirs, ours in (("ln_1", "ln1"), ("ln_2", "ln2")):
        state |= {f"{layer}{theirs}.weight": weights[f"{block}{ours}.w"], f"{layer}{theirs}.bias": weights[f"{block}{ours}.b"]}
    save_tensors(folder / "model.safetensors", state, {"format": "pt", "model": facts.model})
    settings = {
        "model_type": "gpt2",
        "architectures": ["GPT2LMHeadModel"],
        "n_layer": 1,
        "n_embd": cfg.d_model,
        "n_head": cfg.n_heads,
        "n_inner": cfg.d_mlp,
        "n_positions": cfg.n_ctx,
        "vocab_size": cfg.d_vocab,
        "activation_function": "relu",
        "layer_norm_epsilon": 1e-5,
        "tie_word_embeddings": False,
        "bos_token_id": 0,
        "eos_token_id": 0,
    }
    write_json(folder / "config.json", settings | dict.fromkeys(("attn_pdrop", "embd_pdrop", "resid_pdrop"), 0.0) | {"dtype": "float32"})


class Form(NamedTuple):
    """How a dictionary or a model lies on disk for another package."""

    files: tuple[str, ...]
    """What it consists of."""
    write: Callable[[Weights, Any, Facts, Path], None]
    """Writes weights, sizes and facts into a folder."""


DICTIONARIES: dict[str, Form] = {
    "saelens": Form(("cfg.json", "sae_weights.safetensors"), _write_saelens),
    "dictionary_learning": Form(("config.json", "ae.pt"), _write_dictionary_learning),
    "sparsify": Form(("cfg.json", "sae.safetensors"), _write_sparsify),
    "gemma-scope": Form(("params.npz",), _write_gemma_scope),
    "circuit-tracer": Form(("layer_0.safetensors",), _write_circuit_tracer),
}
"""The forms of a dictionary, by the word that `--to` takes."""

MODELS: dict[str, Form] = {
    "transformer-lens": Form(("config.json", "model.safetensors"), _write_transformer_lens),
    "hf": Form(("config.json", "model.safetensors"), _write_hf),
}
"""The forms of a language model."""


def import_dictionary(path: Path) -> Imported:
    """Read a dictionary of SAELens or of Gemma Scope, if it is one that our formula can express exactly.

    The weights are taken as they are: rows of `W_dec` whose norm is not 1 keep it, and so the features keep their unit.
    A form that does not subtract `b_dec` from the input gets the encoder bias that makes up for it.

        ReLU(x @ W_enc + b_enc) = ReLU((x - b_dec) @ W_enc + b_enc''),    b_enc'' = b_enc + b_dec @ W_enc

    Args:
        path: a folder with `cfg.json` and `sae_weights.safetensors`, a folder with `params.npz`, or such a file.

    Returns:
        The dictionary, in float32, and what its form says of it.

    Raises:
        BookError: the files are missing, damaged or of no form read here, or the dictionary is not ReLU on plain activations.

    Source: ours; the paper publishes no weights.
    """
    path = Path(path)
    with reading(path):
        if not path.exists():
            raise BookError(f"{path} is missing; name a folder of SAELens, or a params.npz of Gemma Scope")
        if path.suffix == ".pt" or (path / "ae.pt").exists():
            raise BookError(
                f"{path} is pickled, and what is pickled can run a program; load it where you trust it and save it with SAELens"
            )
        if path.suffix == ".npz" or (path / "params.npz").exists():
            return _read_gemma_scope(path if path.is_file() else path / "params.npz")
        folder = path.parent if path.name in DICTIONARIES["saelens"].files else path
        if (folder / "sae.safetensors").exists():
            raise BookError(f"{path} is of sparsify, whose dictionaries are TopK; {CANNOT}")
        if (folder / "cfg.json").exists() or (folder / "sae_weights.safetensors").exists():
            return _read_saelens(folder)
    raise BookError(f"{path} holds neither cfg.json and sae_weights.safetensors (SAELens) nor params.npz (Gemma Scope)")


def _read_saelens(folder: Path) -> Imported:
    path = folder / "cfg.json"
    cfg = read_json(path, mend=FETCH)
    if not isinstance(cfg, dict) or not isinstance(cfg.get("metadata") or {}, dict):
        raise BookError(f"{path} holds no settings of SAELens; {FETCH.lower()}")
    # Before version 6 the standard architecture was not named, and what is metadata now lay beside the rest.
    architecture, said = cfg.get("architecture", "standard"), cfg | (cfg.get("metadata") or {})
    hook = str(said.get("hook_name") or said.get("hook_point") or "")
    activation = cfg.get("activation_fn", cfg.get("activation_fn_str", "relu"))
    if architecture not in ("standard", "jumprelu") or activation != "relu":
        raise BookError(f"{path} describes a dictionary that is {activation if activation != 'relu' else architecture}, not ReLU; {CANNOT}")
    if (norm := cfg.get("normalize_activations")) not in ("none", None, False):
        raise BookError(
            f"{path} says normalize_activations is {norm!r}, and ours reads activations as they are; "
            "where that is one factor or a fixed map, fold it into the weights with SAELens and save again"
        )
    if cfg.get("reshape_activations", "hook_z" if "hook_z" in hook else "none") != "none":
        raise BookError(f"{path} says that several heads' activations are joined before they are read, which ours does not do; {CANNOT}")
    source = folder / "sae_weights.safetensors"
    tensors, _ = load_tensors(source, mend=FETCH)
    sae = _dictionary(tensors, source, jump=architecture == "jumprelu", subtracts=bool(cfg.get("apply_b_dec_to_input", True)))
    for name in ("d_in", "d_sae"):
        if cfg.get(name, getattr(sae.cfg, name)) != getattr(sae.cfg, name):
            raise BookError(f"{path} says {name} is {cfg[name]}, and in {source.name} it is {getattr(sae.cfg, name)}; {FETCH.lower()}")
    sae.lineage = str(said.get("model_lineage") or "")
    return Imported(sae, "SAELens", architecture, str(said.get("model_name") or ""), hook)


def _read_gemma_scope(path: Path) -> Imported:
    tensors = _read_npz(path)
    if "w_enc" in tensors:
        raise BookError(f"{path} is a transcoder: it predicts other activations than it reads; {CANNOT}")
    return Imported(_dictionary(tensors, path, jump=True, subtracts=False), "Gemma Scope", "jumprelu", "", "")


def _read_npz(path: Path) -> dict[str, Tensor]:
    # numpy opens whatever it is given, pickles included; only an archive is let through, and no pickle inside it.
    damaged = (ValueError, OSError, EOFError, KeyError, NotImplementedError, RuntimeError, zipfile.BadZipFile, zlib.error, MemoryError)
    try:
        if not zipfile.is_zipfile(path):
            raise ValueError("it is no archive")
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        return {name: torch.from_numpy(array.astype(array.dtype.newbyteorder("="))) for name, array in arrays.items()}
    except (*damaged, TypeError, AttributeError) as error:
        why = str(error).partition("\n")[0]
        raise BookError(f"{path} is damaged or is no npz of numbers ({why}). {FETCH}") from None


def _dictionary(tensors: Weights, path: Path, jump: bool, subtracts: bool) -> SparseAutoencoder:
    """Foreign weights as our module, once they are all there, of one geometry, finite, and without a threshold."""
    names = {"W_enc", "b_enc", "W_dec", "b_dec"} | ({"threshold"} if jump else set())
    tensors = dict(tensors)
    if "scaling_factor" in tensors and bool((tensors["scaling_factor"] == 1).all()):
        del tensors["scaling_factor"]
    if missing := sorted(names - set(tensors)):
        raise BookError(f"{path} has no {', '.join(missing)}; {FETCH.lower()}")
    if odd := sorted(set(tensors) - names):
        raise BookError(f"{path} also holds {', '.join(odd[:3])}, which a ReLU dictionary has no place for; {CANNOT}")
    d_in, d_sae = (tensors[name].numel() for name in ("b_dec", "b_enc"))
    shapes = {"W_enc": (d_in, d_sae), "W_dec": (d_sae, d_in), "b_enc": (d_sae,), "b_dec": (d_in,), "threshold": (d_sae,)}
    for name, tensor in tensors.items():
        if not tensor.is_floating_point() or not bool(torch.isfinite(tensor.float()).all()):
            raise BookError(f"{path} holds numbers in {name} that are not finite or not real; {FETCH.lower()}")
        if tuple(tensor.shape) != shapes[name]:
            raise BookError(f"{path} has {name} of shape {tuple(tensor.shape)}, and its biases ask for {shapes[name]}; {FETCH.lower()}")
    if jump and (n := int((tensors.pop("threshold") != 0).sum())):
        raise BookError(f"{path} has a threshold that is not zero in {n} of {d_sae} features, and ReLU has none; {CANNOT}")
    weights = {name: tensor.float() for name, tensor in tensors.items()}
    if not subtracts:
        weights["b_enc"] = folded_bias(weights["W_enc"], weights["b_enc"], -weights["b_dec"])
    sae = SparseAutoencoder(SAEConfig(d_in, d_sae, l1_coeff=0.0))
    load_state(sae, weights, path)
    return sae.eval().requires_grad_(False)


def save_dictionary(imported: Imported, path: Path, force: bool = False) -> Path:
    """Write an imported dictionary as one safetensors file, under the names that a run's `weights.safetensors` has.

    Args:
        imported: what `import_dictionary` gave.
        path: the file; its metadata says where the dictionary came from.
        force: replace a file that stands there.

    Returns:
        The file.

    Raises:
        BookError: a file stands there, or the disk refused.

    Source: ours; the paper publishes no weights.
    """
    path = Path(path)
    with reading(path):
        if path.is_dir():
            raise BookError(f"{path} is a folder; name a file with --out, such as {path / 'dictionary.safetensors'}")
        if path.exists() and not force:
            raise BookError(f"{path} exists already; replace it with --force, or name another file with --out")
    facts = {name: getattr(imported, name) for name in ("package", "architecture", "model", "hook")}
    save_tensors(path, imported.sae.state_dict(), facts)
    return path
