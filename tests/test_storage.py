import errno
import subprocess
import sys
import threading
import time

import pytest
import torch

from sae_lib.errors import BookError
from sae_lib.storage import alone, fingerprint, load_tensors, read_json, save_tensors, sha256_of, write_atomic, write_folder, write_json


def test_write_atomic_replaces_the_whole_file(tmp_path):
    path = tmp_path / "deep" / "file.txt"
    write_atomic(path, "old")
    write_atomic(path, b"new")
    assert path.read_bytes() == b"new"
    assert [entry.name for entry in path.parent.iterdir()] == ["file.txt"]


def test_a_full_disk_leaves_the_old_file_and_no_litter(tmp_path):
    path = tmp_path / "file.txt"
    write_atomic(path, "old")

    def fill(aside):
        aside.write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(BookError, match=r"file\.txt: No space left"):
        write_atomic(path, fill)
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file.txt"]


def test_fingerprint_ignores_order_and_sees_values():
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 2})
    assert len(fingerprint([])) == 12


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe{}", b"[" * 100_000])
def test_damaged_json_is_named(tmp_path, content):
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(BookError, match=r"x\.json is damaged"):
        read_json(tmp_path / "x.json")


def test_json_that_is_missing_or_cannot_be_read_is_named(tmp_path):
    with pytest.raises(BookError, match=r"x\.json is missing"):
        read_json(tmp_path / "x.json")
    (tmp_path / "x.json").mkdir()
    with pytest.raises(BookError, match=r"x\.json cannot be read: Is a directory; check its permissions"):
        read_json(tmp_path / "x.json")


def test_tensors_and_json_come_back(tmp_path):
    save_tensors(tmp_path / "t.safetensors", {"a": torch.arange(6).view(2, 3).T}, {"k": "v"})
    tensors, meta = load_tensors(tmp_path / "t.safetensors")
    assert torch.equal(tensors["a"], torch.arange(6).view(2, 3).T)
    assert meta == {"k": "v"}
    write_json(tmp_path / "j.json", {"é": [1]})
    assert read_json(tmp_path / "j.json") == {"é": [1]}
    assert len(sha256_of(tmp_path / "j.json")) == 64


@pytest.mark.parametrize("kept", [0, 4, 60, -1])
def test_tensors_cut_short_are_named(tmp_path, kept):
    path = tmp_path / "t.safetensors"
    save_tensors(path, {"a": torch.zeros(100)})
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(BookError, match=r"t\.safetensors is damaged"):
        load_tensors(path)


def test_missing_tensors_are_named(tmp_path):
    with pytest.raises(BookError, match="missing"):
        load_tensors(tmp_path / "t.safetensors")


def test_a_folder_is_whole_or_not_there(tmp_path):
    folder = tmp_path / "deep" / "folder"
    write_folder(folder, lambda aside: (aside / "a").write_text("old"))
    with pytest.raises(BookError, match="could not write"):
        write_folder(folder, lambda aside: (aside / "b").write_text("new"))
    assert [path.read_text() for path in folder.iterdir()] == ["old"]
    write_folder(folder, lambda aside: (aside / "b").write_text("new"), replace=True)
    assert [path.name for path in folder.iterdir()] == ["b"]
    assert [path.name for path in folder.parent.iterdir()] == ["folder"]


def test_of_a_link_to_a_folder_the_link_stays(tmp_path):
    write_folder(tmp_path / "folder", lambda aside: (aside / "a").write_text("old"))
    (tmp_path / "link").symlink_to("folder")
    write_folder(tmp_path / "link", lambda aside: (aside / "b").write_text("new"), replace=True)
    assert (tmp_path / "link").is_symlink()
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["b"]


HOLDER = """
import sys, time
from pathlib import Path
from sae_lib.storage import alone
folder = Path(sys.argv[1])
with alone(folder / "run"):
    (folder / "held").touch()
    while not (folder / "go").exists():
        time.sleep(0.05)
    (folder / "made").touch()
"""


@pytest.fixture
def holder(tmp_path):
    """Another process, which is making a folder."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)])
    deadline = time.monotonic() + 60
    while not (tmp_path / "held").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    yield process
    process.kill()
    process.wait()


def test_one_process_at_a_time_makes_a_folder(tmp_path, holder, capsys):
    timer = threading.Timer(2.5, (tmp_path / "go").touch)
    timer.start()
    with alone(tmp_path / "run"):
        assert (tmp_path / "made").exists()
    assert "waiting for another process to finish run" in capsys.readouterr().err
    timer.join()


def test_whoever_dies_lets_go(tmp_path, holder):
    threading.Timer(1.5, holder.kill).start()
    with alone(tmp_path / "run"):
        assert not (tmp_path / "made").exists()


def test_folders_do_not_wait_for_each_other(tmp_path, holder):
    with alone(tmp_path / "another"):
        assert holder.poll() is None


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(BookError, match=r"could not make .*file/run"), alone(tmp_path / "file" / "run"):
        pass


def test_who_may_only_read_does_not_wait(tmp_path, monkeypatch):
    def refuse(self, timeout):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("filelock.FileLock.acquire", refuse)
    with alone(tmp_path / "run"):
        pass
    assert not list(tmp_path.iterdir())
