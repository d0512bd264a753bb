"""The command `ecgprep`: each command parses, calls one function of the API, and prints.

Progress and notes go to stderr, results to stdout.
"""

from __future__ import annotations

import json
import shlex
import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ecgprep import __version__, api
from ecgprep.console import (
    Group,
    api_option,
    api_options,
    json_option,
    output_option,
    overwrite_option,
    progress_bar,
    run_command,
    verbosity_options,
)
from ecgprep.files.output import STDOUT

if TYPE_CHECKING:
    from ecgprep.reports.preview import FilePreview, HeaderPreview, LeadRange
    from ecgprep.store.reader import Store
    from ecgprep.store.summary import StoreSummary
    from ecgprep.study.sample_size import Criterion, SampleSize

manifest_argument = click.argument("manifest", type=click.Path(path_type=Path))
store_argument = click.argument("store", type=click.Path(path_type=Path))
plan_options = api_options(api.build, *api.PLAN_OPTIONS)


def main() -> None:
    """Run the console script."""
    run_command(cli)


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="ecgprep")
def cli() -> None:
    """Turn vendor ECG XML files and a manifest into one de-identified store."""


@cli.command()
@click.argument("exports", nargs=-1, required=True, type=click.Path(path_type=Path))
@output_option("CSV file to write.", required=True)
@overwrite_option
@api_options(api.index, "root", "glob", "follow_symlinks", "jobs")
@json_option
@verbosity_options
def index(
    exports: tuple[Path, ...], output: Path, overwrite: bool, as_json: bool, **options: Any
) -> None:
    """List the vendor files below EXPORTS in one private table.

    EXPORTS are folders or files. The table has a line a file: patient id, time of
    acquisition, age, sex, the cart's own measurements, and the status that a build
    would give. Add a column `label`, and it is a manifest.

    A run that was stopped continues where it was, and a later one reads only what
    is new or has changed: that is kept in OUTPUT.known, which is private, too. The
    exit code is 3 if no file can be used or a folder cannot be read.

    Example: ecgprep index export -o ecg.csv --jobs 4
    """
    from ecgprep.indexing.summary import check_index, describe_index

    with progress_bar("Reading") as progress:
        summary = api.write_index(
            exports, output, overwrite=overwrite, progress=progress, **options
        )
    if as_json:
        click.echo(json.dumps({"table": str(output), **summary}, indent=2))
    else:
        click.echo(describe_index(output, summary))
    check_index(summary)


@cli.command()
@manifest_argument
@store_argument
@plan_options
@api_options(api.build, "extend", "jobs", "dask")
@json_option
@verbosity_options
def build(manifest: Path, store: Path, as_json: bool, **options: Any) -> None:
    """Build STORE from MANIFEST and the vendor files that it lists.

    MANIFEST is a CSV file with the columns patient_id, path_xml and label. Each of
    its rows is a row of the store, with a status that says why if it is not usable.

    A store that is up to date is left as it is; a build that was stopped continues
    where it was. Beside the store lie STORE.rejects.csv (rows not used, by manifest
    line) and STORE.build.json, both private.

    Example: ecgprep build cohort.csv cohort.zarr --covariates age,sex --jobs 4
    """
    if options["extend"] and options["replace"]:
        raise click.UsageError(api.EXTEND_OR_REPLACE)
    before = _identity(store)
    with progress_bar("Reading") as progress:
        built = api.build(manifest, store, progress=progress, **options)
    _print_build(built, as_json, unchanged=_identity(store) == before)


def _identity(store: Path) -> tuple[int, int] | None:
    """Tell one store of a name from the next: each is published with metadata of its own."""
    try:
        status = (store / "zarr.json").stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns


def _print_build(store: Store, as_json: bool, unchanged: bool) -> None:
    """Print what is in a store after a build, and where the rejected rows are listed."""
    from ecgprep.store.record import private_path

    summary = api.inspect(store)
    _print_summary(store.path, summary, as_json, {"unchanged": unchanged})
    if unchanged or as_json or summary["status"].get("ok", 0) == summary["rows"]:
        return
    rejects = private_path(store.path, "rejects.csv")
    click.echo(f"Rows that are not used, by manifest line: {rejects} (private)")


@cli.command()
@store_argument
@click.argument("new", type=click.Path(path_type=Path))
@api_options(api.derive, *api.DERIVE_OPTIONS)
@json_option
@verbosity_options
def derive(store: Path, new: Path, as_json: bool, **options: Any) -> None:
    """Make NEW from rows of STORE; no vendor file is read.

    NEW has other labels, covariates or splits, or fewer rows: those of the manifest.
    Its rows are found by patient and path in STORE.build.json, which lies beside the
    store. All that is not given is as STORE was built.

    Example: ecgprep derive cohort.zarr mace.zarr --manifest cohort.csv --label-column mace
    """
    with progress_bar("Taking") as progress:
        derived = api.derive(store, new, progress=progress, **options)
    _print_build(derived, as_json, unchanged=False)


@cli.command()
@click.argument("stores", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@api_options(api.merge, "sites", "duplicates")
@json_option
@verbosity_options
def merge(stores: tuple[Path, ...], out: Path, as_json: bool, **options: Any) -> None:
    """Make one store OUT of STORES of the same rate and length.

    Neither files nor private records are needed. Patients of different stores stay
    different, splits stand, and a recording that is in two stores is a conflict. The
    covariate `site` numbers the stores from 0.

    Example: ecgprep merge north.zarr south.zarr both.zarr --sites north,south
    """
    with progress_bar("Taking") as progress:
        merged = api.merge(stores, out, progress=progress, **options)
    _print_summary(merged.path, api.inspect(merged), as_json)


_JOB_ARRAY = """\b
Example: a job array of 100
  ecgprep plan cohort.csv cohort.zarr --covariates age,sex
  ecgprep part cohort.zarr --part $SLURM_ARRAY_TASK_ID/100
  ecgprep finalise cohort.zarr
"""


@cli.command(epilog=_JOB_ARRAY)
@manifest_argument
@store_argument
@plan_options
@json_option
@verbosity_options
def plan(manifest: Path, store: Path, as_json: bool, **options: Any) -> None:
    """Plan the build of STORE for several machines.

    They must share a file system. Run `plan` once, then `part` anywhere, then `finalise` once.
    """
    planned = api.plan(manifest, store, **options)
    n_rows, n_parts = len(planned.manifest), len(planned.parts())
    if as_json:
        click.echo(json.dumps({"rows": n_rows, "parts": n_parts}))
        return
    click.echo(
        f"{n_rows:,} rows in {n_parts:,} parts. Build them with `ecgprep part {store} --part i/n`, "
        f"then run `ecgprep finalise {store}`."
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
    "share",
    required=True,
    metavar="i/n",
    callback=_parse_share,
    help="Build the i-th of n shares of the parts.",
)
@api_option(api.build_part, "jobs")
@json_option
@verbosity_options
def part(store: Path, share: tuple[int, int], jobs: int, as_json: bool) -> None:
    """Build a share of the parts of a planned STORE.

    Parts that are built already are left as they are.

    Example: ecgprep part cohort.zarr --part 3/100
    """
    with progress_bar("Reading") as progress:
        built = api.build_part(store, *share, jobs=jobs, progress=progress)
    if as_json:
        click.echo(json.dumps({"parts": built.parts, "built_now": built.built_now}))
    else:
        click.echo(f"{built.parts:,} parts are built, {built.built_now:,} of them now.")


@cli.command()
@store_argument
@json_option
@verbosity_options
def finalise(store: Path, as_json: bool) -> None:
    """Make a planned STORE of its parts, once all are built.

    Finds duplicates, assigns splits, verifies and publishes.

    Example: ecgprep finalise cohort.zarr
    """
    _print_build(api.finalise(store), as_json, unchanged=False)


def _print_example(ctx: click.Context, _: click.Parameter, kind: str | None) -> None:
    if kind is not None:
        from ecgprep.cohorts.task import EXAMPLES

        click.echo(EXAMPLES[kind].read_text(), nl=False)
        ctx.exit()


def _print_definitions(ctx: click.Context, _: click.Parameter, is_given: bool) -> None:
    if is_given:
        from ecgprep.cohorts.definitions import describe_definitions

        click.echo(describe_definitions())
        ctx.exit()


@cli.command()
@click.argument("task", type=click.Path(path_type=Path))
@api_options(api.cohort, "ecg", "echo", "therapy", "followup", "labs", "patients")
@output_option("CSV file to write, such as cohort.csv; the other files are named after it.")
@api_options(api.cohort, "keep_dates", "exact_counts")
@click.option(
    "--example",
    type=click.Choice(["ctrcd", "echo_pairs"]),
    is_flag=False,
    flag_value="ctrcd",  # without a kind
    is_eager=True,
    expose_value=False,
    callback=_print_example,
    help="Print a task with every default, to begin with; ctrcd unless you name the other kind.",
)
@click.option(
    "--definitions",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_definitions,
    help="Print the built-in definitions of an event.",
)
@overwrite_option
@json_option
@verbosity_options
def cohort(task: Path, output: Path | None, as_json: bool, **options: Any) -> None:
    """Turn tables of therapy and echo into a manifest.

    TASK is a YAML file that says when the clock starts, which ECG counts, and what
    fall of LVEF is an event. `--example > task.yaml` prints one to change, with a
    place for the names that your tables give their columns. Tables are CSV or
    Parquet files.

    `-o cohort.csv` also writes cohort.status.csv, the status of every patient,
    cohort.task.yaml, the task with every default, which `ecgprep build` notes in
    the store, and cohort.report.html, which opens offline. All are private.

    Example: ecgprep cohort task.yaml --ecg ecg.csv --echo echo.csv --therapy t.csv -o cohort.csv
    """
    if output is None:
        raise click.UsageError("Missing option '-o': the CSV file to write, such as cohort.csv.")
    rows = api.cohort(task, out=output, **options)
    from ecgprep.patients.private_csv import counted

    n_positive = int((rows["label"] == 1).sum())
    counts = rows.attrs["counts"]
    if as_json:
        found = {"rows": len(rows), "positive": n_positive, "patients": counts}
        click.echo(json.dumps({"manifest": str(output), **found}, indent=2))
        return
    ecgs, patients = counted(len(rows), "ECG"), counted(rows["patient_id"].nunique(), "patient")
    click.echo(f"{output}: {ecgs} of {patients}, {n_positive:,} positive")
    click.echo(f"patients by status: {_counts(counts)}")
    click.echo(f"who is what: {output.with_suffix('.status.csv')} (private, as all of this)")
    report = output.with_suffix(".report.html")
    if report.exists():  # it needs jinja2
        click.echo(f"next: open {report}, then run")
    else:
        click.echo("next:")
    build_it = ["ecgprep", "build", str(output), str(output.with_suffix(".zarr"))]
    root = _root_for_build(options["ecg"], output, rows["path_xml"])
    click.echo(f"  {shlex.join([*build_it, *root])}")


def _root_for_build(ecg: Path, output: Path, paths: Any) -> list[str]:
    """Return the option that a build needs where the ECG table lies in another folder."""
    is_elsewhere = ecg.resolve().parent != output.resolve().parent
    is_relative = any(not Path(path).is_absolute() for path in paths)
    return ["--root", str(ecg.parent)] if is_elsewhere and is_relative else []


@cli.command()
@store_argument
@json_option
def inspect(store: Path, as_json: bool) -> None:
    """Show what is in STORE.

    That is: rows by status, patients and labels by split, leads, quality flags,
    rates, size, and the content hash.

    Example: ecgprep inspect cohort.zarr
    """
    _print_summary(store, api.inspect(store), as_json)


@cli.command()
@store_argument
@api_option(api.verify, "same_as")
@json_option
@verbosity_options
def verify(store: Path, same_as: Path | None, as_json: bool) -> None:
    """Check that STORE is intact; the exit code is 4 if it is not.

    Checked are shapes, sizes, the content hash, the checksum of every row, and that
    no patient is in two splits. With --same-as the store must also hold the same as
    another one, whichever versions of the packages built the two.

    Example: ecgprep verify cohort.zarr
    """
    from ecgprep.errors import StoreError

    try:
        result = api.verify(store, same_as=same_as)
    except StoreError as error:
        if as_json:
            _print_verification([str(error)], [])
        raise
    if as_json:
        _print_verification(result.faults, result.bad_rows, result.differs_in)
    if not result.intact:
        raise StoreError(f"{store} is damaged: {'; '.join(result.faults)}. {result.advice}")
    if result.differs_in:
        raise StoreError(
            f"{store} is intact, but differs from {same_as} in {', '.join(result.differs_in)}."
        )
    if not as_json:
        same = f", and the same as {same_as}" if same_as else ""
        click.echo(f"{store} is intact{same}.")


def _print_verification(faults: Any, bad_rows: Any, differs_in: Any = ()) -> None:
    result = {"intact": not faults, "faults": list(faults), "bad_rows": list(bad_rows)}
    if differs_in:
        result["differs_in"] = list(differs_in)
    click.echo(json.dumps(result))


@cli.command()
@store_argument
@output_option("HTML file to write. Without it, STORE.report.html.")
@overwrite_option
@api_options(api.report, "ecgs", "exact_counts", "ids")
@verbosity_options
def report(store: Path, output: Path | None, **options: Any) -> None:
    """Write the report of STORE: one HTML file that opens offline.

    It shows the flow of rows, splits, origins, quality, duplicates and ECGs.

    Example: ecgprep report cohort.zarr
    """
    written = api.report(store, output, **options)
    click.echo(f"{written}: one file, opens offline. It shows ECGs: treat it as health data.")


@cli.command()
@store_argument
@output_option("CSV file to write (readable by you only).  [default: standard output]")
@overwrite_option
@verbosity_options
def rows(store: Path, output: Path | None, overwrite: bool) -> None:
    """Say whose each row of STORE is, in one private table.

    It has a line a row: row, patient_id, path_xml, line of the manifest, status and
    split. It is taken from STORE.build.json, which lies beside the store.

    Example: ecgprep rows cohort.zarr -o rows.csv
    """
    target = None if output == STDOUT else output
    data = api.write_rows(store, target, overwrite=overwrite)
    if target is None:
        click.echo(data.decode(), nl=False)
        return
    n_rows = len(api.open_store(store))
    click.echo(f"{target}: {n_rows:,} rows. The table identifies patients: keep it private.")


@cli.command()
@store_argument
@click.option("--row", type=click.IntRange(0), required=True, help="Row of the store, from 0.")
@output_option("File to draw to: .png, .pdf or .svg. Without it, STORE.rowROW.png.")
@overwrite_option
@verbosity_options
def plot(store: Path, row: int, output: Path | None, overwrite: bool) -> None:
    """Draw a row of STORE on ECG paper.

    Example: ecgprep plot cohort.zarr --row 17 -o row17.png
    """
    written = api.plot(store, row, output, overwrite=overwrite)
    click.echo(f"{written}: row {row}. It shows an ECG: treat it as health data.")


@cli.command()
@store_argument
@click.argument("out", type=click.Path(path_type=Path))
@api_option(api.pack, "codec")
@verbosity_options
def pack(store: Path, out: Path, codec: str) -> None:
    """Write a packed copy of STORE to OUT, to archive or transfer.

    It has about a third of the size, and any Zarr v3 reader opens it.

    Example: ecgprep pack cohort.zarr cohort.packed.zarr
    """
    with progress_bar("Packing") as progress:
        api.pack(store, out, codec=codec, progress=progress)
    click.echo(f"{out}: packed. `ecgprep unpack {out} NEW.zarr` restores the store to the byte.")


@cli.command()
@click.argument("packed", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@verbosity_options
def unpack(packed: Path, out: Path) -> None:
    """Restore the store PACKED to OUT, to the byte.

    The content hash of the restored store is checked.

    Example: ecgprep unpack cohort.packed.zarr cohort.zarr
    """
    with progress_bar("Unpacking") as progress:
        restored = api.unpack(packed, out, progress=progress)
    click.echo(f"{out}: restored and verified, content_sha256 {restored.content_sha256}.")


@cli.command()
@click.argument("folder", default=".", type=click.Path(path_type=Path))
@json_option
def doctor(folder: Path, as_json: bool) -> None:
    """Say what this machine has.

    That is: versions of what matters, free space in FOLDER, limits, accelerator.

    Example: ecgprep doctor /data
    """
    found = api.describe_machine(folder)
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
    help="Draw the recording, if it is only one, as the store would hold it: out.png.",
)
@overwrite_option
@json_option
def read(files: tuple[Path, ...], plot: Path | None, overwrite: bool, as_json: bool) -> None:
    """Show what a reader sees in vendor FILES.

    It also shows what a build would change, and what the header says, but for the patient's id and
    the time: of those only whether they are there. If a file is refused, it says why, and the exit
    code is 3.

    Example: ecgprep read export/0001.xml --plot 0001.png
    """
    from ecgprep.errors import InputError

    if plot and len(files) != 1:
        raise click.UsageError("--plot draws one recording: give one file.")
    if plot and plot.suffix.lower() not in api.PICTURES:
        raise click.UsageError("--plot must end in .png, .pdf or .svg.")
    seen = [api.preview(path, plot=plot, overwrite=overwrite) for path in files]
    if as_json:
        named = [{"file": str(path), **content} for path, content in zip(files, seen, strict=True)]
        click.echo(json.dumps(named, indent=2))
    else:
        for path, content in zip(files, seen, strict=True):
            click.echo(f"{path}\n{_describe(content)}")
        if plot and "refused" not in seen[0]:
            click.echo(f"  picture: {plot}")
    n_refused = sum("refused" in content for content in seen)
    if n_refused:
        were = "file was" if len(files) == 1 else "files were"
        raise InputError(f"{n_refused} of {len(files)} {were} refused, for the reasons above.")


def _describe(content: FilePreview) -> str:
    """Put the content of a preview into words."""
    lines = []
    if "header" in content:
        lines.append(_wrapped(f"  header: {_header(content['header'])}"))
    if "dialect" in content:
        ranges = [f"{name} {_range(lead)}" for name, lead in content["leads"].items()]
        lines.append(
            f"  {content['dialect']}: {content['n_samples']:,} samples at "
            f"{content['rate_hz']:g} Hz = {content['duration_s']:.3f} s"
        )
        lines.append(_wrapped(f"  leads in µV: {', '.join(ranges)}"))
    remarks = {
        "electrode off": content.get("lead_off"),
        "baseline sway": content.get("baseline_sway"),
        "unknown leads": content.get("unknown_leads"),
        "notes": content.get("notes"),
    }
    lines += [_wrapped(f"  {what}: {', '.join(said)}") for what, said in remarks.items() if said]
    if "conform" in content:
        steps = content["conform"].items()
        taken = [_step(name, value) for name, value in steps if value and name != "valid_span"]
        lines.append(f"  conform: {'; '.join(taken) or 'nothing to change'}")
    if "quality" in content:
        lines.append(_wrapped(f"  quality: {'; '.join(content['quality'])}"))
    if "refused" in content:
        refused = content["refused"]
        lines.append(f"  refused by the {refused['by']}: {refused['reason']}: {refused['message']}")
    return "\n".join(lines)


def _wrapped(text: str) -> str:
    return textwrap.fill(text, width=80, subsequent_indent="    ", break_on_hyphens=False)


def _header(header: HeaderPreview) -> str:
    """Describe a header: `has patient id and time, age_years=60, sex=F, heart_rate_bpm=72`."""
    identity = {"patient id": header["has_patient_id"], "time": header["has_acquired_at"]}
    present = " and ".join(name for name, is_there in identity.items() if is_there)
    values = {"age_years": header["age_years"], **header["measurements"]}
    known = [f"{name}={value:g}" for name, value in values.items() if value is not None]
    if header["sex"]:
        known.append(f"sex={header['sex']}")
    return ", ".join([f"has {present}" if present else "has no patient id or time", *known])


def _range(lead: LeadRange) -> str:
    """Describe one lead: `-312..1040 (3 missing)`."""
    low, high, n_missing = lead["min_uv"], lead["max_uv"], lead["n_missing"]
    text = "none" if low is None else f"{low:.0f}..{high:.0f}"
    return f"{text} ({n_missing} missing)" if n_missing else text


def _step(name: str, value: Any) -> str:
    """Describe one step of conforming: `padded samples: 1000`."""
    words = name.replace("_", " ")
    return words if value is True else f"{words}: {value}"


@cli.command()
@click.argument("out", type=click.Path(path_type=Path))
@api_options(api.simulate, "patients", "seed", "prevalence", "dialects", "hospital", "replace")
@verbosity_options
def synth(out: Path, patients: int, **options: Any) -> None:
    """Write simulated vendor XML files: a corpus, or a hospital.

    The patients have, or have not, a cardiac dysfunction. The signals come from a
    dipole model, and the names and dates in the files are invented. They serve
    demonstrations and tests and are no evidence of anything.

    A corpus has OUT/manifest.csv, and OUT/headers.csv, which says what stands in
    each file beside the waveform.

    --hospital writes OUT/exports, tables of therapy, echo, labs, follow-up and
    patients, OUT/task.yaml for `ecgprep cohort`, and OUT/truth.csv: the status of
    every patient under every built-in definition, from what was drawn.

    Example: ecgprep synth corpus --patients 300 --seed 1
    """
    with progress_bar("Writing") as progress:
        corpus = api.simulate(out, patients=patients, progress=progress, **options)
    next_file = f"manifest: {corpus.manifest}" if corpus.manifest else f"task: {out / 'task.yaml'}"
    click.echo(
        f"{corpus.n_files:,} files of {patients:,} patients ({corpus.n_positive:,} positive) "
        f"in {out}; {next_file}"
    )
    if not corpus.manifest:
        listing = ["ecgprep", "index", str(out / "exports"), "-o", str(out / "ecg.csv")]
        click.echo(f"next: {shlex.join(listing)}")


@cli.command()
@api_options(api.sample_size, "prevalence", "auroc", "parameters", "patients", "risk_threshold")
@json_option
def sample_size(as_json: bool, **options: Any) -> None:
    """Say how many patients a study needs.

    That is: to develop a model, and to validate it in other patients, by the
    criteria of Riley et al. (BMJ 2020;368:m441 and Stat Med 2021;40:4230). The
    parameters are those of a regression; a network has no such number.

    Example: ecgprep sample-size --prevalence 0.087 --auroc 0.78 --parameters 10
    """
    size = api.sample_size(**options)
    if as_json:
        click.echo(json.dumps(size.as_dict(), indent=2))
        return
    _print_sample_size(size)


def _print_sample_size(size: SampleSize) -> None:
    """Print the two tables of a sample size, and what they rest on."""
    from ecgprep.study.sample_size import REGRESSION

    click.echo(
        f"AUROC {size.auroc:g} at prevalence {size.prevalence:g}: R² {size.cox_snell_r2:.3f} "
        f"(Cox-Snell, at most {size.largest_cox_snell_r2:.3f}), "
        f"{size.nagelkerke_r2:.3f} (Nagelkerke)."
    )
    _print_criteria("development", size.development, size.patients)
    click.echo(
        f"To develop a model with {size.parameters:,} parameters: "
        f"{size.development_patients:,} patients, "
        f"{size.events_per_parameter:.1f} events per parameter."
    )
    if size.patients is not None:
        click.echo(f"{size.patients:,} patients allow {size.most_parameters:,} parameters.")
    _print_criteria("95 % interval of", size.validation, size.patients)
    click.echo(f"To validate it in other patients: {size.validation_patients:,} patients.")
    click.echo(textwrap.fill(REGRESSION, width=80))


def _print_criteria(title: str, criteria: Iterable[Criterion], patients: int | None) -> None:
    """Print one line for each criterion, with what `patients` reach where they are given."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    headings = [title, "target", "patients", "events"]
    if patients is not None:
        headings.append(f"with {patients:,}")
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    for heading in headings:
        table.add_column(heading, justify="left" if heading == title else "right")
    for row in criteria:
        cells = [row.name, f"{row.target:g}", f"{row.patients:,}", f"{row.events:,}"]
        if row.reached is not None:
            cells.append(f"{row.reached:.3f}")
        table.add_row(*cells)
    Console().print(table)


def _print_summary(
    store: Path, summary: StoreSummary, as_json: bool, more: dict[str, Any] | None = None
) -> None:
    """Print what is in a store."""
    if as_json:
        click.echo(json.dumps({"store": str(store), **summary, **(more or {})}, indent=2))
        return
    size = f"{summary['bytes'] / 1e6:,.0f} MB"
    rate = f"{summary['sample_rate_hz']:g} Hz"
    n_ok = summary["status"].get("ok", 0)
    rates = _counts({f"{rate} Hz:": n for rate, n in summary["source_rates_hz"].items()})
    click.echo(
        f"{store}: {summary['rows']:,} rows, {summary['n_samples']:,} samples at {rate}, {size}"
    )
    click.echo(f"status: {_counts(summary['status'])}")
    _print_splits(summary)
    click.echo(f"leads present: {_counts(summary['leads_present'])}")
    click.echo(
        f"all eight leads in {summary['records_with_all_leads']:,} of {n_ok:,}; "
        f"padded: {summary['records_padded']:,}"
    )
    flags = {name: n for name, n in summary["quality_flags"].items() if n}
    click.echo(f"quality flags, in rows: {_counts(flags) or 'none'}")
    click.echo(f"source rates: {rates or 'none'}")
    codes, allowed = (summary["settings"].get(key) for key in ("sex_code", "allow_covariate"))
    if codes:
        click.echo(f"sex code: {', '.join(f'{name} {code}' for name, code in codes.items())}")
    if allowed:
        click.echo(f"covariates allowed by name (--allow-covariate): {', '.join(allowed)}")
    click.echo(f"content_sha256: {summary['content_sha256']}")


def _counts(counts: dict[str, int]) -> str:
    """List counts by name: `ok 1,204, flat 3`."""
    return ", ".join(f"{name} {n:,}" for name, n in counts.items())


_COLUMNS = (
    "split",
    "asked",
    "patients",
    "share",
    "positive\npatients",
    "both\nlabels",
    "records",
    "positive\nrecords",
)


def _print_splits(summary: StoreSummary) -> None:
    """Print a table of the splits: 80 columns hold it."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    for heading in _COLUMNS:
        table.add_column(heading, justify="left" if heading == "split" else "right")
    total = sum(split["patients"] for split in summary["splits"].values()) or 1
    for name, split in summary["splits"].items():
        asked, share = summary["asked"].get(name, ""), 100 * split["patients"] / total
        counts = [f"{n:,}" for key, n in split.items() if key != "patients"]
        table.add_row(name, asked, f"{split['patients']:,}", f"{share:.1f} %", *counts)
    Console().print(table)


if __name__ == "__main__":
    main()
