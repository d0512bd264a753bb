"""The TRIPOD+AI checklist (Collins et al., BMJ 2024;385:e078378) of a run.

It says which items the run can answer, where, and with which sentence to start. The rest is for
the authors to write.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ecgfit.reports.facts import Facts
from ecgfit.reports.prose import fill, one_line

ANSWERED, PARTLY, OPEN = "answered", "partly", "authors"


@dataclass(frozen=True)
class Item:
    """One item of the checklist, or one of its parts."""

    number: str
    asks: str
    status: str
    """Who answers it: the run (`answered`), both (`partly`), or the `authors`."""
    where: str
    """Where the answer is: a section of the report, or another report."""
    text: str
    """A sentence to start from."""


def checklist(facts: Facts) -> list[Item]:
    """Return the 27 items in order, those with parts a line each.

    `templates/checklist.jinja` has the texts.
    """
    items: list[Item] = []

    def item(
        number: str, asks: str, status: str, where: str = "", *, caller: Callable[[], str]
    ) -> str:
        items.append(Item(number, asks, status, where, one_line(caller())))
        return ""

    fill("checklist.jinja", facts=facts, item=item, ANSWERED=ANSWERED, PARTLY=PARTLY, OPEN=OPEN)
    return items
