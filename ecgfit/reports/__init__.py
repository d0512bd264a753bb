"""Texts about a run for people: HTML report, Table 1, model card, TRIPOD+AI checklist."""
