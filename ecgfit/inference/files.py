"""Predict new recordings: vendor XML files, or the rows of a store.

A file goes through the same steps that make a store's row. Each row of the result says how far it
can be trusted: which leads were missing, how the recording differs from those that the run was
trained on, and what a reader of ECGs would object to.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ecgfit.data.loader import Batch
from ecgfit.data.rows import covariate_columns, select_rows
from ecgfit.data.statistics import lead_deviation
from ecgfit.inference.covariates import HeaderCovariates, covariates_of_files
from ecgfit.inference.lead_shift import lead_shift, shift_in_words, unseen_leads
from ecgfit.inference.patients_of_files import PatientsOfFiles, ScoredFile
from ecgfit.inference.predictions import Predictions
from ecgfit.inference.scorer import BATCH, Ensemble, load_run, predict_rows, score_batch
from ecgfit.inference.training_range import TrainingRange
from ecgfit.run import RunFolder
from ecgprep.conform import Conformity, Row, conform
from ecgprep.errors import InputError, RecordError
from ecgprep.leads import LEADS
from ecgprep.quality import checked_flags, flags_in_words, flags_of_row
from ecgprep.readers import open_file
from ecgprep.store.format import LABEL_UNKNOWN, SPLITS
from ecgprep.store.reader import Store
from ecgprep.store.row_ids import RowIds, read_row_ids

if TYPE_CHECKING:
    import pandas as pd

Entry = dict[str, Any]
"""One row of a table of predictions."""

_REFUSE = "--refuse-quality"

NO_CALL: Entry = {"probability": None, "positive": None}

_DTYPES: dict[str, Any] = {
    "file": object,
    "label": "Int64",
    "probability": np.float64,
    "positive": "Int64",
    "patient": "Int64",
    "patient_probability": np.float64,
    "patient_positive": "Int64",
}
"""`object` holds file names of any encoding; Int64 is pandas' integer with missing values."""


@dataclass(frozen=True, eq=False)
class LoadedRun:
    """A run with its models on their device."""

    run: RunFolder
    ensemble: Ensemble
    amp: bool
    training_range: TrainingRange

    @classmethod
    def load(cls, run: RunFolder) -> LoadedRun:
        """Load the run's models. Raises StoreError where they are damaged."""
        ensemble, amp = load_run(run)
        seen = [member.stats.seen for member in run.members]
        unseen = tuple(unseen_leads(run))
        return cls(run, ensemble, amp, TrainingRange(seen, run.config.tabular, unseen))

    def call(self, logit_difference: float) -> Entry:
        """Return the calibrated probability and the class at the run's threshold."""
        probability = float(self.run.calibration.apply(np.array(logit_difference)))
        return {"probability": probability, "positive": int(probability >= self.run.threshold)}


def predict_store(
    run: RunFolder,
    store: Store,
    split: str = "all",
    say: Callable[[str], Any] = print,
    refuse_quality: Sequence[str] = (),
    ids: bool = False,
) -> pd.DataFrame:
    """Predict every usable recording of a split, labelled or not, one row for each.

    Each row says its split and its label. With `ids` it also says patient, file and line, from the
    private build record. `say` gets a warning where rows trained the run or selected it.

    Unless the run judges single recordings, each row also has the patient's probability and class.
    They come from the recordings that `ecgfit eval` would use: with `--missing drop` those with all
    leads. A patient without any has neither.

    The store need not be the run's. `say` gets a line where its leads differ from those of the
    train recordings. With `refuse_quality`, each row has a status and a message, and recordings
    with any of these quality flags have no result. Raises InputError and StoreError.
    """
    run.check_layout(store)
    _check_flags_are_known(store, refuse_quality)
    whose = read_row_ids(store) if ids else None
    loaded = LoadedRun.load(run)
    rows = select_rows(store, split, "mask", labelled=False)
    _say_seen(run, store, rows, say)
    predictions = predict_rows(loaded.ensemble, store, rows, run.config.tabular, loaded.amp)
    masks = store.array("lead_mask")[rows]
    for line in shift_in_words(lead_shift(run, masks)):
        say(line)
    flags = store.array("quality")[rows]
    refusals = ["; ".join(flags_in_words(found, refuse_quality)) for found in flags]
    usable = np.array([not refusal for refusal in refusals])
    warnings = _warnings_of_rows(loaded, store, rows, masks)
    of_patient = _call_patients(loaded, predictions.select(usable), masks[usable])
    entries = []
    for i, difference in enumerate(predictions.logit_difference().tolist()):
        patient = int(predictions.patient[i])
        entry = _origin(store, int(rows[i]), whose)
        if refuse_quality:
            status = "quality" if refusals[i] else "ok"
            entry |= {"status": status, "message": _refusal(refusals[i])}
        entry |= loaded.call(difference) if usable[i] else NO_CALL
        if run.config.aggregate != "none":
            result = of_patient.get(patient, NO_CALL)
            entry["patient_probability"] = result["probability"]
            entry["patient_positive"] = result["positive"]
        entries.append(entry | _remarks(masks[i], warnings[i] + flags_in_words(flags[i])))
    return _table(entries)


def _check_flags_are_known(store: Store, refuse_quality: Sequence[str]) -> None:
    """Refuse to look for flags that were not computed when the store was built."""
    checked_flags(refuse_quality, _REFUSE)
    absent = [name for name in refuse_quality if name not in store.quality_flags]
    if absent:
        raise InputError(
            f"{store.path} was built without the quality flags {', '.join(absent)}, so "
            f"{_REFUSE} cannot look for them. Build it again, or leave them out."
        )


def _refusal(flags: str) -> str:
    """Return the message of a recording that was refused for these flags; empty for none."""
    return f"{flags} ({_REFUSE})" if flags else ""


def _say_seen(
    run: RunFolder, store: Store, rows: NDArray[np.int64], say: Callable[[str], Any]
) -> None:
    """Warn of rows whose probabilities say nothing about new patients: training saw them."""
    if not run.is_of(store):
        return
    splits = store.array("split")[rows]
    seen = {name: int((splits == SPLITS.index(name)).sum()) for name in ("train", "val")}
    listed = " and ".join(f"{n:,} {name}" for name, n in seen.items() if n)
    if listed:
        say(
            f"{listed} rows are among the {len(rows):,} predicted: they trained this run or "
            "selected it, so their results are better than those of new patients will be. "
            "`--split test` leaves them out."
        )


def _origin(store: Store, row: int, whose: RowIds | None) -> Entry:
    """Return what identifies a row, and its split and label."""
    entry: Entry = {"row": row, "patient": int(store.array("patient")[row])}
    if whose is not None:
        entry |= {name: column[row] for name, column in whose._asdict().items()}
    label = int(store.array("label")[row])
    entry["split"] = SPLITS[int(store.array("split")[row])]
    entry["label"] = None if label == LABEL_UNKNOWN else label
    return entry


def _warnings_of_rows(
    loaded: LoadedRun, store: Store, rows: NDArray[np.int64], masks: NDArray[np.bool_]
) -> list[list[str]]:
    """Return for each row how it differs from the train recordings."""
    spans = store.array("valid_span")[rows]
    deviation = lead_deviation(store.array("moments")[rows], spans[:, 1] - spans[:, 0])
    columns = covariate_columns(store, loaded.run.config.tabular)
    values = store.array("covariates")[np.ix_(rows, columns)]
    rates_hz = store.array("rate_hz")[rows]
    found = []
    for i in range(len(rows)):
        span = (int(spans[i, 0]), int(spans[i, 1]))
        rate_hz = float(rates_hz[i])
        found.append(
            loaded.training_range.warnings(rate_hz, span, masks[i], deviation[i], values[i])
        )
    return found


def _call_patients(
    loaded: LoadedRun, predictions: Predictions, masks: NDArray[np.bool_]
) -> dict[int, Entry]:
    """Return {patient: probability and class}, from the recordings that evaluation would use."""
    config = loaded.run.config
    if config.missing == "drop":
        predictions = predictions.select(masks.all(axis=1))
    patients = predictions.by_patient(config.aggregate)
    differences = patients.logit_difference().tolist()
    numbers = patients.patient.tolist()
    return {
        patient: loaded.call(difference)
        for patient, difference in zip(numbers, differences, strict=True)
    }


def predict_files(
    run: RunFolder,
    files: Sequence[Path],
    covariates: Path | None = None,
    say: Callable[[str], Any] = print,
    refuse_quality: Sequence[str] = (),
    patients: PatientsOfFiles | None = None,
) -> pd.DataFrame:
    """Predict vendor XML files, one row for each, in their order.

    The `status` of a file that cannot be used is the reason, and `quality` that of a file with any
    of the quality flags in `refuse_quality`. `covariates` is a CSV with a column
    `file` (the path as given, or the bare name if no other file has it) and one column for each
    covariate of the run. What it does not hold comes from the headers of the files, where they have
    it, or counts as missing; `say` gets the counts, and a line where leads differ from training.
    With `patients`, each row has the number of its patient and, unless the run judges single
    recordings, the patient's result.

    Raises InputError for a CSV that is anything else and for no files, and StoreError for a damaged
    run.
    """
    if not files:
        raise InputError("files (=[]) must name at least one file.")
    checked_flags(refuse_quality, _REFUSE)
    loaded = LoadedRun.load(run)
    names = run.config.tabular
    if covariates is None:
        values = np.full((len(files), len(names)), np.nan, np.float32)
    else:
        values = covariates_of_files(covariates, files, names, say, run.sex_codes)
    headers = HeaderCovariates(names, run.sex_codes)
    reader = _Reader(target_of(run), headers, refuse_quality)
    entries: list[Entry] = []
    scored: list[ScoredFile] = []
    for start in range(0, len(files), BATCH):
        batch = slice(start, start + BATCH)
        outcomes = [
            reader.read(file, given)
            for file, given in zip(files[batch], values[batch], strict=True)
        ]
        scored_here = _score(loaded, outcomes, start)
        entries += _call_files(loaded, files[batch], outcomes, scored_here)
        scored += scored_here
    headers.say_sources(say)
    masks = np.array([one.lead_mask for one in scored], np.bool_).reshape(-1, len(LEADS))
    for line in shift_in_words(lead_shift(run, masks)):
        say(line)
    if patients is not None:
        entries = _with_patients(loaded, entries, scored, patients)
    return _table(entries)


def _with_patients(
    loaded: LoadedRun,
    entries: Sequence[Entry],
    scored: Sequence[ScoredFile],
    patients: PatientsOfFiles,
) -> list[Entry]:
    """Return the entries of files with their patients' numbers and results, before the remarks."""
    config = loaded.run.config
    differences = patients.differences(
        scored, config.aggregate, whole_only=config.missing == "drop"
    )
    combined = []
    for entry, number in zip(entries, patients.patient.tolist(), strict=True):
        head = {name: entry[name] for name in ("file", "status", "message")}
        result = {name: entry[name] for name in NO_CALL}
        tail = {name: entry[name] for name in ("missing_leads", "warnings")}
        of_patient: Entry = {}
        if config.aggregate != "none":
            call = loaded.call(differences[number]) if number in differences else NO_CALL
            of_patient = {f"patient_{name}": value for name, value in call.items()}
        known = {"patient": number if number >= 0 else None}
        combined.append(head | known | result | of_patient | tail)
    return combined


def target_of(run: RunFolder) -> Conformity:
    """Return the rate and length that a run takes."""
    recorded = run.recorded["store"]
    return Conformity(int(recorded["sample_rate_hz"]), int(recorded["n_samples"]))


def count_refused(table: pd.DataFrame) -> int:
    """Return how many recordings of a table were refused; its status says why."""
    return int((table["status"] != "ok").sum()) if "status" in table else 0


class _UsableFile(NamedTuple):
    """A file as a store's row, with its covariates (K,), quality flags (8,) and remarks."""

    row: Row
    values: NDArray[np.float32]
    flags: NDArray[np.uint32]
    remarks: list[str]


@dataclass(frozen=True, eq=False)
class _Reader:
    """Reads files as a build would."""

    target: Conformity
    headers: HeaderCovariates
    refuse_quality: Sequence[str]

    def read(self, path: Path, given: NDArray[np.float32]) -> _UsableFile | RecordError:
        """Return a file with its covariates, of which some may be `given` (K,); or its fault."""
        try:
            file = open_file(path)
            recording = file.recording()
            row = conform(recording, self.target)
        except RecordError as error:
            return error
        flags = flags_of_row(recording, row, self.target.rate_hz)
        refused = flags_in_words(flags, self.refuse_quality)
        if refused:
            return RecordError("quality", _refusal("; ".join(refused)))
        return _UsableFile(row, self.headers.complete(given, file), flags, list(recording.notes))


def _call_files(
    loaded: LoadedRun,
    files: Sequence[Path],
    outcomes: Sequence[_UsableFile | RecordError],
    scored: Sequence[ScoredFile],
) -> list[Entry]:
    """Return an entry for each file; `scored` are the usable ones, in their order."""
    differences = iter([float(one.logits[1] - one.logits[0]) for one in scored])
    entries = []
    for file, outcome in zip(files, outcomes, strict=True):
        if isinstance(outcome, RecordError):
            entries.append(_refused(file, outcome))
            continue
        entry = {"file": str(file), "status": "ok", "message": "; ".join(outcome.remarks)}
        entry |= loaded.call(next(differences))
        warnings = _warnings_of_file(loaded, outcome)
        entries.append(entry | _remarks(outcome.row.lead_mask, warnings))
    return entries


def _score(
    loaded: LoadedRun, outcomes: Sequence[_UsableFile | RecordError], start: int
) -> list[ScoredFile]:
    """Score the usable ones of at most `BATCH` files together; `start` is the first's position."""
    usable = {
        start + i: outcome for i, outcome in enumerate(outcomes) if isinstance(outcome, _UsableFile)
    }
    if not usable:
        return []
    rows = [file.row for file in usable.values()]
    values = np.stack([file.values for file in usable.values()])
    no_rows = np.empty(0, np.int64)
    batch = Batch(
        waveforms=torch.from_numpy(np.stack([row.waveform for row in rows])),
        lead_mask=torch.from_numpy(np.stack([row.lead_mask for row in rows])),
        valid_span=torch.tensor([row.valid_span for row in rows], dtype=torch.int32),
        covariates=torch.from_numpy(values),
        label=torch.zeros(len(rows), dtype=torch.int64),
        rows=no_rows,
        all_rows=no_rows,
        first=0,
    )
    device = next(loaded.ensemble.parameters()).device
    logits = score_batch(loaded.ensemble, batch, device, loaded.amp).cpu().numpy()
    return [
        ScoredFile(position, logits[i], rows[i].lead_mask, rows[i].crc32c())
        for i, position in enumerate(usable)
    ]


def _warnings_of_file(loaded: LoadedRun, file: _UsableFile) -> list[str]:
    row = file.row
    length = np.array([row.valid_span[1] - row.valid_span[0]])
    deviation = lead_deviation(row.moments[None], length)[0]
    unlike_training = loaded.training_range.warnings(
        row.rate_hz, row.valid_span, row.lead_mask, deviation, file.values
    )
    return unlike_training + flags_in_words(file.flags)


def _refused(file: Path, error: RecordError) -> Entry:
    return {
        "file": str(file),
        "status": error.reason,
        "message": error.message,
        **NO_CALL,
        "missing_leads": "",
        "warnings": "",
    }


def _remarks(mask: NDArray[np.bool_], warnings: Sequence[str]) -> Entry:
    missing = [lead for lead, present in zip(LEADS, mask.tolist(), strict=True) if not present]
    return {"missing_leads": " ".join(missing), "warnings": "; ".join(warnings)}


def _dtype(name: str, entry: Entry) -> Any:
    """Return the type of a column; every row of a store has a patient, and not every file."""
    return None if name == "patient" and "row" in entry else _DTYPES.get(name)


def _table(entries: Sequence[Entry]) -> pd.DataFrame:
    import pandas as pd  # importing it costs half a second

    columns = {}
    for name in entries[0]:
        values = [entry[name] for entry in entries]
        columns[name] = pd.Series(values, dtype=_dtype(name, entries[0]))
    return pd.DataFrame(columns)
