"""The model card: what the model is, what made it, and what it is not for."""

from __future__ import annotations

import shlex
from collections.abc import Callable

from ecgfit.reports.facts import Facts
from ecgfit.reports.prose import fill, one_line


def model_card(facts: Facts) -> list[tuple[str, str]]:
    """Return the model card, a term and a text each; `templates/model_card.jinja` has the texts."""
    entries: list[tuple[str, str]] = []

    def entry(term: str, caller: Callable[[], str]) -> str:
        entries.append((term, one_line(caller())))
        return ""

    fill("model_card.jinja", facts=facts, folder=shlex.quote(facts.run_name), entry=entry)
    return entries
