"""The command `ecgprep`: each command parses, calls one library function and prints. Progress to stderr, results to stdout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from ecgprep import __version__
from ecgprep.console import json_option, progress_bar, run_command

store_argument = click.argument("store", type=click.Path(path_type=Path))


def main() -> None:
    """Entry point of the console script."""
    run_command(cli)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="ecgprep")
def cli() -> None:
    """Turn vendor ECG XML files and a manifest into one de-identified Zarr store."""


@cli.command()
@click.argument("manifest", type=click.Path(path_type=Path))
@store_argument
@click.option("--root", type=click.Path(path_type=Path), help="Folder that paths are relative to.  [default: the manifest's folder]")
@click.option("--registry", type=click.Path(path_type=Path), help="Which patient is in which split.  [default: MANIFEST.registry.csv]")
@click.option("--hz", default=500, show_default=True, type=click.IntRange(50, 2000), help="Sampling rate of the store.")
@click.option("--length", default=5000, show_default=True, type=click.IntRange(100, 1_000_000), help="Samples per lead.")
@click.option("--min-seconds", default=5.0, show_default=True, type=click.FloatRange(0), help="Shorter recordings are `too_short`.")
@click.option("--min-leads", default=1, show_default=True, type=click.IntRange(1, 8), help="Fewer usable leads of 8 are `leads_missing`.")
@click.option("--split", default="70/15/15", show_default=True, help="Percent of patients in train/val/test.")
@click.option("--split-seed", default=42, show_default=True, type=click.IntRange(0, 2**31 - 1))
@click.option("--allow-missing-class", is_flag=True, help="Go on when a split has no positive or no negative patient.")
@click.option("--unlabelled", is_flag=True, help="Labels may be missing: a cohort to predict on, with --split 0/0/100.")
@click.option("--covariates", default="", help="Numeric manifest columns to keep, such as age,sex.")
@click.option("--jobs", default=1, show_default=True, type=click.IntRange(1, 256), help="Processes; the store is the same to the byte.")
@click.option("--max-rejected", default=0.05, show_default=True, type=click.FloatRange(0, 1), help="Share of rows that may be rejected.")
@click.option("--replace", is_flag=True, help="Build again where the store exists.")
@json_option
def build(manifest: Path, store: Path, **options: Any) -> None:
    """Build STORE from MANIFEST, a CSV file with the columns patient_id, path_xml and label.

    Every row of the manifest is a row of the store, with a status that says why when it is not usable. An unchanged store is left as
    it is. Beside it: STORE.rejects.csv (rows not used, by manifest line) and STORE.build.json, both private.

    Example: ecgprep build cohort.csv cohort.zarr --covariates age,sex --jobs 4
    """
    from ecgprep.build import BuildSettings, build_store, default_registry, private_path, stale_reason
    from ecgprep.conform import Conformity
    from ecgprep.errors import TargetExists
    from ecgprep.manifest import read_manifest
    from ecgprep.splits import SplitPlan, parse_ratios
    from ecgprep.store import Store
    from ecgprep.summary import summarise

    target = Conformity(options["hz"], options["length"], options["min_seconds"], options["min_leads"])
    plan = SplitPlan(parse_ratios(options["split"]), options["split_seed"], options["allow_missing_class"])
    settings = BuildSettings(target, plan, options["unlabelled"])
    covariates = [name.strip() for name in options["covariates"].split(",") if name.strip()]
    rows = read_manifest(manifest, options["root"], covariates, options["unlabelled"])
    for warning in rows.warnings:
        click.echo(f"Warning: {warning}", err=True)
    unchanged = store.exists() and not options["replace"]
    registry = options["registry"] or default_registry(manifest)
    if unchanged and (stale := stale_reason(store, rows, settings, registry)):
        raise TargetExists(f"{store} is stale: {stale}. Use --replace to build it again, or another name.")
    if unchanged:
        click.echo(f"{store} is up to date; nothing to do.", err=True)
    else:
        with progress_bar("Reading") as progress:
            build_store(
                rows,
                store,
                settings,
                registry_path=registry,
                jobs=options["jobs"],
                max_rejected=options["max_rejected"],
                replace=options["replace"],
                progress=progress,
            )
    _print_summary(store, summarise(Store(store)), options["as_json"], {"unchanged": unchanged})
    if not options["as_json"] and not unchanged:
        click.echo(f"Rows that are not used, by manifest line: {private_path(store, 'rejects.csv')} (private)")


@cli.command()
@store_argument
@json_option
def inspect(store: Path, as_json: bool) -> None:
    """Show what is in STORE: rows by status, splits by patients and labels, leads, rates, size, content hash.

    Example: ecgprep inspect cohort.zarr
    """
    from ecgprep.store import Store
    from ecgprep.summary import summarise

    _print_summary(store, summarise(Store(store)), as_json)


@cli.command()
@store_argument
@json_option
def verify(store: Path, as_json: bool) -> None:
    """Check STORE: shapes, sizes, content hash, every row's checksum, patient-disjoint splits. Exit code 4 if anything is wrong.

    Example: ecgprep verify cohort.zarr
    """
    from ecgprep.errors import StoreError
    from ecgprep.verify import check_store

    result = check_store(store)
    if as_json:
        click.echo(json.dumps({"intact": not result.faults, "faults": result.faults, "bad_rows": result.bad_rows}))
    if result.faults:
        raise StoreError(f"{store} is damaged: {'; '.join(result.faults)}. Restore it from a copy, or build it again.")
    if not as_json:
        click.echo(f"{store} is intact.")


@cli.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--plot", type=click.Path(path_type=Path), help="Draw the (one) recording as the store would hold it: out.png.")
@json_option
def read(files: tuple[Path, ...], plot: Path | None, as_json: bool) -> None:
    """Show what a reader sees in vendor FILES, what conforming would change, or why a file is refused (then the exit code is 3).

    Example: ecgprep read export/0001.xml --plot 0001.png
    """
    from ecgprep.conform import Conformity
    from ecgprep.errors import InputError
    from ecgprep.preview import preview

    if plot and len(files) != 1:
        raise click.UsageError("--plot draws one recording: give one file.")
    if plot and plot.suffix.lower() not in (".png", ".pdf", ".svg"):
        raise click.UsageError("--plot must end in .png, .pdf or .svg.")
    target = Conformity()
    seen = [(path, *preview(path, target)) for path in files]
    if as_json:
        click.echo(json.dumps([{"file": str(path), **content} for path, content, _, _ in seen], indent=2))
    for path, content, _, _ in () if as_json else seen:
        click.echo(f"{path}\n{_describe(content)}")
    row = seen[0][3]
    if plot and row is not None:
        _plot(plot, row, target.rate_hz)
    refused = sum("refused" in content for _, content, _, _ in seen)
    if refused:
        raise InputError(f"{refused} of {len(files)} file{'s were' if len(files) > 1 else ' was'} refused; the reasons stand above.")


def _describe(content: dict[str, Any]) -> str:
    """Put the content of a preview into words."""
    lines = []
    if "dialect" in content:
        leads = ", ".join(f"{name} {_span(entry)}" for name, entry in content["leads"].items())
        lines.append(f"  {content['dialect']}: {content['n_samples']:,} samples at {content['rate_hz']:g} Hz = {content['duration_s']:.3f} s")
        lines.append(f"  leads in µV: {leads}")
    if "conform" in content:
        steps = {name: value for name, value in content["conform"].items() if value and name != "valid_span"}
        words = "; ".join(name.replace("_", " ") + ("" if value is True else f": {value}") for name, value in steps.items())
        lines.append(f"  conform: {words or 'nothing to change'}")
    if "refused" in content:
        lines.append(f"  refused by the {content['refused']['by']}: {content['refused']['reason']}: {content['refused']['message']}")
    return "\n".join(lines)


def _span(entry: dict[str, Any]) -> str:
    span = "none" if entry["min_uv"] is None else f"{entry['min_uv']:.0f}..{entry['max_uv']:.0f}"
    return span + (f" ({entry['n_missing']} missing)" if entry["n_missing"] else "")


def _plot(path: Path, row: Any, rate_hz: float) -> None:
    from ecgprep.errors import EcgError

    try:
        from ecgprep.plot import save_ecg

        save_ecg(path, row.waveform, row.lead_mask, rate_hz)
    except ImportError as error:
        raise EcgError("--plot needs matplotlib: pip install 'ecgprep-ecgfit[report]'.") from error


@cli.command()
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--patients", default=300, show_default=True, type=click.IntRange(1, 10_000_000))
@click.option("--seed", default=1, show_default=True, type=click.IntRange(0, 2**31 - 1))
@click.option("--prevalence", default=0.25, show_default=True, type=click.FloatRange(0, 1), help="Share of positive patients.")
@click.option("--dialects", default="", help="Vendors, in equal shares: all, or names such as philips,schiller.  [default: muse, aecg, cardiosoft]")
@click.option("--replace", is_flag=True, help="Write into OUT even if it holds a corpus.")
def synth(out: Path, dialects: str, **options: Any) -> None:
    """Write simulated ECGs of patients with and without cardiac dysfunction as vendor XML files, with OUT/manifest.csv.

    The signals come from a dipole model, the names and dates in the files are invented: for demonstrations and tests, never evidence.

    Example: ecgprep synth corpus --patients 300 --seed 1
    """
    from ecgprep.synth import write_corpus
    from ecgprep.synth.vendors import VENDORS

    names = list(VENDORS) if dialects == "all" else [name.strip() for name in dialects.split(",") if name.strip()]
    if unknown := [name for name in names if name not in VENDORS]:
        raise click.BadParameter(f"{', '.join(unknown)}: allowed are all, {', '.join(VENDORS)}", param_hint="--dialects")
    with progress_bar("Writing") as progress:
        n_files, n_positive = write_corpus(out, progress=progress, dialects=names, **options)
    click.echo(f"{n_files:,} files of {options['patients']:,} patients ({n_positive:,} positive) in {out}; manifest: {out / 'manifest.csv'}")


def _print_summary(store: Path, summary: dict[str, Any], as_json: bool, more: dict[str, Any] | None = None) -> None:
    if as_json:
        click.echo(json.dumps({"store": str(store), **summary, **(more or {})}, indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    console = Console()
    table = Table(title=None)
    for heading in ("split", "patients", "positive", "both labels", "recordings", "positive recordings"):
        table.add_column(heading, justify="left" if heading == "split" else "right")
    for name, split in summary["splits"].items():
        table.add_row(name, *(f"{split[key]:,}" for key in split))
    statuses = ", ".join(f"{name} {n:,}" for name, n in summary["status"].items())
    rates = ", ".join(f"{rate} Hz: {n:,}" for rate, n in summary["source_rates_hz"].items())
    leads = ", ".join(f"{lead} {n:,}" for lead, n in summary["leads_present"].items())
    n_ok = summary["status"].get("ok", 0)
    click.echo(
        f"{store}: {summary['rows']:,} rows, {summary['n_samples']:,} samples at {summary['sample_rate_hz']:g} Hz, {summary['bytes'] / 1e6:,.0f} MB"
    )
    click.echo(f"status: {statuses}")
    console.print(table)
    click.echo(f"leads present: {leads}; all eight in {summary['records_with_all_leads']:,} of {n_ok:,}; padded: {summary['records_padded']:,}")
    click.echo(f"source rates: {rates or 'none'}")
    click.echo(f"content_sha256: {summary['content_sha256']}")


if __name__ == "__main__":
    main()
