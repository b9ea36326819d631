"""The built book in headless Chromium with the network blocked: what a reader sees on an aeroplane.

Run by `make check` once `_site` is built; it is no part of `make test`, and it fails where the book or the browser is missing.
"""

import functools
import http.server
import os
import re
import shutil
import threading
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from sae_lib.build import SITE, book_pages

ROOT = Path(__file__).parents[1]
HTML = ROOT / SITE / "_build" / "html"
WIDTHS = (1280, 390)
"""Of a desk and of a phone, in pixels."""
PAGES = book_pages(ROOT)


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    """Serves the pages and says nothing."""

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture(scope="module")
def address():
    """The built book, served on this machine only."""
    assert (HTML / "index.html").is_file(), "the book is not built: run `make book SCALE=smoke` first"
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(QuietHandler, directory=str(HTML)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="module")
def browser():
    """Chromium that reaches this machine and no other."""
    program = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    assert program, "no Chromium found: install it, or say where it is with CHROMIUM=…"
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=program,
            args=[
                "--no-sandbox",
                "--disable-gpu",
                "--disable-background-networking",
                "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
            ],
        )
        yield chromium
        chromium.close()


def visit(browser: Browser, address: str, path: str) -> tuple[Page, list[str]]:
    """Open a page; what it complains of and what it asks of other hosts is listed."""
    page = browser.new_context(viewport={"width": WIDTHS[0], "height": 900}).new_page()
    page.set_default_timeout(60_000)
    trouble: list[str] = []

    def on_request(route):
        if route.request.url.startswith((address, "data:", "blob:")):
            route.continue_()
        else:
            trouble.append(f"asks another host: {route.request.url}")
            route.abort()

    page.route("**/*", on_request)
    page.on("console", lambda message: trouble.append(f"console: {message.text}") if message.type == "error" else None)
    page.on("pageerror", lambda error: trouble.append(f"error: {error}"))
    page.on("response", lambda answer: trouble.append(f"{answer.status}: {answer.url}") if answer.status >= 400 else None)
    page.goto(f"{address}/{path}", wait_until="load")
    return page, trouble


@pytest.mark.parametrize("name", PAGES)
def test_page(browser: Browser, address: str, name: str):
    page, trouble = visit(browser, address, f"{name}.html")
    try:
        check_figures(page)
        check_mathematics(page)
        for width in WIDTHS:
            page.set_viewport_size({"width": width, "height": 900})
            # Figures answer to a new width a moment later.
            page.wait_for_function("document.documentElement.scrollWidth <= window.innerWidth + 1", timeout=10_000)
        assert not trouble, "\n".join(trouble)
    finally:
        page.context.close()


def check_figures(page: Page) -> None:
    """Every Plotly figure is drawn: it has a plot of some size with something in it."""
    places = page.locator(".plotly-graph-div")
    for number in range(places.count()):
        place = places.nth(number)
        # A figure inside a closed disclosure is drawn, but has no size until it is opened.
        place.evaluate("node => { for (let up = node; up; up = up.parentElement) if (up.tagName === 'DETAILS') up.open = true }")
        place.locator("svg.main-svg").first.wait_for(state="attached")
        drawn = place.evaluate(
            "node => [node.getBoundingClientRect().width, node.getBoundingClientRect().height,"
            " node.querySelectorAll('svg.main-svg path, svg.main-svg text, canvas').length]"
        )
        assert min(drawn) > 0, f"figure {number + 1} is empty: width, height and marks are {drawn}"


def check_mathematics(page: Page) -> None:
    """Every formula is set by MathJax, none of them with an error."""
    if page.locator(".math").count() == 0:
        return
    page.wait_for_function("window.MathJax && MathJax.startup && MathJax.startup.promise")
    page.evaluate("() => MathJax.startup.promise")
    bare = page.evaluate("[...document.querySelectorAll('.math')].filter(m => !m.querySelector('mjx-container')).map(m => m.textContent)")
    wrong = page.evaluate("[...document.querySelectorAll('mjx-merror')].map(m => m.textContent)")
    fonts = page.evaluate("() => document.fonts.ready.then(() => [...document.fonts].filter(f => f.status === 'error').map(f => f.family))")
    assert not bare, f"not set by MathJax: {bare}"
    assert not wrong, f"MathJax reports: {wrong}"
    assert not fonts, f"fonts that did not load: {fonts}"


def test_nothing_in_the_pages_names_a_script_or_style_of_another_host():
    """Also what a browser would only load on a click."""
    elsewhere = r"""(?:https?:)?//[^"')]+"""
    kinds = "stylesheet|(?:shortcut )?icon|(?:module)?preload|preconnect"
    loads = re.compile(
        rf"""<(?:script|img|iframe|source|audio|video|embed)\b[^>]*\bsrc\s*=\s*["']{elsewhere}"""
        rf"""|<link\b(?=[^>]*\brel=["'](?:{kinds})["'])[^>]*\bhref=["']{elsewhere}"""
        rf"""|(?:url\(|@import)\s*["']?{elsewhere}"""
        r"""|THEBE_JS_URL|cdn\.jsdelivr|cdnjs\.cloudflare|unpkg\.com"""
    )
    pages = [*HTML.rglob("*.html"), *HTML.rglob("*.css")]
    assert pages
    assert {path.name: found for path in pages if (found := loads.findall(path.read_text()))} == {}


def test_index_leads_to_the_first_page(browser: Browser, address: str):
    page, trouble = visit(browser, address, "index.html")
    page.wait_for_url(f"**/{PAGES[0]}.html")
    page.context.close()
    assert not trouble, "\n".join(trouble)


def test_search_finds_a_word(browser: Browser, address: str):
    page, trouble = visit(browser, address, "search.html?q=dictionary")
    page.locator("#search-results li").first.wait_for()
    page.context.close()
    assert not trouble, "\n".join(trouble)
