"""What people read about a run: the HTML report, Table 1, model card, TRIPOD+AI checklist."""
