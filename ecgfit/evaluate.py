"""From predictions to the metrics that are reported: per patient, at the threshold that validation chose."""

from __future__ import annotations

from typing import Any

import torch

from ecgfit.data import ModelInput, select_rows
from ecgfit.metrics import evaluate
from ecgfit.models import build_model
from ecgfit.predict import Predictions, predict_rows
from ecgfit.run import BEST, Run, load_checkpoint
from ecgfit.thresholds import choose_threshold
from ecgprep.durable import write_json
from ecgprep.errors import StoreError
from ecgprep.store import Store

BATCH = 128
"""Recordings at a time outside training; batch statistics are frozen there, so it changes no result beyond rounding."""


def report(predictions: Predictions, split: str, threshold: float, seed: int) -> dict[str, Any]:
    """Return the content of metrics_<split>.json."""
    patients = predictions.by_patient()
    counts = {"n_records": len(predictions.rows), "n_positive_records": int((predictions.label == 1).sum())}
    metrics = evaluate(patients.label, patients.probability(), threshold, seed)
    return {"split": split, "level": "patient", "aggregation": "mean of logits", **counts, **metrics}


def threshold_from_validation(predictions: Predictions, rule: str) -> dict[str, Any]:
    """Return the content of threshold.json."""
    patients = predictions.by_patient()
    return {"rule": rule, "value": choose_threshold(patients.label, patients.probability(), rule), "chosen_on": "val", "level": "patient"}


def load_model(run: Run, device: str) -> tuple[torch.nn.Module, ModelInput]:
    """Rebuild the run's best model and its input on a device. Raises StoreError when the weights are damaged or do not fit."""
    model_input = ModelInput(run.stats, run.config.missing)
    model = build_model(run.config.model, model_input.n_channels, run.config.seed)
    try:
        model.load_state_dict(load_checkpoint(run.path / BEST)["model"])
    except (KeyError, RuntimeError, TypeError, AttributeError):
        raise StoreError(f"{run.path}/{BEST} does not hold the weights of a {run.config.model}. Train again.") from None
    return model.to(device), model_input.to(device)


def evaluate_run(run: Run, store: Store, split: str) -> dict[str, Any]:
    """Evaluate a finished run on a split of the store it was trained on; write metrics_<split>.json and predictions_<split>.csv."""
    run.check_store(store)
    torch.set_num_threads(run.config.threads)
    device = pick_device(run.config.device)
    model, model_input = load_model(run, device)
    rows = select_rows(store, split, run.config.missing)
    predictions = predict_rows(model, model_input, store, rows, BATCH, use_amp(run.config.amp, device))
    metrics = report(predictions, split, run.threshold, run.config.seed)
    predictions.save(run.path / f"predictions_{split}.csv")
    write_json(run.path / f"metrics_{split}.json", metrics)
    return metrics


def pick_device(asked: str) -> str:
    """Resolve `auto` to a GPU where there is one. Raises StoreError for a GPU that is asked for and absent."""
    if asked == "cuda" and not torch.cuda.is_available():
        raise StoreError("--device cuda: no GPU is available to PyTorch here. Use --device auto or cpu.")
    return "cuda" if asked != "cpu" and torch.cuda.is_available() else "cpu"


def use_amp(asked: str, device: str) -> bool:
    """Resolve `auto` to bfloat16 on a GPU only."""
    return asked == "on" or (asked == "auto" and device == "cuda")
