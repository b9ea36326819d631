"""The shape of a chapter: each rule is a function from a notebook to what is wrong with it, and each rule is shown to bite."""

import ast
import itertools
import re
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[1]
CHAPTERS = sorted((ROOT / "chapters").glob("*.ipynb"))

TAGS = {"parameters", "hide-input", "hide-output", "remove-cell", "nbval-ignore-output"}
SECTIONS = ["What the paper says", "Verdict", "What we did differently", "Exercises", "Further reading"]
OPENING = 5
"""Cells of the opening block: title, at a glance, parameters, Colab, set-up."""

Notebook = nbformat.NotebookNode
Rule = Callable[[Notebook], list[str]]


def code(notebook: Notebook) -> list[tuple[int, Notebook]]:
    """The code cells with their numbers, counted from 1."""
    return [(number, cell) for number, cell in enumerate(notebook.cells, 1) if cell.cell_type == "code"]


def prose(notebook: Notebook) -> list[tuple[int, Notebook]]:
    """The Markdown cells with their numbers, counted from 1."""
    return [(number, cell) for number, cell in enumerate(notebook.cells, 1) if cell.cell_type == "markdown"]


def python(cell: Notebook) -> ast.Module:
    """The cell's code without Jupyter's own commands."""
    return ast.parse(re.sub(r"^(\s*)[%!].*$", r"\1pass", cell.source, flags=re.MULTILINE))


def headings(notebook: Notebook) -> list[tuple[int, str]]:
    """Level and text of every heading, in order."""
    text = "\n".join(re.sub(r"^(```|:::).*?^\1", "", cell.source, flags=re.MULTILINE | re.DOTALL) for _, cell in prose(notebook))
    return [(len(marks), title.strip()) for marks, title in re.findall(r"^(#{1,6}) (.+)$", text, re.MULTILINE)]


def opening(notebook: Notebook) -> list[str]:
    """Title, at a glance, parameters, Colab, set-up: in this order."""
    kinds = ["markdown", "markdown", "code", "code", "code"]
    if [cell.cell_type for cell in notebook.cells[:OPENING]] != kinds:
        return [f"the first {OPENING} cells are not {kinds}"]
    title, glance, parameters, colab, setup = notebook.cells[:OPENING]
    wrong = []
    if not re.match(r"\(ch-[\w-]+\)=\n# .+\n", title.source):
        wrong.append("cell 1 does not begin with a (ch-…)= label and a title")
    if "|" not in glance.source:
        wrong.append("cell 2 has no table")
    if parameters.metadata.get("tags") != ["parameters"]:
        wrong.append("cell 3 is not tagged parameters")
    if "google.colab" not in colab.source or "hide-input" not in colab.metadata.get("tags", []):
        wrong.append("cell 4 does not install on Colab, hidden")
    if "page.setup(" not in setup.source or "hide-input" not in setup.metadata.get("tags", []):
        wrong.append("cell 5 does not call page.setup, hidden")
    return wrong


def parameters(notebook: Notebook) -> list[str]:
    """SCALE, SEED, CORPUS and at most two more; typed literals with a comment, nothing else."""
    wrong = []
    cell = next((cell for _, cell in code(notebook) if "parameters" in cell.metadata.get("tags", [])), None)
    if cell is None:
        return ["no cell is tagged parameters"]
    names = []
    for node, line in zip(python(cell).body, cell.source.splitlines(), strict=False):
        if isinstance(node, ast.AnnAssign) and isinstance(node.value, ast.Constant) and "#" in line:
            names.append(ast.unparse(node.target))
        else:
            wrong.append(f"`{line}` is no typed literal with a comment")
    if names[:3] != ["SCALE", "SEED", "CORPUS"]:
        wrong.append(f"the parameters are {names}, not SCALE, SEED, CORPUS")
    if len(names) > 5:
        wrong.append("more than five parameters")
    return wrong


def sections(notebook: Notebook) -> list[str]:
    """One title, no level skipped, and the sections that every chapter has, in order."""
    levels = [level for level, _ in headings(notebook)]
    wrong = ["not exactly one #"] if levels.count(1) != 1 else []
    wrong += [f"a heading of level {after} follows one of {before}" for before, after in itertools.pairwise(levels) if after > before + 1]
    found = [title for level, title in headings(notebook) if level == 2 and title in SECTIONS]
    if found != SECTIONS:
        wrong.append(f"the fixed sections are {found}, not {SECTIONS}")
    return wrong


def tags(notebook: Notebook) -> list[str]:
    """Only the five known tags; a removed cell only asserts or glues."""
    wrong = [
        f"cell {n}: unknown tag {tag}" for n, cell in enumerate(notebook.cells, 1) for tag in set(cell.metadata.get("tags", [])) - TAGS
    ]
    for n, cell in code(notebook):
        if "remove-cell" in cell.metadata.get("tags", []):
            calls = [node for node in python(cell).body if not isinstance(node, ast.Assert | ast.Import | ast.ImportFrom)]
            wrong += [
                f"cell {n}: a removed cell holds `{ast.unparse(node)}`" for node in calls if not ast.unparse(node).startswith("page.glue(")
            ]
    return wrong


def executed(notebook: Notebook) -> list[str]:
    """Run from top to bottom, without an error."""
    counts = [cell.execution_count for _, cell in code(notebook) if cell.source.strip()]
    wrong = [] if counts == list(range(1, len(counts) + 1)) else [f"execution counts are {counts}"]
    errors = [n for n, cell in code(notebook) if any(output.output_type == "error" for output in cell.outputs)]
    return wrong + [f"cell {n} stores an error" for n in errors]


def clean(notebook: Notebook) -> list[str]:
    """No widget state, no progress bars or warnings, no traces of the runner, no paths of a machine, no script of another host."""
    text = nbformat.writes(notebook)
    wrong = [f"metadata of {name}" for name in ("papermill", "widgets") if name in notebook.metadata]
    wrong += [f"cell {n}: metadata of papermill" for n, cell in enumerate(notebook.cells, 1) if "papermill" in cell.metadata]
    wrong += [f"cell {n} stores stderr" for n, cell in code(notebook) if any(output.get("name") == "stderr" for output in cell.outputs)]
    wrong += ["widget output"] * ("application/vnd.jupyter.widget" in text)
    wrong += [
        f"the path {path}" for path in set(re.findall(r"(?<![\w.:/])/(?:home|root|tmp|work|Users|content|usr|opt|var)/[\w./-]+", text))
    ]
    wrong += [f"loads {url}" for url in set(re.findall(r"(?:src|import\()\s*=?\s*\\?[\"'](https?://[^\"'\\]+)", text))]
    return wrong


def shell(notebook: Notebook) -> list[str]:
    """Jupyter commands only in the Colab cell; nothing that moves the process or hides warnings."""
    wrong = []
    for n, cell in code(notebook):
        if n != OPENING - 1 and re.search(r"^\s*[%!]", cell.source, re.MULTILINE):
            wrong.append(f"cell {n}: a Jupyter command")
        wrong += [
            f"cell {n}: {word}"
            for word in ("sys.path", "os.chdir", "warnings.", "wandb", "tqdm.auto", "update_layout")
            if word in cell.source
        ]
    return wrong


def thin(notebook: Notebook) -> list[str]:
    """Short cells, few short functions, no class, no try, and never three code cells in a row after the opening."""
    wrong = []
    functions = 0
    for n, cell in code(notebook):
        lines = [line for line in cell.source.splitlines() if line.strip()]
        if len(lines) > 25:
            wrong.append(f"cell {n} has {len(lines)} lines")
        for node in ast.walk(python(cell)):
            if isinstance(node, ast.ClassDef | ast.Try):
                wrong.append(f"cell {n}: a {type(node).__name__}")
            if isinstance(node, ast.FunctionDef):
                functions += 1
                if node.end_lineno - node.lineno + 1 > 12:
                    wrong.append(f"cell {n}: {node.name} is longer than 12 lines")
    if functions > 3:
        wrong.append(f"{functions} functions")
    shown = [cell for cell in notebook.cells[OPENING:] if "remove-cell" not in cell.metadata.get("tags", [])]
    kinds = "".join(cell.cell_type[0] for cell in shown)
    return wrong + ["three code cells in a row"] * ("ccc" in kinds)


def readable(notebook: Notebook) -> list[str]:
    """At least 8 words of prose for a line of code, outside the opening block."""
    words = sum(len(cell.source.split()) for _, cell in prose(notebook))
    lines = sum(1 for n, cell in code(notebook) if n > OPENING for line in cell.source.splitlines() if line.strip())
    return [] if words >= 8 * lines else [f"{words} words of prose for {lines} lines of code"]


def light(notebook: Notebook) -> list[str]:
    """At most 500 KB."""
    size = len(nbformat.writes(notebook).encode())
    return [] if size <= 500_000 else [f"{size / 1000:.0f} KB"]


RULES: list[Rule] = [opening, parameters, sections, tags, executed, clean, shell, thin, readable, light]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_chapter(path: Path, rule: Rule):
    assert rule(nbformat.read(path, as_version=4)) == []


def test_chapters_hold_nothing_else():
    assert CHAPTERS
    strays = [path.name for path in (ROOT / "chapters").iterdir() if path.suffix != ".ipynb" and not path.name.startswith(".")]
    assert strays == []
    assert all(re.fullmatch(r"\d\d_[a-z0-9_]+", path.stem) for path in CHAPTERS)


def test_names_of_chapters_are_theirs():
    """`CHAPTER`, under which a chapter stores its numbers, is its own file name."""
    for path in CHAPTERS:
        text = "\n".join(cell.source for _, cell in code(nbformat.read(path, as_version=4)))
        assert set(re.findall(r'^CHAPTER\s*=\s*"([^"]+)"', text, re.MULTILINE)) <= {path.stem}


# Each rule is held against a sound chapter and against one that breaks it.


def sound() -> Notebook:
    """A chapter that keeps every rule."""
    words = "One sentence of plain prose that says what is seen. " * 3

    def md(source: str) -> Notebook:
        return nbformat.v4.new_markdown_cell(source)

    def py(source: str, *tag: str) -> Notebook:
        return nbformat.v4.new_code_cell(source, metadata={"tags": list(tag)} if tag else {})

    cells = [
        md("(ch-tiny)=\n# Tiny\n\n" + words),
        md("| Paper | Claims |\n|---|---|\n| a section | C1 |"),
        py('SCALE: str = "smoke"  # size\nSEED: int = 0  # seed\nCORPUS: str = ""  # text', "parameters"),
        py('import sys\nif "google.colab" in sys.modules:\n    %pip install -q x', "hide-input"),
        py("from sae_lib import page\nlab = page.setup(SCALE, SEED, CORPUS)", "hide-input"),
        md("## What the paper says\n\n" + words),
        py("1 + 1"),
        md("## Verdict\n\n" + words),
        py("assert True", "remove-cell"),
        py("page.verdicts(CHAPTER, lab, {})"),
        md("## What we did differently\n\n" + words),
        md("## Exercises\n\n" + words),
        md("## Further reading\n\n" + words),
    ]
    for count, cell in enumerate((cell for cell in cells if cell.cell_type == "code"), 1):
        cell.execution_count = count
    return nbformat.v4.new_notebook(cells=cells)


def with_source(number: int, source: str) -> Callable[[Notebook], None]:
    """A change that replaces the text of one cell, counted from 1."""
    return lambda notebook: notebook.cells[number - 1].update(source=source)


BREAKS: list[tuple[Rule, Callable[[Notebook], None]]] = [
    (opening, with_source(1, "# No label\n")),
    (opening, with_source(5, "import numpy")),
    (opening, lambda notebook: notebook.cells.pop(1)),
    (parameters, with_source(3, 'SCLAE: str = "smoke"  # size')),
    (parameters, with_source(3, "SCALE = compute()")),
    (sections, with_source(8, "## Results")),
    (sections, with_source(6, "## What the paper says\n\n#### Too deep")),
    (sections, with_source(6, "# A second title")),
    (tags, lambda notebook: notebook.cells[6].metadata.update(tags=["nbval-skip"])),
    (tags, with_source(9, "result = measure()")),
    (executed, lambda notebook: notebook.cells[6].update(execution_count=None)),
    (executed, lambda notebook: notebook.cells[6].outputs.append(nbformat.v4.new_output("error", ename="E", evalue="", traceback=[]))),
    (clean, lambda notebook: notebook.metadata.update(widgets={})),
    (clean, lambda notebook: notebook.cells[6].metadata.update(papermill={})),
    (clean, lambda notebook: notebook.cells[6].outputs.append(nbformat.v4.new_output("stream", name="stderr", text="10%"))),
    (clean, with_source(7, 'open("/home/somebody/text.txt")')),
    (clean, with_source(6, '<img src="https://example.org/a.png">')),
    (shell, with_source(7, "!ls")),
    (shell, with_source(7, "import sys; sys.path.append('x')")),
    (thin, with_source(7, "x = 1\n" * 26)),
    (thin, with_source(7, "class Model:\n    pass")),
    (thin, with_source(7, "\n".join(f"def f{n}(): pass" for n in range(4)))),
    (thin, with_source(7, "def f():\n" + "    x = 1\n" * 12)),
    (
        thin,
        lambda notebook: (
            notebook.cells.insert(7, nbformat.v4.new_code_cell("2")) or notebook.cells.insert(7, nbformat.v4.new_code_cell("3"))
        ),
    ),
    (readable, with_source(7, "x = 1\n" * 25)),
    (light, with_source(7, "x" * 500_001)),
]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_a_sound_chapter_passes(rule: Rule):
    assert rule(sound()) == []


@pytest.mark.parametrize(("rule", "spoil"), BREAKS, ids=[f"{rule.__name__}-{number}" for number, (rule, _) in enumerate(BREAKS)])
def test_a_broken_chapter_is_caught(rule: Rule, spoil: Callable[[Notebook], None]):
    notebook = sound()
    spoil(notebook)
    assert rule(notebook)
