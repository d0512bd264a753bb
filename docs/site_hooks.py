"""Fill the pages of the site whose text lives elsewhere: root documents and the commands' help."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import click

ROOT = Path(__file__).parent.parent
ROOT_DOCUMENTS = {
    "changelog.md": "CHANGELOG.md",
    "contributing.md": "CONTRIBUTING.md",
    "privacy.md": "SECURITY.md",
}
"""Page of the site -> document in the root of the repository, where readers expect it."""
HELP_WIDTH = 88
REMOTE_SHIM = re.compile(r"https://unpkg\.com/iframe-worker/shim")
LOCAL_SHIM = "assets/offline-worker.js"
"""The theme would fetch its substitute for Workers from the network; the site brings its own."""


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Return the text of a page; mkdocs calls this for each one."""
    name = page.file.src_uri
    if name in ROOT_DOCUMENTS:
        text = (ROOT / ROOT_DOCUMENTS[name]).read_text(encoding="utf-8")
        return text.replace("](docs/", "](")
    if name == "commands.md":
        return f"{markdown}\n{commands_help('ecgprep')}\n{commands_help('ecgfit')}"
    return markdown


def on_post_page(output: str, *, page: Any, **_: Any) -> str:
    """Return the HTML of a page, without the script that the theme would fetch from the network."""
    up = "../" * page.file.dest_uri.count("/")
    return REMOTE_SHIM.sub(f"{up}{LOCAL_SHIM}", output)


def on_post_template(output: str, **_: Any) -> str:
    """Do the same for pages that have no Markdown, such as 404.html."""
    return REMOTE_SHIM.sub(f"/{LOCAL_SHIM}", output)


def commands_help(program: str) -> str:
    """Return the help of every command of a program, as Markdown."""
    group = importlib.import_module(f"{program}.cli").cli
    parent = click.Context(group, info_name=program)
    sections = [f"## {program}"]
    for name, command in group.commands.items():
        context = click.Context(
            command, info_name=name, parent=parent, max_content_width=HELP_WIDTH
        )
        sections.append(f"### {program} {name}\n\n```text\n{command.get_help(context)}\n```")
    return "\n\n".join(sections)
