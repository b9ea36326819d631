"""The command line: `sae-book book`, `results`, `train`, `sweep`, `release`, `atlas`, `export` and `import`."""

import sys
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import typer

import sae_lib
from sae_lib.errors import BookError

app = typer.Typer(
    name="sae-book",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Towards Monosemanticity, run for yourself: train the models, run the chapters, render the book.",
)

SWEEP_TOKENS = 100_000
"""Held-out tokens that are enough to tell the settings of a sweep apart."""

INTERRUPTED = 130
"""Exit status that typer gives a command ended with Ctrl-C."""

SIZE = "Size of everything:"
TEXT = "Text: pocket:, files:PATH, hub:OWNER/NAME or a recipe .toml."
SEED = "Seed of everything drawn at random."
ScaleOption = Annotated[str, typer.Option(help=f"{SIZE} released, smoke, laptop, night, colab, paper.")]
CorpusOption = Annotated[str, typer.Option(help=f"{TEXT} Not given: the scale's own.")]
SeedOption = Annotated[int, typer.Option(help=SEED)]
ChaptersSeedOption = Annotated[int | None, typer.Option(help=f"{SEED} Not given: the chapters' own.")]


def _show_version(wanted: bool) -> bool:
    if wanted:
        print(f"sae-book {sae_lib.__version__}")
        raise typer.Exit
    return wanted


@app.callback()
def _top(
    version: Annotated[bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and end.")] = False,
) -> None:
    pass


def _known_runs(asked: list[str], scale: str) -> list[str]:
    """The runs of a scale, once all that are asked for are among them."""
    from sae_lib.scales import scale as scale_named

    known = ["A", "B", *scale_named(scale).d_sae]
    if unknown := [run for run in asked if run not in known]:
        raise BookError(f"there is no run {unknown[0]!r}; the runs are {', '.join(known)}")
    return known


@app.command()
def book(
    scale: Annotated[str, typer.Option(help=f"{SIZE} released, smoke, laptop, night, colab, paper. Not given: the chapters' own.")] = "",
    corpus: CorpusOption = "",
    seed: ChaptersSeedOption = None,
) -> None:
    """Run every chapter in order and render the book into _site/_build/html."""
    from sae_lib.build import build_book
    from sae_lib.scales import scale as scale_named

    given: dict[str, Any] = {"SCALE": scale, "CORPUS": corpus, "SEED": seed}
    parameters = {name: value for name, value in given.items() if value not in ("", None)}
    if scale:
        scale_named(scale)
    print(f"The book is at {build_book(parameters)}")


@app.command()
def results(
    chapters: Annotated[
        list[str] | None, typer.Argument(help="Chapters by the beginning of their name, such as 07, or browser. Not given: all.")
    ] = None,
    scale: Annotated[str, typer.Option(help=f"{SIZE} released, laptop, night, colab, paper.")] = "released",
    corpus: Annotated[str, typer.Option(help=f"{TEXT} Not given: what the scale was trained on.")] = "",
    seed: ChaptersSeedOption = None,
) -> None:
    """Measure at length, on the held-out part of a text, and keep every chapter's numbers in results/."""
    from sae_lib.build import measure
    from sae_lib.scales import scale as scale_named

    if scale_named(scale).name == "smoke":
        raise BookError("numbers of smoke are not kept, since they say nothing about text; choose another scale")
    parameters = {"SCALE": scale} | ({"CORPUS": corpus} if corpus else {}) | ({} if seed is None else {"SEED": seed})
    print(f"The numbers are in {measure(parameters, chapters or [])}")


@app.command()
def train(
    runs: Annotated[list[str], typer.Argument(help="A or B for a transformer; A/0, A/1, A/2 or B/1 for a dictionary; or several.")],
    scale: Annotated[str, typer.Option(help=f"{SIZE} smoke, laptop, night, colab, paper.")] = "smoke",
    corpus: CorpusOption = "",
    seed: SeedOption = 0,
    resampling: Annotated[str, typer.Option(help="How dead features of the dictionaries are resampled: paper, naive or none.")] = "paper",
    shard_features: Annotated[bool, typer.Option("--shard-features", help="Spread the features over torchrun's processes.")] = False,
) -> None:
    """Train runs and whatever they rest on; what is there already is used as it is.

    Dictionaries on one model that are named together read its activations together.
    Under torchrun every process takes its part of each batch.
    """
    _known_runs(runs, scale)
    if resampling not in ("paper", "naive", "none"):
        raise BookError(f"there is no resampling arm {resampling!r}; the arms are paper, naive and none")
    if resampling != "paper" and not any("/" in run for run in runs):
        raise BookError(f"features are resampled, and {runs[0]} has none; leave --resampling out, or name a dictionary such as A/1")

    from sae_lib.lab import Lab

    lab = Lab(scale, seed=seed, corpus=corpus)
    lab.train(runs, resampling, shard_features)
    print(f"{', '.join(runs)} at scale {scale}: trained.")


@app.command()
def atlas(
    scale: ScaleOption = "released",
    out: Annotated[Path | None, typer.Option(help="Folder to write. Not given: that of the rendered book.")] = None,
    corpus: CorpusOption = "",
    seed: SeedOption = 0,
) -> None:
    """Compute the feature browser's data, or find them computed, and put them where the page looks for them."""
    from sae_lib.build import SITE
    from sae_lib.scales import scale as scale_named
    from sae_lib.storage import project_root

    scale_named(scale)
    pages = project_root() / SITE / "_build" / "html"
    if out is None and not pages.is_dir():
        raise BookError("there is no rendered book to put the data into; make it with `sae-book book`, or say --out FOLDER")

    from sae_lib import browser
    from sae_lib.lab import Lab

    folder = out or pages / "browser"
    browser.check_room(folder)
    found = browser.atlas(Lab(scale, seed=seed, corpus=corpus), progress=True)
    browser.put(found, folder)
    size = sum(path.stat().st_size for path in folder.rglob("*.json"))
    print(f"{folder}: the features at scale {scale}, {size / 2**20:.0f} MiB")


@app.command()
def export(
    name: Annotated[str, typer.Argument(help="A/0, A/1, A/2 or B/1 for a dictionary; A or B for a transformer.")],
    to: Annotated[
        str,
        typer.Option(
            help="Form: saelens, dictionary_learning, sparsify, gemma-scope or circuit-tracer for a dictionary; "
            "transformer-lens or hf for a transformer."
        ),
    ],
    out: Annotated[Path | None, typer.Option(help="Folder to write. Not given: exports/NAME-FORM below this one.")] = None,
    scale: ScaleOption = "released",
    corpus: CorpusOption = "",
    seed: SeedOption = 0,
    force: Annotated[bool, typer.Option("--force", help="Replace an export that stands there, once the new one is whole.")] = False,
) -> None:
    """Write a dictionary or a transformer in the form that another package reads; it is trained first if it is not there yet."""
    from sae_lib import interchange

    _known_runs([name], scale)
    kind, forms = ("model", interchange.MODELS) if "/" not in name else ("dictionary", interchange.DICTIONARIES)
    interchange.check_form(forms, to, kind)
    folder = out or Path("exports") / f"{name.replace('/', '-')}-{to}"
    # Before anything is trained for it.
    interchange.check_room(folder, force)
    found, facts, tokenizer = _trained(name, scale, corpus, seed)
    if kind == "model":
        interchange.export_model(found, folder, to, facts, tokenizer, force)
    else:
        interchange.export_dictionary(found, folder, to, facts, force)
    print(f"{name} at scale {scale}: {folder} ({', '.join(sorted(path.name for path in folder.iterdir()))})")


def _trained(name: str, scale: str, corpus: str, seed: int) -> tuple[Any, Any, Any]:
    """A run by its name, what is known of it, and its tokenizer."""
    from sae_lib.interchange import Facts
    from sae_lib.lab import Lab
    from sae_lib.scales import scale as scale_named

    lab = Lab(scale, seed=seed, corpus=corpus)
    found = lab.dictionary(name) if "/" in name else lab.model(name)
    # What released weights were trained on is not what a page reads.
    spec = scale_named(scale, at_length=True).corpus if lab.scale.is_released else lab.corpus_spec
    # A path says more of a machine than of a text.
    text = spec if spec.startswith(("pocket:", "hub:")) else Path(spec).name
    return found, Facts(f"sae-book-{scale}-seed{seed}-{name[0]}", lab.scale.n_ctx, text), lab.tokenizer


@app.command("import")
def import_(
    path: Annotated[Path, typer.Argument(help="A folder of SAELens, or a params.npz of Gemma Scope.")],
    out: Annotated[Path | None, typer.Option(help="Safetensors file to write, under this book's names. Not given: only check.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that stands there.")] = False,
) -> None:
    """Check a dictionary of another package, say what it is, and take it over if our formula can express it exactly."""
    from sae_lib.interchange import import_dictionary, save_dictionary

    found = import_dictionary(path)
    print(found.describe())
    if out is not None:
        print(f"written to {save_dictionary(found, out, force)}")


@app.command()
def sweep(
    run: Annotated[str, typer.Argument(help="A dictionary, such as A/1.")],
    l1: Annotated[list[float], typer.Option(help="Sparsity weights to try, with the squared error averaged over elements; several.")],
    lr: Annotated[list[float] | None, typer.Option(help="Learning rates to try; several. Not given: the scale's.")] = None,
    batch: Annotated[list[int] | None, typer.Option(help="Activations a step to try; several. Not given: the scale's.")] = None,
    activations: Annotated[int, typer.Option(help="Activations each of them sees. Not given: as many as the run itself.")] = 0,
    scale: ScaleOption = "smoke",
    corpus: CorpusOption = "",
    seed: SeedOption = 0,
) -> None:
    """Train a dictionary at several settings, and print what each gives on held-out text."""
    import pandas as pd

    from sae_lib.scales import scale as scale_named

    if run not in (known := scale_named(scale).d_sae):
        raise BookError(f"there is no dictionary {run!r}; the dictionaries are {', '.join(known)}")
    if activations < 0 or min([*l1, *(lr or [1]), *(batch or [1])]) <= 0:
        raise BookError("sparsity weights, learning rates, batches and activations are positive numbers")

    from sae_lib.lab import Lab
    from sae_lib.metrics import dead_share, evaluate

    # The page's text of the released weights is too short to train on, and labelled.
    lab = Lab(scale, seed=seed, corpus=corpus, at_length=True)
    grid = product(batch or [lab.scale.sae_batch], lr or [lab.scale.sae_lr], l1)
    settings = [{"l1_coeff": weight, "sae_lr": rate, "sae_batch": size} for size, rate, weight in grid]
    settings = [setting | ({"n_activations": activations} if activations else {}) for setting in settings]
    rows, tokens = [], lab.validation(min(SWEEP_TOKENS, lab.scale.analysis_tokens))
    for setting, sae in zip(settings, lab.sweep(run, settings), strict=True):
        found = evaluate(lab.model(run[0]), sae, tokens)
        measured = {key: getattr(found, key) for key in ("l0", "loss_recovered", "loss_recovered_mean", "explained_variance")}
        rows.append(setting | measured | {"dead_share": dead_share(found.density)})
    print(f"{run} at scale {scale}, on {found.n_tokens:,} held-out tokens:")
    print(pd.DataFrame(rows).to_string(index=False, float_format="{:.4g}".format))


@app.command()
def release(
    runs: Annotated[list[str] | None, typer.Argument(help="The runs to ship. Not given: all of the scale.")] = None,
    scale: Annotated[str, typer.Option(help=f"{SIZE} laptop, night, colab, paper.")] = "night",
    corpus: CorpusOption = "",
    seed: SeedOption = 0,
) -> None:
    """Measure runs on held-out text and write them into checkpoints/ in half precision, with their cards in book/cards/.

    What its manifest says of the same weights is not measured again; delete the manifest to have all of it anew.
    """
    from tqdm import tqdm

    from sae_lib.build import public_address
    from sae_lib.cards import measured, write_cards
    from sae_lib.lab import Lab
    from sae_lib.release import check_room, read_manifest, write_release
    from sae_lib.scales import scale as scale_named
    from sae_lib.storage import project_root

    known = _known_runs(runs or [], scale)
    if scale_named(scale).is_released:
        raise BookError("the weights of this scale are those that ship already; --scale night is what they were trained with")
    if scale == "smoke":
        raise BookError("weights of smoke are not shipped, since they say nothing about text; choose another scale")
    root = project_root()
    address = public_address(root)
    folder = root / "checkpoints"
    check_room(folder)
    before = read_manifest(folder)["runs"] if (folder / "MANIFEST.json").is_file() else {}
    lab = Lab(scale, seed=seed, corpus=corpus)
    found = {name: lab.run(name) for name in runs or known}
    numbers = {
        name: before[name]["measured"] for name, run in found.items() if name in before and before[name]["provenance"] == run.provenance
    }
    new = tqdm([name for name in found if name not in numbers], desc="measuring", unit="run")
    numbers |= {name: measured(lab, name) for name in new}
    write_release(folder, found, lab.tokenizer_path, numbers, f"{address}/checkpoints")
    entries = read_manifest(folder)["runs"]
    write_cards(root / "book" / "cards", {name: entries[name] for name in found}, lab.shards.meta)
    size = sum(path.stat().st_size for path in folder.iterdir())
    print(f"{folder}: {', '.join(found)}, {size / 2**20:.0f} MiB")


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; a problem that the reader can mend is one line and status 1, never a traceback."""
    try:
        app(args=arguments)
    except BookError as error:
        print(f"sae-book: {error}", file=sys.stderr)
        sys.exit(1)
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        print(f"sae-book: {place}{error.strerror or error}; check the permissions and the space", file=sys.stderr)
        sys.exit(1)
    except SystemExit as end:
        if end.code != INTERRUPTED:
            raise
        print("sae-book: stopped; what was finished is kept, and the same command goes on from there", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
