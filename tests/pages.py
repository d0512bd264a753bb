"""What tests check of every HTML page: it is whole, refers to nothing, and a browser shows it."""

from __future__ import annotations

import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)
_OPTIONS = (
    "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --enable-logging=stderr"
)
_LINKS = ("href", "src", "xlink:href", "data", "action")
_WITHOUT_END = ("meta", "link", "br")
_OWN_REQUESTS = (
    r"(data|chrome|about):|https?://([\w-]+\.)*(google|gvt1)\.com/"
    r"|https?://update\.googleapis\.com/"
)
"""Requests that Chromium makes by itself, for its clock, accounts and updates."""


class Page(HTMLParser):
    """Collects what a page refers to, and checks that its tags are closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str | None] = []
        self.n_scripts = 0
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [value for name, value in attrs if name in _LINKS]
        self.n_scripts += tag == "script"
        if tag not in _WITHOUT_END:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [value for name, value in attrs if name in _LINKS]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def assert_whole_and_refers_to_nothing(text: str) -> None:
    page = Page(text)
    assert page.open == []
    assert page.n_scripts == 0
    assert not [link for link in page.links if link != "data:," and not str(link).startswith("#")]
    assert "http" not in text.replace("http-equiv", "")
    assert not re.search(r"<[^>]+\ssrc=|url\((?!#)|@import", text.replace("img-src", ""))


def _chromium(page: Path, profile: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [str(CHROMIUM), *_OPTIONS.split(), f"--user-data-dir={profile}", *options]
    return subprocess.run(
        [*command, page.as_uri()], capture_output=True, text=True, check=False, timeout=120
    )


def assert_chromium_renders(page: Path, folder: Path, height: int) -> str:
    """Render a page without error or request, and return the document that the browser made."""
    picture, log = folder / "shot.png", folder / "net.json"
    done = _chromium(
        page,
        folder / "profile",
        f"--log-net-log={log}",
        f"--window-size=1120,{height}",
        f"--screenshot={picture}",
    )
    assert done.returncode == 0, done.stderr
    assert "CONSOLE" not in done.stderr
    assert picture.stat().st_size > 50_000
    requests = set(re.findall(r'"url":"([^"]+)"', log.read_text()))
    foreign = [url for url in requests if page.name not in url]
    assert not [url for url in foreign if not re.match(_OWN_REQUESTS, url)]
    document = _chromium(page, folder / "profile", "--dump-dom").stdout
    assert document.count("<figure") == page.read_text().count("<figure")
    return document
