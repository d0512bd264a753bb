"""Pages from Jinja templates: HTML files that open offline. Needs jinja2 (extra `report`)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ecgprep.files.atomic import PRIVATE
from ecgprep.files.output import write_output

if TYPE_CHECKING:
    import jinja2


def open_templates(folder: Path) -> jinja2.Environment:
    """Return the templates of a folder. Their values are escaped; unknown names are errors."""
    import jinja2

    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(folder, encoding="utf-8"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def fill_page(template: Path, content: dict[str, Any]) -> bytes:
    """Fill a template. Raises ImportError without jinja2."""
    return open_templates(template.parent).get_template(template.name).render(content).encode()


def write_page(out: Path, template: Path, content: dict[str, Any]) -> None:
    """Fill a template and write the page, readable by its owner only. Raises NoSpace."""
    write_output(out, fill_page(template, content), PRIVATE)
