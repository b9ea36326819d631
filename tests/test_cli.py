"""The command line: what it prints, and how it ends, when something is wrong."""

import subprocess
import sys

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


@pytest.mark.parametrize("command", ["book", "train"])
def test_help_names_every_option(capsys, command):
    status, out, _ = run(capsys, command, "--help")
    assert status == 0
    assert all(option in out for option in ("--scale", "--corpus", "--seed"))


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
