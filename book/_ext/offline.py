"""Sphinx extension: every page works with the network off.

1. MathJax is copied from the installed package that carries it.
2. Plotly's script is copied from the installed `plotly` package, and loaded only on pages that draw with it.
3. The live-kernel extension is switched off: it announces a script on another host, and the book has no kernel.
"""

import importlib.util
import shutil
from pathlib import Path

MATHJAX = "mathjax/tex-chtml.js"
PLOTLY = "plotly.min.js"


def package_folder(name: str) -> Path:
    """Folder of an installed package, which need not be importable by its name."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise RuntimeError(f"the package {name} is not installed: run `make setup`")
    return Path(spec.origin).parent


def before_reading(app) -> None:
    """Point the page's scripts at local files, and drop the listeners of the live-kernel extension."""
    app.config.mathjax_path = MATHJAX
    for listeners in list(app.events.listeners.values()):
        for listener in list(listeners):
            if listener.handler.__module__.startswith("sphinx_thebe"):
                app.disconnect(listener.id)


def on_page(app, pagename, templatename, context, doctree) -> None:
    """Load Plotly on a page that has a figure, ahead of the figure's own script."""
    if "plotly-graph-div" in context.get("body", ""):
        app.add_js_file(PLOTLY, priority=100)


def after_writing(app, exception) -> None:
    """Copy the scripts and their fonts beside the pages."""
    if exception is not None or app.builder.format != "html":
        return
    static = Path(app.outdir) / "_static"
    source = package_folder("sphinx-mathjax-offline") / "static" / "mathjax"
    target = static / "mathjax"
    for part in (Path(MATHJAX).name, "input/tex/extensions", "output/chtml/fonts", "a11y/assistive-mml.js"):
        if (source / part).is_dir():
            shutil.copytree(source / part, target / part, dirs_exist_ok=True)
        else:
            (target / part).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source / part, target / part)
    shutil.copy2(package_folder("plotly") / "package_data" / PLOTLY, static / PLOTLY)


def setup(app) -> dict:
    """Called by Sphinx."""
    app.connect("builder-inited", before_reading, priority=1)
    app.connect("html-page-context", on_page)
    app.connect("build-finished", after_writing)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
