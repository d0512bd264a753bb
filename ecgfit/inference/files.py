"""Apply a run to new recordings: vendor XML files through the very steps that make a store's row, or the rows of a store.

Each row of the result says how sure one may be of it: which leads were missing, and in what the recording is unlike those that the run was
trained on.
"""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from numpy.typing import NDArray

from ecgfit.data.loader import Batch
from ecgfit.data.rows import covariate_columns, select_rows
from ecgfit.data.statistics import SeenRange, lead_deviation
from ecgfit.inference.scorer import BATCH, Ensemble, load_run, predict_rows, score_batch
from ecgfit.run import Run
from ecgprep.conform import Conformity, Row, conform
from ecgprep.errors import InputError, RecordError
from ecgprep.files.atomic import PRIVATE
from ecgprep.files.output import write_output
from ecgprep.leads import LEADS
from ecgprep.patients.manifest import covariate_value
from ecgprep.readers import read_recording
from ecgprep.store.reader import Store

TOLERANCE = 1.5
"""A lead's standard deviation is unlike training beyond so many times the greatest, or below the least divided by it."""


Table = list[dict[str, Any]]


MARKS = (
    rb"\Afile,status,message,probability,positive,missing_leads,warnings\n",
    rb"\Arow,patient,probability,positive(,patient_probability,patient_positive)?,missing_leads,warnings\n",
    rb'\A\[\n  \{\n    "(file|row)": .*\n    "missing_leads": "',
)
"""Of which a file that `write_predictions` wrote matches one: by the whole header, since a user may have added columns, or how JSON begins."""


@dataclass(frozen=True)
class Seen:
    """What the train recordings of all members were like, for warnings."""

    ranges: Sequence[SeenRange]
    covariates: tuple[str, ...]

    def warnings(
        self,
        rate_hz: float,
        span: tuple[int, int],
        mask: NDArray[np.bool_],
        deviation: NDArray[Any],
        values: NDArray[Any],
    ) -> list[str]:
        """Return in what one recording is unlike them; empty where it is not. `deviation` is (8,) in µV, `values` (K,)."""
        found = []
        if all(not np.isclose(rate_hz, seen.rates_hz).any() for seen in self.ranges):
            found.append(f"recorded at {rate_hz:g} Hz")
        if span[1] - span[0] < min(seen.shortest_samples for seen in self.ranges):
            found.append("shorter than any")
        if mask.sum() < min(seen.fewest_leads for seen in self.ranges):
            found.append("more leads missing than in any")
        low, high = self._bounds("lead_sd_uv")
        found += [
            f"{lead} {'larger' if deviation[i] > high[i] else 'smaller'} than in any"
            for i, lead in enumerate(LEADS)
            if mask[i] and not low[i] / TOLERANCE <= deviation[i] <= high[i] * TOLERANCE
        ]
        low, high = self._bounds("covariates")
        for i, name in enumerate(self.covariates):
            if np.isnan(values[i]):
                found.append(f"{name} missing")
            elif not low[i] <= values[i] <= high[i]:
                found.append(f"{name} outside the range")
        return found

    def _bounds(self, name: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        pairs = np.array([getattr(seen, name) for seen in self.ranges], np.float64).reshape(
            len(self.ranges), -1, 2
        )
        return pairs[:, :, 0].min(axis=0), pairs[:, :, 1].max(axis=0)


@dataclass(frozen=True, eq=False)
class Applied:
    """A run that is ready to predict."""

    run: Run
    ensemble: Ensemble
    amp: bool
    seen: Seen

    @classmethod
    def of(cls, run: Run) -> Applied:
        """Load the run's models. Raises StoreError."""
        return cls(
            run,
            *load_run(run),
            Seen([member.stats.seen for member in run.members], run.config.tabular),
        )

    def judge(self, difference: float) -> dict[str, Any]:
        """Return the calibrated probability and the class at the run's threshold."""
        probability = float(self.run.calibration.apply(np.array(difference)))
        return {"probability": probability, "positive": int(probability >= self.run.threshold)}


def predict_store(run: Run, store: Store, split: str = "all") -> Table:
    """Predict every usable recording of a store's split, labelled or not; a row for each, and the patient's probability and class beside.

    A patient's result is made of the recordings that `ecgfit eval` would take: with `--missing drop` those with all leads; a patient without
    any has none. The store may be another than the run's. Raises InputError, StoreError.
    """
    run.check_layout(store)
    applied = Applied.of(run)
    rows = select_rows(store, split, "mask", labelled=False)
    predictions = predict_rows(applied.ensemble, store, rows, run.config.tabular, applied.amp)
    spans, masks = store.array("valid_span")[rows], store.array("lead_mask")[rows]
    deviation = lead_deviation(store.array("moments")[rows], spans[:, 1] - spans[:, 0])
    values = store.array("covariates")[np.ix_(rows, covariate_columns(store, run.config.tabular))]
    rates = store.array("rate_hz")[rows]
    whole = masks.all(axis=1) if run.config.missing == "drop" else np.full(len(rows), True)
    patients = predictions.select(whole).by_patient(run.config.aggregate)
    of_patient = {
        patient: applied.judge(difference)
        for patient, difference in zip(
            patients.patient.tolist(), patients.logit_difference(), strict=True
        )
    }
    table = []
    for i, (row, difference) in enumerate(
        zip(rows.tolist(), predictions.logit_difference().tolist(), strict=True)
    ):
        span = (int(spans[i, 0]), int(spans[i, 1]))
        entry = {"row": row, "patient": int(predictions.patient[i]), **applied.judge(difference)}
        if run.config.aggregate != "none":
            judged = of_patient.get(entry["patient"], {"probability": None, "positive": None})
            entry |= {f"patient_{key}": value for key, value in judged.items()}
        table.append(
            entry
            | _remarks(
                masks[i],
                applied.seen.warnings(float(rates[i]), span, masks[i], deviation[i], values[i]),
            )
        )
    return table


def predict_files(
    run: Run,
    files: Sequence[Path],
    covariates: Path | None = None,
    say: Callable[[str], None] = print,
) -> Table:
    """Predict vendor XML files; a row for each, in their order. A file that cannot be used has its reason in `status`.

    `covariates` is a CSV with a column `file` (as given, or the file's name where no other file has it) and one for each covariate that the
    run needs; what it does not say is missing. Raises InputError for a CSV that is not that, StoreError for a damaged run.
    """
    applied = Applied.of(run)
    known = covariates_of_files(covariates, files, run.config.tabular, say) if covariates else {}
    unknown = np.full(len(run.config.tabular), np.nan, np.float32)
    recorded = run.recorded["store"]
    target = Conformity(int(recorded["sample_rate_hz"]), int(recorded["n_samples"]))
    table: Table = []
    for start in range(0, len(files), BATCH):
        some = files[start : start + BATCH]
        read = [_read(path, target) for path in some]
        values = [known.get(path, unknown) for path in some]
        usable = [
            (row, value) for row, value in zip(read, values, strict=True) if isinstance(row, Row)
        ]
        differences = _score(applied, usable)
        for path, row, value in zip(some, read, values, strict=True):
            entry = {
                "file": str(path),
                "status": "ok",
                "message": "",
                "probability": None,
                "positive": None,
            }
            if isinstance(row, RecordError):
                table.append(
                    entry
                    | {
                        "status": row.reason,
                        "message": row.message,
                        "missing_leads": "",
                        "warnings": "",
                    }
                )
                continue
            length = np.array([row.valid_span[1] - row.valid_span[0]])
            deviation = lead_deviation(row.moments[None], length)[0]
            found = applied.seen.warnings(
                row.rate_hz, row.valid_span, row.lead_mask, deviation, value
            )
            table.append(entry | applied.judge(next(differences)) | _remarks(row.lead_mask, found))
    return table


def _read(path: Path, target: Conformity) -> Row | RecordError:
    try:
        return conform(read_recording(path), target)
    except RecordError as error:
        return error


def _score(applied: Applied, usable: Sequence[tuple[Row, NDArray[np.float32]]]) -> Iterator[float]:
    """Yield the difference of logits of each row, all in one batch."""
    if not usable:
        return iter(())
    rows = [row for row, _ in usable]
    none = np.empty(0, np.int64)
    batch = Batch(
        torch.from_numpy(np.stack([row.waveform for row in rows])),
        torch.from_numpy(np.stack([row.lead_mask for row in rows])),
        torch.tensor([row.valid_span for row in rows], dtype=torch.int32),
        torch.from_numpy(np.stack([value for _, value in usable])),
        torch.zeros(len(rows), dtype=torch.int64),
        none,
        none,
        0,
    )
    logits = (
        score_batch(
            applied.ensemble, batch, next(applied.ensemble.parameters()).device, applied.amp
        )
        .cpu()
        .numpy()
    )
    return iter((logits[:, 1] - logits[:, 0]).tolist())


def _remarks(mask: NDArray[np.bool_], warnings: Iterable[str]) -> dict[str, str]:
    missing = " ".join(
        lead for lead, present in zip(LEADS, mask.tolist(), strict=True) if not present
    )
    return {"missing_leads": missing, "warnings": "; ".join(warnings)}


def read_covariates(path: Path, names: Sequence[str]) -> dict[str, NDArray[np.float32]]:
    """Read {file: values (K,), NaN where empty} from a CSV with a column `file` and the named ones. Raises InputError by line and column."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, strict=True)
            header = next(reader, [])
            _check_header(header, ("file", *names), path.name)
            known: dict[str, NDArray[np.float32]] = {}
            for cells in reader:
                if not any(
                    cell.strip() for cell in cells
                ):  # an empty line, or one of a spreadsheet's empty rows
                    continue
                where = f"{path.name}, line {reader.line_num}"
                if len(cells) != len(header):
                    raise InputError(
                        f"{where}: {len(cells)} values for {len(header)} columns. A value with a comma in it needs quotes."
                    )
                row = dict(zip(header, cells, strict=True))
                if not row["file"].strip():
                    raise InputError(
                        f"{where}: file is empty. Name the file that the values belong to."
                    )
                if row["file"] in known:
                    raise InputError(f"{where}: a file that is listed before. Each file once.")
                known[row["file"]] = np.array(
                    [_value(row[name], name, where) for name in names], np.float32
                )
    except (UnicodeDecodeError, csv.Error):
        raise InputError(f"{path.name} is not a CSV file in UTF-8.") from None
    return known


def _check_header(header: Sequence[str], needed: Sequence[str], where: str) -> None:
    """Refuse a header that lacks a column or has one of them twice, and say what it has: without a header those would be values."""
    needs = f"it needs {','.join(needed)}"
    if absent := [name for name in needed if name not in header]:
        found = (
            f"it has {len(header)} columns"
            if "file" not in header
            else f"it has {', '.join(header)}"
        )
        hint = (
            " Is it separated by semicolons or tabs? Commas are read."
            if len(header) == 1 and {";", "\t"} & {*header[0]}
            else ""
        )
        raise InputError(
            f"{where}: column {', '.join(absent)} is missing; {needs}, and {found}.{hint}"
        )
    if doubled := [name for name in needed if header.count(name) > 1]:
        raise InputError(
            f"{where}: column {', '.join(doubled)} is there twice; {needs}, each once."
        )


def _value(text: str, name: str, where: str) -> float:
    try:
        return covariate_value(text, name)
    except ValueError:
        raise InputError(
            f"{where}, column {name}: not a number. Leave it empty where it is not known."
        ) from None


def covariates_of_files(
    path: Path, files: Sequence[Path], names: Sequence[str], say: Callable[[str], None] = print
) -> dict[Path, NDArray[np.float32]]:
    """Return {file: values (K,)} of a CSV of covariates, and say how many lines and files found no partner.

    A line may hold a file's bare name where only one of the files has it: in another folder it may be another patient's. Raises InputError.
    """
    known = read_covariates(path, names)
    of_name = Counter(file.name for file in set(files))
    if any(
        of_name[file.name] > 1 for file in files if str(file) not in known and file.name in known
    ):
        raise InputError(
            f"{path.name}: a line holds a bare file name that several of the files have, so it is not known whose values these are. Write the paths "
            "as they are given to `predict`."
        )
    keys = {
        file: next((key for key in (str(file), file.name) if key in known), None) for file in files
    }
    used, without = set(keys.values()) - {None}, sum(key is None for key in keys.values())
    unused = len(known) - len(used)
    if unused or without:
        say(
            f"{path.name}: {unused:,} of {len(known):,} lines name none of the files; {without:,} of {len(keys):,} files have no line."
        )
    return {file: known[key] for file, key in keys.items() if key is not None}


def write_predictions(table: Table, path: Path | None, as_json: bool = False) -> None:
    """Write a table as CSV or JSON, to a file that only its owner may read (file names may name patients), or to standard output: docs/predict.md.

    File names are written as the bytes that they are, in whatever encoding; JSON escapes those that are not UTF-8 as Python's surrogates.
    """
    if as_json:
        text = json.dumps(table, indent=2) + "\n"
    else:
        buffer = io.StringIO(newline="")
        writer = csv.DictWriter(buffer, list(table[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(
            {
                key: f"{value:.9g}" if isinstance(value, float) else value
                for key, value in row.items()
            }
            for row in table
        )
        text = buffer.getvalue()
    content = text.encode("utf-8", "surrogateescape")
    if path is None:
        click.echo(content, nl=False)
    else:
        write_output(path, content, PRIVATE)
