"""The Python interface: `import ecgprep`, then `ecgprep.build(…)`.

The command `ecgprep` calls these functions and nothing else. They print nothing: progress goes to
a callback, and notes and warnings to the standard logger `ecgprep`. Paths are str or Path.
Failures are the exceptions of `ecgprep.errors`; `EcgError` is the base of all that concern a user.
"""

from __future__ import annotations

import inspect as inspection
import io
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ecgprep.errors import EcgError, InputError, TargetExists, missing_extra
from ecgprep.options import CHOICES, check_options

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from ecgprep.building.derivation import Derivation
    from ecgprep.building.plan import Plan, Progress
    from ecgprep.building.run import BuiltParts
    from ecgprep.cohorts.run import CohortResult
    from ecgprep.indexing.run import Search
    from ecgprep.indexing.summary import IndexSummary
    from ecgprep.patients.manifest import Manifest
    from ecgprep.patients.manifest_columns import ManifestColumns
    from ecgprep.reports.preview import FilePreview
    from ecgprep.store.reader import Store
    from ecgprep.store.summary import StoreSummary
    from ecgprep.store.verify import Verification
    from ecgprep.study.sample_size import SampleSize

log = logging.getLogger(__name__)

EXTEND_OR_REPLACE = "--extend keeps the rows of the store and --replace does not: use one of them."


PICTURES = (".png", ".pdf", ".svg")
"""What the name of a drawing may end in."""


class SimulatedCorpus(NamedTuple):
    """A corpus that `simulate` wrote: its manifest, and how many files and positive patients.

    A hospital has no manifest: `cohort` makes it.
    """

    manifest: Path | None
    n_files: int
    n_positive: int


def build(
    manifest: str | Path | pd.DataFrame,
    store: str | Path,
    *,
    root: str | Path | None = None,
    registry: str | Path | None = None,
    patient_column: str = "patient_id",
    path_column: str = "path_xml",
    label_column: str = "label",
    merge_lookalikes: bool = False,
    follow_symlinks: bool = False,
    covariates: Sequence[str] = (),
    sex_code: str | None = None,
    allow_covariate: Sequence[str] = (),
    hz: int = 500,
    length: int = 5000,
    min_seconds: float = 5.0,
    min_leads: int = 1,
    split: str = "70/15/15",
    split_seed: int = 42,
    split_by_column: str | None = None,
    test_manifest: str | Path | None = None,
    allow_missing_class: bool = False,
    label_level: str = "record",
    unlabelled: bool = False,
    duplicates: str = "near",
    exclude_quality: Sequence[str] = (),
    max_rejected: float = 0.05,
    replace: bool = False,
    extend: bool = False,
    jobs: int = 1,
    dask: str | None = None,
    progress: Progress | None = None,
) -> Store:
    """Build a store from a manifest and the vendor files that it lists.

    Every row of the manifest is a row of the store, with a status that says why if it is not
    usable. A store that is up to date is returned as it is; a build that was stopped continues
    where it was. Beside the store lie `STORE.rejects.csv` (rows not used, by manifest line) and
    `STORE.build.json`, both private. A DataFrame is kept there too, as `STORE.manifest.csv`.

    Example:
        >>> store = ecgprep.build("cohort.csv", "cohort.zarr", covariates=["age", "sex"])

    Args:
        manifest: CSV file, or DataFrame, with the columns patient_id, path_xml and label. Paths
            in a DataFrame are relative to the current folder, or to `root`.
        store: Folder to make, such as cohort.zarr.
        root: Folder that paths are relative to. Without it, the manifest's folder.
        registry: CSV file that keeps which patient is in which split. Without it, the one the
            store was built with, or MANIFEST.registry.csv.
        patient_column: Name of the column with the patient's id.
        path_column: Name of the column with the file.
        label_column: Name of the column with the label, such as one of several endpoints.
        merge_lookalikes: Treat patients as one if their ids differ only by case, blanks, leading
            zeros, an apostrophe in front, full-width characters, or as 8 and 8.0 do.
        follow_symlinks: Read a file that is a symlink, too, if it leads to one inside the root.
        covariates: Columns of the manifest to keep, such as age,sex: numbers, or F and M.
        sex_code: Which numbers are F and M in a column of sexes, such as 0=M,1=F.
        allow_covariate: Covariates that were refused because they may identify patients, but do
            not, such as troponin.
        hz: Sampling rate of the store.
        length: Samples per lead.
        min_seconds: Shorter recordings are `too_short`.
        min_leads: Recordings with fewer usable leads, of 8, are `leads_missing`.
        split: Percent of patients in train/val/test.
        split_seed: Seed that decides which patient is in which split.
        split_by_column: Keep patients who share a value of this manifest column, such as a site,
            in one split.
        test_manifest: CSV file with a column of patients' ids, named as in the manifest. Exactly
            these patients are tested.
        allow_missing_class: Accept a split without a positive or without a negative patient.
        label_level: With patient, refuse a patient who has two labels.
        unlabelled: Labels may be missing: a cohort to predict on, with split 0/0/100.
        duplicates: Also find recordings that were exported again (near), or only those that are
            byte-identical (exact).
        exclude_quality: Exclude recordings with any of these quality flags, such as flat,lead_off.
        max_rejected: Share of rows that may be rejected.
        replace: Build again if the store exists.
        extend: Add the rows that the manifest has beyond those of the store, which are not read
            again.
        jobs: Processes that read files. From 2 on, a file that kills one costs only its row.
        dask: Address or scheduler file of a Dask cluster that reads the files instead.
        progress: Called as `progress(done, total, rejected)`, in rows.

    Returns:
        The store, open for reading.

    Raises:
        InputError: for what is wrong with the manifest, the registry or an option.
        TargetExists: if the store is stale and neither `replace` nor `extend` is given, or if
            something else has its name.
        TooManyRejects: if more rows are rejected than `max_rejected` allows. Nothing is published.
        NoSpace: if the disk is full, or would be.
    """
    options = locals()
    from ecgprep.building.run import build_store, is_up_to_date
    from ecgprep.store.reader import Store

    if extend and replace:
        raise InputError(EXTEND_OR_REPLACE)
    planned = _make_plan(manifest, store, options)
    if is_up_to_date(planned):
        log.info("%s is up to date; nothing to do.", planned.store)
        return Store(planned.store)
    built = build_store(planned, jobs=jobs, dask=dask, progress=progress)
    _log_warnings(built)
    return built


def derive(
    store: str | Path | Store,
    new: str | Path,
    *,
    manifest: str | Path | pd.DataFrame,
    rows: str | Path | None = None,
    by_row: bool = False,
    root: str | Path | None = None,
    registry: str | Path | None = None,
    patient_column: str = "patient_id",
    path_column: str = "path_xml",
    label_column: str = "label",
    covariates: Sequence[str] | None = None,
    sex_code: str | None = None,
    allow_covariate: Sequence[str] = (),
    split: str | None = None,
    split_by_column: str | None = None,
    test_manifest: str | Path | None = None,
    allow_missing_class: bool = False,
    unlabelled: bool = False,
    exclude_quality: Sequence[str] | None = None,
    max_rejected: float = 0.05,
    progress: Callable[[int, int], None] | None = None,
) -> Store:
    """Make a store from the rows of another one, without reading vendor files.

    Labels, covariates, splits and the choice of rows are those of the manifest; rows are found by
    patient and path through the private build record. The result has the bytes that a build from
    the vendor files would have. Everything not given is as the store was built; whole chunks that
    stay take no space.

    Example:
        >>> ecgprep.derive("cohort.zarr", "mace.zarr", manifest="cohort.csv", label_column="mace")

    Args:
        store: The store to take rows from.
        new: Folder to make.
        manifest: CSV file, or DataFrame, with the rows of the new store, in its order.
        rows: CSV file with a column `row`, such as an edited table of `ecgprep rows`: only these
            rows of the store are taken.
        by_row: Row i of the manifest is the store's row i. For a store whose build record is lost.
        root: Folder that paths are relative to. Without it, the manifest's folder.
        registry: CSV file that keeps which patient is in which split. Without it, the store's own:
            nobody changes sides. A new name splits anew.
        patient_column: Name of the column with the patient's id.
        path_column: Name of the column with the file.
        label_column: Name of the column with the label, such as another endpoint.
        covariates: Columns of the manifest to keep, such as age,sex. Without it, those of the
            store.
        sex_code: Which numbers are F and M in a column of sexes, such as 0=M,1=F.
        allow_covariate: Covariates that were refused because they may identify patients, but do
            not, such as troponin.
        split: Percent of patients in train/val/test. Without it, as the store; another one needs
            a new `registry`.
        split_by_column: Keep patients who share a value of this manifest column in one split.
            Without it, as the store.
        test_manifest: CSV file with a column of patients' ids. Exactly these patients are tested.
        allow_missing_class: Accept a split without a positive or without a negative patient.
        unlabelled: Labels may be missing.
        exclude_quality: Exclude recordings with any of these quality flags. Without it, as the
            store.
        max_rejected: Share of rows that may be rejected.
        progress: Called as `progress(done, total)`, in rows.

    Returns:
        The new store, open for reading.

    Raises:
        StoreError: if the store cannot be opened or is damaged.
        InputError: for what is wrong with the manifest, the registry or an option, or if a row of
            the manifest is not in the store.
        TargetExists: if something has the new name.
        TooManyRejects: if more rows are rejected than `max_rejected` allows.
        NoSpace: if the disk is full, or would be.
    """
    options = locals()
    from ecgprep.building.derivation import derive_store

    check_options(max_rejected=max_rejected)
    derived = derive_store(_make_derivation(_opened(store), options), progress)
    _log_warnings(derived)
    return derived


def merge(
    stores: Sequence[str | Path | Store],
    out: str | Path,
    *,
    sites: Sequence[str] = (),
    duplicates: str = "near",
    progress: Callable[[int, int], None] | None = None,
) -> Store:
    """Make one store of several of the same rate and length, without files and private records.

    Rows follow each other store by store. Patients of different stores stay different, and
    everyone stays in their split. A recording that is in two stores becomes a `conflict`. The new
    covariate `site` numbers the stores from 0.

    Example:
        >>> ecgprep.merge(["north.zarr", "south.zarr"], "both.zarr", sites=["north", "south"])

    Args:
        stores: The stores, or their paths, in the order of their rows.
        out: Folder to make.
        sites: A short name for each store, which is stored. Without it, site0, site1 and so on.
        duplicates: Also find recordings that were exported again (near), or only those that are
            byte-identical (exact).
        progress: Called as `progress(done, total)`, in rows.

    Returns:
        The new store, open for reading.

    Raises:
        StoreError: if a store cannot be opened or is damaged.
        InputError: for stores that do not fit each other, or names that are no sites.
        TargetExists: if something has the name.
        NoSpace: if the disk is full.
    """
    from ecgprep.building.pooling import merge_stores

    check_options(duplicates=duplicates)
    opened = [_opened(store) for store in stores]
    names = _names(sites) or tuple(f"site{k}" for k in range(len(opened)))
    merged = merge_stores(opened, Path(out), names, duplicates == "near", progress)
    _log_warnings(merged)
    return merged


def plan(manifest: str | Path | pd.DataFrame, store: str | Path, **options: Any) -> Plan:
    """Plan the build of a store for several machines that share a file system.

    Then call `build_part` anywhere, and `finalise` once.

    Args:
        manifest: CSV file, or DataFrame, with the columns patient_id, path_xml and label.
        store: Folder to make.
        options: Those of `build` up to `replace`.

    Returns:
        The plan; `len(plan.parts())` says how many parts there are.

    Raises:
        TypeError: for an option that `build` does not have.
        InputError: as `build`.
        TargetExists: if the store exists and is not to be replaced.
        NoSpace: if the disk is too full to begin.
    """
    from ecgprep.building.run import plan_store

    parameters = inspection.signature(build).parameters
    unknown = sorted(options.keys() - set(PLAN_OPTIONS))
    if unknown:
        raise TypeError(f"plan() has no option {', '.join(unknown)}")
    defaults = {name: parameters[name].default for name in PLAN_OPTIONS}
    planned = _make_plan(manifest, store, defaults | options)
    plan_store(planned)
    return planned


def cohort(
    task: str | Path | Mapping[str, Any],
    *,
    ecg: str | Path | pd.DataFrame,
    echo: str | Path | pd.DataFrame,
    therapy: str | Path | pd.DataFrame | None = None,
    followup: str | Path | pd.DataFrame | None = None,
    labs: str | Path | pd.DataFrame | None = None,
    patients: str | Path | pd.DataFrame | None = None,
    out: str | Path | None = None,
    keep_dates: bool = False,
    exact_counts: bool = False,
    overwrite: bool = False,
) -> pd.DataFrame:
    """Turn tables of therapy, echocardiograms and follow-up into a labelled manifest.

    The task says when the clock starts, which ECG counts and what an event is; docs/cohort.md has
    the rules. Tables are CSV or Parquet files, or DataFrames.

    Example:
        >>> rows = ecgprep.cohort("task.yaml", ecg="ecg.csv", echo="echo.csv",
        ...     therapy="therapy.csv", out="cohort.csv")

    Args:
        task: YAML file, or a mapping, with the task.
        ecg: Table of ECGs, as `ecgprep index` writes it: patient_id, path_xml, acquired_at.
        echo: Table of echocardiograms: patient_id, date, lvef, and gls if there is one.
        therapy: Table of doses: patient_id, date, drug, and dose_mg_m2 if it is known.
        followup: Table of follow-up: patient_id, last_seen, and died, the date of death.
        labs: Table of biomarkers: patient_id, date, name, value, and upper_limit if it is known.
        patients: Table of further columns of a patient, carried into the manifest.
        out: CSV file to write, such as cohort.csv. The status of every patient, the task and the
            report go beside it, to cohort.status.csv, cohort.task.yaml and cohort.report.html.
        keep_dates: Add the dates of index and ECG to the manifest.
        exact_counts: Show counts below 10 in the report as they are.
        overwrite: Replace files even if they are not such results.

    Returns:
        The manifest: one row for each kept ECG, sorted by patient. Its `attrs` hold `counts`, the
        patients by status, and `task_file`, from which `build` takes the task.

    Raises:
        InputError: for what is wrong with the task or the tables, all faults together, and where
            no ECG has a label. Nothing is written.
        TargetExists: if a file exists and is not such a result.
        NoSpace: if the disk is full.
    """
    tables = {
        "ecg": ecg,
        "echo": echo,
        "therapy": therapy,
        "followup": followup,
        "labs": labs,
        "patients": patients,
    }
    from ecgprep.cohorts.carried import task_file
    from ecgprep.cohorts.outputs import output_paths, write_cohort
    from ecgprep.cohorts.run import make_cohort
    from ecgprep.cohorts.task import read_task

    given = read_task(task)
    inputs = [Path(path) for path in (task, *tables.values()) if isinstance(path, str | Path)]
    paths = None if out is None else output_paths(Path(out), inputs, overwrite)
    result = make_cohort(given, tables, keep_dates)
    for note in result.notes:
        log.warning(note)
    if paths is not None:
        write_cohort(result, paths, _cohort_report(result, paths["manifest"].stem, exact_counts))
    rows = result.manifest
    rows.attrs["counts"] = result.counts
    rows.attrs["task_file"] = task_file(given, result.rows_sha256).decode()
    return rows


def _cohort_report(result: CohortResult, name: str, exact_counts: bool) -> bytes | None:
    """Return the report of a cohort; without jinja2 there is none, and a warning says so."""
    from ecgprep.reports.cohort import cohort_report

    if find_spec("jinja2") is None:
        log.warning("The report is not written. %s", missing_extra("jinja2", "report"))
        return None
    return cohort_report(result, name, exact_counts)


def build_part(
    store: str | Path, part: int, of: int, *, jobs: int = 1, progress: Progress | None = None
) -> BuiltParts:
    """Build a share of the parts of a planned store; parts that are built are left as they are.

    Args:
        store: Name that was given to `plan`.
        part: Which share, from 1.
        of: How many shares there are.
        jobs: Processes that read files. From 2 on, a file that kills one costs only its row.
        progress: Called as `progress(done, total, rejected)`, in rows.

    Returns:
        How many parts the share has, and how many of them were built by this call.

    Raises:
        InputError: without a plan, or if its manifest has changed.
        TargetExists: while a build of the whole store runs.
        NoSpace: if the disk is full.
    """
    from ecgprep.building.plan import read_plan
    from ecgprep.building.run import build_share

    check_options(jobs=jobs)
    if not 1 <= part <= of:
        raise InputError(f"part (={part}) must be from 1 to {of:,}.")
    return build_share(read_plan(Path(store)), part, of, jobs=jobs, progress=progress)


def finalise(store: str | Path) -> Store:
    """Make a planned store of its parts, once all are built.

    Finds duplicates, assigns splits, verifies and publishes.

    Args:
        store: Name that was given to `plan`.

    Returns:
        The store, open for reading.

    Raises:
        InputError: naming the parts that are missing or out of date.
        TooManyRejects: if more rows are rejected than the plan allows. Nothing is published.
        NoSpace: if the disk is full.
    """
    from ecgprep.building.plan import read_plan
    from ecgprep.building.run import finalise_store

    built = finalise_store(read_plan(Path(store)))
    _log_warnings(built)
    return built


def index(
    exports: str | Path | Sequence[str | Path],
    out: str | Path | None = None,
    *,
    root: str | Path | None = None,
    glob: str = "*.xml",
    follow_symlinks: bool = False,
    jobs: int = 1,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """List the vendor files below folders, with what each says of patient, time and measurements.

    The table has a line a file, sorted by path: who and when, age and sex, the cart's own
    measurements, and the status that a default build would give. It becomes a manifest as soon as
    it has a column `label`. It identifies patients, so only its owner can read it; what is known
    of each file is kept beside it, as private, in OUT.known, so that a later run reads only what
    is new or has changed.

    Example:
        >>> table = ecgprep.index("export", "ecg.csv", jobs=4)

    Args:
        exports: Folders, or single vendor files.
        out: CSV file to write. Without it, nothing is written, and nothing is known next time.
        root: Folder that paths are relative to. Without it, the folder of the table where every
            export lies inside it; else paths are absolute.
        glob: What the names of files must match; upper and lower case are the same.
        follow_symlinks: Also enter folders and read files behind symlinks, if they lie inside the
            root. A build needs the same option to read such files.
        jobs: Processes that read files. From 2 on, a file that kills one costs only its row.
        overwrite: Replace a file even if it is not such a table, or has columns of your own.
        progress: Called as `progress(done, total, rejected)`, in files.

    Returns:
        The table. Numbers are float64, NaN where the file says nothing; all else is text. What
        `write_index` returns is in its `attrs`, as "summary".

    Raises:
        InputError: if an export does not exist, lies outside `root` or holds no file that matches.
        TargetExists: if `out` is something else, lies in a store, or is being written.
        NoSpace: if the disk is full.
    """
    from ecgprep.indexing.frame import read_frame
    from ecgprep.indexing.run import index_in_memory

    options = {"root": root, "glob": glob, "follow_symlinks": follow_symlinks}
    if out is not None:
        summary = write_index(
            exports, out, **options, jobs=jobs, overwrite=overwrite, progress=progress
        )
        return read_frame(Path(out), summary)
    check_options(jobs=jobs)
    summary, table = index_in_memory(_search(exports, options), jobs=jobs, progress=progress)
    return read_frame(io.BytesIO(table), summary)


def write_index(
    exports: str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    jobs: int = 1,
    overwrite: bool = False,
    progress: Progress | None = None,
    **options: Any,
) -> IndexSummary:
    """Write the table of `index` without loading it: a million files need no memory.

    Args:
        exports: Folders, or single vendor files.
        out: CSV file to write.
        jobs: Processes that read files.
        overwrite: Replace a file even if it is not such a table, or has columns of your own.
        progress: Called as `progress(done, total, rejected)`, in files.
        options: `root`, `glob` and `follow_symlinks`, as for `index`.

    Returns:
        Files by status and dialect, patients, months, how many files have which value, what was
        left out, and the `root` that a build needs; ready for JSON.

    Raises:
        TypeError: for an option that `index` does not have.
        InputError: as `index`, which has the other exceptions, too.
    """
    from ecgprep.indexing.run import write_index as write_table

    check_options(jobs=jobs)
    search = _search(exports, options)
    return write_table(search, Path(out), jobs=jobs, overwrite=overwrite, progress=progress)


def open_store(path: str | Path) -> Store:
    """Open a store for reading.

    Raises:
        StoreError: if it is missing, damaged or of another format version.
    """
    from ecgprep.store.reader import Store

    return Store(Path(path))


def inspect(store: str | Path | Store) -> StoreSummary:
    """Count what is in a store.

    Returns:
        Rows by status, patients and labels by split, leads present, quality flags, source rates,
        settings, size and content hash, ready for JSON.

    Raises:
        StoreError: if the store cannot be opened.
    """
    from ecgprep.store.summary import summarise

    return summarise(_opened(store))


def verify(store: str | Path | Store, *, same_as: str | Path | Store | None = None) -> Verification:
    """Check a store: shapes, sizes, content hash, checksum of each row, patient-disjoint splits.

    Args:
        store: The store, or its path.
        same_as: Another store that must hold the same, bit by bit. The versions of the packages
            that built the two may differ.

    Returns:
        The faults and the rows whose waveforms are damaged; `intact` if there are none. With
        `same_as`, `differs_in` names the attributes and arrays that differ.

    Raises:
        StoreError: if the store cannot even be opened.
    """
    from ecgprep.store.verify import check_store

    result = check_store(_path_of(store))
    if same_as is None:
        return result
    from ecgprep.store.comparing import differences

    found = differences(_opened(store), _opened(same_as))
    return replace(result, differs_in=tuple(found))


def rows(
    store: str | Path | Store, out: str | Path | None = None, *, overwrite: bool = False
) -> pd.DataFrame:
    """Say whose each row of a store is, from the private build record beside it.

    The table identifies patients. Use it for linking results to your own data, never in a store.

    Example:
        >>> table = ecgprep.rows("cohort.zarr", "rows.csv")

    Args:
        store: The store, or its path; `STORE.build.json` lies beside it.
        out: CSV file to write, readable by you only.
        overwrite: Replace a file even if it is not such a table.

    Returns:
        A line a row: row, patient_id, path_xml, line (of the manifest), status and split. Ids and
        paths are text; a row without a split has an empty one.

    Raises:
        StoreError: if the store cannot be opened.
        InputError: if the build record is missing, belongs to another store or holds no ids.
        TargetExists: if the file exists and is not such a table, or lies in a store.
    """
    import pandas as pd

    data = write_rows(store, out, overwrite=overwrite)
    texts = dict.fromkeys(("patient_id", "path_xml", "status", "split"), str)
    return pd.read_csv(io.BytesIO(data), dtype=texts, keep_default_na=False)


def write_rows(
    store: str | Path | Store, out: str | Path | None = None, *, overwrite: bool = False
) -> bytes:
    """Write the table of `rows` without pandas.

    Args:
        store: The store, or its path; `STORE.build.json` lies beside it.
        out: CSV file to write, readable by you only.
        overwrite: Replace a file even if it is not such a table.

    Returns:
        The table as CSV.

    Raises:
        InputError: as `rows`, which has the other exceptions, too.
    """
    from ecgprep.files.atomic import PRIVATE
    from ecgprep.files.output import check_output, write_output
    from ecgprep.store.row_ids import MARK, rows_csv

    target = None
    if out is not None:
        target = check_output(Path(out), [rb"\A" + MARK], overwrite=overwrite)
    data = rows_csv(_opened(store))
    if target is not None:
        write_output(target, data, PRIVATE)
    return data


def report(
    store: str | Path | Store,
    out: str | Path | None = None,
    *,
    ecgs: int = 12,
    exact_counts: bool = False,
    ids: bool = False,
    overwrite: bool = False,
) -> Path:
    """Write the report of a store: one HTML file that opens offline.

    It shows ECGs, so treat it as health data.

    Args:
        store: The store, or its path.
        out: HTML file to write. Without it, STORE.report.html.
        ecgs: ECGs to draw, chosen at random.
        exact_counts: Show counts below 10 as they are, instead of as "<10".
        ids: Name patient, file and line of each ECG and each duplicate, from `STORE.build.json`.
        overwrite: Replace a file even if it is not such a report.

    Returns:
        The file that was written.

    Raises:
        StoreError: if the store cannot be opened.
        InputError: if nothing can be written there, or nothing says whose the rows are.
        TargetExists: if the file exists and is not such a report, or lies in a store.
        EcgError: without the extra `report`.
    """
    from ecgprep.files.output import check_output
    from ecgprep.reports.html import MARK, write_report

    check_options(ecgs=ecgs)
    opened = _opened(store)
    if out is None:
        out = opened.path.with_name(f"{opened.path.name}.report.html")
    target = check_output(Path(out), [MARK], overwrite=overwrite)
    try:
        write_report(opened, target, ecgs, exact_counts, ids)
    except ImportError as error:
        raise EcgError(f"The report: {missing_extra('jinja2', 'report')}") from error
    return Path(out)


def plot(
    store: str | Path | Store, row: int, out: str | Path | None = None, *, overwrite: bool = False
) -> Path:
    """Draw a row of a store on ECG paper, 25 mm/s and 10 mm/mV, as a picture.

    The drawing has no name on it but the number of the row. It is health data all the same.

    Example:
        >>> ecgprep.plot("cohort.zarr", 17, "row17.png")

    Args:
        store: The store, or its path.
        row: Row of the store, from 0, such as one that `ecgfit.predict` names.
        out: File to draw to: .png, .pdf or .svg. Without it, STORE.rowROW.png.
        overwrite: Replace a file even if it is not such a drawing.

    Returns:
        The file that was written.

    Raises:
        StoreError: if the store cannot be opened.
        InputError: if the store has no such row, the row holds no recording, or nothing can be
            drawn there.
        TargetExists: if the file exists and is not such a drawing, or lies in a store.
        EcgError: without the extra `report`.
    """
    from ecgprep.errors import STATUSES

    opened = _opened(store)
    if not 0 <= row < len(opened):
        raise InputError(f"row (={row}) must be from 0 to {len(opened) - 1:,}.")
    uv, mask, _ = opened.recording(row)
    status = STATUSES[int(opened.array("status")[row])]
    if not mask.any():
        raise InputError(f"Row {row} holds no recording to draw: its status is {status}.")
    if out is None:
        out = opened.path.with_name(f"{opened.path.name}.row{row}.png")
    title = f"row {row}{'' if status == 'ok' else f' ({status})'}: 25 mm/s, 10 mm/mV"
    target = _picture(Path(out), None, overwrite)
    _draw(target, uv, mask, opened.sample_rate_hz, title)
    return Path(out)


def pack(
    store: str | Path | Store,
    out: str | Path,
    *,
    codec: str = "zstd",
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Write a packed copy of a store, about a third of the size, to archive or transfer.

    Any Zarr v3 reader opens it.

    Args:
        store: The store, or its path.
        out: Folder to make.
        codec: Compression of the waveforms.
        progress: Called as `progress(done, total)`, in files.

    Returns:
        The folder that was made.

    Raises:
        StoreError: if the store is damaged.
        TargetExists: if `out` exists or lies in a store.
        NoSpace: if the disk is full.
    """
    from ecgprep.store.archive import pack as pack_store

    check_options(codec=codec)
    pack_store(_path_of(store), Path(out), codec, progress)
    return Path(out)


def unpack(
    packed: str | Path,
    out: str | Path,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Store:
    """Restore a packed store to the byte, and check its content hash.

    Args:
        packed: What `pack` wrote.
        out: Folder to make.
        progress: Called as `progress(done, total)`, in files.

    Returns:
        The restored store, open for reading.

    Raises:
        StoreError: if the copy is damaged, or is not a packed store.
        TargetExists: if `out` exists or lies in a store.
        NoSpace: if the disk is full.
    """
    from ecgprep.store.archive import unpack as unpack_store

    return unpack_store(Path(packed), Path(out), progress)


def preview(
    path: str | Path, *, plot: str | Path | None = None, overwrite: bool = False
) -> FilePreview:
    """Say what a reader sees in a vendor file, and what a build would change.

    Args:
        path: Vendor XML file.
        plot: File to draw the recording to, as a store would hold it: .png, .pdf or .svg.
        overwrite: Replace the drawing's file even if it is not such a drawing.

    Returns:
        The dialect, rate, length and range of each lead, the steps that would change them, and the
        header without what identifies the patient, ready for JSON. If the file is refused,
        `refused` says by which step and why.

    Raises:
        InputError: if nothing can be drawn there.
        TargetExists: if the drawing's file exists and is not such a drawing.
        EcgError: for `plot` without the extra `report`.
    """
    from ecgprep.conform import Conformity
    from ecgprep.reports.preview import preview as preview_file

    target = Conformity()
    picture = None if plot is None else _picture(Path(plot), Path(path), overwrite)
    content, _, row = preview_file(Path(path), target)
    if picture is not None and row is not None:
        _draw(picture, row.waveform, row.lead_mask, target.rate_hz)
    return content


def simulate(
    out: str | Path,
    *,
    patients: int = 300,
    seed: int = 1,
    prevalence: float = 0.25,
    dialects: Sequence[str] = (),
    hospital: bool = False,
    replace: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> SimulatedCorpus:
    """Write simulated ECGs as vendor XML files, with a manifest and a table of headers.

    The signals come from a dipole model, and the names and dates in the files are invented. They
    serve demonstrations and tests and are no evidence of anything. `headers.csv` says what stands
    in each file beside the waveform.

    With `hospital`, there is no manifest but what one is made of: a folder of exports, tables of
    therapy, echocardiograms, laboratory, follow-up and patients, and a task. `truth.csv` has the
    status of every patient under every built-in definition, from what the simulation drew.

    Args:
        out: Folder to write to.
        patients: Number of patients.
        seed: Seed of the simulation. A larger corpus begins with the smaller one.
        prevalence: Share of positive patients; in a hospital, of hearts that the therapy harms.
        dialects: Vendors to write in equal shares, or all. Without it, muse, aecg and cardiosoft
            in their usual shares, and philips too in a hospital.
        hospital: Write a hospital's exports and tables instead of a corpus with a manifest.
        replace: Write into a folder even if it holds a corpus.
        progress: Called as `progress(done, total)`, in patients.

    Returns:
        The manifest, and the numbers of files and of positive patients; those of a hospital are
        positive by the definition of its task.

    Raises:
        InputError: for a value that is not allowed.
        TargetExists: if the folder holds a corpus, without `replace`.
        NoSpace: if the disk is full.
    """
    from ecgprep.simulation.corpus import write_corpus
    from ecgprep.simulation.hospital import write_hospital

    names = _names(dialects)
    if names == ("all",):
        names = CHOICES["dialects"]
    check_options(patients=patients, seed=seed, prevalence=prevalence, dialects=names)
    folder, write = Path(out), write_hospital if hospital else write_corpus
    n_files, n_positive = write(
        folder, patients, seed, prevalence, replace=replace, dialects=names, progress=progress
    )
    manifest = None if hospital else folder / "manifest.csv"
    return SimulatedCorpus(manifest, n_files, n_positive)


def describe_machine(folder: str | Path = ".") -> dict[str, Any]:
    """Say what this machine has: versions, free space in `folder`, limits, accelerator.

    No host or user name is in it.
    """
    from ecgprep.machine import examine

    return examine(Path(folder))


PLAN_OPTIONS = tuple(
    name
    for name in inspection.signature(build).parameters
    if name not in ("manifest", "store", "extend", "jobs", "dask", "progress")
)
"""The options of `build` that a plan has, too."""

DERIVE_OPTIONS = tuple(
    name
    for name in inspection.signature(derive).parameters
    if name not in ("store", "new", "progress")
)
"""The options of the command `ecgprep derive`."""


def _make_plan(
    manifest: str | Path | pd.DataFrame, store: str | Path, options: dict[str, Any]
) -> Plan:
    """Read the manifest, and check the options; what a user should know is logged."""
    from ecgprep.building.plan import BuildSettings, Plan, default_registry, read_rows
    from ecgprep.building.record import recorded_registry
    from ecgprep.cohorts.carried import carried_task
    from ecgprep.conform import Conformity
    from ecgprep.patients.covariates import stated_sex_codes
    from ecgprep.patients.manifest_columns import ManifestColumns
    from ecgprep.patients.registry import SplitPlan, parse_ratios

    check_options(**options)
    covariates = _names(options["covariates"])
    settings = BuildSettings(
        target=Conformity(
            options["hz"], options["length"], options["min_seconds"], options["min_leads"]
        ),
        plan=SplitPlan(
            ratios=parse_ratios(options["split"]),
            seed=options["split_seed"],
            allow_missing_class=options["allow_missing_class"],
            by_column=options["split_by_column"],
            fixed_test=options["test_manifest"] is not None,
        ),
        unlabelled=options["unlabelled"],
        label_level=options["label_level"],
        exclude_quality=_names(options["exclude_quality"]),
        duplicates=options["duplicates"],
        merge_lookalikes=options["merge_lookalikes"],
        follow_symlinks=options["follow_symlinks"],
        allow_covariate=_names(options["allow_covariate"]),
        sex_codes=stated_sex_codes(options["sex_code"], covariates),
    )
    columns = ManifestColumns(
        options["patient_column"], options["path_column"], options["label_column"]
    ).checked()
    target = Path(store)
    path, root = _manifest_file(manifest, target, options["root"], columns)
    given_registry = options["registry"] or recorded_registry(target) or default_registry(path)
    registry_path = Path(given_registry)
    rows = read_rows(path, root, covariates, settings, columns, registry_path)
    for warning in rows.warnings:
        log.warning(warning)
    settings = replace(settings, task=carried_task(rows))
    return Plan(
        manifest=rows,
        store=target,
        settings=settings,
        registry_path=registry_path,
        max_rejected=options["max_rejected"],
        test_patients=_test_patients(options["test_manifest"], rows, settings.merge_lookalikes),
        replace=options["replace"],
        extend=options.get("extend", False),
    )


def sample_size(
    *,
    prevalence: float,
    auroc: float,
    parameters: int,
    patients: int | None = None,
    risk_threshold: float | None = None,
) -> SampleSize:
    """Return how many patients a study needs to develop a model, and to validate it elsewhere.

    Development: shrinkage of at least 0.9, optimism in the Nagelkerke R² of at most 0.05, and the
    overall risk within 0.05 (Riley et al., BMJ 2020;368:m441). The R² follows from the AUROC and
    the prevalence by integration (Riley et al., Stat Med 2021;40:859).
    External validation: 95 % intervals of O/E and calibration slope 0.2 wide, of the C statistic
    0.1 wide, and of the standardised net benefit 0.2 wide (Riley et al., Stat Med 2021;40:4230).
    The parameters are those of a regression; a network has no such number.

    Example:
        >>> ecgprep.sample_size(prevalence=0.087, auroc=0.78, parameters=10).development_patients
        1001

    Args:
        prevalence: Share of patients with the event, above 0 and below 1.
        auroc: AUROC that is expected in new patients, above 0.5 and below 1.
        parameters: Parameters of a regression that would be fitted, without the intercept.
        patients: Also say what this many patients reach.
        risk_threshold: Also plan the net benefit where a risk above this counts as positive.

    Returns:
        The least numbers of patients by criterion, and what they rest on.

    Raises:
        InputError: for a value that is not allowed.
    """
    from ecgprep.study.sample_size import sample_size as plan_sample_size

    return plan_sample_size(prevalence, auroc, parameters, patients, risk_threshold)


def _make_derivation(source: Store, options: dict[str, Any]) -> Derivation:
    """Read the manifest by the store's settings and those given, and find its rows."""
    from ecgprep.building.derivation import (
        Derivation,
        derived_settings,
        match_rows,
        read_chosen_rows,
        rows_in_order,
    )
    from ecgprep.building.plan import Plan, default_registry, read_rows
    from ecgprep.building.run import check_store_name, recover
    from ecgprep.cohorts.carried import carried_task
    from ecgprep.patients.covariates import stated_sex_codes
    from ecgprep.patients.manifest_columns import ManifestColumns
    from ecgprep.store.record import read_build_record
    from ecgprep.store.row_ids import read_row_ids

    target, by_row = Path(options["new"]), options["by_row"]
    check_store_name(target)
    recover(target)
    if target.exists():
        raise TargetExists(f"{target} exists. Choose another name.")
    given = options["covariates"]
    covariates = source.covariate_names if given is None else _names(given)
    quality = options["exclude_quality"]
    settings = derived_settings(
        source,
        options,
        tuple(covariates),
        allowed=_names(options["allow_covariate"]),
        sex_codes=stated_sex_codes(options["sex_code"], covariates),
        exclude_quality=None if quality is None else _names(quality),
    )
    columns = ManifestColumns(
        options["patient_column"], options["path_column"], options["label_column"]
    ).checked()
    ids = None if by_row else read_row_ids(source)
    record = read_build_record(source.path)
    if record is not None and record["content_sha256"] != source.content_sha256:
        record = None
    path, root = _manifest_file(options["manifest"], target, options["root"], columns)
    recorded = None if record is None else record["registry"]
    registry_path = Path(options["registry"] or recorded or default_registry(path))
    rows = read_rows(path, root, covariates, settings, columns, registry_path)
    for warning in rows.warnings:
        log.warning(warning)
    settings = replace(settings, task=carried_task(rows))
    if ids is None:
        places = rows_in_order(source, rows)
    else:
        places = match_rows(source, ids, rows, settings.merge_lookalikes)
    if options["rows"] is not None:
        kept = read_chosen_rows(Path(options["rows"]), places, len(source))
        rows, places = rows.select(kept), places[kept]
    planned = Plan(
        manifest=rows,
        store=target,
        settings=settings,
        registry_path=registry_path,
        max_rejected=options["max_rejected"],
        test_patients=_test_patients(options["test_manifest"], rows, settings.merge_lookalikes),
    )
    return Derivation(planned, source, places, record)


def _manifest_file(
    manifest: str | Path | pd.DataFrame,
    store: Path,
    root: str | Path | None,
    columns: ManifestColumns,
) -> tuple[Path, Path | None]:
    """Return the manifest's file and the root of its paths; a DataFrame is written first."""
    given_root = None if root is None else Path(root)
    if isinstance(manifest, (str, Path)):
        return Path(manifest), given_root

    from ecgprep.building.run import check_store_name
    from ecgprep.cohorts.carried import keep_task_of
    from ecgprep.patients.manifest import write_frame
    from ecgprep.store.record import private_path

    check_store_name(store)
    path = private_path(store, "manifest.csv")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_frame(manifest, path, columns)
    keep_task_of(manifest, path)
    return path, given_root or Path.cwd()


def _test_patients(
    listed: str | Path | None, manifest: Manifest, merge_lookalikes: bool
) -> frozenset[str]:
    """Read who is tested; patients that are not in the manifest are logged by number."""
    from ecgprep.patients.lookalikes import as_spelled_in
    from ecgprep.patients.manifest import read_patients
    from ecgprep.patients.private_csv import counted

    if listed is None:
        return frozenset()
    name = Path(listed).name
    tested, warnings = read_patients(Path(listed), manifest.columns.patient)
    for warning in warnings:
        log.warning("%s: %s", name, warning)
    known = set(manifest.patient_id)
    spelled = as_spelled_in(tested - known, manifest.patient_id)
    if merge_lookalikes:
        tested = (tested & known) | spelled
    n_unknown, n_alike = len(tested - known), len(spelled & known)
    if n_unknown:
        log.warning("%s patients of %s are not in the manifest", f"{n_unknown:,}", name)
    if n_alike and not merge_lookalikes:
        log.warning(
            "%s of %s: the manifest has this id only in another spelling (case, leading zeros or "
            "the like), so the patient is not held for the test. If they are the same, correct the "
            "ids, or add --merge-lookalikes",
            counted(n_alike, "patient"),
            name,
        )
    return tested


def _log_warnings(store: Store) -> None:
    """Log what a user must know about a store that has just been built."""
    from ecgprep.patients.confounding import probe_confounding
    from ecgprep.store.record import read_build_record

    record = read_build_record(store.path) or {}
    for warning in record.get("warnings", []):
        log.warning(warning)
    confounding = probe_confounding(store, record.get("dialects")).warning
    if confounding:
        log.warning(confounding)


def _names(given: str | Sequence[str]) -> tuple[str, ...]:
    """Return names without repetitions; text is a comma-separated list of them."""
    names = given.split(",") if isinstance(given, str) else given
    stripped = (name.strip() for name in names)
    return tuple(dict.fromkeys(name for name in stripped if name))


def _search(exports: str | Path | Sequence[str | Path], options: dict[str, Any]) -> Search:
    from ecgprep.indexing.run import Search

    given = [exports] if isinstance(exports, (str, Path)) else exports
    if not given:
        raise InputError("exports (=[]) must name at least one folder or file.")
    root = options.pop("root", None)
    return Search([Path(path) for path in given], None if root is None else Path(root), **options)


def _path_of(store: str | Path | Store) -> Path:
    return Path(store) if isinstance(store, (str, Path)) else store.path


def _opened(store: str | Path | Store) -> Store:
    return open_store(store) if isinstance(store, (str, Path)) else store


def _picture(path: Path, source: Path | None, overwrite: bool) -> Path:
    """Return where to draw a recording. Raises InputError and TargetExists."""
    from ecgprep.drawing import MARK
    from ecgprep.files.output import check_output

    if path.suffix.lower() not in PICTURES:
        raise InputError(f"plot must end in {', '.join(PICTURES)}.")
    return check_output(path, [MARK.encode()], [] if source is None else [source], overwrite)


def _draw(
    path: Path,
    waveform_uv: NDArray[Any],
    lead_mask: NDArray[np.bool_],
    rate_hz: float,
    title: str = "25 mm/s, 10 mm/mV",
) -> None:
    from ecgprep.drawing import save_ecg

    try:
        save_ecg(path, waveform_uv, lead_mask, rate_hz, title)
    except ImportError as error:
        raise EcgError(f"The drawing: {missing_extra('matplotlib', 'report')}") from error
