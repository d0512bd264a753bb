"""From tables of therapy, echocardiograms and follow-up to a labelled manifest, by a written task.

The task (`task`) says when the clock starts, which ECG counts and what an event is. `tables` reads
what a hospital exports, `timelines` counts its days from each patient's first dose, `status`
decides who is what, and `outputs` writes it down. docs/cohort.md holds the rules, numbered.
"""
