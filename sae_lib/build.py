"""From chapters to a book: run every chapter in order, then let Jupyter Book render what they gave.

1. Read the chapters from `_toc.yml`; a missing one, or one that does not declare a parameter it is given, stops the build at once.
2. Execute each with papermill into `_site/chapters/`, several at a time where no long training stands in the way. A parameter
   equal to the chapter's own default is not passed, so that the page shows the chapter as it stands in the repository.
3. Copy `_config.yml`, `_toc.yml` and `book/` beside them, write the score for the first page, and render with warnings as errors.
4. Put the data of the feature browser beside the pages, if the book has that page; they are made while chapters run.
"""

import ast
import multiprocessing
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from sae_lib.errors import BookError
from sae_lib.scorecard import summary
from sae_lib.storage import project_root

if TYPE_CHECKING:
    from sae_lib.lab import Lab
    from sae_lib.scales import Scale

SITE = "_site"
"""Folder of the executed chapters and of the rendered book, below the project."""
BROWSER = "book/browser"
"""The page of the feature browser, whose data are made once the chapters have their runs."""

OPINIONS = "browser"
"""Among the results what the feature browser calls its features and neurons, as chapters are by their names."""

SUMMARY = "summary.txt"
"""Written beside the pages when the book is built: the score of the reference run in one line, for the first page."""

AT_ONCE = 4
"""Chapters that run beside each other at most; each holds some gigabytes."""

SPARE = (
    "Perhaps the memory was too small: close other programs, choose a smaller SCALE, "
    "or let one chapter run at a time (on Linux: taskset -c 0 make book)"
)
"""What helps where a process dies that nobody ended."""

ANSI = re.compile(r"\x1b\[[0-9;]*m")


class Chapter(NamedTuple):
    """One notebook of the table of contents."""

    path: Path
    """Where the notebook is, absolute."""
    name: str
    """As the table of contents has it, for instance `chapters/07_arabic`."""
    parameters: dict[str, Any]
    """What the chapter is to be given; only what differs from its own defaults."""


def book_pages(root: Path) -> list[str]:
    """Every page of the book in reading order, the root page first, as `_toc.yml` names them."""
    import yaml

    path = root / "_toc.yml"
    if not path.is_file():
        raise BookError(f"{path} is missing: run the command inside the book's folder")
    try:
        toc = yaml.safe_load(path.read_text(encoding="utf-8"))
        pages = [page for part in toc["parts"] for page in part["chapters"]]
        return [toc["root"], *(each["file"] for page in pages for each in (page, *page.get("sections", ())))]
    except (yaml.YAMLError, KeyError, TypeError) as error:
        raise BookError(f"{path} is no table of contents with a root and parts of chapters ({error!r})".replace("\n", " ")) from None


def public_address(root: Path) -> str:
    """Where the repository's files can be fetched one by one, from `_config.yml`, the one place that says where it is.

    Raises:
        BookError: the folder is not the book's, or its configuration does not say.
    """
    import yaml

    path = root / "_config.yml"
    try:
        repository = yaml.safe_load(path.read_text(encoding="utf-8"))["repository"]
        return f"{repository['url']}/raw/{repository['branch']}"
    except FileNotFoundError:
        raise BookError(f"{root} is not the folder of the book, whose _config.yml says where its files are; start there") from None
    except (yaml.YAMLError, KeyError, TypeError) as error:
        raise BookError(f"{path} does not say where the repository is, under repository: url and branch ({error})") from None


def declared_parameters(path: Path) -> dict[str, Any]:
    """The names and default values in a notebook's `parameters` cell."""
    import papermill

    try:
        found = papermill.inspect_notebook(str(path), parameters={})
    except Exception as error:
        raise BookError(f"{path} cannot be read as a notebook ({type(error).__name__}: {error})".replace("\n", " ")) from None
    try:
        return {name: ast.literal_eval(parameter["default"]) for name, parameter in found.items()}
    except (ValueError, SyntaxError):
        raise BookError(f"{path}: the parameters cell holds something that is no plain value") from None


def plan(root: Path, parameters: Mapping[str, Any]) -> list[Chapter]:
    """The chapters to run and what to give each.

    Args:
        root: the book's folder.
        parameters: values by name; each must be declared in the parameters cell of every chapter.

    Raises:
        BookError: a chapter is missing, or does not declare a parameter (it or the caller misspelt it).
    """
    chapters = []
    for name in (page for page in book_pages(root) if page.startswith("chapters/")):
        path = root / f"{name}.ipynb"
        if not path.is_file():
            raise BookError(f"{path} is missing, though _toc.yml lists it")
        declared = declared_parameters(path)
        unknown = sorted(set(parameters) - set(declared))
        if unknown:
            raise BookError(f"{name}.ipynb has no parameter {unknown[0]}; its parameters are {', '.join(declared) or 'none'}")
        chapters.append(Chapter(path, name, {key: value for key, value in parameters.items() if declared[key] != value}))
    if not chapters:
        raise BookError(f"{root / '_toc.yml'} lists no chapter")
    return chapters


def failing_line(traceback: list[str]) -> str:
    """The line of the cell that a traceback points at, or nothing."""
    pointed = re.search(r"^-+>\s*\d+\s*(.*)$", ANSI.sub("", "\n".join(traceback)), re.MULTILINE)
    return pointed.group(1).strip() if pointed else ""


def run_chapter(chapter: Chapter, output: Path) -> None:
    """Execute one chapter, in its own folder, into another notebook.

    Raises:
        BookError: a cell failed; the message has the chapter, the cell counted from 1 in the stored notebook, the line and the error.
            Or the kernel died or did not start, or the disk refused.
    """
    import papermill
    from papermill.exceptions import PapermillExecutionError
    from traitlets.config import Config

    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        papermill.execute_notebook(
            str(chapter.path),
            str(output),
            parameters=chapter.parameters,
            kernel_name="python3",
            cwd=str(chapter.path.parent),
            progress_bar=False,
            request_save_on_cell_execute=False,
            # The bars of a training run are for whoever watches the terminal.
            stderr_file=sys.stderr if sys.stderr.isatty() else None,
            # Otherwise every kernel warns that other users of the machine could listen in.
            config=Config(KernelManager={"transport_encryption": "auto"}),
            # Before a kernel is ended it is interrupted, idle as it is, and calls that an error.
            extra_arguments=["--log-level=CRITICAL"],
        )
    except PapermillExecutionError as error:
        # The cell that papermill adds for parameters counts before every later cell.
        cell = error.cell_index + (0 if chapter.parameters else 1)
        line = failing_line(error.traceback)
        raise BookError(
            f"{chapter.name}.ipynb, cell {cell}" + (f", line `{line}`" if line else "") + f": {error.ename}: {error.evalue}"
        ) from None
    except (RuntimeError, TimeoutError) as error:
        # A kernel that dies, dies before it answers, or does not answer; each has an error of its own.
        raise BookError(f"{chapter.name}.ipynb: its kernel ended, or did not start ({error}). {SPARE}") from error
    except OSError as error:
        raise _unwritten(f"{chapter.name}.ipynb could not be run into {output}", error) from error


def _unwritten(what: str, error: OSError) -> BookError:
    return BookError(f"{what}: {error.strerror or error}. Free some space or check its permissions, then run the same command again")


def run_chapters(
    chapters: list[Chapter], folder: Path, at_once: int = 1, beside: Mapping[str, Callable[[], Any]] = MappingProxyType({})
) -> dict[str, float]:
    """Execute chapters into a folder, as the book shows them; the seconds that each took.

    Args:
        chapters: which, in the order in which they begin.
        folder: gets the executed notebooks.
        at_once: chapters that run beside each other; they share the cores.
        beside: other work by name, begun before the chapters and counted as one of them.

    Raises:
        BookError: as `run_chapter`, or a process was ended from outside; what has not begun then does not begin.
    """
    from sae_lib.machine import cores

    surroundings = {"SAE_BOOK_RENDERER": "book"} | ({"OMP_NUM_THREADS": str(max(1, cores() // at_once))} if at_once > 1 else {})
    seconds: dict[str, float] = {}
    with ProcessPoolExecutor(at_once, multiprocessing.get_context("spawn"), _surround, (surroundings,)) as pool:
        try:
            running = {name: pool.submit(_timed, f"Making {name}.", work) for name, work in beside.items()}
            for number, chapter in enumerate(chapters, 1):
                work = partial(run_chapter, chapter, folder / f"{chapter.name}.ipynb")
                running[chapter.name] = pool.submit(_timed, f"[{number}/{len(chapters)}] {chapter.name}", work)
            for name, done in running.items():
                seconds[name] = done.result()
            return seconds
        except BrokenProcessPool:
            left = next(name for name in running if name not in seconds)
            raise BookError(
                f"{left}{'' if left in beside else '.ipynb'}, or a chapter that ran beside it, was ended from outside. {SPARE}"
            ) from None
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _surround(environment: Mapping[str, str]) -> None:
    os.environ.update(environment)


def _timed(saying: str, work: Callable[[], Any]) -> float:
    print(saying, flush=True)
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _at_once(chapters: list[Chapter]) -> int:
    """How many chapters to run beside each other: as many as there are cores, but one at a time where training wants all of them."""
    from sae_lib.machine import cores

    return min(cores(), AT_ONCE) if all(each.is_released or each.name == "smoke" for each in _scales(chapters)) else 1


def _scales(chapters: list[Chapter]) -> list["Scale"]:
    from sae_lib.scales import scale

    return [scale(given.get("SCALE", "smoke")) for given in (declared_parameters(each.path) | each.parameters for each in chapters)]


def measure(parameters: Mapping[str, Any], names: list[str], root: Path | None = None) -> Path:
    """Run chapters at length, so that each keeps its numbers below `results/`; nothing is rendered.

    Args:
        parameters: as for `build_book`; the corpus among them.
        names: chapters by the beginning of their file's name, such as 07, and "browser" for what the browser calls its
            features and neurons; none means all of it.
        root: the book's folder; found from the working directory when not given.

    Returns:
        The folder of the results.

    Raises:
        BookError: no chapter has such a name, or one failed.
    """
    root = root or project_root()
    chapters = plan(root, parameters)
    known = [*(chapter.path.stem for chapter in chapters), OPINIONS]
    if unknown := [name for name in names if not any(each.startswith(name) for each in known)]:
        raise BookError(f"no chapter is called {unknown[0]}…; there are {', '.join(known)}")
    chosen = [chapter for chapter in chapters if not names or chapter.path.name.startswith(tuple(names))]
    begun = time.perf_counter()
    seconds = {}
    if chosen:
        os.environ["SAE_BOOK_RESULTS"] = "1"
        seconds = run_chapters(chosen, root / SITE / "results", _at_once(chosen))
    if not names or OPINIONS.startswith(tuple(names)):
        seconds[OPINIONS] = _timed("Explaining every feature and neuron of the browser.", partial(_keep_opinions, chapters[-1]))
    print(seconds_table(seconds | {"together": time.perf_counter() - begun}))
    return root / "results"


def seconds_table(seconds: Mapping[str, float]) -> str:
    """Wall time by step, as aligned text."""
    width = max(map(len, seconds))
    return "\n".join(f"  {name:<{width}}  {value:8.1f} s" for name, value in seconds.items())


def render(root: Path, site: Path) -> Path:
    """Render the executed chapters and the pages of `book/`; a warning is an error.

    Returns:
        The folder of the HTML pages.

    Raises:
        BookError: the pages do not render, what renders them is not installed, or the disk refused.
    """
    try:
        for name in ("_config.yml", "_toc.yml"):
            shutil.copy2(root / name, site / name)
        for stale in ("book", "_build"):
            shutil.rmtree(site / stale, ignore_errors=True)
        shutil.copytree(root / "book", site / "book", ignore=shutil.ignore_patterns("__pycache__"))
        # Not a page of its own: the first page includes it, and Sphinx warns of Markdown that no contents list.
        (site / "book" / SUMMARY).write_text(summary(), encoding="utf-8")
    except OSError as error:
        raise _unwritten(f"the pages could not be copied to {site}", error) from error
    program = Path(sys.executable).with_name("jupyter-book")
    if not program.is_file():
        raise BookError("jupyter-book is not installed beside this Python: run `make book`, which installs what the book needs")
    done = subprocess.run([str(program), "build", str(site), "-W", "-n", "--keep-going", "-q"], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = [
            line for line in ANSI.sub("", done.stdout + done.stderr).splitlines() if re.search("WARNING|ERROR|CRITICAL|Exception", line)
        ]
        raise BookError("the pages do not render:\n" + "\n".join(said or (done.stdout + done.stderr).splitlines()[-20:]))
    return site / "_build" / "html"


def _keep_opinions(chapter: Chapter) -> Path:
    from sae_lib.browser import keep_opinions

    return keep_opinions(_lab(chapter), progress=sys.stderr.isatty())


def _lab(chapter: Chapter) -> "Lab":
    from sae_lib.lab import Lab

    given = declared_parameters(chapter.path) | chapter.parameters
    return Lab(given["SCALE"], given["SEED"], given["CORPUS"])


def browser_data(chapter: Chapter) -> Path:
    """The folder of the feature browser's data, of the runs that a chapter reads; computed where they are not there yet.

    Raises:
        BookError: the runs cannot be opened.
    """
    from sae_lib.browser import atlas

    return atlas(_lab(chapter), quick=True, progress=sys.stderr.isatty())


def build_book(parameters: Mapping[str, Any] | None = None, root: Path | None = None) -> Path:
    """Run every chapter, render the book, and say how long each step took.

    Args:
        parameters: values for the chapters' parameters cells, for instance `{"SCALE": "smoke"}`; nothing means the chapters' own defaults.
        root: the book's folder; found from the working directory when not given.

    Returns:
        The first page.

    Raises:
        BookError: nothing ran, a chapter failed, or the pages do not render; the message says which and where.
    """
    root = root or project_root()
    chapters = plan(root, parameters or {})
    site = root / SITE
    shutil.rmtree(site / "chapters", ignore_errors=True)
    begun = time.perf_counter()
    at_once = _at_once(chapters)
    browser = {"the feature browser": partial(browser_data, chapters[-1])} if BROWSER in book_pages(root) else {}
    # What takes longest begins first: the browser's data and the later chapters. But where runs are trained, the first chapters,
    # which need none, fill the time of the training; and where one thing runs at a time, the chapters train what the browser reads.
    order = chapters[::-1] if at_once > 1 and all(each.is_released for each in _scales(chapters)) else chapters
    seconds = run_chapters(order, site, at_once, browser if at_once > 1 else {})
    seconds |= {name: _timed(f"Making {name}.", work) for name, work in browser.items() if name not in seconds}
    print("Rendering the pages.", flush=True)
    started = time.perf_counter()
    html = render(root, site)
    if browser:
        from sae_lib.browser import put

        put(browser_data(chapters[-1]), html / "browser")
    seconds["rendering"] = time.perf_counter() - started
    in_order = {name: seconds[name] for name in (*(chapter.name for chapter in chapters), *browser, "rendering")}
    print(seconds_table(in_order | {"together": time.perf_counter() - begun}))
    return html / "index.html"
