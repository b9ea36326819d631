"""Every form by its files, there and back, and what is refused; `tests/interop` does it with the packages themselves."""

import json
from dataclasses import replace

import numpy as np
import pytest
import small
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import BPE

from sae_lib import interchange
from sae_lib.errors import BookError
from sae_lib.interchange import (
    DICTIONARIES,
    MODELS,
    Facts,
    Imported,
    export_dictionary,
    export_model,
    folded_bias,
    import_dictionary,
    save_dictionary,
)
from sae_lib.metrics import check_fits
from sae_lib.runs import load_state
from sae_lib.sae import SAEConfig, SparseAutoencoder
from sae_lib.storage import load_tensors, read_json, write_json
from sae_lib.transformer import OneLayerTransformer

FACTS = Facts(model="tiny-A", n_ctx=12, corpus="pocket:")

TENSORS = {
    "saelens": {"W_enc": (32, 64), "b_enc": (64,), "W_dec": (64, 32), "b_dec": (32,)},
    "dictionary_learning": {"bias": (32,), "encoder.weight": (64, 32), "encoder.bias": (64,), "decoder.weight": (32, 64)},
    "sparsify": {"encoder.weight": (64, 32), "encoder.bias": (64,), "W_dec": (64, 32), "b_dec": (32,)},
    "gemma-scope": {"W_enc": (32, 64), "b_enc": (64,), "W_dec": (64, 32), "b_dec": (32,), "threshold": (64,)},
    "circuit-tracer": {"W_enc": (64, 32), "b_enc": (64,), "W_dec": (64, 32), "b_dec": (32,)},
}


@pytest.fixture
def odd_sae(sae) -> SparseAutoencoder:
    """A dictionary whose biases are not zero."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        sae.b_enc += 0.2 * torch.randn(64, generator=generator)
        sae.b_dec += torch.randn(32, generator=generator)
    return sae.requires_grad_(False)


@pytest.fixture
def x() -> torch.Tensor:
    return 3 * torch.randn(200, 32, generator=torch.Generator().manual_seed(4))


@pytest.fixture
def odd_model(model) -> OneLayerTransformer:
    """A model whose biases and gains are not their starting zeros and ones."""
    generator = torch.Generator().manual_seed(5)
    for parameter in model.parameters():
        if parameter.ndim <= 2:
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    return model


def tensors_of(folder, to: str) -> dict[str, torch.Tensor]:
    """The tensors of an export, whatever file they lie in."""
    if to == "gemma-scope":
        with np.load(folder / "params.npz", allow_pickle=False) as archive:
            return {name: torch.from_numpy(archive[name]) for name in archive.files}
    if to == "dictionary_learning":
        return torch.load(folder / "ae.pt", weights_only=True)
    return load_file(next(folder.glob("*.safetensors")))


def encoded_and_decoded(to: str, tensors: dict[str, torch.Tensor], x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Features and reconstruction by the other package's own formula."""
    t = tensors
    match to:
        case "saelens":
            f = ((x - t["b_dec"]) @ t["W_enc"] + t["b_enc"]).relu()
            return f, f @ t["W_dec"] + t["b_dec"]
        case "dictionary_learning":
            f = ((x - t["bias"]) @ t["encoder.weight"].T + t["encoder.bias"]).relu()
            return f, f @ t["decoder.weight"].T + t["bias"]
        case "sparsify":
            f = ((x - t["b_dec"]) @ t["encoder.weight"].T + t["encoder.bias"]).relu()
        case "gemma-scope":
            pre = x @ t["W_enc"] + t["b_enc"]
            f = pre.relu() * (pre > t["threshold"])
        case "circuit-tracer":
            f = (x @ t["W_enc"].T + t["b_enc"]).relu()
    return f, f @ t["W_dec"] + t["b_dec"]


def saelens(folder, weights: dict[str, torch.Tensor], **cfg):
    """A SAELens folder as that package writes it, with some settings changed."""
    folder.mkdir(parents=True)
    d_in, d_sae = weights["W_enc"].shape
    settings = {"architecture": "standard", "d_in": d_in, "d_sae": d_sae, "dtype": "float32", "normalize_activations": "none"}
    save_file(weights, folder / "sae_weights.safetensors")
    write_json(folder / "cfg.json", settings | {"metadata": {"sae_lens_version": "6.54.12", "hook_name": "blocks.0.hook_mlp_out"}} | cfg)
    return folder


def weights_of(sae: SparseAutoencoder) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in sae.state_dict().items()}


# What is written


@pytest.mark.parametrize("to", DICTIONARIES)
def test_files_keys_shapes_and_dtypes(odd_sae, tmp_path, to):
    folder = export_dictionary(odd_sae.double(), tmp_path / "out", to, FACTS)
    assert {path.name for path in folder.iterdir()} == set(DICTIONARIES[to].files)
    tensors = tensors_of(folder, to)
    assert {name: tuple(tensor.shape) for name, tensor in tensors.items()} == TENSORS[to]
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("to", DICTIONARIES)
def test_their_formula_on_what_was_written_gives_our_numbers(odd_sae, x, tmp_path, to):
    folder = export_dictionary(odd_sae, tmp_path / "out", to, FACTS)
    features, x_hat = encoded_and_decoded(to, tensors_of(folder, to), x)
    torch.testing.assert_close(features, odd_sae.encode(x), atol=1e-5, rtol=0)
    torch.testing.assert_close(x_hat, odd_sae(x).x_hat, atol=1e-5, rtol=0)


def test_saelens_settings(odd_sae, tmp_path):
    cfg = read_json(export_dictionary(odd_sae, tmp_path / "out", "saelens", FACTS) / "cfg.json")
    metadata = cfg.pop("metadata")
    assert cfg == {
        "architecture": "standard",
        "d_in": 32,
        "d_sae": 64,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": "none",
    }
    # Without a version of 6 or later SAELens takes the file for an old one.
    assert int(metadata["sae_lens_version"].split(".")[0]) >= 6
    assert metadata["hook_name"] == "blocks.0.mlp.hook_post"
    assert metadata["prepend_bos"] is False
    assert (metadata["model_name"], metadata["context_size"], metadata["dataset_path"]) == ("tiny-A", 12, "pocket:")


def test_an_export_knows_its_model_again(odd_sae, model, tmp_path):
    odd_sae.lineage = "B-209ca6582845"
    back = import_dictionary(export_dictionary(odd_sae, tmp_path / "out", "saelens", FACTS)).sae
    check_fits(model, back)
    model.lineage = "B-209ca6582845"
    check_fits(model, back)
    model.lineage = "A-e21f8aa11508"
    with pytest.raises(BookError, match="was trained on model B-209ca6582845 and this is A-e21f8aa11508"):
        check_fits(model, back)
    assert import_dictionary(export_dictionary(odd_sae, tmp_path / "again", "gemma-scope", FACTS)).sae.lineage == ""


@pytest.mark.parametrize(("mse", "penalty"), [("mean", 32e-3), ("sum", 1e-3)])
def test_dictionary_learning_settings(odd_sae, tmp_path, mse, penalty):
    odd_sae.cfg = replace(odd_sae.cfg, mse=mse)
    config = read_json(export_dictionary(odd_sae, tmp_path / "out", "dictionary_learning", FACTS) / "config.json")
    trainer = config["trainer"]
    assert (trainer["dict_class"], trainer["trainer_class"]) == ("AutoEncoder", "StandardTrainer")
    assert (trainer["activation_dim"], trainer["dict_size"], trainer["layer"], trainer["lm_name"]) == (32, 64, 0, "tiny-A")
    assert trainer["l1_penalty"] == pytest.approx(penalty)
    assert config["buffer"]["ctx_len"] == 12


def test_sparsify_keeps_every_feature(odd_sae, tmp_path):
    cfg = read_json(export_dictionary(odd_sae, tmp_path / "out", "sparsify", FACTS) / "cfg.json")
    assert (cfg["k"], cfg["num_latents"], cfg["d_in"], cfg["activation"]) == (64, 64, 32, "topk")
    assert not any(cfg[name] for name in ("transcode", "skip_connection", "multi_topk"))


def test_gemma_scope_has_no_threshold_and_circuit_tracer_no_transcoder(odd_sae, tmp_path):
    folder = export_dictionary(odd_sae, tmp_path / "gemma", "gemma-scope", FACTS)
    assert not tensors_of(folder, "gemma-scope")["threshold"].any()
    folder = export_dictionary(odd_sae, tmp_path / "tracer", "circuit-tracer", FACTS)
    with safe_open(folder / "layer_0.safetensors", framework="pt") as file:
        assert "no transcoder" in file.metadata()["kind"]
        assert file.metadata()["reads"] == file.metadata()["reconstructs"] == "blocks.0.mlp.hook_post"


def test_folding_by_hand():
    W_enc, b_enc, b_dec = torch.tensor([[1.0, 0.0], [2.0, -1.0]]), torch.tensor([0.5, 0.5]), torch.tensor([10.0, 1.0])
    folded = folded_bias(W_enc, b_enc, b_dec)
    assert folded.tolist() == [0.5 - 12.0, 0.5 + 1.0]
    assert torch.equal(folded_bias(W_enc, folded, -b_dec), b_enc)


def test_transformer_lens_layout(odd_model, tmp_path):
    folder = export_model(odd_model, tmp_path / "out", "transformer-lens", FACTS)
    assert {path.name for path in folder.iterdir()} == set(MODELS["transformer-lens"].files)
    again = OneLayerTransformer(small.GEOMETRY, seed=9)
    load_state(again, load_file(folder / "model.safetensors"), folder)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(odd_model.parameters(), again.parameters(), strict=True))
    config = read_json(folder / "config.json")
    assert config.items() >= {"n_layers": 1, "d_model": 16, "n_heads": 2, "d_head": 8, "d_mlp": 32, "n_ctx": 12, "d_vocab": 50}.items()
    assert (config["act_fn"], config["normalization_type"], config["eps"]) == ("relu", "LN", 1e-5)


def test_hf_is_a_gpt2_with_our_logits(odd_model, tmp_path):
    """GPT-2's forward pass written out, on what was written."""
    folder = export_model(odd_model, tmp_path / "out", "hf", FACTS)
    state, rows = load_file(folder / "model.safetensors"), torch.arange(36).view(3, 12) % 50
    config = read_json(folder / "config.json")
    assert (config["model_type"], config["tie_word_embeddings"], config["activation_function"]) == ("gpt2", False, "relu")
    assert {tensor.dtype for tensor in state.values()} == {torch.float32}

    def linear(x, name):
        return x @ state[f"{name}.weight"] + state[f"{name}.bias"]

    def norm(x, name):
        return torch.nn.functional.layer_norm(x, (16,), state[f"{name}.weight"], state[f"{name}.bias"])

    x = state["transformer.wte.weight"][rows] + state["transformer.wpe.weight"]
    q, k, v = (
        part.unflatten(-1, (2, 8)).transpose(1, 2)
        for part in linear(norm(x, "transformer.h.0.ln_1"), "transformer.h.0.attn.c_attn").chunk(3, -1)
    )
    z = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
    x = x + linear(z, "transformer.h.0.attn.c_proj")
    x = x + linear(linear(norm(x, "transformer.h.0.ln_2"), "transformer.h.0.mlp.c_fc").relu(), "transformer.h.0.mlp.c_proj")
    logits = norm(x, "transformer.ln_f") @ state["lm_head.weight"].T
    torch.testing.assert_close(logits, odd_model(rows), atol=1e-5, rtol=0)


def test_hf_refuses_heads_that_do_not_share_the_width(tmp_path):
    model = OneLayerTransformer(replace(small.GEOMETRY, d_head=4))
    with pytest.raises(BookError, match="2 heads of 4 are not 16; export to transformer-lens"):
        export_model(model, tmp_path / "out", "hf", FACTS)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("to", MODELS)
def test_the_tokenizer_goes_along(odd_model, tmp_path, to):
    folder = export_model(odd_model, tmp_path / "out", to, FACTS, Tokenizer(BPE({"<|endoftext|>": 0}, [])))
    assert Tokenizer.from_file(str(folder / "tokenizer.json")).token_to_id("<|endoftext|>") == 0
    assert read_json(folder / "tokenizer_config.json")["eos_token"] == "<|endoftext|>"


# Where it is written


def test_unknown_forms_list_the_forms(odd_sae, odd_model, tmp_path):
    with pytest.raises(BookError, match="a dictionary cannot be exported to 'hf'; the forms of a dictionary are saelens, dict"):
        export_dictionary(odd_sae, tmp_path / "out", "hf", FACTS)
    with pytest.raises(BookError, match="a model cannot be exported to 'saelens'; the forms of a model are transformer-lens, hf"):
        export_model(odd_model, tmp_path / "out", "saelens", FACTS)


def test_a_folder_that_stands_there_needs_force(odd_sae, sae, tmp_path):
    folder = export_dictionary(odd_sae, tmp_path / "out", "saelens", FACTS)
    before = (folder / "sae_weights.safetensors").read_bytes()
    with pytest.raises(BookError, match=r"out exists already; replace it with --force, or name another folder with --out"):
        export_dictionary(odd_sae, folder, "saelens", FACTS)
    assert (folder / "sae_weights.safetensors").read_bytes() == before
    export_dictionary(odd_sae, folder, "gemma-scope", FACTS, force=True)
    assert [path.name for path in folder.iterdir()] == ["params.npz"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("force", [False, True])
def test_what_no_export_wrote_is_never_replaced(odd_sae, tmp_path, force):
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "thesis.txt").write_text("three years")
    with pytest.raises(BookError, match=r"holds thesis\.txt, which no export wrote"):
        export_dictionary(odd_sae, folder, "saelens", FACTS, force)
    assert (folder / "thesis.txt").read_text() == "three years"
    with pytest.raises(BookError, match=r"thesis\.txt is a file"):
        export_dictionary(odd_sae, folder / "thesis.txt", "saelens", FACTS, force)


@pytest.mark.parametrize("to", DICTIONARIES)
def test_a_disk_that_fills_while_the_weights_are_written_is_named(odd_sae, tmp_path, to):
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, hard))
    try:
        with pytest.raises(BookError, match=r"could not write .*File too large"):
            export_dictionary(odd_sae, tmp_path / "out", to, FACTS)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_looked_at_is_named(odd_sae, tmp_path):
    place = tmp_path / ("x" * 300)
    # Newer Pythons say that it is not there.
    message = r"x cannot be read: File name too long|is missing|could not write"
    with pytest.raises(BookError, match=message):
        import_dictionary(place)
    with pytest.raises(BookError, match=message):
        export_dictionary(odd_sae, place, "saelens", FACTS)
    with pytest.raises(BookError, match=message):
        save_dictionary(Imported(odd_sae, "SAELens", "standard", "", ""), place)


@pytest.mark.parametrize("stands", [False, True])
@pytest.mark.parametrize("end", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_interrupted_writing_leaves_nothing_half_written(odd_sae, tmp_path, monkeypatch, stands, end):
    folder = tmp_path / "out"
    if stands:
        export_dictionary(odd_sae, folder, "gemma-scope", FACTS)

    def stop(*_):
        raise end

    monkeypatch.setattr(interchange, "write_json", stop)
    expected = KeyboardInterrupt if end is KeyboardInterrupt else BookError
    with pytest.raises(expected):
        export_dictionary(odd_sae, folder, "saelens", FACTS, force=True)
    assert [path.name for path in tmp_path.iterdir()] == (["out"] if stands else [])
    if stands:
        assert [path.name for path in folder.iterdir()] == ["params.npz"]
        assert torch.equal(tensors_of(folder, "gemma-scope")["W_dec"], odd_sae.W_dec)


def test_the_old_export_comes_back_if_the_last_rename_fails(odd_sae, tmp_path, monkeypatch):
    folder = export_dictionary(odd_sae, tmp_path / "out", "gemma-scope", FACTS)
    rename = type(folder).rename

    def refuse(path, target):
        if path.name == "new":
            raise OSError(5, "Input/output error")
        return rename(path, target)

    monkeypatch.setattr(type(folder), "rename", refuse)
    with pytest.raises(BookError, match="Input/output error"):
        export_dictionary(odd_sae, folder, "saelens", FACTS, force=True)
    assert [path.name for path in folder.iterdir()] == ["params.npz"]


# There and back


@pytest.mark.parametrize(("to", "package"), [("saelens", "SAELens"), ("gemma-scope", "Gemma Scope")])
def test_there_and_back(odd_sae, x, tmp_path, to, package):
    folder = export_dictionary(odd_sae, tmp_path / "out", to, FACTS)
    found = import_dictionary(folder)
    assert found.package == package
    torch.testing.assert_close(found.sae.encode(x), odd_sae.encode(x), atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(found.sae(x).x_hat, odd_sae(x).x_hat, atol=1e-6, rtol=1e-6)
    for path in folder.iterdir():
        assert torch.equal(import_dictionary(path).sae.W_enc, odd_sae.W_enc)


def test_what_an_import_says(odd_sae, tmp_path):
    found = import_dictionary(export_dictionary(odd_sae, tmp_path / "out", "saelens", FACTS))
    assert found.describe().splitlines() == [
        "SAELens dictionary, architecture standard",
        "d_in 32, d_sae 64",
        "model tiny-A, hook blocks.0.mlp.hook_post",
        "norms of the decoder's rows 1 to 1 (the paper's are 1)",
    ]
    found = import_dictionary(export_dictionary(odd_sae, tmp_path / "gemma", "gemma-scope", FACTS))
    assert "model not stated, hook not stated" in found.describe()


def test_rows_of_another_norm_are_kept_and_said(odd_sae, x, tmp_path):
    weights = weights_of(odd_sae) | {"W_dec": odd_sae.W_dec * torch.linspace(0.5, 2, 64)[:, None]}
    found = import_dictionary(saelens(tmp_path / "in", weights))
    assert torch.equal(found.sae.W_dec, weights["W_dec"])
    assert "norms of the decoder's rows 0.5 to 2" in found.describe()
    torch.testing.assert_close(found.sae.encode(x), odd_sae.encode(x))


def test_an_encoder_that_subtracts_nothing_is_folded(odd_sae, x, tmp_path):
    weights = weights_of(odd_sae)
    found = import_dictionary(saelens(tmp_path / "in", weights, apply_b_dec_to_input=False))
    torch.testing.assert_close(found.sae.encode(x), (x @ weights["W_enc"] + weights["b_enc"]).relu(), atol=1e-5, rtol=1e-5)


def test_half_precision_and_jumprelu_without_a_jump_come_over(odd_sae, tmp_path):
    weights = {name: tensor.bfloat16() for name, tensor in (weights_of(odd_sae) | {"threshold": torch.zeros(64)}).items()}
    found = import_dictionary(saelens(tmp_path / "in", weights, architecture="jumprelu", dtype="bfloat16"))
    assert torch.equal(found.sae.W_enc, weights["W_enc"].float())
    assert found.architecture == "jumprelu"


def test_settings_from_before_version_6(odd_sae, tmp_path):
    folder = saelens(tmp_path / "in", weights_of(odd_sae) | {"scaling_factor": torch.ones(64)})
    old = {"d_in": 32, "d_sae": 64, "hook_point": "blocks.1.hook_resid_pre", "model_name": "gpt2-small", "normalize_activations": False}
    write_json(folder / "cfg.json", old)
    found = import_dictionary(folder)
    assert (found.architecture, found.hook, found.model) == ("standard", "blocks.1.hook_resid_pre", "gpt2-small")
    assert torch.equal(found.sae.W_dec, odd_sae.W_dec)


def test_an_import_is_kept_as_runs_keep_their_weights(odd_sae, tmp_path):
    found = import_dictionary(export_dictionary(odd_sae, tmp_path / "out", "saelens", FACTS))
    path = save_dictionary(found, tmp_path / "deep" / "dictionary.safetensors")
    tensors, meta = load_tensors(path)
    again = SparseAutoencoder(SAEConfig(32, 64, 0.0), seed=8)
    load_state(again, tensors, path)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(odd_sae.parameters(), again.parameters(), strict=True))
    assert meta == {"package": "SAELens", "architecture": "standard", "model": "tiny-A", "hook": "blocks.0.mlp.hook_post"}
    with pytest.raises(BookError, match=r"dictionary\.safetensors exists already; replace it with --force"):
        save_dictionary(found, path)
    assert save_dictionary(found, path, force=True) == path
    with pytest.raises(BookError, match="deep is a folder; name a file"):
        save_dictionary(found, path.parent, force=True)


# What is refused


@pytest.mark.parametrize(
    ("cfg", "message"),
    [
        ({"architecture": "topk", "k": 8}, r"cfg\.json describes a dictionary that is topk, not ReLU; use it with the package"),
        ({"architecture": "gated"}, "is gated, not ReLU"),
        ({"architecture": "transcoder", "d_out": 32}, "is transcoder, not ReLU"),
        ({"architecture": ["standard"]}, "not ReLU"),
        ({"activation_fn_str": "topk"}, "is topk, not ReLU"),
        ({"activation_fn": "tanh-relu"}, "is tanh-relu, not ReLU"),
        ({"normalize_activations": "layer_norm"}, "normalize_activations is 'layer_norm'"),
        ({"normalize_activations": "expected_average_only_in"}, "'expected_average_only_in'.* fold it into the weights with SAELens"),
        ({"normalize_activations": True}, "normalize_activations is True"),
        ({"reshape_activations": "hook_z"}, "several heads' activations are joined"),
        ({"hook_name": "x", "metadata": {"hook_name": "blocks.0.attn.hook_z"}}, "several heads' activations are joined"),
        ({"d_sae": 65}, r"d_sae is 65, and in sae_weights\.safetensors it is 64"),
        ({"metadata": "6.54"}, "holds no settings of SAELens"),
        ({"architecture": "jumprelu"}, "has no threshold"),
    ],
)
def test_settings_that_ours_cannot_express_are_named(odd_sae, tmp_path, cfg, message):
    with pytest.raises(BookError, match=message):
        import_dictionary(saelens(tmp_path / "in", weights_of(odd_sae), **cfg))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("b_dec"), "has no b_dec"),
        (lambda w: w.update(W_skip=torch.zeros(32, 32)), "also holds W_skip"),
        (lambda w: w.update(scaling_factor=torch.full((64,), 2.0)), "also holds scaling_factor"),
        (lambda w: w.update(W_enc=w["W_enc"].T.contiguous()), r"has W_enc of shape \(64, 32\), and its biases ask for \(32, 64\)"),
        (lambda w: w.update(b_dec=torch.zeros(1, 32)), r"has b_dec of shape \(1, 32\)"),
        (lambda w: w["b_enc"].fill_(float("nan")), "holds numbers in b_enc that are not finite"),
        (lambda w: w.update(b_dec=torch.full((32,), 1e300, dtype=torch.float64)), "holds numbers in b_dec that are not finite"),
        (lambda w: w.update(W_dec=torch.full((64, 32), float("nan")).to(torch.float8_e4m3fn)), "holds numbers in W_dec"),
        (lambda w: w.update(b_enc=torch.zeros(64, dtype=torch.int32)), "holds numbers in b_enc that are not finite or not real"),
    ],
)
def test_altered_weights_are_named(odd_sae, tmp_path, change, message):
    folder = saelens(tmp_path / "in", weights_of(odd_sae))
    weights = weights_of(odd_sae)
    change(weights)
    save_file(weights, folder / "sae_weights.safetensors")
    with pytest.raises(BookError, match=rf"sae_weights\.safetensors {message}"):
        import_dictionary(folder)


def test_a_jump_is_refused_wherever_it_comes_from(odd_sae, tmp_path):
    weights = weights_of(odd_sae) | {"threshold": torch.tensor([0.0] * 61 + [0.1, 0.2, -0.1])}
    with pytest.raises(BookError, match="a threshold that is not zero in 3 of 64 features, and ReLU has none"):
        import_dictionary(saelens(tmp_path / "in", weights, architecture="jumprelu"))
    np.savez(tmp_path / "params.npz", **{name: tensor.numpy() for name, tensor in weights.items()})
    with pytest.raises(BookError, match=r"params\.npz has a threshold that is not zero in 3 of 64"):
        import_dictionary(tmp_path / "params.npz")


def test_missing_and_damaged_files_are_named(odd_sae, tmp_path):
    with pytest.raises(BookError, match="nowhere is missing"):
        import_dictionary(tmp_path / "nowhere")
    with pytest.raises(BookError, match="holds neither"):
        import_dictionary(tmp_path)
    folder = export_dictionary(odd_sae, tmp_path / "in", "saelens", FACTS)
    file = folder / "sae_weights.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(BookError, match=r"sae_weights\.safetensors is damaged.* Fetch it again"):
        import_dictionary(folder)
    file.unlink()
    with pytest.raises(BookError, match=r"sae_weights\.safetensors is missing"):
        import_dictionary(folder)
    for content in ("{", "[]"):
        (folder / "cfg.json").write_text(content)
        with pytest.raises(BookError, match=r"cfg\.json .*[Ff]etch it again"):
            import_dictionary(folder)


@pytest.mark.parametrize("to", ["dictionary_learning", "sparsify"])
def test_forms_that_are_only_written_are_refused(odd_sae, tmp_path, to):
    folder = export_dictionary(odd_sae, tmp_path / "in", to, FACTS)
    with pytest.raises(BookError, match={"dictionary_learning": "is pickled", "sparsify": "are TopK"}[to]):
        import_dictionary(folder)


class Hostile:
    """What an unpickler would be made to do."""

    def __reduce__(self):
        return (exec, ("raise SystemExit('unpickled')",))


@pytest.mark.parametrize("name", ["params.npz", "ae.pt"])
def test_nothing_is_unpickled(tmp_path, name):
    torch.save({"bias": Hostile()}, tmp_path / "ae.pt")
    np.savez(tmp_path / "params.npz", W_enc=np.array([Hostile()], dtype=object))
    with pytest.raises(BookError, match=r"pickled|Object arrays cannot be loaded"):
        import_dictionary(tmp_path / name)


@pytest.mark.parametrize(
    "content",
    [b"", b"PK", b"\x80\x04.", b"PK\x05\x06" + 18 * b"\0", json.dumps({}).encode(), b"\x93NUMPY\x01\x00"],
    ids=["empty", "stub", "pickle", "archive of nothing", "json", "npy"],
)
def test_what_is_no_npz_is_named(tmp_path, content):
    (tmp_path / "params.npz").write_bytes(content)
    with pytest.raises(BookError, match=r"params\.npz (is damaged or is no npz of numbers|has no)"):
        import_dictionary(tmp_path)


def test_a_damaged_npz_is_named_wherever_the_damage_is(odd_sae, tmp_path):
    path = export_dictionary(odd_sae, tmp_path / "in", "gemma-scope", FACTS) / "params.npz"
    whole, refused = path.read_bytes(), 0
    for place in range(0, len(whole), len(whole) // 150):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        try:
            import_dictionary(path)
        except BookError as error:
            refused += "params.npz" in str(error)
    # The archive's own checksums see all but what they do not cover, such as dates.
    assert refused > 140
    for kept in range(0, len(whole), len(whole) // 40):
        path.write_bytes(whole[:kept])
        with pytest.raises(BookError, match=r"params\.npz"):
            import_dictionary(path)


def test_transcoders_and_arrays_of_words_are_refused(tmp_path):
    np.savez(tmp_path / "params.npz", w_enc=np.zeros((2, 3), np.float32))
    with pytest.raises(BookError, match="is a transcoder"):
        import_dictionary(tmp_path)
    np.savez(tmp_path / "params.npz", W_enc=np.array(["a"]))
    with pytest.raises(BookError, match="no npz of numbers"):
        import_dictionary(tmp_path)
