"""Draw the pictures in docs/ from the output of `make demo`: python docs/make_figures.py (needs the extra `dev`)."""

from __future__ import annotations

import csv
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from ecgprep.leads import LEADS
from ecgprep.store import Store

DEMO = Path("demo")
SECONDS = 2.5


def draw_ecg(axes: Axes, store: Store, row: int, title: str) -> None:
    """Draw eight leads on ECG paper: 25 mm/s, 10 mm/mV, two columns of four leads of 2.5 s."""
    waveform = store.gather(np.array([row]), np.empty((1, len(LEADS), store.n_samples), np.int16))[0] / 1000
    n = int(SECONDS * store.sample_rate_hz)
    for k, lead in enumerate(LEADS):
        column, line = divmod(k, 4)
        x = np.arange(n) / store.sample_rate_hz + column * SECONDS
        axes.plot(x, waveform[k, column * n : (column + 1) * n] - 2.5 * line, color="black", linewidth=0.7)
        axes.text(column * SECONDS + 0.05, 0.9 - 2.5 * line, lead, fontsize=8)
    axes.set_xlim(0, 2 * SECONDS)
    axes.set_ylim(-9.0, 1.6)
    for axis, minor, major in ((axes.xaxis, 0.04, 0.2), (axes.yaxis, 0.1, 0.5)):
        axis.set_minor_locator(mpl.ticker.MultipleLocator(minor))
        axis.set_major_locator(mpl.ticker.MultipleLocator(major))
    axes.grid(which="minor", color="#f6cccc", linewidth=0.3)
    axes.grid(which="major", color="#eb9f9f", linewidth=0.5)
    axes.tick_params(which="both", length=0, labelbottom=False, labelleft=False)
    axes.set_aspect(0.4)  # 25 mm a second, 10 mm a millivolt
    axes.set_title(title, fontsize=10)


def draw_results(roc: Axes, curves: Axes) -> None:
    """Draw the ROC curve of the test patients and the validation metrics by epoch."""
    with (DEMO / "run/predictions_test.csv").open() as file:
        rows = list(csv.DictReader(file))
    patients = sorted({row["patient"] for row in rows})
    of = {p: [row for row in rows if row["patient"] == p] for p in patients}
    label = np.array([max(int(row["label"]) for row in of[p]) for p in patients])
    score = np.array([np.mean([float(row["logit_1"]) - float(row["logit_0"]) for row in of[p]]) for p in patients])
    order = np.argsort(-score)
    tpr, fpr = np.cumsum(label[order]) / label.sum(), np.cumsum(1 - label[order]) / (1 - label).sum()
    roc.step(np.r_[0, fpr], np.r_[0, tpr], where="post", color="#1f4e79")
    roc.plot([0, 1], [0, 1], color="grey", linewidth=0.5)
    roc.set(xlabel="1 - specificity", ylabel="sensitivity", title=f"test: {len(patients)} patients, {label.sum()} positive", aspect="equal")
    with (DEMO / "run/curves.csv").open() as file:
        history = list(csv.DictReader(file))
    for name in ("val_auroc", "val_auprc"):
        curves.plot([int(row["epoch"]) for row in history], [float(row[name]) for row in history], label=name)
    curves.set(xlabel="epoch", title="validation", ylim=(0.4, 1))
    curves.legend(fontsize=8)


def main() -> None:
    """Write docs/demo.png."""
    store = Store(DEMO / "demo.zarr")
    whole = store.array("lead_mask").all(axis=1) & (store.array("split") == 2)
    figure, axes = plt.subplot_mosaic("AB;CD", figsize=(9, 7.4), width_ratios=[1.3, 1], layout="constrained")
    for key, label, text in (("A", 0, "without"), ("C", 1, "with")):
        row = int(np.flatnonzero(whole & (store.array("label") == label))[0])
        draw_ecg(axes[key], store, row, f"demo.zarr, row {row}: simulated, {text} dysfunction")
    draw_results(axes["B"], axes["D"])
    figure.savefig("docs/demo.png", dpi=80)


if __name__ == "__main__":
    main()
