"""The weights that ship with the book: whole, described as they are, and better than none."""

import hashlib
import json
from pathlib import Path

import pytest
import torch

import sae_lib
from sae_lib import cards
from sae_lib.corpus import anthology_text
from sae_lib.errors import BookError
from sae_lib.lab import MODELS, Lab
from sae_lib.metrics import evaluate
from sae_lib.release import TOKENIZER, Released, released_names
from sae_lib.scales import SCALES

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "checkpoints"
MANIFEST = json.loads((FOLDER / "MANIFEST.json").read_text())
RUNS = {name: entry for name, entry in MANIFEST["runs"].items() if name != TOKENIZER}
DICTIONARIES = [name for name in RUNS if "/" in name]
FILES = [file for entry in MANIFEST["runs"].values() for file in entry["files"]]
NIGHT = SCALES["night"]


def test_all_that_the_scale_names_is_there():
    assert set(RUNS) == {"A", "B", *NIGHT.d_sae}
    assert released_names() == sorted(RUNS, key=lambda name: ("/" in name, name))


def test_every_file_is_named_and_every_name_is_a_file():
    assert sorted(path.name for path in FOLDER.iterdir()) == sorted([*(file["name"] for file in FILES), "MANIFEST.json"])
    for file in FILES:
        content = (FOLDER / file["name"]).read_bytes()
        assert (len(content), hashlib.sha256(content).hexdigest()) == (file["bytes"], file["sha256"]), file["name"]


def test_the_files_are_small_enough_to_be_cloned():
    assert max(file["bytes"] for file in FILES) < 16 * 2**20
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) <= 90 * 2**20


@pytest.mark.parametrize("name", RUNS)
def test_a_run_was_trained_as_its_scale_says(name):
    config, facts = RUNS[name]["config"], RUNS[name]["provenance"]
    geometry, training = config["geometry"], config["training"]
    for fact in ("corpus", "tokenizer_sha256", "train_tokens"):
        assert facts[fact] == RUNS["A"]["provenance"][fact], "all of them read one text"
    if name in MODELS:
        assert {key: geometry[key] for key in ("d_model", "d_mlp", "n_ctx", "d_vocab")} == {
            key: getattr(NIGHT, key) for key in ("d_model", "d_mlp", "n_ctx", "d_vocab")
        }
        assert (training["n_tokens"], training["batch_tokens"], training["lr"]) == (NIGHT.model_tokens, NIGHT.model_batch, NIGHT.model_lr)
    else:
        assert (geometry["d_in"], geometry["d_sae"], geometry["l1_coeff"]) == (NIGHT.d_mlp, NIGHT.d_sae[name], NIGHT.l1_coeff)
        assert (training["n_activations"], training["batch_size"]) == (NIGHT.n_activations[name], NIGHT.sae_batch)


@pytest.mark.parametrize("name", RUNS)
def test_a_card_says_what_the_manifest_says(name):
    stem = ROOT / "book" / "cards" / name.replace("/", "-")
    assert stem.with_suffix(".md").read_text() == cards.card(name, RUNS[name])
    assert (ROOT / "book" / "cards" / "summary.md").read_text() == cards.summary(RUNS)


@pytest.mark.parametrize("name", DICTIONARIES)
def test_directions_keep_their_length_in_half_precision(name):
    assert torch.allclose(sae_lib.released(name).W_dec.norm(dim=1), torch.ones(NIGHT.d_sae[name]), atol=2e-3)
    assert abs(RUNS[name]["measured"]["half_precision"]) < 1e-3, "a tenth of a point of the recovered loss"


def test_a_dictionary_of_the_other_model_is_refused():
    lab = Lab("released", device="cpu")
    for name in DICTIONARIES:
        assert Released(name).lineage == f"{name[0]}-{lab._recipe(name[0])}"
    sae, tokens = sae_lib.released("B/1"), torch.zeros(1, 8, dtype=torch.int64)
    assert evaluate(sae_lib.released("B"), sae, tokens).n_tokens == 8
    with pytest.raises(BookError, match="was trained on model B-209ca6582845 and this is A-e21f8aa11508"):
        evaluate(sae_lib.released("A"), sae, tokens)


def test_wider_dictionaries_give_back_more_of_the_loss():
    model, text = sae_lib.released("A"), anthology_text(sae_lib.released(TOKENIZER), NIGHT.n_ctx)
    tokens = torch.from_numpy(text.tokens)
    recovered = [evaluate(model, sae_lib.released(name), tokens).loss_recovered for name in ("A/0", "A/1", "A/2")]
    assert 0.5 < recovered[0] < recovered[1] < recovered[2] < 1
