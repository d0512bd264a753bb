"""Plain text from the templates of sentences. Needs jinja2 (extra `report`)."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ecgfit.reports import wording

if TYPE_CHECKING:
    import jinja2

TEMPLATES = Path(__file__).parent / "templates"


def fill(template: str, **names: Any) -> str:
    """Fill a template of sentences and return one line of plain text.

    Nothing is escaped: the page does that when it shows the text.
    """
    return one_line(_templates().get_template(template).render(names))


def call(template: str, macro: str, *arguments: Any, names: Mapping[str, Any] | None = None) -> str:
    """Call a macro of a template of sentences and return one line of plain text.

    The macro sees its arguments, and `names` besides.
    """
    module = _templates().get_template(template).make_module(dict(names or {}))
    return one_line(getattr(module, macro)(*arguments))


def one_line(text: str) -> str:
    """Join the lines of a template into one."""
    return re.sub(r"[ \n]+", " ", text).strip()


@functools.cache
def _templates() -> jinja2.Environment:
    """Return the templates of sentences, with filters for numbers."""
    import jinja2

    environment = jinja2.Environment(  # noqa: S701 - plain text; the page escapes it
        loader=jinja2.FileSystemLoader(TEMPLATES, encoding="utf-8"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["g"] = "{:g}".format
    environment.filters["g3"] = "{:.3g}".format
    environment.filters["grouped"] = "{:,}".format
    environment.filters["day"] = wording.day
    environment.filters["number"] = wording.number
    environment.filters["percent"] = wording.percent
    environment.filters["with_interval"] = wording.with_interval
    return environment
