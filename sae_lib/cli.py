"""The command line: `sae-book book` and `sae-book train`."""

import sys
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

INTERRUPTED = 130
"""Exit status that typer gives a command ended with Ctrl-C."""

ScaleOption = Annotated[str, typer.Option(help="Size of everything: smoke, laptop, night, colab, paper. Not given: the chapters' own.")]
CorpusOption = Annotated[
    str, typer.Option(help="Text to train on: pocket:, files:PATH, hub:OWNER/NAME or a recipe .toml. Not given: the scale's own.")
]
SeedOption = Annotated[int | None, typer.Option(help="Seed of everything drawn at random. Not given: the chapters' own.")]


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


@app.command()
def book(scale: ScaleOption = "", corpus: CorpusOption = "", seed: SeedOption = None) -> None:
    """Run every chapter in order and render the book into _site/_build/html."""
    from sae_lib.build import build_book
    from sae_lib.scales import scale as scale_named

    given: dict[str, Any] = {"SCALE": scale, "CORPUS": corpus, "SEED": seed}
    parameters = {name: value for name, value in given.items() if value not in ("", None)}
    if scale:
        scale_named(scale)
    print(f"The book is at {build_book(parameters)}")


@app.command()
def train(
    runs: Annotated[list[str], typer.Argument(help="A or B for a transformer; A/0, A/1, A/2 or B/1 for a dictionary; or several.")],
    scale: ScaleOption = "smoke",
    corpus: CorpusOption = "",
    seed: SeedOption = None,
    resampling: Annotated[str, typer.Option(help="Arm of the dictionary: paper, naive or none.")] = "paper",
    shard_features: Annotated[bool, typer.Option("--shard-features", help="Spread the features over torchrun's processes.")] = False,
) -> None:
    """Train runs and whatever they rest on; what is there already is used as it is.

    Dictionaries on one model that are named together read its activations together.
    Under torchrun every process takes its part of each batch.
    """
    from sae_lib.scales import scale as scale_named

    known = ["A", "B", *scale_named(scale).d_sae]
    if unknown := [run for run in runs if run not in known]:
        raise BookError(f"there is no run {unknown[0]!r}; the runs are {', '.join(known)}")
    if resampling not in ("paper", "naive", "none"):
        raise BookError(f"there is no resampling arm {resampling!r}; the arms are paper, naive and none")

    from sae_lib.lab import Lab

    lab = Lab(scale, seed=seed or 0, corpus=corpus)
    lab.train(runs, resampling, shard_features)
    print(f"{', '.join(runs)} at scale {scale}: trained.")


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; a problem that the reader can mend is one line and status 1, never a traceback."""
    try:
        app(args=arguments)
    except BookError as error:
        print(f"sae-book: {error}", file=sys.stderr)
        sys.exit(1)
    except SystemExit as end:
        if end.code != INTERRUPTED:
            raise
        print("sae-book: stopped; what was finished is kept, and the same command goes on from there", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
