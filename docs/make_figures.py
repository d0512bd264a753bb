"""Draw the pictures in docs/ from the output of `make demo`: python docs/make_figures.py (needs the extra `dev`)."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from ecgprep.conform import resample
from ecgprep.drawing import draw_ecg
from ecgprep.store.reader import Store

DEMO, RUN = Path("demo"), Path("runs/demo")


def draw_results(roc: Axes, curves: Axes) -> None:
    """Draw the ROC curve of the test patients and the validation metrics by epoch."""
    with (RUN / "predictions_test.csv").open() as file:
        rows = list(csv.DictReader(file))
    patients = sorted({row["patient"] for row in rows})
    of = {p: [row for row in rows if row["patient"] == p] for p in patients}
    label = np.array([max(int(row["label"]) for row in of[p]) for p in patients])
    score = np.array(
        [
            np.mean([float(row["logit_1"]) - float(row["logit_0"]) for row in of[p]])
            for p in patients
        ]
    )
    order = np.argsort(-score)
    tpr, fpr = (
        np.cumsum(label[order]) / label.sum(),
        np.cumsum(1 - label[order]) / (1 - label).sum(),
    )
    roc.step(np.r_[0, fpr], np.r_[0, tpr], where="post", color="#1f4e79")
    roc.plot([0, 1], [0, 1], color="grey", linewidth=0.5)
    roc.set(
        xlabel="1 - specificity",
        ylabel="sensitivity",
        title=f"test: {len(patients)} patients, {label.sum()} positive",
        aspect="equal",
    )
    with (RUN / "curves.csv").open() as file:
        history = list(csv.DictReader(file))
    for name in ("val_auroc", "val_auprc"):
        curves.plot(
            [int(row["epoch"]) for row in history],
            [float(row[name]) for row in history],
            label=name,
        )
    curves.set(xlabel="epoch", title="validation", ylim=(0.4, 1))
    curves.legend(fontsize=8)


def draw_filter() -> None:
    """Write docs/filter.png: the gain of the resampler, measured on sines, against its specification."""
    figure, axes = plt.subplots(figsize=(7, 3.4), layout="constrained")
    for rate_hz in (250, 977, 1000, 2000):
        lower = min(rate_hz, 500)
        fractions = np.arange(0.01, min(1.0, rate_hz / 2 / lower), 0.01)
        time = np.arange(10 * rate_hz) / rate_hz
        phase = 2 * np.pi * lower * fractions[:, None] * time
        sine, cosine = (
            resample(wave(phase), rate_hz, 500)[:, 1000:4000] for wave in (np.sin, np.cos)
        )
        gain_db = 10 * np.log10(np.mean(sine**2 + cosine**2, axis=1) + 1e-14)
        axes.plot(fractions, gain_db, label=f"{rate_hz} Hz", linewidth=1)
    axes.plot([0, 0.4, 0.4], [-0.05, -0.05, -40], color="black", linewidth=0.7, linestyle=":")
    axes.plot(
        [0.6, 0.6, 1.0],
        [-40, -80, -80],
        color="black",
        linewidth=0.7,
        linestyle=":",
        label="specification",
    )
    axes.set(xlabel="frequency / lower rate", ylabel="gain, dB", ylim=(-140, 5), xlim=(0, 1))
    axes.legend(fontsize=8)
    figure.savefig("docs/filter.png", dpi=80)


def main() -> None:
    """Write docs/demo.png and docs/filter.png."""
    draw_filter()
    store = Store(DEMO / "demo.zarr")
    whole = store.array("lead_mask").all(axis=1) & (store.array("split") == 2)
    figure, axes = plt.subplot_mosaic(
        "AB;CD", figsize=(9, 7.4), width_ratios=[1.3, 1], layout="constrained"
    )
    for key, label, text in (("A", 0, "without"), ("C", 1, "with")):
        row = int(np.flatnonzero(whole & (store.array("label") == label))[0])
        waveform = store.gather(np.array([row]), np.empty((1, 8, store.n_samples), np.int16))[0]
        draw_ecg(
            axes[key],
            waveform,
            store.array("lead_mask")[row],
            store.sample_rate_hz,
            f"demo.zarr, row {row}: simulated, {text} dysfunction",
        )
    draw_results(axes["B"], axes["D"])
    figure.savefig("docs/demo.png", dpi=80)


if __name__ == "__main__":
    main()
