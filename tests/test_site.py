"""The site of the documentation is complete and needs no network, seen with a real browser."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
MAX_PAGE_SECONDS = 60

pytestmark = pytest.mark.full


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site. Strict mode turns every warning, such as a broken link, into an error."""
    for package in ("mkdocs", "material", "mkdocstrings"):
        pytest.importorskip(package, reason=f"{package} is not installed: make docs installs it")
    out = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", out],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return out


@pytest.fixture(scope="module")
def browser() -> str:
    """The command of a browser that runs without a screen."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip("no Chromium: install the package chromium to look at the site")
    return found


def rendered(browser: str, url: str, profile: Path) -> str:
    """Return the document of a page once its scripts have run, from a browser without a network."""
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=15000"]
    options += ["--proxy-server=127.0.0.1:9", f"--user-data-dir={profile}", "--dump-dom"]
    done = subprocess.run(
        [browser, *options, url],
        capture_output=True,
        text=True,
        timeout=MAX_PAGE_SECONDS,
        check=True,
    )
    return done.stdout


def test_no_page_loads_anything_from_the_network(site):
    pages = list(site.rglob("*.html"))
    assert len(pages) > 20
    loads = re.compile(r'<(?:script|img|iframe|link)\b[^>]*(?:src|href)="?(?:https?:)?//')
    for page in pages:
        assert not loads.search(page.read_text()), page.name
    styles = "".join(path.read_text() for path in site.rglob("*.css"))
    assert not re.search(r"url\([\"']?(?:https?:)?//", styles)


def test_pages_for_root_documents_and_commands_are_filled(site):
    commands = (site / "commands.html").read_text()
    assert "Usage: ecgprep build" in commands
    assert "Usage: ecgfit train" in commands
    assert "Keep a Changelog" in (site / "changelog.html").read_text()
    assert "How to report" in (site / "privacy.html").read_text()
    assert "Add a dialect" in (site / "contributing.html").read_text()


@pytest.mark.parametrize("page", ["index", "api", "howto/own-data"])
def test_page_shows_its_heading_and_navigation_in_a_browser(site, browser, page, tmp_path):
    shown = rendered(browser, (site / f"{page}.html").as_uri(), tmp_path)
    assert re.search(r"<h1[^>]*>\S", shown)
    assert "md-nav__link--active" in shown


def test_search_finds_a_page_without_a_server(site, browser, tmp_path):
    url = (site / "index.html").as_uri() + "?q=bootstrap"
    shown = rendered(browser, url, tmp_path)
    assert re.search(r"[1-9]\d* matching documents?", shown)
    assert "metrics.html" in shown.split("md-search-result__list")[1]
