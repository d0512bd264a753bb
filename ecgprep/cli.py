"""The command `ecgprep`: each command parses, calls one library function and prints. Progress to stderr, results to stdout."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from ecgprep import __version__
from ecgprep.console import json_option, output_option, overwrite_option, progress_bar, run_command
from ecgprep.files.output import check_output

store_argument = click.argument("store", type=click.Path(path_type=Path))


def main() -> None:
    """Entry point of the console script."""
    run_command(cli)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="ecgprep")
def cli() -> None:
    """Turn vendor ECG XML files and a manifest into one de-identified Zarr store."""


_PLAN_OPTIONS = (
    click.option(
        "--root",
        type=click.Path(path_type=Path),
        help="Folder that paths are relative to.  [default: the manifest's folder]",
    ),
    click.option(
        "--registry",
        type=click.Path(path_type=Path),
        help="Which patient is in which split.  [default: MANIFEST.registry.csv]",
    ),
    click.option(
        "--hz",
        default=500,
        show_default=True,
        type=click.IntRange(50, 2000),
        help="Sampling rate of the store.",
    ),
    click.option(
        "--length",
        default=5000,
        show_default=True,
        type=click.IntRange(100, 1_000_000),
        help="Samples per lead.",
    ),
    click.option(
        "--min-seconds",
        default=5.0,
        show_default=True,
        type=click.FloatRange(0),
        help="Shorter recordings are `too_short`.",
    ),
    click.option(
        "--min-leads",
        default=1,
        show_default=True,
        type=click.IntRange(1, 8),
        help="Fewer usable leads of 8 are `leads_missing`.",
    ),
    click.option(
        "--split",
        default="70/15/15",
        show_default=True,
        help="Percent of patients in train/val/test.",
    ),
    click.option("--split-seed", default=42, show_default=True, type=click.IntRange(0, 2**31 - 1)),
    click.option(
        "--split-by-column",
        metavar="NAME",
        help="Keep patients who share a value of this manifest column, a site, in one split.",
    ),
    click.option(
        "--test-manifest",
        type=click.Path(path_type=Path),
        help="CSV with a column patient_id: exactly these patients are tested.",
    ),
    click.option(
        "--allow-missing-class",
        is_flag=True,
        help="Go on when a split has no positive or no negative patient.",
    ),
    click.option(
        "--label-level",
        default="record",
        show_default=True,
        type=click.Choice(["record", "patient"]),
        help="patient: refuse two labels.",
    ),
    click.option(
        "--unlabelled",
        is_flag=True,
        help="Labels may be missing: a cohort to predict on, with --split 0/0/100.",
    ),
    click.option(
        "--covariates", default="", help="Numeric manifest columns to keep, such as age,sex."
    ),
    click.option(
        "--duplicates",
        default="near",
        show_default=True,
        type=click.Choice(["near", "exact"]),
        help="exact: not those exported again.",
    ),
    click.option(
        "--exclude-quality",
        default="",
        metavar="FLAGS",
        help="Exclude recordings with these quality flags, such as flat,lead_off.",
    ),
    click.option(
        "--max-rejected",
        default=0.05,
        show_default=True,
        type=click.FloatRange(0, 1),
        help="Share of rows that may be rejected.",
    ),
    click.option("--replace", is_flag=True, help="Build again where the store exists."),
)


def plan_options(command: Any) -> Any:
    """Give a command the options that decide what a store holds."""
    for option in reversed(_PLAN_OPTIONS):
        command = option(command)
    return command


def _names(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))


def _read_plan(manifest: Path, store: Path, options: dict[str, Any]) -> Any:
    """Read the manifest and the options into a plan; warnings go to stderr."""
    from ecgprep.building.plan import BuildSettings, Plan, default_registry
    from ecgprep.building.record import standing_registry
    from ecgprep.conform import Conformity
    from ecgprep.patients.manifest import read_manifest, read_patients
    from ecgprep.patients.registry import SplitPlan, parse_ratios

    target = Conformity(
        options["hz"], options["length"], options["min_seconds"], options["min_leads"]
    )
    by_column, fixed = options["split_by_column"], options["test_manifest"]
    split = SplitPlan(
        parse_ratios(options["split"]),
        options["split_seed"],
        options["allow_missing_class"],
        by_column,
        fixed is not None,
    )
    settings = BuildSettings(
        target,
        split,
        options["unlabelled"],
        options["label_level"],
        _names(options["exclude_quality"]),
        options["duplicates"],
    )
    rows = read_manifest(
        manifest, options["root"], _names(options["covariates"]), options["unlabelled"], by_column
    )
    tested = read_patients(fixed) if fixed else frozenset()
    unknown = len(tested - set(rows.patient_id))
    for warning in [
        *rows.warnings,
        *([f"{unknown:,} patients of {fixed.name} are not in the manifest"] if unknown else []),
    ]:
        click.echo(f"Warning: {warning}", err=True)
    registry = options["registry"] or standing_registry(store) or default_registry(manifest)
    return Plan(
        rows, store, settings, registry, options["max_rejected"], tested, options["replace"]
    )


@cli.command()
@click.argument("manifest", type=click.Path(path_type=Path))
@store_argument
@plan_options
@click.option(
    "--extend",
    is_flag=True,
    help="Add the rows that MANIFEST has beyond those of the store; what stands is not read again.",
)
@click.option(
    "--jobs",
    default=1,
    show_default=True,
    type=click.IntRange(1, 256),
    help="Processes; from 2 on a file that kills one costs its row only.",
)
@click.option(
    "--dask", metavar="SCHEDULER", help="Build on this Dask cluster: its address or scheduler file."
)
@json_option
def build(
    manifest: Path,
    store: Path,
    extend: bool,
    jobs: int,
    dask: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Build STORE from MANIFEST, a CSV file with the columns patient_id, path_xml and label.

    Every row of the manifest is a row of the store, with a status that says why when it is not usable. An unchanged store is left as
    it is; a build that was stopped goes on where it stood. Beside the store: STORE.rejects.csv (rows not used, by manifest line) and
    STORE.build.json, both private.

    Example: ecgprep build cohort.csv cohort.zarr --covariates age,sex --jobs 4
    """
    from ecgprep.building.record import stale_reason
    from ecgprep.building.run import build_store, recover
    from ecgprep.errors import TargetExists
    from ecgprep.store.reader import Store

    if extend and options["replace"]:
        raise click.UsageError(
            "--extend keeps what stands and --replace does not: use one of them."
        )
    plan = _read_plan(manifest, store, options)
    recover(store)
    unchanged = store.exists() and not options["replace"]
    stale = (
        stale_reason(store, plan.manifest, plan.settings, plan.registry_path, plan.test_patients)
        if unchanged
        else None
    )
    unchanged = unchanged and not stale
    if stale and not extend:
        hint = ", --extend if it only has new rows," if stale == "the manifest has changed" else ""
        raise TargetExists(
            f"{store} is stale: {stale}. Use --replace to build it again{hint} or another name."
        )
    if unchanged:
        click.echo(f"{store} is up to date; nothing to do.", err=True)
    else:
        with progress_bar("Reading") as progress:
            build_store(
                plan.manifest,
                store,
                plan.settings,
                registry_path=plan.registry_path,
                jobs=jobs,
                dask=dask,
                max_rejected=plan.max_rejected,
                replace=plan.replace,
                extend=extend,
                test_patients=plan.test_patients,
                progress=progress,
            )
    _report_build(Store(store), as_json, unchanged)


def _report_build(store: Any, as_json: bool, unchanged: bool) -> None:
    """Print what is in a store that has just been built, and what a user must know about it."""
    from ecgprep.patients.confounding import probe_confounding
    from ecgprep.store.record import private_path, read_build_record
    from ecgprep.store.summary import summarise

    summary = summarise(store)
    _print_summary(store.path, summary, as_json, {"unchanged": unchanged})
    if unchanged:
        return
    record = read_build_record(store.path) or {}
    for warning in [
        *record.get("warnings", []),
        probe_confounding(store, record.get("dialects")).warning,
    ]:
        if warning:
            click.echo(f"Warning: {warning}", err=True)
    if not as_json and summary["status"].get("ok", 0) < summary["rows"]:
        click.echo(
            f"Rows that are not used, by manifest line: {private_path(store.path, 'rejects.csv')} (private)"
        )


@cli.command()
@click.argument("manifest", type=click.Path(path_type=Path))
@store_argument
@plan_options
@json_option
def plan(manifest: Path, store: Path, as_json: bool, **options: Any) -> None:
    """Plan the build of STORE for several machines that share a file system: `plan` once, `part` anywhere, `finalise` once.

    Example: a job array of 100:

    \b
      ecgprep plan cohort.csv cohort.zarr --covariates age,sex
      ecgprep part cohort.zarr --part $SLURM_ARRAY_TASK_ID/100
      ecgprep finalise cohort.zarr
    """
    from ecgprep.building.run import plan_store

    made = _read_plan(manifest, store, options)
    n_parts = plan_store(made)
    if as_json:
        click.echo(json.dumps({"rows": len(made.manifest), "parts": n_parts}))
    else:
        click.echo(
            f"{len(made.manifest):,} rows in {n_parts:,} parts. Build them with `ecgprep part {store} --part i/n`, then `ecgprep finalise {store}`."
        )


def _parse_share(_: Any, __: Any, text: str) -> tuple[int, int]:
    """Parse `3/10`, the third of ten shares."""
    try:
        part, n = (int(number) for number in text.split("/"))
    except ValueError:
        part, n = 0, 0
    if not 1 <= part <= n:
        raise click.BadParameter("must be i/n with i from 1 to n, such as 3/10")
    return part, n


@cli.command()
@store_argument
@click.option(
    "--part",
    "part_of",
    required=True,
    metavar="i/n",
    callback=_parse_share,
    help="Build the i-th of n shares of the parts.",
)
@click.option(
    "--jobs",
    default=1,
    show_default=True,
    type=click.IntRange(1, 256),
    help="Processes; from 2 on a file that kills one costs its row only.",
)
@json_option
def part(store: Path, part_of: tuple[int, int], jobs: int, as_json: bool) -> None:
    """Build a share of the parts of a planned STORE; parts that are built already are left as they are.

    Example: ecgprep part cohort.zarr --part 3/100
    """
    from ecgprep.building.plan import read_plan, share
    from ecgprep.building.run import build_share

    made = read_plan(store)
    mine = share(made.parts(), *part_of)
    with progress_bar("Reading") as progress:
        n_built = build_share(made, mine, jobs, progress)
    if as_json:
        click.echo(json.dumps({"parts": len(mine), "built_now": n_built}))
    else:
        click.echo(f"{len(mine):,} parts are built, {n_built:,} of them now.")


@cli.command()
@store_argument
@json_option
def finalise(store: Path, as_json: bool) -> None:
    """Make STORE of its parts once all are built: find copies, assign splits, verify, publish.

    Example: ecgprep finalise cohort.zarr
    """
    from ecgprep.building.plan import read_plan
    from ecgprep.building.run import finalise_store

    _report_build(finalise_store(read_plan(store)), as_json, unchanged=False)


@cli.command()
@store_argument
@json_option
def inspect(store: Path, as_json: bool) -> None:
    """Show what is in STORE: rows by status, splits by patients and labels, leads, rates, size, content hash.

    Example: ecgprep inspect cohort.zarr
    """
    from ecgprep.store.reader import Store
    from ecgprep.store.summary import summarise

    _print_summary(store, summarise(Store(store)), as_json)


@cli.command()
@store_argument
@json_option
def verify(store: Path, as_json: bool) -> None:
    """Check STORE: shapes, sizes, content hash, every row's checksum, patient-disjoint splits. Exit code 4 if anything is wrong.

    Example: ecgprep verify cohort.zarr
    """
    from ecgprep.errors import StoreError
    from ecgprep.store.verify import check_store

    try:
        result = check_store(store)
    except StoreError as error:
        if as_json:
            click.echo(json.dumps({"intact": False, "faults": [str(error)], "bad_rows": []}))
        raise
    if as_json:
        click.echo(
            json.dumps(
                {"intact": not result.faults, "faults": result.faults, "bad_rows": result.bad_rows}
            )
        )
    if result.faults:
        raise StoreError(f"{store} is damaged: {'; '.join(result.faults)}. {result.advice}")
    if not as_json:
        click.echo(f"{store} is intact.")


@cli.command()
@store_argument
@output_option("HTML file to write.  [default: STORE.report.html]")
@overwrite_option
@click.option(
    "--ecgs",
    default=12,
    show_default=True,
    type=click.IntRange(0, 200),
    help="ECGs drawn at random; 0 draws none at all.",
)
@click.option(
    "--exact-counts", is_flag=True, help='Show counts below 10, which are "<10" otherwise.'
)
def report(
    store: Path, output: Path | None, overwrite: bool, ecgs: int, exact_counts: bool
) -> None:
    """Write the report of STORE: one HTML file that opens offline, with flow, splits, origins, quality, copies and ECGs.

    Example: ecgprep report cohort.zarr
    """
    from ecgprep.errors import EcgError
    from ecgprep.reports.html import MARK, write_report
    from ecgprep.store.reader import Store

    out = output or store.with_name(f"{store.name}.report.html")
    opened, target = Store(store), check_output(out, [MARK], overwrite=overwrite)
    try:
        write_report(opened, target, ecgs, exact_counts)
    except ImportError as error:
        raise EcgError("The report needs jinja2: pip install 'ecgprep-ecgfit[report]'.") from error
    click.echo(f"{out}: one file, opens offline. It shows ECGs: treat it as health data.")


@cli.command()
@store_argument
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--codec",
    default="zstd",
    show_default=True,
    type=click.Choice(["zstd"]),
    help="Compression of the waveforms.",
)
def pack(store: Path, out: Path, codec: str) -> None:
    """Write a packed copy of STORE to OUT, about a third of the size, for the archive or the road. Any Zarr v3 reader opens it.

    Example: ecgprep pack cohort.zarr cohort.packed.zarr
    """
    from ecgprep.store.archive import pack as pack_store

    with progress_bar("Packing") as progress:
        pack_store(store, out, codec, progress)
    click.echo(f"{out}: packed. `ecgprep unpack {out} NEW.zarr` restores the store to the byte.")


@cli.command()
@click.argument("packed", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
def unpack(packed: Path, out: Path) -> None:
    """Restore the store that was packed to OUT, to the byte; its content hash is checked.

    Example: ecgprep unpack cohort.packed.zarr cohort.zarr
    """
    from ecgprep.store.archive import unpack as unpack_store

    with progress_bar("Unpacking") as progress:
        restored = unpack_store(packed, out, progress)
    click.echo(f"{out}: restored and verified, content_sha256 {restored.content_sha256}.")


@cli.command()
@click.argument("folder", default=".", type=click.Path(path_type=Path))
@json_option
def doctor(folder: Path, as_json: bool) -> None:
    """Say what this machine has: versions of what matters, free space in FOLDER, limits, accelerator.

    Example: ecgprep doctor /data
    """
    from ecgprep.machine import examine

    found = examine(folder)
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    for name, value in found.items():
        click.echo(f"{name}: {value}")


@cli.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--plot",
    type=click.Path(path_type=Path),
    help="Draw the (one) recording as the store would hold it: out.png.",
)
@overwrite_option
@json_option
def read(files: tuple[Path, ...], plot: Path | None, overwrite: bool, as_json: bool) -> None:
    """Show what a reader sees in vendor FILES, what conforming would change, or why a file is refused (then the exit code is 3).

    Example: ecgprep read export/0001.xml --plot 0001.png
    """
    from ecgprep.conform import Conformity
    from ecgprep.errors import InputError
    from ecgprep.reports.preview import preview

    if plot and len(files) != 1:
        raise click.UsageError("--plot draws one recording: give one file.")
    if plot and plot.suffix.lower() not in (".png", ".pdf", ".svg"):
        raise click.UsageError("--plot must end in .png, .pdf or .svg.")
    picture = _picture(plot, files, overwrite) if plot else None
    target = Conformity()
    seen = [(path, *preview(path, target)) for path in files]
    if as_json:
        click.echo(
            json.dumps([{"file": str(path), **content} for path, content, _, _ in seen], indent=2)
        )
    for path, content, _, _ in () if as_json else seen:
        click.echo(f"{path}\n{_describe(content)}")
    row = seen[0][3]
    if picture and row is not None:
        _plot(picture, row, target.rate_hz)
    refused = sum("refused" in content for _, content, _, _ in seen)
    if refused:
        raise InputError(
            f"{refused} of {len(files)} file{'s were' if len(files) > 1 else ' was'} refused; the reasons stand above."
        )


def _describe(content: dict[str, Any]) -> str:
    """Put the content of a preview into words."""
    lines = []
    if "dialect" in content:
        leads = ", ".join(f"{name} {_span(entry)}" for name, entry in content["leads"].items())
        lines.append(
            f"  {content['dialect']}: {content['n_samples']:,} samples at {content['rate_hz']:g} Hz = {content['duration_s']:.3f} s"
        )
        lines.append(f"  leads in µV: {leads}")
    if "conform" in content:
        steps = {
            name: value
            for name, value in content["conform"].items()
            if value and name != "valid_span"
        }
        words = "; ".join(
            name.replace("_", " ") + ("" if value is True else f": {value}")
            for name, value in steps.items()
        )
        lines.append(f"  conform: {words or 'nothing to change'}")
    if "refused" in content:
        lines.append(
            f"  refused by the {content['refused']['by']}: {content['refused']['reason']}: {content['refused']['message']}"
        )
    return "\n".join(lines)


def _span(entry: dict[str, Any]) -> str:
    span = "none" if entry["min_uv"] is None else f"{entry['min_uv']:.0f}..{entry['max_uv']:.0f}"
    return span + (f" ({entry['n_missing']} missing)" if entry["n_missing"] else "")


def _picture(path: Path, files: Sequence[Path], overwrite: bool) -> Path:
    """Return where to draw. Raises InputError and TargetExists."""
    from ecgprep.drawing import MARK

    return check_output(path, [MARK.encode()], files, overwrite)


def _plot(path: Path, row: Any, rate_hz: float) -> None:
    from ecgprep.drawing import save_ecg
    from ecgprep.errors import EcgError

    try:
        save_ecg(path, row.waveform, row.lead_mask, rate_hz)
    except ImportError as error:
        raise EcgError("--plot needs matplotlib: pip install 'ecgprep-ecgfit[report]'.") from error


@cli.command()
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--patients", default=300, show_default=True, type=click.IntRange(1, 10_000_000))
@click.option("--seed", default=1, show_default=True, type=click.IntRange(0, 2**31 - 1))
@click.option(
    "--prevalence",
    default=0.25,
    show_default=True,
    type=click.FloatRange(0, 1),
    help="Share of positive patients.",
)
@click.option(
    "--dialects",
    default="",
    help="Vendors, in equal shares: all, or names such as philips,schiller.  [default: muse, aecg, cardiosoft]",
)
@click.option("--replace", is_flag=True, help="Write into OUT even if it holds a corpus.")
def synth(out: Path, dialects: str, **options: Any) -> None:
    """Write simulated ECGs of patients with and without cardiac dysfunction as vendor XML files, with OUT/manifest.csv.

    The signals come from a dipole model, the names and dates in the files are invented: for demonstrations and tests, never evidence.

    Example: ecgprep synth corpus --patients 300 --seed 1
    """
    from ecgprep.simulation.corpus import write_corpus
    from ecgprep.simulation.vendors import VENDORS

    names = (
        list(VENDORS)
        if dialects == "all"
        else [name.strip() for name in dialects.split(",") if name.strip()]
    )
    if unknown := [name for name in names if name not in VENDORS]:
        raise click.BadParameter(
            f"{', '.join(unknown)}: allowed are all, {', '.join(VENDORS)}", param_hint="--dialects"
        )
    with progress_bar("Writing") as progress:
        n_files, n_positive = write_corpus(out, progress=progress, dialects=names, **options)
    click.echo(
        f"{n_files:,} files of {options['patients']:,} patients ({n_positive:,} positive) in {out}; manifest: {out / 'manifest.csv'}"
    )


def _print_summary(
    store: Path, summary: dict[str, Any], as_json: bool, more: dict[str, Any] | None = None
) -> None:
    if as_json:
        click.echo(json.dumps({"store": str(store), **summary, **(more or {})}, indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    console = Console()
    table = Table(title=None)
    for heading in (
        "split",
        "asked",
        "patients",
        "share",
        "positive",
        "both",
        "records",
        "positive",
    ):
        table.add_column(heading, justify="left" if heading == "split" else "right")
    total = sum(split["patients"] for split in summary["splits"].values()) or 1
    for name, split in summary["splits"].items():
        patients, *others = split.values()
        achieved = f"{100 * patients / total:.1f} %"
        table.add_row(
            name,
            summary["asked"].get(name, ""),
            f"{patients:,}",
            achieved,
            *(f"{n:,}" for n in others),
        )
    statuses = ", ".join(f"{name} {n:,}" for name, n in summary["status"].items())
    rates = ", ".join(f"{rate} Hz: {n:,}" for rate, n in summary["source_rates_hz"].items())
    leads = ", ".join(f"{lead} {n:,}" for lead, n in summary["leads_present"].items())
    n_ok = summary["status"].get("ok", 0)
    click.echo(
        f"{store}: {summary['rows']:,} rows, {summary['n_samples']:,} samples at {summary['sample_rate_hz']:g} Hz, {summary['bytes'] / 1e6:,.0f} MB"
    )
    click.echo(f"status: {statuses}")
    console.print(table)
    click.echo(
        f"leads present: {leads}; all eight in {summary['records_with_all_leads']:,} of {n_ok:,}; padded: {summary['records_padded']:,}"
    )
    click.echo(f"source rates: {rates or 'none'}")
    click.echo(f"content_sha256: {summary['content_sha256']}")


if __name__ == "__main__":
    main()
