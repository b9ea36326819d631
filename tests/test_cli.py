"""The command line: what it prints, and how it ends, when something is wrong."""

import re
import subprocess
import sys
from typing import ClassVar

import pytest

from sae_lib import __version__, cli
from sae_lib.errors import BookError


def run(capsys: pytest.CaptureFixture, *arguments: str) -> tuple[int, str, str]:
    """Exit status, standard output and standard error of one command."""
    with pytest.raises(SystemExit) as end:
        cli.main(list(arguments))
    said = capsys.readouterr()
    return int(end.value.code or 0), said.out, said.err


def test_version(capsys):
    assert run(capsys, "--version") == (0, f"sae-book {__version__}\n", "")


@pytest.mark.parametrize("command", ["book", "train", "sweep", "export"])
def test_help_names_every_option(capsys, command):
    status, out, _ = run(capsys, command, "--help")
    assert status == 0
    assert all(option in out for option in ("--scale", "--corpus", "--seed"))


@pytest.mark.parametrize(
    ("command", "refused"),
    [
        ("book", set()),
        ("results", {"smoke"}),
        ("train", {"released"}),
        ("atlas", set()),
        ("export", set()),
        ("sweep", set()),
        ("release", {"released", "smoke"}),
    ],
)
def test_help_names_the_scales_that_a_command_takes(capsys, command, refused):
    from sae_lib.scales import SCALES

    out = run(capsys, command, "--help")[1]
    assert set(SCALES) & set(re.findall(r"\w+", out)) == set(SCALES) - refused
    assert ("the chapters' own" in re.sub(r"\W*\n\W*", " ", out)) == (command in ("book", "results"))


@pytest.mark.parametrize("command", [["book"], ["train", "A"]])
def test_unknown_scale_lists_the_scales(capsys, command):
    status, out, err = run(capsys, *command, "--scale", "foo")
    assert (status, out) == (1, "")
    assert err.count("\n") == 1
    assert all(name in err for name in ("foo", "smoke", "laptop", "colab", "paper"))


def test_unknown_run_lists_the_runs(capsys):
    status, _, err = run(capsys, "train", "C/7")
    assert status == 1
    assert err == "sae-book: there is no run 'C/7'; the runs are A, B, A/0, A/1, A/2, B/1\n"


def test_unknown_resampling_arm(capsys):
    status, _, err = run(capsys, "train", "A/1", "--resampling", "often")
    assert status == 1
    assert "'often'" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "A", "B", "--resampling", "naive"], "features are resampled, and A has none"),
        (["train", "A", "--scale", "released"], "ship with the book; SCALE=night"),
        (["train", "A", "--seed", "-1"], "SEED=-1 is no seed"),
        (["atlas", "--out", "HERE", "--seed", "4294967296"], "SEED=4294967296 is no seed"),
    ],
)
def test_what_cannot_be_trained_is_refused_at_once(capsys, tmp_path, arguments, message):
    arguments = [str(tmp_path / "atlas") if argument == "HERE" else argument for argument in arguments]
    status, out, err = run(capsys, *arguments)
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert message in err
    assert not list(tmp_path.iterdir())


def test_what_the_system_refuses_is_one_line(capsys, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device", "/there/file")

    monkeypatch.setattr("sae_lib.build.build_book", full)
    assert run(capsys, "book") == (1, "", "sae-book: /there/file: No space left on device; check the permissions and the space\n")


def test_a_problem_of_the_reader_is_one_line(capsys, monkeypatch):
    def fail(*_):
        raise BookError("the corpus nowhere.jsonl is missing")

    monkeypatch.setattr("sae_lib.build.build_book", fail)
    assert run(capsys, "book") == (1, "", "sae-book: the corpus nowhere.jsonl is missing\n")


def test_ctrl_c_is_one_line(capsys, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("sae_lib.build.build_book", stop)
    status, _, err = run(capsys, "book")
    assert status == 1
    assert err.count("\n") == 1


def test_a_bug_keeps_its_traceback(monkeypatch):
    def bug(*_):
        raise ZeroDivisionError

    monkeypatch.setattr("sae_lib.build.build_book", bug)
    with pytest.raises(ZeroDivisionError):
        cli.main(["book"])


def test_the_given_values_reach_the_chapters(capsys, monkeypatch):
    seen = {}
    monkeypatch.setattr("sae_lib.build.build_book", lambda parameters: seen.update(parameters))
    assert run(capsys, "book", "--scale", "smoke", "--corpus", "pocket:", "--seed", "0")[0] == 0
    assert seen == {"SCALE": "smoke", "CORPUS": "pocket:", "SEED": 0}


def test_results_are_of_the_text_given_and_nothing_is_kept_of_smoke(capsys, monkeypatch):
    seen = []
    monkeypatch.setattr("sae_lib.build.measure", lambda *given: seen.append(given))
    assert run(capsys, "results", "07", "--corpus", "files:x")[0] == 0
    assert seen == [({"SCALE": "released", "CORPUS": "files:x"}, ["07"])]
    assert run(capsys, "results")[0] == 0
    assert seen[1:] == [({"SCALE": "released"}, [])]
    assert "numbers of smoke are not kept" in run(capsys, "results", "--scale", "smoke")[2]
    assert len(seen) == 2


def test_nothing_given_means_nothing_passed(capsys, monkeypatch):
    seen = []
    monkeypatch.setattr("sae_lib.build.build_book", seen.append)
    assert run(capsys, "book")[0] == 0
    assert seen == [{}]


def test_help_is_quick():
    """No command line should wait for torch to say how it is used."""
    loaded = subprocess.run(
        [sys.executable, "-c", "import sys, sae_lib.cli; print('torch' in sys.modules)"], capture_output=True, text=True, check=True
    )
    assert loaded.stdout.strip() == "False"


class Shelf:
    """A lab with one small dictionary and one small model on it."""

    corpus_spec = "files:/home/somebody/texts/*.txt"
    swept: ClassVar[list[dict]] = []
    opened: ClassVar[list["Shelf"]] = []

    def __init__(self, scale: str, seed: int = 0, corpus: str = "", at_length: bool = False) -> None:
        from tokenizers import Tokenizer
        from tokenizers.models import BPE

        from sae_lib.scales import scale as scale_named

        self.scale, self.tokenizer = scale_named(scale, at_length), Tokenizer(BPE({"<|endoftext|>": 0}, []))
        self.opened.append(self)

    def dictionary(self, name: str):
        from sae_lib.sae import SAEConfig, SparseAutoencoder

        return SparseAutoencoder(SAEConfig(32, 64, 1e-3), seed=1)

    def sweep(self, name: str, settings: list[dict]):
        self.swept.extend(settings)
        return [self.dictionary(name) for _ in settings]

    def validation(self, n_tokens: int | None = None):
        import torch

        return torch.zeros(3, 8, dtype=torch.int64)

    def model(self, name: str):
        import small

        from sae_lib.transformer import OneLayerTransformer

        return OneLayerTransformer(small.GEOMETRY)


@pytest.fixture
def shelf(monkeypatch, tmp_path):
    monkeypatch.setattr("sae_lib.lab.Lab", Shelf)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_export_help_names_every_form(capsys):
    from sae_lib.interchange import DICTIONARIES, MODELS

    status, out, _ = run(capsys, "export", "--help")
    assert status == 0
    assert all(word in out for word in (*DICTIONARIES, *MODELS, "--to", "--out", "--scale", "--corpus", "--seed", "--force"))


@pytest.mark.parametrize(
    ("name", "to"),
    [(name, to) for name, forms in (("A/1", "saelens gemma-scope"), ("A", "hf transformer-lens")) for to in forms.split()],
)
def test_export_writes_below_exports(capsys, shelf, name, to):
    status, out, err = run(capsys, "export", name, "--to", to)
    folder = shelf / "exports" / f"{name.replace('/', '-')}-{to}"
    assert (status, err) == (0, "")
    assert f"exports/{folder.name}" in out
    assert (folder / "tokenizer.json").exists() == (name == "A")
    # The folder goes to other people, and where the text lay on this machine is nobody's business.
    assert not any(b"somebody" in path.read_bytes() for path in folder.iterdir())


def test_export_of_released_weights_names_the_text_they_were_trained_on(capsys, shelf):
    assert run(capsys, "export", "A/1", "--to", "saelens", "--scale", "released", "--out", "mine")[0] == 0
    assert '"dataset_path": "released.toml"' in (shelf / "mine" / "cfg.json").read_text()


def test_export_over_an_export_asks_for_force(capsys, shelf, monkeypatch):
    assert run(capsys, "export", "A/1", "--to", "saelens", "--out", "mine")[0] == 0
    with monkeypatch.context() as patch:
        patch.setattr("sae_lib.lab.Lab", None)  # nothing is trained before it is refused
        status, out, err = run(capsys, "export", "A/1", "--to", "saelens", "--out", "mine")
    assert (status, out) == (1, "")
    assert err == "sae-book: mine exists already; replace it with --force, or name another folder with --out\n"
    assert run(capsys, "export", "A/1", "--to", "gemma-scope", "--out", "mine", "--force")[0] == 0
    assert [path.name for path in (shelf / "mine").iterdir()] == ["params.npz"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("C/7", "--to", "saelens"), "there is no run 'C/7'; the runs are A, B, A/0"),
        (("A/1", "--to", "hf"), "a dictionary cannot be exported to 'hf'; the forms of a dictionary are saelens"),
        (("A", "--to", "saelens"), "a model cannot be exported to 'saelens'; the forms of a model are transformer-lens, hf"),
        (("A/1", "--to", "saelens", "--scale", "foo"), "foo"),
    ],
)
def test_export_of_what_there_is_not(capsys, shelf, arguments, message):
    status, out, err = run(capsys, "export", *arguments)
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert message in err
    assert not list(shelf.iterdir())


def test_import_says_what_it_is_and_writes_it(capsys, shelf):
    run(capsys, "export", "A/1", "--to", "saelens", "--out", "theirs")
    status, out, _ = run(capsys, "import", "theirs")
    assert status == 0
    assert "SAELens dictionary, architecture standard\nd_in 32, d_sae 64\n" in out
    assert "hook blocks.0.mlp.hook_post" in out
    status, out, _ = run(capsys, "import", "theirs", "--out", "ours.safetensors")
    assert status == 0
    assert "written to ours.safetensors" in out
    assert (shelf / "ours.safetensors").is_file()
    status, _, err = run(capsys, "import", "theirs", "--out", "ours.safetensors")
    assert status == 1
    assert "--force" in err


def test_import_of_nothing_is_one_line(capsys, shelf):
    status, out, err = run(capsys, "import", "nowhere")
    assert (status, out) == (1, "")
    assert err == "sae-book: nowhere is missing; name a folder of SAELens, or a params.npz of Gemma Scope\n"


def test_a_sweep_tries_every_pair_and_prints_a_row_for_each(capsys, shelf):
    Shelf.swept.clear()
    asked = ["--l1", "0.003", "--l1", "0.01", "--lr", "0.001", "--batch", "512", "--activations", "5000"]
    status, out, err = run(capsys, "sweep", "A/1", *asked)
    assert (status, err) == (0, "")
    asked = {"sae_lr": 0.001, "sae_batch": 512, "n_activations": 5_000}
    assert Shelf.swept == [{"l1_coeff": weight} | asked for weight in (0.003, 0.01)]
    title, head, *rows = out.splitlines()
    assert title == "A/1 at scale smoke, on 24 held-out tokens:"
    assert {"l1_coeff", "sae_lr", "sae_batch", "l0", "loss_recovered", "dead_share"} <= set(head.split())
    assert [row.split()[0] for row in rows] == ["0.003", "0.01"]


def test_a_sweep_of_the_released_weights_reads_what_they_were_trained_on(capsys, shelf):
    assert run(capsys, "sweep", "A/1", "--l1", "0.003", "--scale", "released")[0] == 0
    assert Shelf.opened[-1].scale.corpus == "book/recipes/released.toml"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["B", "--l1", "0.1"], "there is no dictionary 'B'; the dictionaries are A/0, A/1, A/2, B/1"),
        (["A/1", "--l1", "0"], "positive numbers"),
        (["A/1", "--l1", "0.1", "--lr", "-1"], "positive numbers"),
        (["A/1", "--l1", "0.1", "--batch", "0"], "positive numbers"),
        (["A/1", "--l1", "0.1", "--activations", "-1"], "positive numbers"),
    ],
)
def test_a_sweep_of_nothing_is_one_line(capsys, arguments, message):
    status, out, err = run(capsys, "sweep", *arguments)
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert message in err
