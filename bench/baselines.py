"""Two plain models on a store's own splits: what the default network has to beat.

    python bench/baselines.py STORE [--out runs/baselines] [--seed 0]

cnn       a residual CNN of 100 k parameters on the input averaged down to 100 Hz; 14 epochs of
          AdamW at 1e-3 in batches of 32, with balanced class weights; no augmentation, schedule,
          average of weights or ensemble
logistic  logistic regression on simple features of each recording: amplitudes, bands, rate and its
          variability, QRS, correlations between leads, and the store's covariates

Both are fitted to the train rows. Validation chooses the epoch and the penalty. The test split is
only predicted. The unit is the patient: the mean of the logits, positive when any recording is.
Writes OUT/{cnn,logistic}/predictions_{val,test}.csv and summary.json, and prints AUROC and AUPRC.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from torch import nn
from torch.nn import functional as F

from ecgfit.data.loader import make_loader
from ecgfit.data.model_input import ModelInput
from ecgfit.data.rows import select_rows
from ecgfit.data.statistics import NormStats
from ecgfit.explaining.beats import cut_beats, find_beats
from ecgfit.inference.predictions import UNCALIBRATED, Predictions
from ecgfit.inference.scorer import Scorer, predict_rows
from ecgfit.metrics.definitions import auroc_auprc
from ecgprep.errors import EcgError
from ecgprep.files.atomic import write_json
from ecgprep.leads import LEADS
from ecgprep.store.reader import Store

MODELS = ("cnn", "logistic")
EPOCHS, BATCH, LR = 14, 32, 1e-3
PENALTIES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 1.0)
"""Candidates for C, the inverse of the L2 penalty: from all but constant to all but free."""
BANDS_HZ = ((0.5, 5), (5, 15), (15, 40))
OUTLIER = 5
"""Standardised features are cut off here: one artefact of 10 mV must not decide a recording."""

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Missing = Literal["drop", "mask"]


class Block(nn.Module):
    """Two convolutions of 7 beside a shortcut, at half the rate.

    (B, c_in, n) -> (B, c_out, ceil(n / 2)).
    """

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        last_norm = nn.BatchNorm1d(c_out)
        nn.init.zeros_(last_norm.weight)  # a block starts as its shortcut
        self.body = nn.Sequential(
            nn.Conv1d(c_in, c_out, 7, 2, 3, bias=False),
            nn.BatchNorm1d(c_out),
            nn.ReLU(),
            nn.Dropout(0.1),
            nn.Conv1d(c_out, c_out, 7, 1, 3, bias=False),
            last_norm,
        )
        self.shortcut = nn.Sequential(nn.AvgPool1d(2, ceil_mode=True, count_include_pad=False))
        if c_in != c_out:
            self.shortcut.append(nn.Conv1d(c_in, c_out, 1, bias=False))
            self.shortcut.append(nn.BatchNorm1d(c_out))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.body(x) + self.shortcut(x))


class PlainCnn(nn.Module):
    """The average of 5 samples, a convolution, three residual blocks, mean and maximum over time.

    (B, channels, L) -> logits (B, 2). It stands here and not in ecgfit.models, so that the baseline
    stays the same when the default network gets better.
    """

    def __init__(self, n_channels: int) -> None:
        super().__init__()
        self.decimate = nn.AvgPool1d(5)
        self.stem = nn.Sequential(
            nn.Conv1d(n_channels, 32, 9, 1, 4, bias=False), nn.BatchNorm1d(32), nn.ReLU()
        )
        self.blocks = nn.Sequential(Block(32, 32), Block(32, 48), Block(48, 64))
        self.head = nn.Sequential(nn.Dropout(0.2), nn.Linear(128, 2))

    def forward(self, x: torch.Tensor, _: None = None) -> torch.Tensor:
        h = self.blocks(self.stem(self.decimate(x)))
        logits: torch.Tensor = self.head(torch.cat([h.mean(dim=2), h.amax(dim=2)], dim=1))
        return logits


def patient_scores(predictions: Predictions) -> tuple[Ints, Floats]:
    """Return label and score of each patient.

    The score is the difference of the mean logits, which orders patients as the probability does.
    """
    patients = predictions.by_patient()
    return patients.label, patients.logit_difference()


def summarise(predictions: Predictions) -> dict[str, float]:
    """Return AUROC and AUPRC per patient. Raises ValueError where a class is absent."""
    auroc, auprc = auroc_auprc(*patient_scores(predictions))
    if auroc is None or auprc is None:
        raise ValueError("A split has patients of one class only. Use a store with more patients.")
    return {"auroc": auroc, "auprc": auprc}


# The plain residual CNN


@dataclass(frozen=True, eq=False)
class Cnn:
    """A fitted network with the input it was fitted on, and the epoch that validation chose."""

    model: PlainCnn
    model_input: ModelInput
    epoch: int

    @property
    def chosen(self) -> dict[str, float]:
        """What validation chose."""
        return {"epoch": self.epoch}

    def predict(self, store: Store, rows: Ints) -> Predictions:
        """Logits of each row."""
        return predict_rows(Scorer(self.model_input, self.model), store, rows, (), amp=False)


def fit_cnn(store: Store, missing: Missing = "drop", seed: int = 0, epochs: int = EPOCHS) -> Cnn:
    """Train on the train rows and keep the epoch with the best AUPRC on validation."""
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(seed)
    train = select_rows(store, "train", missing)
    val = select_rows(store, "val", missing)
    model_input = ModelInput(NormStats.of(store, train), missing)
    model = PlainCnn(model_input.n_channels)
    counts = np.bincount(store.array("label")[train], minlength=2)
    class_weights = torch.tensor(len(train) / (2 * counts), dtype=torch.float32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR)
    loader: Any = make_loader(store, train, BATCH, seed)
    best, best_epoch, best_weights = -1.0, 0, model.state_dict()
    for epoch in range(epochs):
        loader.dataset.epoch = epoch
        train_epoch(model, model_input, loader, optimizer, class_weights)
        predictions = predict_rows(Scorer(model_input, model), store, val, (), amp=False)
        auprc = summarise(predictions)["auprc"]
        if auprc > best:
            best, best_epoch, best_weights = auprc, epoch + 1, copy.deepcopy(model.state_dict())
    model.load_state_dict(best_weights)
    return Cnn(model, model_input, best_epoch)


def train_epoch(
    model: PlainCnn,
    model_input: ModelInput,
    loader: Iterable[Any],
    optimizer: torch.optim.Optimizer,
    class_weights: torch.Tensor,
) -> None:
    """Take one step for each batch of the loader."""
    model.train()
    for batch in loader:
        optimizer.zero_grad(set_to_none=True)
        x, _ = model_input(batch.waveforms, batch.lead_mask, batch.valid_span)
        loss = F.cross_entropy(model(x), batch.label, class_weights)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()


# Logistic regression on simple features


def features(uv: Floats, rate_hz: float) -> Floats:
    """Return the features of one recording, (leads, n) µV without padding.

    NaN where one cannot be told, such as the rate without a beat.
    """
    all_leads = np.ones(len(uv), np.bool_)
    peaks = find_beats(uv, all_leads, (0, uv.shape[1]), rate_hz)
    parts = [
        amplitude_features(uv),
        band_features(uv, rate_hz),
        rhythm_features(peaks, rate_hz),
        qrs_features(uv, peaks, rate_hz),
        correlations(uv),
    ]
    return np.concatenate(parts)


def amplitude_features(uv: Floats) -> Floats:
    """Return the amplitudes of each lead.

    Standard deviation, minimum, maximum, mean absolute difference, skewness, kurtosis.
    """
    centred = uv - uv.mean(axis=1, keepdims=True)
    deviation = centred.std(axis=1)
    z = centred / np.where(deviation > 0, deviation, 1)[:, None]
    parts = [
        deviation,
        centred.min(axis=1),
        centred.max(axis=1),
        np.abs(np.diff(uv, axis=1)).mean(axis=1),
        (z**3).mean(axis=1),
        np.log1p((z**4).mean(axis=1)),
    ]
    return np.concatenate(parts)


def band_features(uv: Floats, rate_hz: float) -> Floats:
    """Return for each lead the share of the energy of 0.5 to 40 Hz that lies in each band."""
    power = np.abs(np.fft.rfft(uv, axis=1)) ** 2
    frequency = np.fft.rfftfreq(uv.shape[1], 1 / rate_hz)
    energies = []
    for low, high in BANDS_HZ:
        inside = (frequency >= low) & (frequency < high)
        energies.append(power[:, inside].sum(axis=1))
    energy = np.stack(energies)
    total = energy.sum(axis=0)
    return np.asarray((energy / np.where(total > 0, total, 1)).ravel())


def rhythm_features(peaks: Ints, rate_hz: float) -> Floats:
    """Return the heart rate in beats a minute and its variability.

    The rate comes from the median RR interval; the standard deviation and the mean successive
    difference of RR intervals are relative to it.
    """
    intervals = np.diff(peaks) / rate_hz
    if len(intervals) < 2:
        return np.full(3, np.nan)
    typical = float(np.median(intervals))
    successive = np.abs(np.diff(intervals)).mean()
    return np.array([60 / typical, intervals.std() / typical, successive / typical])


def qrs_features(uv: Floats, peaks: Ints, rate_hz: float) -> Floats:
    """Return features of the median beat.

    Per lead: net area of the QRS, mean after it (ST), mean at the T wave. Then the cosine and sine
    of the electrical axis, and the width of the QRS.
    """
    before, after = round(0.25 * rate_hz), round(0.4 * rate_hz)
    beats = cut_beats(uv, peaks, before, after, (0, uv.shape[1]))
    if not len(beats):
        return np.full(3 * len(uv) + 3, np.nan)
    beat = np.median(beats, axis=0)

    def window(start_s: float, end_s: float) -> Floats:
        start, end = round(before + start_s * rate_hz), round(before + end_s * rate_hz)
        return np.asarray(beat[:, start:end])

    beat = beat - window(-0.12, -0.08).mean(axis=1, keepdims=True)  # the PR segment is zero
    area = window(-0.08, 0.08).sum(axis=1) / rate_hz
    st, t_wave = window(0.1, 0.14).mean(axis=1), window(0.2, 0.36).mean(axis=1)
    axis = electrical_axis(lead_i=area[0], lead_ii=area[1])
    width = qrs_width(window(-0.12, 0.12), rate_hz)
    return np.concatenate([area, st, t_wave, [np.cos(axis), np.sin(axis), width]])


def electrical_axis(lead_i: float, lead_ii: float) -> float:
    """Return the angle of the heart's axis from the areas of two leads.

    aVF is II - I / 2, scaled as in Einthoven's triangle.
    """
    return float(np.arctan2(2 * lead_ii - lead_i, np.sqrt(3) * lead_i))


def qrs_width(qrs_uv: Floats, rate_hz: float) -> float:
    """Return the standard deviation in s of when the energy of the slope occurs."""
    energy = (np.diff(qrs_uv, axis=1) ** 2).sum(axis=0)
    time_s = np.arange(len(energy)) / rate_hz
    share = energy / max(energy.sum(), 1e-9)
    middle = (share * time_s).sum()
    return float(np.sqrt((share * (time_s - middle) ** 2).sum()))


def correlations(uv: Floats) -> Floats:
    """Return the correlation of each pair of leads; 0 with a lead that is flat."""
    centred = uv - uv.mean(axis=1, keepdims=True)
    norm = np.sqrt((centred**2).sum(axis=1))
    unit = centred / np.where(norm > 0, norm, 1)[:, None]
    return np.asarray((unit @ unit.T)[np.triu_indices(len(uv), 1)])


def feature_table(store: Store, rows: Ints) -> Floats:
    """Return the features of each row, then the store's covariates; NaN where there is no value.

    A row's features depend on nothing but the row.
    """
    buffer = np.empty((1, len(LEADS), store.n_samples), np.int16)
    spans = store.array("valid_span")
    table = []
    for row in rows:
        waveform = store.gather(np.array([row]), buffer)[0]
        first, last = spans[row]
        table.append(features(waveform[:, first:last].astype(np.float64), store.sample_rate_hz))
    covariates = store.array("covariates")[rows].astype(np.float64)
    return np.concatenate([np.stack(table), covariates], axis=1)


@dataclass(frozen=True, eq=False)
class Logistic:
    """Coefficients, the scaling learnt from the train rows, and the C that validation chose."""

    median: Floats
    mean: Floats
    scale: Floats
    coefficients: Floats
    intercept: float
    penalty: float

    @property
    def chosen(self) -> dict[str, float]:
        """What validation chose."""
        return {"C": self.penalty}

    def standardise(self, table: Floats) -> Floats:
        """Put the train median where a value is missing, then z-score with train statistics."""
        filled = np.where(np.isnan(table), self.median, table)
        return np.clip((filled - self.mean) / self.scale, -OUTLIER, OUTLIER)

    def predict(self, store: Store, rows: Ints) -> Predictions:
        """Logits of each row."""
        return self.predict_table(store, rows, feature_table(store, rows))

    def predict_table(self, store: Store, rows: Ints, table: Floats) -> Predictions:
        """Logits of rows whose features are known."""
        logit = self.standardise(table) @ self.coefficients + self.intercept
        patient = store.array("patient")[rows].astype(np.int64)
        label = store.array("label")[rows].astype(np.int64)
        return Predictions(rows, patient, label, np.stack([np.zeros_like(logit), logit], axis=1))


def fit_logistic(store: Store, missing: Missing = "drop", seed: int = 0) -> Logistic:
    """Fit one regression for each penalty on the train rows; keep the best AUPRC on validation."""
    train = select_rows(store, "train", missing)
    val = select_rows(store, "val", missing)
    table, val_table = feature_table(store, train), feature_table(store, val)
    label = store.array("label")[train]
    unfitted = learn_scaling(table)
    best, best_auprc = unfitted, -1.0
    for penalty in PENALTIES:
        regression = LogisticRegression(
            C=penalty, class_weight="balanced", max_iter=5000, random_state=seed
        )
        regression.fit(unfitted.standardise(table), label)
        model = replace(
            unfitted,
            coefficients=regression.coef_[0],
            intercept=float(regression.intercept_[0]),
            penalty=penalty,
        )
        auprc = summarise(model.predict_table(store, val, val_table))["auprc"]
        if auprc > best_auprc:
            best, best_auprc = model, auprc
    return best


def learn_scaling(table: Floats) -> Logistic:
    """Return a regression of zeros with median, mean and scale of the train features (n, k)."""
    known = ~np.isnan(table)
    median = np.zeros(table.shape[1])
    for k, there in enumerate(known.T):
        if there.any():
            median[k] = np.median(table[there, k])
    filled = np.where(known, table, median)
    deviation = filled.std(axis=0)
    scale = np.where(deviation > 0, deviation, 1)
    zeros = np.zeros(table.shape[1])
    return Logistic(median, filled.mean(axis=0), scale, zeros, intercept=0.0, penalty=0.0)


# Both


def write_baseline(
    fit: Callable[[], Cnn | Logistic], store: Store, out: Path, missing: Missing
) -> dict[str, Any]:
    """Fit, predict validation and test, write predictions and summary.json; return the summary.

    The summary is written last.
    """
    start = time.perf_counter()
    model = fit()
    summary: dict[str, Any] = {
        "content_sha256": store.content_sha256,
        "seconds": time.perf_counter() - start,
        "chosen": model.chosen,
    }
    out.mkdir(parents=True, exist_ok=True)
    for split in ("val", "test"):
        predictions = model.predict(store, select_rows(store, split, missing))
        predictions.save(out / f"predictions_{split}.csv", UNCALIBRATED)
        summary[split] = summarise(predictions)
    write_json(out / "summary.json", summary)
    return summary


def run_baselines(
    store: Store, out: Path, missing: Missing = "drop", seed: int = 0, epochs: int = EPOCHS
) -> dict[str, dict[str, Any]]:
    """Fit both baselines, write OUT/cnn and OUT/logistic, and return their summaries."""
    fits: dict[str, Callable[[], Cnn | Logistic]] = {
        "cnn": lambda: fit_cnn(store, missing, seed, epochs),
        "logistic": lambda: fit_logistic(store, missing, seed),
    }
    return {name: write_baseline(fits[name], store, out / name, missing) for name in MODELS}


def main() -> None:
    """Run both on a store and print the table."""
    arguments = read_arguments()
    try:
        summaries = run_baselines(
            Store(arguments.store),
            arguments.out,
            arguments.missing,
            arguments.seed,
            arguments.epochs,
        )
    except (EcgError, ValueError) as error:
        sys.exit(f"Error: {error}")
    if arguments.json:
        print(json.dumps(summaries, indent=2))
        return
    columns = f"{'val AUROC':>9s} {'AUPRC':>6s} {'test AUROC':>11s} {'AUPRC':>6s} {'seconds':>8s}"
    print(f"{'':9s} {columns}  chosen on validation")
    for name, summary in summaries.items():
        print(f"{name:9s} {line_of(summary)}")


def read_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("store", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/baselines"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="epochs of the CNN")
    parser.add_argument(
        "--missing",
        choices=get_args(Missing),
        default="drop",
        help="recordings with a missing lead: leave out or keep",
    )
    parser.add_argument("--json", action="store_true", help="print the summaries as JSON")
    return parser.parse_args()


def line_of(summary: dict[str, Any]) -> str:
    """Return a summary as a line of the table."""
    val, test = summary["val"], summary["test"]
    chosen = ", ".join(f"{key} {value:g}" for key, value in summary["chosen"].items())
    numbers = (
        f"{val['auroc']:9.3f} {val['auprc']:6.3f} {test['auroc']:11.3f} {test['auprc']:6.3f} "
        f"{summary['seconds']:8.1f}"
    )
    return f"{numbers}  {chosen}"


if __name__ == "__main__":
    main()
