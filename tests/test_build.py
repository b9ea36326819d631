"""The runner, on throwaway books of tiny notebooks."""

import json
import os
from functools import partial
from pathlib import Path

import nbformat
import pytest

from sae_lib import build, machine
from sae_lib.errors import BookError

PARAMETERS = 'SCALE: str = "smoke"  # size\nSEED: int = 0  # of everything random'


def write_chapter(root: Path, name: str, *cells: str, parameters: str = PARAMETERS) -> None:
    """A notebook with a title, a parameters cell and the given code."""
    title = nbformat.v4.new_markdown_cell(f"# {name}", id="title")
    first = nbformat.v4.new_code_cell(parameters, id="parameters", metadata={"tags": ["parameters"]})
    rest = [nbformat.v4.new_code_cell(source, id=f"cell-{number}") for number, source in enumerate(cells)]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook = nbformat.v4.new_notebook(cells=[title, first, *rest], metadata={"kernelspec": kernel})
    path = root / "chapters" / f"{name}.ipynb"
    path.parent.mkdir(exist_ok=True)
    nbformat.write(notebook, path)


@pytest.fixture
def book(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A book of two chapters and one page."""
    (tmp_path / "book").mkdir()
    (tmp_path / "book" / "index.md").write_text("# Front page\n\nSee [the first chapter](../chapters/01_one.ipynb).\n")
    (tmp_path / "_config.yml").write_text('title: tiny\nonly_build_toc_files: true\nexecute: {execute_notebooks: "off"}\n')
    (tmp_path / "_toc.yml").write_text(
        "format: jb-book\nroot: book/index\nparts:\n- caption: All\n  chapters:\n  - file: chapters/01_one\n  - file: chapters/02_two\n"
    )
    write_chapter(tmp_path, "01_one", "print(SCALE, SEED)")
    write_chapter(tmp_path, "02_two", "print(SEED + 1)")
    monkeypatch.setenv("SAE_BOOK_RENDERER", "")
    monkeypatch.setenv("SAE_BOOK_RESULTS", "")
    return tmp_path


def executed(root: Path, name: str) -> nbformat.NotebookNode:
    """The notebook that the runner left for the page."""
    return nbformat.read(root / "_site" / "chapters" / f"{name}.ipynb", as_version=4)


def test_a_book_is_run_and_rendered(book, capfd):
    page = build.build_book({"SCALE": "smoke", "SEED": 3}, root=book)
    assert page.is_file()
    assert "smoke 3" in (book / "_site/_build/html/chapters/01_one.html").read_text()
    said = capfd.readouterr().out
    assert "[1/2] chapters/01_one" in said
    assert "together" in said


def test_chapters_are_measured_at_length_and_not_rendered(book, capfd):
    write_chapter(book, "02_two", "import os; open('../kept', 'w').write(os.environ['SAE_BOOK_RESULTS'])")
    assert build.measure({"SEED": 3}, ["02"], root=book) == book / "results"
    assert (book / "kept").read_text() == "1"
    said = capfd.readouterr().out
    assert "[1/1] chapters/02_two" in said
    assert not (book / "_site" / "_build").exists()
    with pytest.raises(BookError, match=r"no chapter is called 03…; there are 01_one, 02_two"):
        build.measure({}, ["02", "03"], root=book)


def test_the_defaults_leave_no_injected_cell(book):
    for chapter in build.plan(book, {"SCALE": "smoke", "SEED": 0}):
        assert chapter.parameters == {}
        build.run_chapter(chapter, book / "_site" / f"{chapter.name}.ipynb")
    assert not any("injected-parameters" in cell.metadata.get("tags", []) for cell in executed(book, "01_one").cells)


def test_the_chapter_runs_in_its_own_folder_and_stays_as_it_was(book):
    write_chapter(book, "01_one", "from pathlib import Path; print(Path.cwd().name)")
    before = (book / "chapters" / "01_one.ipynb").read_bytes()
    build.run_chapter(build.plan(book, {})[0], book / "_site" / "chapters" / "01_one.ipynb")
    assert executed(book, "01_one").cells[2].outputs[0].text == "chapters\n"
    assert (book / "chapters" / "01_one.ipynb").read_bytes() == before


@pytest.mark.parametrize("parameters", [{}, {"SEED": 7}])
def test_a_failing_chapter_is_named_with_cell_and_line(book, parameters):
    write_chapter(book, "02_two", "x = 1", "y = 2\nx / 0  # here\nz = 3")
    chapter = build.plan(book, parameters)[1]
    with pytest.raises(BookError) as caught:
        build.run_chapter(chapter, book / "_site" / "chapters" / "02_two.ipynb")
    assert str(caught.value) == "chapters/02_two.ipynb, cell 4, line `x / 0  # here`: ZeroDivisionError: division by zero"


def test_a_failing_chapter_leaves_the_rendered_book(book):
    rendered = book / "_site" / "_build" / "html" / "index.html"
    rendered.parent.mkdir(parents=True)
    rendered.write_text("the last book")
    write_chapter(book, "01_one", "raise ValueError('no')")
    with pytest.raises(BookError, match=r"chapters/01_one\.ipynb, cell 3"):
        build.build_book(root=book)
    assert rendered.read_text() == "the last book"


def test_a_parameter_that_a_chapter_lacks_is_an_error(book):
    write_chapter(book, "02_two", parameters='SCLAE: str = "smoke"')
    with pytest.raises(BookError, match=r"chapters/02_two\.ipynb has no parameter SCALE; its parameters are SCLAE"):
        build.plan(book, {"SCALE": "smoke"})


def test_a_missing_chapter_is_an_error_before_anything_runs(book):
    (book / "chapters" / "02_two.ipynb").unlink()
    with pytest.raises(BookError, match=r"02_two\.ipynb is missing"):
        build.build_book(root=book)
    assert not (book / "_site").exists()


def test_a_damaged_chapter_is_an_error(book):
    (book / "chapters" / "02_two.ipynb").write_text('{"cells": [')
    with pytest.raises(BookError, match=r"02_two\.ipynb cannot be read as a notebook"):
        build.plan(book, {})


@pytest.mark.parametrize("text", ["root: book/index\n", "- a\n", "root: [\n"])
def test_a_damaged_table_of_contents_is_an_error(book, text):
    (book / "_toc.yml").write_text(text)
    with pytest.raises(BookError, match=r"_toc\.yml is no table of contents"):
        build.plan(book, {})


def test_outside_a_book_the_reader_is_told(tmp_path):
    with pytest.raises(BookError, match="inside the book's folder"):
        build.build_book(root=tmp_path)


def test_a_warning_of_the_renderer_is_an_error(book):
    (book / "book" / "index.md").write_text("# Front page\n\nSee [a page](nowhere.md).\n")
    with pytest.raises(BookError, match="nowhere"):
        build.build_book(root=book)


def test_chapters_run_beside_each_other_and_share_the_cores(book, monkeypatch):
    monkeypatch.setattr(machine, "cores", lambda: 6)
    # Either waits for the other, for a while.
    wait = """
import os, time
open({mine!r}, "w").write(os.environ["OMP_NUM_THREADS"])
end = time.monotonic() + 60
while not os.path.exists({other!r}) and time.monotonic() < end:
    time.sleep(0.1)
assert os.path.exists({other!r})"""
    write_chapter(book, "01_one", wait.format(mine="one", other="two"))
    write_chapter(book, "02_two", wait.format(mine="two", other="one"))
    seconds = build.run_chapters(build.plan(book, {}), book / "_site", at_once=2)
    assert list(seconds) == ["chapters/01_one", "chapters/02_two"]
    assert (book / "chapters" / "one").read_text() == "3"


def test_other_work_begins_before_the_chapters(book):
    made = book / "made"
    write_chapter(book, "01_one", f"assert open({str(made)!r}).read() == ''")
    seconds = build.run_chapters(build.plan(book, {}), book / "_site", beside={"a file": made.touch})
    assert list(seconds) == ["a file", "chapters/01_one", "chapters/02_two"]


def test_other_work_that_is_killed_is_named(book):
    with pytest.raises(BookError, match=r"a file, or a chapter that ran beside it, was ended from outside"):
        build.run_chapters(build.plan(book, {}), book / "_site", beside={"a file": partial(os._exit, 9)})


@pytest.mark.parametrize(("scale", "n"), [("smoke", 4), ("released", 4), ("laptop", 1)])
def test_long_trainings_have_the_machine_to_themselves(book, monkeypatch, scale, n):
    monkeypatch.setattr(machine, "cores", lambda: 16)
    assert build._at_once(build.plan(book, {"SCALE": scale})) == n


@pytest.mark.parametrize(("scale", "n", "first"), [("smoke", 2, "01_one"), ("released", 2, "02_two"), ("released", 1, "01_one")])
def test_the_longest_work_begins_first_where_nothing_is_trained(book, monkeypatch, scale, n, first):
    begun = []

    def run_chapters(chapters, site, at_once, beside):
        begun.extend(chapter.path.stem for chapter in chapters)
        return dict.fromkeys((chapter.name for chapter in chapters), 1.0)

    monkeypatch.setattr(build, "_at_once", lambda chapters: n)
    monkeypatch.setattr(build, "run_chapters", run_chapters)
    monkeypatch.setattr(build, "render", lambda root, site: site)
    build.build_book({"SCALE": scale}, root=book)
    assert len(begun) == 2
    assert begun[0] == first


def test_a_failure_keeps_the_rest_from_beginning(book):
    write_chapter(book, "01_one", "raise ValueError('no')")
    write_chapter(book, "02_two", "open('begun', 'w')")
    with pytest.raises(BookError, match=r"chapters/01_one\.ipynb, cell 3"):
        build.run_chapters(
            [*build.plan(book, {})[:1], *[build.plan(book, {})[1]._replace(name=f"chapters/{n}") for n in range(3)]], book / "_site"
        )
    assert not (book / "_site" / "chapters" / "2.ipynb").exists()


def test_a_kernel_that_dies_is_named(book):
    write_chapter(book, "02_two", "import os; os._exit(3)")
    with pytest.raises(BookError, match=r"chapters/02_two\.ipynb: its kernel ended, or did not start \(.*\)\. Perhaps the memory"):
        build.run_chapter(build.plan(book, {})[1], book / "_site" / "chapters" / "02_two.ipynb")


@pytest.mark.parametrize("failure", [TimeoutError("Kernel didn't respond in 60 seconds"), RuntimeError("Kernel died before replying")])
def test_a_kernel_that_does_not_start_is_named(book, monkeypatch, failure):
    def fail(*_, **__):
        raise failure

    monkeypatch.setattr("papermill.execute_notebook", fail)
    with pytest.raises(BookError, match=rf"chapters/01_one\.ipynb: its kernel ended, or did not start \({failure}\)"):
        build.run_chapter(build.plan(book, {})[0], book / "_site" / "01_one.ipynb")


class Deadly:
    """Whoever reads it from another process dies, as of too little memory."""

    def __reduce__(self):
        return os._exit, (9,)


def test_a_process_that_is_killed_is_named(book):
    one, two = build.plan(book, {})
    with pytest.raises(BookError, match=r"chapters/02_two\.ipynb, or a chapter that ran beside it, was ended from outside\. Perhaps the"):
        build.run_chapters([one, two._replace(parameters={"SEED": Deadly()})], book / "_site")


def test_a_place_that_cannot_be_written_is_named(book):
    (book / "_site").write_text("a file in the way")
    with pytest.raises(BookError, match=r"chapters/01_one\.ipynb could not be run into .*_site/chapters/01_one\.ipynb: Not a directory"):
        build.run_chapter(build.plan(book, {})[0], book / "_site" / "chapters" / "01_one.ipynb")
    with pytest.raises(BookError, match=r"the pages could not be copied to .*_site: Not a directory\. Free some space"):
        build.render(book, book / "_site")


def test_the_seconds_are_a_table():
    lines = build.seconds_table({"chapters/01_one": 1.25, "rendering": 2.5}).splitlines()
    assert lines[-1].split() == ["rendering", "2.5", "s"]


def test_the_chapters_are_told_that_they_stand_in_the_book(book):
    write_chapter(book, "01_one", "import os; print(os.environ['SAE_BOOK_RENDERER'])")
    build.build_book(root=book)
    assert json.dumps("book\n") in (book / "_site" / "chapters" / "01_one.ipynb").read_text()
