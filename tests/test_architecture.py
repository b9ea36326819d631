"""The shape of the package: floors, thin modules, and docstrings that say where a thing comes from."""

import ast
import re
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "sae_lib"

FLOORS = [
    {"errors", "storage", "claims", "machine", "parallel"},
    {"toy", "transformer", "sae", "step", "resampling", "scales"},
    {"corpus", "activations", "runs", "release", "interchange"},
    {"train", "lab"},
    {"metrics", "proxies", "features", "truth", "splitting", "universality", "planted"},
    {"viz", "page", "cards", "browser", "exercises", "build", "cli"},
]
FLOOR_OF = {module: number for number, floor in enumerate(FLOORS) for module in floor}

# Modules whose public names are the paper's own procedures; each says where in the paper it stands.
OF_THE_PAPER = {"resampling", "sae", "metrics", "proxies", "truth", "splitting", "universality"}

# Public names there that are ours: they check, cut or look up, and the paper has nothing to say about them.
OURS = {"context_batches", "check_fits", "TokenTable", "Tally", "thresholds", "halves", "judged"}

# What only the runner needs, and a reader of a single chapter does not.
BOOK_TOOLS = {"papermill", "traitlets", "yaml"}

MODULES = sorted(PACKAGE.rglob("*.py"))


def floor_name(path: Path) -> str:
    """`sae_lib/corpus/shards.py` belongs to `corpus`, `sae_lib/sae.py` to `sae`."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(tree: ast.AST) -> set[str]:
    """Dotted names of everything that a module imports, also inside functions."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are written in full"
            found |= {f"{node.module}.{name.name}" for name in node.names}
    return found


def inner_imports(path: Path) -> set[str]:
    """Modules of the package that a module imports."""
    names = {name.split(".")[1] for name in imports(ast.parse(path.read_text())) if name.startswith("sae_lib.")}
    return {name for name in names if name in FLOOR_OF}


def public_definitions(path: Path) -> list[ast.FunctionDef | ast.ClassDef]:
    """The functions and classes at the top of a module whose names have no leading underscore."""
    body = ast.parse(path.read_text()).body
    return [node for node in body if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_")]


def is_record(node: ast.AST) -> bool:
    """A class that only names values."""
    if not isinstance(node, ast.ClassDef):
        return False
    words = [ast.unparse(part) for part in (*node.bases, *node.decorator_list)]
    return any(re.match(r"NamedTuple|dataclass|TypedDict|\w*Error", word.split(".")[-1]) for word in words)


def test_every_module_has_a_floor():
    assert {floor_name(path) for path in MODULES} - {"__init__"} <= set(FLOOR_OF)


def test_the_floors_are_those_of_the_design_page():
    page = (ROOT / "book" / "design.md").read_text()
    rows = re.findall(r"^\| \d \w+ \| ([^|]*) \|", page, re.MULTILINE)
    assert [set(re.findall(r"`(\w+)/?`", row)) for row in rows] == FLOORS


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_down(path: Path):
    if path == PACKAGE / "__init__.py":
        # The one name that the package itself gives; it is looked for when it is called, since that takes seconds.
        assert inner_imports(path) == {"release"}
        return
    own = FLOOR_OF[floor_name(path)]
    assert not {name for name in inner_imports(path) if FLOOR_OF[name] > own}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_what_is_imported_is_declared(path: Path):
    declared = {
        re.split(r"[<>=~!\[; ]", line)[0].lower().replace("_", "-")
        for line in (ROOT / "requirements-run.txt").read_text().splitlines()
        if line and not line.startswith("#")
    }
    distributions = packages_distributions()
    outside = {name.split(".")[0] for name in imports(ast.parse(path.read_text()))} - set(sys.stdlib_module_names) - {"sae_lib"}
    for name in outside - (BOOK_TOOLS if floor_name(path) == "build" else set()):
        providers = {provider.lower().replace("_", "-") for provider in distributions.get(name, [name])}
        assert providers & declared, f"{path.name} imports {name}, which requirements-run.txt does not list"


@pytest.mark.parametrize("module", ["viz", "claims", "build", "cli", "errors"])
def test_no_torch_where_none_is_needed(module: str):
    done = subprocess.run(
        [sys.executable, "-c", f"import sys, sae_lib.{module}; print('torch' in sys.modules)"], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_public_names_are_documented(path: Path):
    assert ast.get_docstring(ast.parse(path.read_text())), "the module says nothing of itself"
    silent = [node.name for node in public_definitions(path) if not ast.get_docstring(node)]
    assert not silent


@pytest.mark.parametrize("module", sorted(OF_THE_PAPER))
def test_what_the_paper_does_names_its_source(module: str):
    nodes = [node for node in public_definitions(PACKAGE / f"{module}.py") if not is_record(node) and node.name not in OURS]
    unsourced = [node.name for node in nodes if not re.search(r"^Source:", ast.get_docstring(node) or "", re.MULTILINE)]
    assert not unsourced


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_modules_and_functions_are_short(path: Path):
    # The ledger of claims is a table, as long as it has rows.
    assert path.stem == "claims" or len(path.read_text().splitlines()) <= 750
    long = [
        node.name
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef) and node.end_lineno - node.body[0].end_lineno > 60
    ]
    assert not long


def test_every_pin_serves_a_range():
    """The book's environment satisfies what the package asks for."""
    from packaging.requirements import Requirement

    pins = dict(line.lower().split("==") for line in (ROOT / "requirements.txt").read_text().splitlines() if "==" in line)
    for line in (ROOT / "requirements-run.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            wanted = Requirement(line)
            assert wanted.specifier.contains(pins[wanted.name.lower()]), line
