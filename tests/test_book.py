"""The book as a whole: contents, citations, labels, claims, stored results, and no other host."""

import ast
import json
import re
from collections import Counter
from pathlib import Path

import jsonschema
import nbformat
import pytest
import yaml

from sae_lib.build import book_pages, public_address
from sae_lib.claims import CLAIMS, VERDICTS, verdict
from sae_lib.release import read_manifest
from sae_lib.scales import SCALES
from sae_lib.scorecard import COUNTED, tally

ROOT = Path(__file__).parents[1]
# The summary of the cards is a part of another page.
PAGES = sorted(path for path in (ROOT / "book").rglob("*.md") if path.name != "summary.md")
CHAPTERS = sorted((ROOT / "chapters").glob("*.ipynb"))
# What persons rated has a form of its own (`sae_lib.rating`).
RESULTS = sorted((ROOT / "results").rglob("[0-9][0-9]_*.json"))
CONFIG = yaml.safe_load((ROOT / "_config.yml").read_text())

NUMBER = {"type": ["number", "null"]}
RESULT = {
    "type": "object",
    "additionalProperties": False,
    "required": ["chapter", "scale", "seed", "corpus", "config", "hardware", "date", "wall_s", "versions", "claims", "numbers", "figures"],
    "properties": {
        "chapter": {"enum": [path.stem for path in CHAPTERS]},
        "scale": {"enum": [name for name in SCALES if name != "smoke"]},
        "seed": {"type": "integer", "minimum": 0},
        "corpus": {"type": "string"},
        "config": {"type": "object"},
        "hardware": {"type": ["object", "string"]},
        "date": {"type": "string", "pattern": r"^\d{4}-\d\d-\d\d$"},
        "wall_s": {"type": "number", "minimum": 0},
        "versions": {"type": "object"},
        "claims": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["claim", "value", "interval", "n", "unit", "verdict", "values"],
                "properties": {
                    "claim": {"enum": list(CLAIMS)},
                    "value": NUMBER,
                    "interval": {"type": ["array", "null"], "items": NUMBER, "minItems": 2, "maxItems": 2},
                    "n": {"type": ["integer", "null"], "minimum": 0},
                    "unit": {"type": "string"},
                    "of": {"type": "string"},
                    "verdict": {"enum": list(VERDICTS)},
                    "values": {"type": "object", "additionalProperties": NUMBER},
                },
            },
        },
        "numbers": {"type": "object"},
        "figures": {"type": "object", "additionalProperties": {"type": "array", "items": {"type": "object"}}},
    },
}


def markdown(path: Path) -> str:
    """The prose of a page or of a chapter, without its code examples."""
    if path.suffix == ".md":
        text = path.read_text()
    else:
        text = "\n\n".join(cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "markdown")
    return re.sub(r"^```\w*\n.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)


def labels(path: Path) -> list[str]:
    """Every name that a page gives to a place, an equation, an exercise or a figure."""
    text = markdown(path)
    found = re.findall(r"^\(([\w-]+)\)=", text, re.MULTILINE) + re.findall(r"^\$\$ \(([\w-]+)\)", text, re.MULTILINE)
    found += re.findall(r"^:label: *([\w-]+)", text, re.MULTILINE)
    if path.suffix == ".ipynb":
        for cell in nbformat.read(path, as_version=4).cells:
            name = cell.metadata.get("mystnb", {}).get("figure", {}).get("name")
            found += [name] if name else []
    return found


def claims_measured(path: Path) -> set[int]:
    """Numbers of the claims that a chapter wraps in `Measured`."""
    found = set()

    def is_measured(node: ast.AST) -> bool:
        return isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] == "Measured"

    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type != "code":
            continue
        for node in ast.walk(ast.parse(re.sub(r"^(\s*)[%!].*$", r"\1pass", cell.source, flags=re.MULTILINE))):
            if isinstance(node, ast.Dict):
                found |= {ast.literal_eval(key) for key, value in zip(node.keys, node.values, strict=True) if key and is_measured(value)}
            if isinstance(node, ast.Assign) and is_measured(node.value) and isinstance(node.targets[0], ast.Subscript):
                found.add(ast.literal_eval(node.targets[0].slice))
    return found


def test_the_contents_list_every_page_once():
    pages = book_pages(ROOT)
    there = [path.relative_to(ROOT).with_suffix("").as_posix() for path in PAGES + CHAPTERS]
    assert sorted(pages) == sorted(there)


def test_the_chapters_are_in_the_order_of_their_numbers():
    numbers = [re.match(r"chapters/(\d+)_", page).group(1) for page in book_pages(ROOT) if page.startswith("chapters/")]
    assert numbers == [f"{number:02d}" for number in range(1, len(numbers) + 1)]


@pytest.mark.parametrize("path", PAGES + CHAPTERS, ids=lambda path: path.stem)
def test_every_citation_has_its_entry(path: Path):
    keys = set(re.findall(r"^@\w+\{([\w-]+),", (ROOT / "book" / "references.bib").read_text(), re.MULTILINE))
    cited = {key.strip() for group in re.findall(r"\{cite(?::\w+)?\}`([^`]+)`", markdown(path)) for key in group.split(",")}
    assert cited <= keys


def test_every_entry_is_cited():
    keys = set(re.findall(r"^@\w+\{([\w-]+),", (ROOT / "book" / "references.bib").read_text(), re.MULTILINE))
    text = "".join(map(markdown, PAGES + CHAPTERS))
    assert not {key for key in keys if key not in text}


def test_labels_are_unique():
    counts = Counter(label for path in PAGES + CHAPTERS for label in labels(path))
    assert not [label for label, count in counts.items() if count > 1]


def test_a_claim_belongs_to_one_chapter():
    counts = Counter(claim for path in CHAPTERS for claim in claims_measured(path))
    assert set(counts) <= set(CLAIMS)
    assert not [claim for claim, count in counts.items() if count > 1]


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_the_table_at_the_top_names_the_claims_that_are_measured(path: Path):
    promised = {int(number) for number in re.findall(r"\bC(\d+)\b", nbformat.read(path, as_version=4).cells[1].source)}
    assert claims_measured(path) == promised


def test_every_claim_of_the_counted_parts_is_measured_in_a_chapter():
    measured = {claim for path in CHAPTERS for claim in claims_measured(path)}
    assert not [row.id for row in CLAIMS.values() if row.part in COUNTED and row.id not in measured]
    assert not [number for number in measured if not CLAIMS[number].holds], "a claim is measured that has no band"


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_stored_verdicts_follow_from_their_bands(path: Path):
    for entry in json.loads(path.read_text())["claims"]:
        values = {name: float("nan") if value is None else value for name, value in entry["values"].items()}
        assert verdict(entry["claim"], values).word == entry["verdict"], f"claim {entry['claim']}"
        assert entry["value"] == entry["values"][entry.get("of") or CLAIMS[entry["claim"]].holds[0].needs[0]]


def test_departures_are_numbered_once_and_exist():
    given = re.findall(r"^\| (D\d+) \|", (ROOT / "book" / "departures.md").read_text(), re.MULTILINE)
    assert len(given) == len(set(given))
    used = {name for path in PAGES + CHAPTERS for name in re.findall(r"\b(D\d+)\b", markdown(path))}
    assert used <= set(given)


def test_every_claim_has_a_verdict_of_the_reference_run():
    assert tally("released")["no result stored"] == 0


def test_stored_results_have_the_form():
    for path in RESULTS:
        found = json.loads(path.read_text())
        jsonschema.validate(found, RESULT)
        assert (path.parent.name, path.stem) == (found["scale"], found["chapter"])
        entries, measured = {entry["claim"] for entry in found["claims"]}, claims_measured(ROOT / "chapters" / f"{path.stem}.ipynb")
        # The laptop's run is older than some cells; whatever it measured must still be measured.
        assert entries <= measured if found["scale"] == "laptop" else entries == measured, path


def test_nothing_of_ours_loads_from_another_host():
    loads = re.compile(r"""(?:\bsrc\s*=\s*["']?|url\(\s*["']?|@import\s+["']?|import\(\s*["']|!\[[^\]]*\]\()\s*(?:https?:)?//[\w.-]+""")
    for path in [*(ROOT / "book" / "_static").rglob("*"), *PAGES]:
        if path.suffix in (".css", ".js", ".html", ".md", ".svg"):
            assert not loads.findall(path.read_text()), path.name
    for path in CHAPTERS:
        # The badge that opens Colab is for readers of the file, and the one remote picture.
        text = re.sub(r"!\[[^\]]*\]\(https://colab\.research\.google\.com/assets/colab-badge\.svg\)", "", markdown(path))
        assert not loads.findall(text), path.name


def test_the_public_address_stands_in_one_place():
    """Only a chapter may repeat it, because Colab has nothing but the chapter; there it must agree."""
    address = CONFIG["repository"]["url"].removeprefix("https://")
    owner, name = address.split("/")[1:]
    ours = [path for pattern in ("*", "book/**/*", "sae_lib/**/*.py", "tests/*", ".github/**/*", ".ci/*") for path in ROOT.glob(pattern)]
    for path in ours:
        if path.is_file() and path.name not in ("_config.yml", Path(__file__).name) and path.suffix not in (".png", ".woff2"):
            assert f"{owner}/{name}" not in path.read_text(errors="ignore"), path
    assert read_manifest(ROOT / "checkpoints")["address"] == f"{public_address(ROOT)}/checkpoints"
    for path in CHAPTERS:
        lines = [line for cell in nbformat.read(path, as_version=4).cells[:4] for line in cell.source.splitlines()]
        places = {place for line in lines for place in re.findall(r"github(?:\.com)?/([\w.-]+/[\w-]+?)(?:\.git|[@/\"'\s)])", line)}
        assert places <= {f"{owner}/{name}"}, path.name


def test_nothing_points_at_a_machine():
    for path in [*ROOT.glob("*.*"), *(ROOT / "book").rglob("*.*"), *(ROOT / "sae_lib").rglob("*.py"), *(ROOT / ".github").rglob("*.yml")]:
        if path.is_file() and path.suffix not in (".png", ".woff2"):
            assert not re.search(r"(?<![\w.])/(?:work|root|home)/\w", path.read_text(errors="ignore")), path
