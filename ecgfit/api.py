"""The Python API of ecgfit; the command `ecgfit` calls these functions.

Paths are str or Path. Nothing prints: `progress`, where a function takes it, is called with a
line of text now and then; without it, the lines go to the standard logger `ecgfit`. What goes wrong
is raised as one of the exceptions of `ecgprep`: InputError, StoreError and TargetExists, all of
them EcgError. PyTorch, pandas, numpy and pydantic are imported when they are needed: the command
makes its options from these signatures and docstrings, and its help comes at once.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ecgfit.run import RunFolder
from ecgfit.run import newest_run as newest_run_folder
from ecgfit.run_files import CURVES, REPORT, RUNS
from ecgprep.errors import EcgError, InputError, StoreError, missing_extra
from ecgprep.files.output import check_output

if TYPE_CHECKING:
    from pandas import DataFrame
    from torch.utils.data import DataLoader

    from ecgfit.config import TrainConfig
    from ecgfit.data.named_batches import ECGBatch
    from ecgfit.explaining.attributions import Explanation
    from ecgfit.inference.export import ExportedFile
    from ecgfit.metrics.results import Comparison, Decided, SplitMetrics
    from ecgprep.store.reader import Store

LOGGER = logging.getLogger("ecgfit")

AnyPath = str | os.PathLike[str]
Progress = Callable[[str], object]
"""Called with a line of text; what it returns is ignored."""


class Run(RunFolder):
    """A finished run: its results, and what can be done with it.

    Attributes:
        path: The run folder.
        config: The settings it was trained with, a `TrainConfig`.
        threshold: The operating point: a probability from it on is called positive.
        calibration: From logits to probabilities: `method`, `slope` and `intercept`.
        members: The members of an ensemble; of a single model, only the run itself.
        recorded: What config.yaml notes of the store, versions and device.
    """

    def __init__(self, path: AnyPath) -> None:
        """Read the run folder at `path`. Raises StoreError; see `load_run`."""
        super().__init__(Path(path))

    def __repr__(self) -> str:
        what: str = self.config.model
        if self.config.tabular_only:
            what = "covariates only"
        if len(self.members) > 1:
            what += f", {len(self.members)} members"
        trained_on = self.recorded["store"].get("name", "an unnamed store")
        return f"Run('{self.path}': {what}, trained on {trained_on})"

    def metrics(self, split: str = "test") -> SplitMetrics:
        """Return the metrics of a split that was evaluated, as in metrics_SPLIT.json.

        `split` is train, val, test or all; oof for the results of a cross-validation; or
        external_<start of content_sha256> for another store. Training evaluates val, and oof where
        there are folds; `evaluate` the others. docs/metrics.md explains the numbers.

        Raises:
            StoreError: The split was not evaluated, or the file is damaged.
        """
        self._require_evaluated(f"metrics_{split}.json", split)
        metrics: Any = self.read_json(f"metrics_{split}.json")
        return metrics  # type: ignore[no-any-return]

    def predictions(self, split: str = "test") -> DataFrame:
        """Return the predictions of a split that was evaluated, one line a recording.

        The columns are those of predictions_SPLIT.csv: row (of the store), patient, label, logit_0,
        logit_1, probability, and threshold where each fold has its own.

        Raises:
            StoreError: The split was not evaluated.
            InputError: The file is damaged, or of an earlier training.
        """
        import pandas as pd

        from ecgfit.inference.predictions import Predictions

        name = f"predictions_{split}.csv"
        self._require_evaluated(name, split)
        known = [] if split == "oof" and self.config.folds else [self.calibration]
        Predictions.load(self.path / name, *known)  # refuses a damaged file
        return pd.read_csv(self.path / name)

    def _require_evaluated(self, name: str, split: str) -> None:
        if (self.path / name).is_file():
            return
        raise StoreError(
            f"{self.path} was not evaluated on {split}: there is no {name}. `ecgfit eval --store "
            f"STORE --run RUN --split {split}` does that; in Python, run.evaluate(STORE, "
            f"split={split!r})."
        )

    @property
    def history(self) -> DataFrame:
        """The curves of training, one line an epoch: the columns of curves.csv.

        Those are epoch, lr, train_loss, val_loss, val_auroc and val_auprc. An ensemble has one more
        in front, member.

        Raises:
            StoreError: The curves are missing or damaged.
        """
        import pandas as pd

        if self.members == [self]:
            return _read_curves(self.path)
        curves = []
        for member in self.members:
            table = _read_curves(member.path)
            table.insert(0, "member", member.path.name)
            curves.append(table)
        return pd.concat(curves, ignore_index=True)

    def evaluate(self, store: AnyPath | Store, **options: Any) -> SplitMetrics:
        """Evaluate the run; the options are those of `ecgfit.evaluate`."""
        return evaluate(self, store, **options)

    def decide(self, **options: Any) -> Decided:
        """Choose the operating point again; the options are those of `ecgfit.decide`."""
        return decide(self, **options)

    def predict(self, files: Sequence[AnyPath] | None = None, **options: Any) -> DataFrame:
        """Predict recordings; the options are those of `ecgfit.predict`."""
        return predict(self, files, **options)

    def explain(self, store: AnyPath | Store, **options: Any) -> Explanation:
        """Draw what the run looks at; the options are those of `ecgfit.explain`."""
        return explain(self, store, **options)

    def export(self, out: AnyPath, *, overwrite: bool = False) -> ExportedFile:
        """Write the run as one file; see `ecgfit.export`."""
        return export(self, out, overwrite=overwrite)

    def report(self, out: AnyPath | None = None, **options: Any) -> Path:
        """Write the run's report; the options are those of `ecgfit.report`."""
        return report(self, out, **options)


def train(
    store: AnyPath | Store | None = None,
    outdir: AnyPath | None = None,
    *,
    config: AnyPath | TrainConfig | None = None,
    resume: bool = False,
    overwrite: bool = False,
    progress: Progress | None = None,
    **settings: Any,
) -> Run:
    """Train a model, selected by validation; the test split is not looked at.

    `train("cohort.zarr", "runs/a", epochs=30, tabular=["age", "sex"])`

    Args:
        store: The store to train on. With `resume` it is found by the name and content that the
            run has recorded; give it where it lies elsewhere.
        outdir: Run folder; the next number under runs/ by default.
        config: A YAML file of settings, such as another run's config.yaml, or a TrainConfig.
        resume: Continue the run in `outdir` with its own settings, to the bit as if it had not
            been interrupted. Where no run has begun, begin one.
        overwrite: Delete the run in `outdir` first, once training can start.
        progress: Called with a line of text for each check and each epoch.
        **settings: Fields of TrainConfig; they win over `config`.

    Returns:
        The finished run, with its results on validation.

    Raises:
        InputError: A setting is wrong, or the splits lack a class.
        StoreError: Store or run is missing, damaged, or not the one that fits.
        TargetExists: The run exists, or is being trained by another process.
    """
    from ecgfit.compute.distributed import stop_at_end
    from ecgfit.training.runner import train as train_run

    folder = None if outdir is None else Path(outdir)
    checked = settings_of(config, settings, resume_from=folder if resume else None)
    opened = _training_store(store, folder if resume else None)
    with stop_at_end():
        trained = train_run(
            checked,
            opened,
            folder,
            resume=resume,
            overwrite=overwrite,
            say=_line_to(progress),
        )
    return Run(trained.path)


def check(
    store: AnyPath | Store, *, config: AnyPath | TrainConfig | None = None, **settings: Any
) -> list[str]:
    """Check one batch of each split, and what training relies on, without training.

    Args:
        store: The store to train on.
        config: As for `train`.
        **settings: As for `train`.

    Returns:
        A line of text on each check.

    Raises:
        InputError: A setting is wrong, or the splits lack a class.
        StoreError: The store cannot be trained on.
    """
    from ecgfit.training.preflight import preflight
    from ecgfit.training.trainer import Trainer

    return preflight(Trainer.prepare(settings_of(config, settings), _open_store(store)))


def settings_of(
    config: AnyPath | TrainConfig | None,
    settings: Mapping[str, Any],
    *,
    resume_from: Path | None = None,
) -> TrainConfig:
    """Return the settings that a training would have; those in `settings` win over `config`.

    With `resume_from`, the run to continue, they are the run's own where nothing else is given.

    Raises:
        InputError: Names every setting that is wrong.
        StoreError: The run to continue is damaged.
    """
    from ecgfit.config import TrainConfig, make_config, read_settings

    base: dict[str, Any] = {}
    where = "settings"
    if isinstance(config, TrainConfig):
        base = config.model_dump()
    elif config is not None:
        base = read_settings(Path(config))
        where = Path(config).name
    given = base | {key: value for key, value in settings.items() if value is not None}
    if resume_from is None:
        return make_config(given, where)
    from ecgfit.training.resume import resumed_config

    return resumed_config(resume_from, given, where)


def _training_store(store: AnyPath | Store | None, resume_from: Path | None) -> Store:
    if store is not None:
        return _open_store(store)
    if resume_from is None:
        raise InputError(
            "Give the store to train on. Only `resume` with the folder of a run finds it by itself."
        )
    from ecgfit.training.resume import find_store

    return find_store(resume_from)


def load_run(path: AnyPath) -> Run:
    """Return the finished run in a folder.

    Raises:
        StoreError: The folder is missing, its training has not ended, or it is damaged.
    """
    return Run(path)


def newest_run(store: AnyPath | Store) -> Run:
    """Return the run under runs/ that finished last on this store.

    Raises:
        StoreError: There is none.
    """
    return Run(newest_run_folder(RUNS, _open_store(store)).path)


def evaluate(
    run: AnyPath | RunFolder,
    store: AnyPath | Store,
    split: str | None = None,
    *,
    external: bool = False,
    trained_on: AnyPath | Store | None = None,
    aggregate: Literal["mean", "max", "first", "last", "none"] | None = None,
    each_lead: bool = False,
) -> SplitMetrics:
    """Evaluate a run, per patient, calibrated and called as validation decided.

    Writes metrics_SPLIT.json and predictions_SPLIT.csv into the run folder.

    Args:
        run: A run or its folder.
        store: The store that the run was trained on, or with `external` another one.
        split: train, val, test or all; test by default, and all with `external`.
        external: Test the run on another store, no patient of which was in the run's own.
        trained_on: With `external`: the run's own store, whose recordings `store` must not hold.
        aggregate: How a patient's recordings become one result; the run's way by default.
        each_lead: Also evaluate with each lead taken away in turn.

    Returns:
        The content of metrics_SPLIT.json, which docs/metrics.md explains.

    Raises:
        InputError: The rows cannot judge this run, or an argument is wrong.
        StoreError: Run or store is missing, damaged, or they do not fit each other.
    """
    from ecgfit.evaluation.evaluate import evaluate_run

    if trained_on is not None and not external:
        raise InputError("trained_on goes with external: it is the run's own store.")
    return evaluate_run(
        _open_run(run),
        _open_store(store),
        split or ("all" if external else "test"),
        external=external,
        trained_on=None if trained_on is None else _open_store(trained_on),
        aggregate=aggregate,
        each_lead=each_lead,
    )


def predict(
    run: AnyPath | RunFolder,
    files: Sequence[AnyPath] | None = None,
    *,
    store: AnyPath | Store | None = None,
    split: str | None = None,
    ids: bool = False,
    covariates: AnyPath | None = None,
    index: AnyPath | None = None,
    root: AnyPath | None = None,
    refuse_quality: Sequence[str] = (),
    progress: Progress | None = None,
) -> DataFrame:
    """Return the probability of each recording: of vendor XML files, or of a store's rows.

    Args:
        run: A run or its folder.
        files: Vendor XML files. One that cannot be used has its reason in the column `status`.
        store: A store to predict instead of files; its rows may be labelled or not.
        split: With `store`: train, val, test or all (the default).
        ids: With `store`: also give patient, file and line of the manifest of each row, from
            `STORE.build.json`, which lies beside the store.
        covariates: With vendor files: a CSV with a column `file` and one for each covariate that
            the run needs. What it leaves out is taken from the XML, where that holds it.
        index: With vendor files: the table of `ecgprep index`, which says whose they are. Each
            file then also has its patient's result, as the rows of a store have.
        root: With `index`: the folder that its paths are relative to, as for `ecgprep index`; by
            default the folder of the table.
        refuse_quality: Give recordings with any of these quality flags, such as flat,noise, the
            status quality instead of a result. Without it, flags are only warned of.
        progress: Called with lines of text: how the leads differ from those that the run was
            trained on, which lines and files have no partner, and where the covariates of files
            came from.

    Returns:
        One line a recording, in the order of the files or rows; docs/predict.md lists the columns.

    Raises:
        InputError: An argument is wrong, or the CSV of covariates is.
        StoreError: Run or store is missing, damaged, or they do not fit each other.
    """
    from ecgfit.inference.files import predict_files, predict_store
    from ecgfit.inference.patients_of_files import PatientsOfFiles

    refused = _names(refuse_quality)
    if (files is None) == (store is None):
        raise InputError("Give files or a store to predict, one of the two.")
    if store is not None:
        _refuse_those_of_files(covariates, index)
        return predict_store(
            _open_run(run),
            _open_store(store),
            split or "all",
            _line_to(progress),
            refused,
            ids,
        )
    if split is not None:
        raise InputError("split goes with a store.")
    if ids:
        raise InputError("ids goes with a store: a file says itself whose it is.")
    if isinstance(files, str | os.PathLike):
        files = [files]
    paths = [Path(file) for file in files or ()]
    if not paths:
        raise InputError("There is no file to predict. Give at least one.")
    if root is not None and index is None:
        raise InputError("root goes with index: the folder that its paths are relative to.")
    opened, say = _open_run(run), _line_to(progress)
    patients = None
    if index is not None:
        patients = PatientsOfFiles.read(
            Path(index), paths, None if root is None else Path(root), say
        )
    return predict_files(
        opened,
        paths,
        None if covariates is None else Path(covariates),
        say,
        refused,
        patients,
    )


def _refuse_those_of_files(covariates: AnyPath | None, index: AnyPath | None) -> None:
    """Refuse what goes with files and not with a store. Raises InputError."""
    if covariates is not None:
        raise InputError("covariates goes with files: a store holds its own.")
    if index is not None:
        raise InputError("index goes with files: a store knows its patients.")


def decide(
    run: AnyPath | RunFolder,
    *,
    threshold: str | None = None,
    calibration: Literal["none", "temperature", "platt"] | None = None,
) -> Decided:
    """Choose a run's operating point again, on the patients that chose it when training ended.

    Those are the validation patients, or with folds all patients out of fold; test rows are never
    looked at, and nothing is trained. The earlier decisions stay in threshold.json. Results that
    were made under one of them have an entry `outdated` until `evaluate` makes them again.

    Args:
        run: A run or its folder.
        threshold: Rule of the threshold, such as youden, f1, sensitivity=0.90, specificity=0.95,
            npv=0.99, net-benefit=0.10 or fixed=0.30; the run's rule by default.
        calibration: How to fit the calibration anew; without it, the run's is kept.

    Returns:
        The new content of threshold.json.

    Raises:
        InputError: Nothing is asked for, a value is not allowed, the rule has no answer, or the run
            is a member of an ensemble.
        StoreError: The run is missing or damaged.
        TargetExists: Another process trains the run or decides on it.
    """
    from ecgfit.evaluation.decide_again import decide_again

    return decide_again(_open_run(run), threshold, calibration)


def compare(runs: Sequence[AnyPath | RunFolder], split: str = "test") -> Comparison:
    """Compare runs on the same patients, each with the first, by a paired bootstrap over patients.

    Args:
        runs: Two runs or more, or their folders, each evaluated on `split`.
        split: A split on which `ecgfit eval` has evaluated each run.

    Returns:
        Differences with intervals, and p values of the paired bootstrap and of DeLong's test.

    Raises:
        InputError: A run was not evaluated on `split`, or the runs' patients differ.
        StoreError: A run is missing or damaged.
    """
    from ecgfit.evaluation.compare_runs import compare_runs

    if len(runs) < 2:
        raise InputError("Give two runs or more to compare.")
    return compare_runs([_open_run(run) for run in runs], split)


def explain(
    run: AnyPath | RunFolder,
    store: AnyPath | Store,
    split: str = "test",
    *,
    n: int = 100,
    out: AnyPath | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Explanation:
    """Draw what a run looks at: mean beats of true and false positives, with attributions.

    Args:
        run: A run or its folder.
        store: The store that the run was trained on.
        split: train, val, test or all.
        n: Patients of a group at most, 10 or more, with one recording each.
        out: Folder to write to; RUN/explain by default.
        overwrite: Replace explanations of another run, and other files of the same names.
        progress: Called with a line of text for each group.

    Returns:
        The content of explain.json, and the folder.

    Raises:
        InputError: An argument is wrong, or the run does not use the ECG.
        StoreError: Run or store is missing, damaged, or they do not fit each other.
        TargetExists: The folder holds another run's explanations, or is another run.
        EcgError: An extra is not installed.
    """
    from ecgfit.explaining.attributions import explain_run

    return explain_run(
        _open_run(run),
        _open_store(store),
        split,
        None if out is None else Path(out),
        n,
        _line_to(progress),
        overwrite,
    )


def export(run: AnyPath | RunFolder, out: AnyPath, *, overwrite: bool = False) -> ExportedFile:
    """Write a run as one file: *.onnx or *.safetensors.

    An ONNX file takes a recording and gives its calibrated probability; a safetensors file holds
    the weights.

    Args:
        run: A run or its folder.
        out: The file to write.
        overwrite: Replace an existing file even if it is not an exported run.

    Returns:
        Path, format, size in bytes, and for ONNX how far its probabilities are from the run's.

    Raises:
        InputError: Another suffix.
        StoreError: The run is damaged, or the ONNX file gives other probabilities.
        TargetExists: The file exists and was not written by this function.
        EcgError: The extra is not installed.
    """
    from ecgfit.inference.export import MARKS, export_run

    target = check_output(Path(out), MARKS, overwrite=overwrite)
    return export_run(_open_run(run), target)


def report(
    run: AnyPath | RunFolder,
    out: AnyPath | None = None,
    *,
    store: AnyPath | Store | None = None,
    split: str = "test",
    exact_counts: bool = False,
    ids: bool = False,
    overwrite: bool = False,
) -> Path:
    """Write the report of a run: one HTML file that opens offline.

    Args:
        run: A run or its folder.
        out: HTML file to write, readable by you only; RUN/report.html by default.
        store: The run's own store: adds Table 1 and the worst mistakes drawn as ECGs. The file is
            then health data.
        split: A split on which `ecgfit eval` has evaluated the run.
        exact_counts: Show counts below 10, which are "<10" otherwise; subgroups stay as they are.
        ids: With `store`: name patient, file and line of each ECG, from `STORE.build.json`.
        overwrite: Replace an existing file even if it is not a report.

    Returns:
        The file that was written.

    Raises:
        InputError: The split was not evaluated, or nothing says whose the rows are.
        StoreError: Run or store is missing, damaged, or they do not fit each other.
        TargetExists: The file exists and is not a report.
        EcgError: The extra is not installed.
    """
    from ecgfit.reports.html import MARK, write_run_report

    if ids and store is None:
        raise InputError("ids goes with store: the rows are the store's.")
    opened = _open_run(run)
    own_store = None if store is None else _open_store(store)
    path = opened.path / REPORT if out is None else Path(out)
    target = check_output(path, [MARK], overwrite=overwrite)
    try:
        write_run_report(opened, target, own_store, split, exact_counts, ids)
    except ImportError as error:
        raise EcgError(missing_extra("jinja2 and matplotlib", "report")) from error
    return path


def dataloader(
    store: AnyPath | Store,
    split: str = "train",
    batch: int = 32,
    *,
    seed: int | None = None,
    normalise: bool = True,
    covariates: Sequence[str] = (),
    missing: Literal["drop", "mask"] = "drop",
) -> DataLoader[ECGBatch]:
    """Return a PyTorch DataLoader of a split's labelled recordings, for your own training code.

    Its items are whole batches with named fields, `ECGBatch`: waveforms (B, 8, L), lead_mask,
    valid_span, label, covariates, rows and patient. They are made in this process, so there are no
    workers to set. Their tensors are yours: no later batch writes into them.

    Args:
        store: The store, or its path.
        split: train, val, test or all.
        batch: Recordings in a batch, B.
        seed: Shuffle: each iteration is the next epoch, in an order that (seed, epoch) decides, and
            a last batch of a single recording is left out. None keeps the order of the store.
        normalise: float32 waveforms, z-scored with the mean and standard deviation of each lead
            over the train rows; padding and missing leads are exactly 0. False gives the stored
            int16 in µV.
        covariates: Covariates of the store to return, as stored; NaN where unknown.
        missing: drop leaves out recordings with a missing lead; mask keeps them, with lead_mask.

    Raises:
        InputError: An argument is wrong, or the store lacks a covariate.
        StoreError: The store is missing or damaged, or no recording is left.
    """
    from torch.utils.data import DataLoader

    from ecgfit.data.named_batches import NamedBatches

    batches = NamedBatches(
        _open_store(store),
        split,
        batch,
        seed=seed,
        normalise=normalise,
        covariates=covariates,
        missing=missing,
    )
    return DataLoader(batches, batch_size=None)


def _open_store(store: AnyPath | Store) -> Store:
    from ecgprep.store.reader import Store

    return store if isinstance(store, Store) else Store(Path(store))


def _open_run(run: AnyPath | RunFolder) -> RunFolder:
    return run if isinstance(run, RunFolder) else Run(run)


def _read_curves(run: Path) -> DataFrame:
    import pandas as pd

    try:
        return pd.read_csv(run / CURVES)
    except (OSError, ValueError):
        raise StoreError(f"{run}/{CURVES} is missing or damaged. Train again.") from None


def _names(given: str | Sequence[str]) -> tuple[str, ...]:
    """Return names without repetitions; text is a comma-separated list of them."""
    names = given.split(",") if isinstance(given, str) else given
    return tuple(dict.fromkeys(name.strip() for name in names if name.strip()))


def _line_to(progress: Progress | None) -> Callable[[str], None]:
    """Return where lines of progress go: to the caller, or to the log."""

    def say(line: str) -> None:
        if progress is None:
            LOGGER.info("%s", line)
        else:
            progress(line)

    return say
