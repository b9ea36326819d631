"""The cards of the released runs: one page each that says what it is, what it was trained on, and what it does on held-out text."""

import html
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from sae_lib.lab import Lab
from sae_lib.metrics import dead_share, evaluate, ultralow_share
from sae_lib.sae import SparseAutoencoder
from sae_lib.storage import write_atomic
from sae_lib.train import validation_loss

WIDTH, HEIGHT, MARGIN = 640, 240, 48
"""Of a training curve, in pixels."""

LICENCES = {
    "english_prose": "public domain, CC-BY-4.0, PSF-2.0, BSD-3-Clause, MIT, Apache-2.0, Biopython License",
    "other_languages": "MIT, public domain, CC0-1.0, CC-BY-4.0",
    "recipes": "public domain (USDA, Project Gutenberg), Unlicense",
    "dialogue": "CC-BY-4.0",
    "latex": "GFDL-1.2, CC-BY-4.0",
    "legal": "public domain (statutes and regulations of the United States), CC0-1.0; seven licence texts under their own",
    "http": "curl (MIT-style), MIT",
    "arabic": "MIT (classical texts: public domain), CC-BY-4.0",
    "dna": "public databases, in repositories under GPL-2.0, GPL-1.0 or Artistic-1.0-Perl, Biopython License",
    "base64": "curl (MIT-style), MIT, Apache-2.0, Biopython License",
    "hebrew": "public domain, MIT, CC-BY-4.0, CC-BY-SA (Hebrew Wikipedia)",
    "korean": "CC-BY-4.0, PSF-2.0, CC-BY-SA-4.0, MIT",
    "stdlib": "PSF-2.0",
    "torch": "BSD-3-Clause",
    "transformers": "Apache-2.0",
    "scipy": "BSD-3-Clause",
    "sklearn": "BSD-3-Clause",
    "pandas": "BSD-3-Clause",
    "sympy": "BSD-3-Clause",
    "pocket": "written for the book",
}
"""Under what each stratum of `book/recipes/released.toml` may be used, as its repositories say."""


def measured(lab: Lab, name: str) -> dict[str, float | int]:
    """What a card says that a run does on the lab's held-out text.

    Args:
        lab: has the run, in full precision.
        name: of a model or a dictionary.

    Returns:
        For a model its loss in nats a token; for a dictionary the shares and counts of `metrics`, and
        `half_precision`, the change of the recovered loss that rounding the weights makes.
    """
    tokens = lab.validation()
    if "/" not in name:
        return {"n_tokens": tokens.numel(), "validation_loss": validation_loss(lab.model(name), tokens)}
    model, sae = lab.model(name[0]), lab.dictionary(name)
    found, rounded = evaluate(model, sae, tokens), evaluate(model, _rounded(sae), tokens)
    keys = ("n_tokens", "l0", "loss_clean", "loss_spliced", "loss_zero", "loss_mean", "loss_recovered", "loss_recovered_mean")
    return {key: getattr(found, key) for key in (*keys, "explained_variance")} | {
        "dead_share": dead_share(found.density),
        "ultralow_share": ultralow_share(found.density, found.n_tokens),
        "half_precision": rounded.loss_recovered - found.loss_recovered,
    }


def write_cards(folder: Path, entries: Mapping[str, Mapping[str, Any]], text: Mapping[str, Any]) -> None:
    """Write the card and the training curve of each released run, and the page on what all of them read.

    Args:
        folder: gets `A-1.md` and `A-1.svg` and so on, `text.md`, and the table `summary.md` that another page takes in.
        entries: the runs of the manifest.
        text: what the shards say of themselves.
    """
    write_atomic(folder / "text.md", text_page(text))
    write_atomic(folder / "summary.md", summary(entries))
    for name, entry in entries.items():
        stem = name.replace("/", "-")
        write_atomic(folder / f"{stem}.svg", curve(pd.DataFrame(entry["log"]), f"Training curve of {name}"))
        write_atomic(folder / f"{stem}.md", card(name, entry))


def card(name: str, entry: Mapping[str, Any]) -> str:
    """The page of one run, in Markdown."""
    config, run, found = entry["config"], entry["provenance"], entry["measured"]
    training, machine = config["training"], run["hardware"]
    is_model = config["kind"] == "model"
    rows = (_model_rows if is_model else _dictionary_rows)(config, found)
    threads = "1 thread" if machine["threads"] == 1 else f"{machine['threads']} threads"
    rows |= {
        "seed": training["seed"],
        "machine": f"{machine.get('accelerator') or machine['processor']}, {threads}",
        "time": f"{run['wall_s'] / 3600:.1f} hours, finished {run['finished'][:10]}",
        "versions": ", ".join(f"{package} {number}" for package, number in run["versions"].items()),
        "files": "<br>".join(
            f"`{file['name']}`, {file['bytes'] / 2**20:.1f} MiB, SHA-256 `{file['sha256'][:16]}…`" for file in entry["files"]
        ),
    }
    table = "".join(f"| {key} | {value} |\n" for key, value in rows.items())
    return (
        f"# {name}\n\n{_sentence(name, config)}\n\n| | |\n|---|---|\n{table}\n"
        f"The text and its licences are on [a page of their own](text.md).\n\n"
        f'```python\nimport sae_lib\n\n{"model" if is_model else "sae"} = sae_lib.released("{name}")\n```\n\n'
        f"![The loss of {name} over its training]({name.replace('/', '-')}.svg)\n"
    )


def summary(entries: Mapping[str, Mapping[str, Any]]) -> str:
    """All dictionaries in one table, each with a link to its card, as Markdown."""
    heading = "| | features | activations | L0 | loss recovered | dead | ultralow |\n|---|---|---|---|---|---|---|\n"
    rows = []
    for name, entry in entries.items():
        if entry["config"]["kind"] == "model":
            continue
        found, config = entry["measured"], entry["config"]
        shown = (f"{found['l0']:.1f}", *(f"{found[key]:.1%}" for key in ("loss_recovered", "dead_share", "ultralow_share")))
        sizes = (f"{config['geometry']['d_sae']:,}", f"{config['training']['n_activations']:,}")
        rows.append(f"| [{name}](cards/{name.replace('/', '-')}.md) | {' | '.join((*sizes, *shown))} |\n")
    return heading + "".join(rows)


def text_page(text: Mapping[str, Any]) -> str:
    """What the released runs were trained on: shares counted in tokens, licences, and versions of the packages that were read."""
    strata = text["strata"]["train"]
    total = sum(found["tokens"] for found in strata.values())
    rows = "".join(
        f"| {name} | {found['tokens'] / total:.2%} | {found['tokens']:,} | {found['documents']:,} | {licence} |\n"
        for name, found in strata.items()
        for licence in [LICENCES.get(name.split("/")[0], "")]
    )
    packages = {name: number for facts in text["sources"].values() for name, number in facts.get("packages", {}).items()}
    # A package's folder and its name on the index differ for one of them.
    read = [(name, packages.get(name) or packages.get({"sklearn": "scikit-learn"}.get(name, ""))) for name in strata]
    python = next((facts["python"] for facts in text["sources"].values() if "python" in facts), "")
    versions = ", ".join([f"Python {python}"] * bool(python) + [f"{name} {number}" for name, number in read if number])
    return (
        "# The text of the released runs\n\n"
        f"{total:,} tokens, mixed by `{text['corpus']}` with seed {text['seed']}, and {text['validation_tokens']:,} held out.\n"
        "Shares are of tokens; nothing of the text itself is part of the book.\n"
        f"Code was read from {versions or 'no package'}.\n\n"
        "| stratum | share | tokens | documents | licences |\n|---|---|---|---|---|\n" + rows
    )


def curve(log: pd.DataFrame, title: str) -> str:
    """A run's loss over what it has seen, as a small SVG."""
    seen = log["n_tokens" if "n_tokens" in log else "n_activations"] / 1e6
    unit = "tokens" if "n_tokens" in log else "activations"
    low, high = log["loss"].min(), log["loss"].quantile(0.98)
    x = MARGIN + (WIDTH - 2 * MARGIN) * seen / seen.max()
    y = MARGIN / 2 + (HEIGHT - 1.5 * MARGIN) * (1 - (log["loss"].clip(upper=high) - low) / max(high - low, 1e-12))
    points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))
    bottom = HEIGHT - MARGIN

    def label(at_x: float | int, at_y: float | int, words: str, anchor: str) -> str:
        return f'<text x="{at_x:.0f}" y="{at_y:.0f}" text-anchor="{anchor}">{html.escape(words)}</text>'

    labels = [
        label(MARGIN - 6, MARGIN / 2 + 4, f"{high:.3g}", "end"),
        label(MARGIN - 6, bottom + 4, f"{low:.3g}", "end"),
        label(MARGIN, bottom + 18, "0", "middle"),
        label(WIDTH - MARGIN, bottom + 18, f"{seen.max():.0f}", "middle"),
        label(WIDTH / 2, bottom + 36, f"million {unit}; upwards the loss", "middle"),
    ]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        'font-family="sans-serif" font-size="13" fill="#666">'
        f"<title>{html.escape(title)}</title>"
        f'<path d="M{MARGIN},{MARGIN / 2:.0f} V{bottom} H{WIDTH - MARGIN}" fill="none" stroke="#999"/>'
        f'<polyline points="{points}" fill="none" stroke="#0072b2" stroke-width="2"/>{"".join(labels)}</svg>\n'
    )


def _rounded(sae: SparseAutoencoder) -> SparseAutoencoder:
    other = SparseAutoencoder(sae.cfg).to(sae.device).eval().requires_grad_(False)
    other.load_state_dict({name: tensor.half().float() for name, tensor in sae.state_dict().items()})
    other.normalize_decoder_()
    return other


def _sentence(name: str, config: Mapping[str, Any]) -> str:
    if config["kind"] == "model":
        twin = "" if name == "A" else " It is A once more from another seed, on the same text in another order."
        return f"A transformer of one layer, at the paper's geometry.{twin}"
    of = {"S": "the control, which is A with the entries of every weight matrix shuffled"}.get(name[0], f"model {name[0]}")
    more = {
        "A/1b": " It is A/1 once more from another seed.",
        "S/1": " The control predicts nothing, so its loss recovered is a share of no skill, and can be more than the whole.",
    }.get(name, "")
    return f"A dictionary of {config['geometry']['d_sae']:,} features on the MLP activations of {of}.{more}"


def _model_rows(config: Mapping[str, Any], found: Mapping[str, float | int]) -> dict[str, Any]:
    sizes, training = config["geometry"], config["training"]
    return {
        "geometry": f"d_model {sizes['d_model']}, d_mlp {sizes['d_mlp']}, {sizes['n_heads']} heads of {sizes['d_head']}, "
        f"vocabulary {sizes['d_vocab']:,}, contexts of {sizes['n_ctx']} tokens",
        "trained on": f"{training['n_tokens']:,} tokens, {training['batch_tokens']:,} a step; "
        f"{training['n_tokens'] / config['text']['n_tokens']:.1f} passes over the text",
        "optimiser": f"AdamW, peak rate {training['lr']:g}, weight decay {training['weight_decay']:g}, cosine",
        "held-out loss": f"{found['validation_loss']:.3f} nats a token, on {found['n_tokens']:,} tokens",
    }


def _dictionary_rows(config: Mapping[str, Any], found: Mapping[str, float | int]) -> dict[str, Any]:
    training, geometry = config["training"], config["geometry"]
    return {
        "trained on": f"{training['n_activations']:,} activations, {training['batch_size']:,} a step",
        "optimiser": f"Adam, rate {training['lr']:g}",
        "sparsity weight": f"{geometry['l1_coeff']:g}, with the squared error as a {geometry['mse']} over elements",
        "resampled at steps": ", ".join(f"{step:,}" for step in training["resampling"]["steps"]),
        "measured on": f"{found['n_tokens']:,} held-out tokens",
        "L0": f"{found['l0']:.1f} features a token",
        "loss recovered": f"{found['loss_recovered']:.1%} against zero ablation, {found['loss_recovered_mean']:.1%} against the mean",
        "explained variance": f"{found['explained_variance']:.1%}",
        "dead": f"{found['dead_share']:.1%} of the features",
        "ultralow": f"{found['ultralow_share']:.1%} fired, but fewer than 100 times",
        "half precision": f"changes the recovered loss by {_points(found['half_precision'])}",
    }


def _points(share: float) -> str:
    return f"{100 * share:+.3f} points" if abs(share) >= 5e-6 else "less than 0.001 points"
