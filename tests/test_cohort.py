"""`ecgprep cohort`: what it writes, what it refuses, and how a store comes to know its task."""

from __future__ import annotations

import contextlib
import errno
import json
import random
import shutil
import stat
from datetime import date
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
import zarr
from helpers import command, files_of, write_recordings

import ecgprep
from ecgprep.building.ensure import EnsuredStore, ensure_store
from ecgprep.building.plan import BuildSettings
from ecgprep.cohorts.fields import moment_reader
from ecgprep.cohorts.run import make_cohort
from ecgprep.cohorts.task import EXAMPLES, CtrcdTask, EchoPairsTask, make_task, read_task
from ecgprep.conform import Conformity
from ecgprep.errors import InputError, NoSpace, StoreError, TargetExists
from ecgprep.patients.registry import SplitPlan
from ecgprep.store.reader import Store

TABLES = {
    "ecg": """\
patient_id,path_xml,acquired_at,age_years,sex,status,qrs_ms
0001,a/1.xml,2019-12-01T10:00:00,54,F,ok,90
0001,a/1b.xml,2019-12-20,54,F,ok,92.5
0001,a/1c.xml,2019-12-24,54,F,flat,
0001,a/1d.xml,2020-03-01,54,F,ok,99
0001,a/1e.xml,,54,F,ok,99
0002,a/2.xml,2020-01-01T23:59:59.5+01:00,93,,ok,
0003,a/3.xml,2020-01-01,61,M,ok,
0004,a/4.xml,2020-01-01,61,M,not_xml,
0009,a/9.xml,2020-01-01,61,M,ok,
""",
    "echo": """\
patient_id,date,lvef
0001,2020-01-01,60
0001,2020-01-01,62
0001,2020-06-01,48
0001,2020-07-01,60
0002,2020-01-10,55
0002,2021-06-01,54
0003,2020-01-01,56
0004,2020-01-01,56
""",
    "therapy": """\
patient_id,date,drug,dose_mg_m2
0001,2020-01-01,Doxorubicin HCl,60
0001,2020-02-01,EPIRUBICIN,100
0002,2020-01-02,adriamycin,50
0003,2020-01-02,doxorubicin,
0004,2020-01-02,doxorubicin,50
0005,2020-01-02,paclitaxel,80
""",
    "followup": "patient_id,last_seen,died\n0003,2020-09-01,2020-09-01\n0001,2021-01-01,\n",
}


ALONE = TABLES["echo"].split("0002")[0]
"""The echocardiograms of the first patient."""


def write_tables(folder: Path, **changed: str | None) -> dict[str, Path]:
    """Write the tables; a text replaces one, None leaves one out."""
    paths = {}
    for name, text in (TABLES | changed).items():
        if text is not None:
            paths[name] = folder / f"{name}.csv"
            paths[name].write_text(text)
    return paths


def options(paths: dict[str, Path]) -> list[str]:
    return [word for name, path in paths.items() for word in (f"--{name}", str(path))]


def cohort(folder: Path, task: dict[str, Any] | None = None, **changed: str | None) -> Any:
    """Return the result of a task on the tables with these changes."""
    return make_cohort(make_task(task or {}, "Task"), write_tables(folder, **changed))


@pytest.fixture
def task(tmp_path) -> Path:
    path = tmp_path / "task.yaml"
    path.write_text(EXAMPLES["ctrcd"].read_text())
    return path


def test_the_command_writes_manifest_status_and_task(tmp_path, task):
    paths = write_tables(tmp_path)
    done = command("cohort", task, *options(paths), "-o", tmp_path / "cohort.csv")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "cohort.csv").read_text() == (
        "patient_id,path_xml,label,age_years,sex,day_of_ecg,baseline_lvef,"
        "days_to_event_or_last_echo,event,doxorubicin_equivalent_mg_m2,qrs_ms\n"
        "0001,a/1b.xml,1,54,F,-12,61,152,1,0,92.5\n"
        "0002,a/2.xml,0,93,,-1,55,516,0,0,\n"
    )
    assert (tmp_path / "cohort.status.csv").read_text() == (
        "patient_id,status,baseline_lvef,event_day,last_echo_day,death_day,n_ecgs\n"
        "0001,positive,61,152,182,,2\n"
        "0002,negative,55,,516,,1\n"
        "0003,death_first,56,,-1,243,1\n"
        "0004,ecg_unusable,56,,-1,,0\n"
        "0005,no_index,,,,,0\n"
    )
    for name in ("cohort.csv", "cohort.status.csv", "cohort.task.yaml"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600
    assert "2 ECGs of 2 patients, 1 positive" in done.stdout
    assert "no_index 1, no_baseline_echo 0" in done.stdout
    report, build = done.stdout.splitlines()[-2:]
    assert report.startswith("next: open ")
    assert build.startswith("  ecgprep build ")


def test_the_written_task_says_every_default_and_gives_the_same_again(tmp_path, task):
    paths = write_tables(tmp_path)
    task.write_text("index: {first: [anthracycline]}\n")
    first = tmp_path / "one.csv"
    assert command("cohort", task, *options(paths), "-o", first).returncode == 0
    written = tmp_path / "one.task.yaml"
    values = yaml.safe_load(written.read_text())
    assert values.keys() - {"recorded"} == set(CtrcdTask.model_fields)
    second = tmp_path / "two.csv"
    assert command("cohort", written, *options(paths), "-o", second).returncode == 0
    assert second.read_bytes() == first.read_bytes()
    assert (tmp_path / "two.task.yaml").read_bytes() == written.read_bytes()


def test_the_examples_are_the_default_tasks():
    ctrcd, pairs = EXAMPLES["ctrcd"], EXAMPLES["echo_pairs"]
    assert read_task(ctrcd) == CtrcdTask()
    assert read_task(pairs) == EchoPairsTask(kind="echo_pairs")
    assert yaml.safe_load(pairs.read_text()).keys() == EchoPairsTask.model_fields.keys()
    for kind in EXAMPLES.values():  # a report shows the task from its kind on
        assert read_task(kind).to_yaml().startswith("kind: ")
    assert command("cohort", "--example").stdout == ctrcd.read_text()
    assert command("cohort", "--example", "echo_pairs").stdout == pairs.read_text()


def test_json_counts_every_patient_once(tmp_path, task):
    paths = write_tables(tmp_path)
    done = command("cohort", task, *options(paths), "-o", tmp_path / "c.csv", "--json")
    found = json.loads(done.stdout)
    assert sum(found["patients"].values()) == 5
    assert (found["rows"], found["positive"]) == (2, 1)


def test_rows_all_adds_those_whose_label_is_not_known(tmp_path):
    echo = TABLES["echo"].replace("0002,2021-06-01,54\n", "")
    result = cohort(tmp_path, {"rows": "all"}, echo=echo)
    rows = result.manifest.set_index("patient_id")
    assert rows["label"].isna().to_dict() == {"0001": False, "0002": True, "0003": True}
    assert rows["event"].tolist() == [1, 0, 2]
    assert rows["days_to_event_or_last_echo"].tolist() == [152, 8, 243]


@pytest.mark.parametrize(
    ("deaths", "status", "label"), [("event", "positive", 1), ("negative", "negative", 0)]
)
def test_deaths_become_rows_where_the_task_says_so(tmp_path, deaths, status, label):
    result = cohort(tmp_path, {"deaths": deaths})
    rows = result.manifest.set_index("patient_id")
    assert rows.loc["0003", "label"] == label
    assert rows.loc["0003", "event"] == 2
    assert result.status.set_index("patient_id").loc["0003", "status"] == status
    assert result.counts["death_first"] == 0


def test_a_laboratory_value_of_any_kind_counts_as_a_record_before_the_first_dose(tmp_path):
    index = {"index": {"washout_days": 365}}
    labs = "patient_id,date,name,value\n0002,2019-01-01,CRP,5\n"
    assert cohort(tmp_path, index | {"rows": "all"}, labs=labs).counts["no_index"] == 4


def test_a_definition_of_which_no_input_is_there_is_refused(tmp_path):
    with pytest.raises(InputError, match="uses symptoms alone, which no table holds"):
        cohort(tmp_path, {"outcome": {"definition": "symptoms"}})
    notes = cohort(tmp_path).notes
    assert any("also uses biomarker_rise, gls_fall, which no table holds" in n for n in notes)
    hera = cohort(tmp_path, {"outcome": {"definition": "hera"}}).notes
    assert not any("which no table holds" in note for note in hera)


def test_a_class_that_nobody_had_is_said(tmp_path):
    notes = cohort(tmp_path, {"index": {"first": ["doxorubicin", "anti-her2"]}}).notes
    assert any("no dose of anti-her2, which index.first names" in note for note in notes)
    assert not any("index.first" in note for note in cohort(tmp_path).notes)


def test_all_ecgs_of_the_window_can_be_kept(tmp_path):
    rows = cohort(tmp_path, {"ecg": {"keep": "all"}}).manifest
    assert rows["path_xml"].tolist() == ["a/1.xml", "a/1b.xml", "a/2.xml"]


def test_the_dose_counts_up_to_the_day_of_the_ecg(tmp_path):
    task = {
        "ecg": {"from_days": 0, "to_days": 89, "keep": "last"},
        "outcome": {"from_day": 90},
    }
    result = cohort(tmp_path, task)
    row = result.manifest.set_index("patient_id").loc["0001"]
    assert row["path_xml"] == "a/1d.xml"
    assert row["doxorubicin_equivalent_mg_m2"] == pytest.approx(60 + 0.8 * 100)
    total = dict(zip(result.status["patient_id"], result.decided["total_dose"], strict=True))
    assert total["0001"] == pytest.approx(140)
    assert pd.isna(total["0003"])  # a dose is not known
    assert total["0005"] == 0


def test_dates_are_added_only_on_request(tmp_path):
    paths = write_tables(tmp_path)
    rows = ecgprep.cohort({}, out=tmp_path / "c.csv", **paths)
    assert not {"index_date", "acquired_at"} & set(rows)
    assert "2020" not in (tmp_path / "c.csv").read_text() + (tmp_path / "c.status.csv").read_text()
    rows = ecgprep.cohort({}, keep_dates=True, **paths)
    assert rows["index_date"].tolist() == ["2020-01-01", "2020-01-02"]
    assert rows["acquired_at"].tolist() == ["2019-12-20", "2020-01-01T23:59:59.5+01:00"]


def test_columns_of_patients_are_carried_but_no_date_and_no_name(tmp_path, caplog):
    text = (
        "patient_id,sex,stage,birth_date,surname,seen\n"
        "0001,X,II,1960-01-01,Doe,2020-01-01\n0002,F,III,,Roe,\n"
    )
    paths = write_tables(tmp_path, patients=text)
    rows = ecgprep.cohort({}, **paths)
    assert rows["stage"].tolist() == ["II", "III"]
    assert rows["sex"].tolist() == ["F", "F"]  # what the ECG says comes first
    assert not {"birth_date", "seen"} & set(rows)
    assert "not carried into the manifest: 1 column" in caplog.text


@pytest.mark.parametrize(
    "date",
    [
        "31.03.2024",
        "03/31/24",
        "31-MAR-24",
        "31 March 2024",
        "March 31, 2024",
        "20240331",
        "2024-03",
    ],
)
def test_a_column_that_holds_dates_of_any_style_is_not_carried(tmp_path, date):
    patients = f'patient_id,tumour,seen\n0001,4 cycles 60,"{date}"\n0002,T1 2020,\n'
    manifest = cohort(tmp_path, patients=patients).manifest
    assert "tumour" in manifest
    assert "seen" not in manifest


def test_columns_of_other_names_and_dates_of_another_style_are_declared(tmp_path):
    echo = "pid;day;EF\n0001;01.01.2020;60,5\n0001;01.06.2020;48\n0002;10.01.2020;55\n"
    echo += "0002;01.06.2021;54\n"
    names = {"patient_id": "pid", "date": "day", "lvef": "EF"}
    task = {"columns": {"echo": names}, "dates": {"echo": "dmy"}}
    result = cohort(tmp_path, task, echo=echo)
    assert result.counts["positive"] == result.counts["negative"] == 1
    assert result.status["baseline_lvef"].iloc[0] == 60.5


@pytest.mark.parametrize(
    ("style", "early", "late"),
    [
        ("dmy", "01.06.2020 9:05", "01.06.2020 10:15:30"),
        ("mdy", "06/01/2020", "06/01/2020 00:01"),
        ("compact", "20200601", "20200601101530"),
        ("iso", "2020-06-01", "2020-06-01 10:15"),
    ],
)
def test_the_time_of_day_is_read_in_every_style(style, early, late):
    read = moment_reader(style)
    assert read(early).day == read(late).day == date(2020, 6, 1).toordinal()
    assert read(early).second < read(late).second


@pytest.mark.parametrize(
    ("style", "text"),
    [("dmy", "01.06.2020 25:00"), ("dmy", "01.06.2020 at 9"), ("compact", "202006012561")],
)
def test_a_time_that_is_none_is_refused(style, text):
    with pytest.raises(ValueError, match="must be a date"):
        moment_reader(style)(text)


def test_frames_and_parquet_give_what_csv_gives(tmp_path):
    paths = write_tables(tmp_path)
    expected = ecgprep.cohort({}, **paths)
    text = {"patient_id": str}
    frames: dict[str, Any] = {name: pd.read_csv(p, dtype=text) for name, p in paths.items()}
    frames["echo"]["date"] = pd.to_datetime(frames["echo"]["date"])
    pd.testing.assert_frame_equal(ecgprep.cohort({}, **frames), expected)
    pytest.importorskip("pyarrow")
    for name, frame in frames.items():
        frames[name] = tmp_path / f"{name}.parquet"
        frame.to_parquet(frames[name])
    pd.testing.assert_frame_equal(ecgprep.cohort({}, **frames), expected)


def test_nested_columns_are_refused_and_bytes_are_text(tmp_path):
    paths: dict[str, Any] = write_tables(tmp_path)
    expected = ecgprep.cohort({}, **paths)
    echo = pd.read_csv(paths["echo"], dtype=str)
    paths["echo"] = echo.assign(patient_id=echo["patient_id"].str.encode("utf-8"))
    pd.testing.assert_frame_equal(ecgprep.cohort({}, **paths), expected)
    paths["echo"] = echo.assign(lvef=[[60]] * len(echo))
    with pytest.raises(InputError, match="column lvef: holds lists or other nested values"):
        ecgprep.cohort({}, **paths)


def test_words_for_what_is_missing_are_read_as_nothing(tmp_path):
    echo = TABLES["echo"].replace("lvef\n", "lvef,gls\n").replace("0\n", "0,NA\n")
    echo = "\n".join(line + "," * (4 - len(line.split(","))) for line in echo.splitlines())
    words = {
        "echo": echo,
        "followup": TABLES["followup"].replace("2021-01-01,", "2021-01-01,NaN"),
        "therapy": TABLES["therapy"].replace("doxorubicin,\n", "doxorubicin,n/a\n"),
        "ecg": TABLES["ecg"].replace("1e.xml,", "1e.xml,None"),
    }
    expected = cohort(tmp_path).manifest
    pd.testing.assert_frame_equal(cohort(tmp_path, **words).manifest, expected)
    without = TABLES["echo"].replace("54", "N/A")
    with pytest.raises(InputError, match=r"line 7\): an echocardiogram without an LVEF"):
        cohort(tmp_path, echo=without)


def test_numbers_of_single_precision_are_read_as_they_were_written(tmp_path):
    echo = "patient_id,date,lvef\n0002,2020-01-01,64.2\n0002,2020-09-01,54.2\n"
    echo += "0002,2021-06-01,64.2\n0001,2020-01-01,60\n0001,2020-06-01,44\n"
    paths: dict[str, Any] = write_tables(tmp_path, echo=echo)
    crec = {"outcome": {"definition": "crec"}}
    expected = ecgprep.cohort(crec, **paths)
    assert expected["label"].tolist() == [1, 1]  # 64.2 - 54.2 is 10
    paths["echo"] = pd.read_csv(paths["echo"], dtype={"patient_id": str, "lvef": "float32"})
    pd.testing.assert_frame_equal(ecgprep.cohort(crec, **paths), expected)


def test_a_frame_with_float_ids_is_refused(tmp_path):
    paths: dict[str, Any] = write_tables(tmp_path)
    paths["echo"] = pd.DataFrame({"patient_id": [1.0], "date": ["2020-01-01"], "lvef": [55]})
    with pytest.raises(InputError, match=r"dtype=\{'patient_id': str\}"):
        ecgprep.cohort({}, **paths)


def test_what_is_not_used_is_said_by_line_and_never_by_value(tmp_path, caplog):
    ecg = TABLES["ecg"] + "1,a/x.xml,2020-01-01,50,F,ok,\n,a/y.xml,2020-01-01,50,F,ok,\n"
    ecgprep.cohort({}, **write_tables(tmp_path, ecg=ecg))
    said = caplog.text
    assert "ecg.csv: not used: 1 ECG without a time of acquisition" in said
    assert "ecg.csv: not used: 1 row without a patient id" in said
    assert "ecg.csv: not used: 2 patients not in the therapy table" in said
    assert "ecg.csv, line 11: 1 patient id that may be another spelling" in said
    assert "drugs in no class: 1 more that fewer than 10 patients had" in said
    assert "paclitaxel" not in said
    assert "0001" not in said


def test_a_drug_in_no_class_is_named_where_many_patients_had_it(tmp_path, caplog):
    therapy = TABLES["therapy"] + "".join(f"1{k:03d},2020-01-02,Paclitaxel,\n" for k in range(12))
    ecgprep.cohort({}, **write_tables(tmp_path, therapy=therapy))
    assert "drugs in no class: Paclitaxel (12 patients), 1 more" in caplog.text


BAD = {
    "a fraction": ("echo", "60\n", "0.6\n", r"echo.csv, lvef: 1 row \(line 2\): LVEF must be in p"),
    "a range": ("echo", "60\n", "55-60 %\n", "not a range"),
    "LVEF of 0": ("echo", "60\n", "0\n", "more than 1 and at most 100"),
    "no LVEF": ("echo", "60\n", "\n", "missing_lvef: skip"),
    "two formats": ("echo", "2020-06-01", "01.06.2020", "One column has one format"),
    "no date": ("echo", "2020-06-01", "", "must be a date; found nothing"),
    "not a day": ("echo", "2020-06-01", "2020-06-31", "must be a date from 1900 to 2100"),
    "a stranger in echo": ("echo", "0004", "0008", "echo_without_therapy: ignore"),
    "a column missing": ("echo", "lvef", "ef", "column missing: lvef"),
    "a column twice": ("echo", "lvef", "lvef,lvef", "given twice"),
    "a short row": ("echo", "0001,2020-06-01,48", "0001,2020-06-01", "2 fields; the header has 3"),
    "no id": ("therapy", "0001,2020-01-01", ",2020-01-01", "must be text; found nothing"),
    "a control character": ("therapy", "0001,2020-01-01", "00\x0701,2020-01-01", "control char"),
    "no drug": ("therapy", "Doxorubicin HCl", " ", "drug: 1 row"),
    "a negative dose": ("therapy", ",60", ",-60", "must not be negative"),
    "a dose in words": ("therapy", ",60", ",sixty", "must be a number"),
    "before birth": ("therapy", "0001,2020-01-01", "0001,1960-01-01", "before the patient's birth"),
    "a death as a flag": ("followup", "2020-09-01\n", "1\n", "followup.csv, died"),
    "a patient twice": ("followup", "0001,", "0003,", "has a row already"),
    "an age in words": ("ecg", ",93,", ",old,", "ecg.csv, age_years"),
    "an ECG's time": ("ecg", "2019-12-20", "20 Dec 2019", "acquired_at"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_table_is_refused_in_one_message_and_nothing_is_written(tmp_path, task, name):
    table, before, after, message = BAD[name]
    changed = TABLES[table].replace(before, after, 1)
    assert changed != TABLES[table]
    paths = write_tables(tmp_path, **{table: changed})
    there = files_of(tmp_path)
    done = command("cohort", task, *options(paths), "-o", tmp_path / "c.csv")
    assert done.returncode == 3
    assert "Traceback" not in done.stderr
    with pytest.raises(InputError, match=message):
        ecgprep.cohort({}, **paths)
    for value in ("0001", "0004", "0008", "55-60", "sixty", "20 Dec"):
        assert value not in done.stderr.replace(str(tmp_path), "")
    assert files_of(tmp_path) == there


def test_the_faults_of_all_tables_are_in_one_message(tmp_path):
    with pytest.raises(InputError) as refused:
        cohort(
            tmp_path,
            echo=TABLES["echo"].replace("60\n", "0.6\n"),
            therapy=TABLES["therapy"].replace(",60\n", ",x\n"),
            followup=TABLES["followup"].replace("2021-01-01", "soon"),
        )
    text = str(refused.value)
    assert "3 faults" in text
    assert "2 rows (lines 2, 5): LVEF must be in percent" in text
    assert "therapy.csv, dose_mg_m2: 1 row (line 2)" in text
    assert "followup.csv, last_seen: 1 row (line 3)" in text


def test_tables_that_cannot_be_read_are_refused_together(tmp_path):
    with pytest.raises(InputError, match="column missing: lvef") as refused:
        cohort(tmp_path, echo="patient_id,date\n", therapy="patient_id,date\n")
    assert "column missing: drug" in str(refused.value)


def test_a_missing_column_is_hinted_to_be_mapped_in_the_task(tmp_path):
    with pytest.raises(InputError, match=r"in the task: columns: \{echo: \{lvef: YOUR_NAME\}\}\."):
        cohort(tmp_path, echo=TABLES["echo"].replace("lvef", "EF"))


def test_dates_in_another_format_are_one_fault_also_where_some_could_be_of_two(tmp_path):
    echo = TABLES["echo"].replace("2020-06-01", "01.06.2020").replace("2020-01-10", "31.01.2020")
    with pytest.raises(InputError, match="The tables have 1 fault") as refused:
        cohort(tmp_path, echo=echo)
    assert "name its format under dates in the task" in str(refused.value)
    assert "dmy 31.03.2024" in str(refused.value)


def test_a_cohort_of_nobody_is_refused_with_what_the_tables_lack(tmp_path):
    with pytest.raises(InputError, match="No ECG has a label") as refused:
        cohort(tmp_path, therapy="patient_id,date,drug\n0001,2020-01-01,tamoxifen\n", echo=ALONE)
    assert "\n  therapy.csv: drugs in no class: 1 more" in str(refused.value)


def test_one_ecg_is_not_one_ecgs(tmp_path, task):
    paths = write_tables(tmp_path, therapy=TABLES["therapy"].split("0002")[0], echo=ALONE)
    done = command("cohort", task, *options(paths), "-o", tmp_path / "c.csv")
    assert "c.csv: 1 ECG of 1 patient, 1 positive" in done.stdout


def test_invisible_characters_of_an_id_are_removed_and_said(tmp_path):
    result = cohort(tmp_path, echo=TABLES["echo"].replace("0002", "\u200b0002"))
    assert result.counts == cohort(tmp_path).counts
    assert any("invisible characters were removed" in note for note in result.notes)


def test_strain_of_no_declared_sign_is_refused_where_the_definition_needs_it(tmp_path, caplog):
    echo = TABLES["echo"].replace("lvef\n", "lvef,gls\n").replace("60\n", "60,-20\n", 1)
    echo = "\n".join(
        line if line.count(",") == 3 or not line else line + "," for line in echo.split("\n")
    )
    with pytest.raises(InputError, match="must declare the sign"):
        cohort(tmp_path, echo=echo)
    with pytest.raises(InputError, match="another sign than gls_sign"):
        cohort(tmp_path, {"gls_sign": "positive"}, echo=echo)
    hera = {"outcome": {"definition": "hera"}}
    notes = cohort(tmp_path, hera, echo=echo).notes
    assert any("not used: gls" in note for note in notes)


def test_echos_without_lvef_and_of_strangers_are_left_out_on_request(tmp_path):
    echo = TABLES["echo"].replace("62\n", "\n") + "0007,2020-01-01,60\n"
    task = {"missing_lvef": "skip", "echo_without_therapy": "ignore"}
    result = cohort(tmp_path, task, echo=echo)
    assert result.status["baseline_lvef"].iloc[0] == 60
    assert any("1 echo without an LVEF" in note for note in result.notes)


def test_a_cohort_of_nobody_is_refused_with_the_counts(tmp_path):
    with pytest.raises(InputError, match="no_index 5"):
        cohort(tmp_path, {"index": {"first": "ici"}})


BAD_TASKS = {
    "unknown key": ({"horizon": 1}, "horizon: unknown key; allowed are"),
    "unknown inner key": ({"ecg": {"until": 1}}, "ecg.until: unknown key; allowed are from_days"),
    "the future": ({"ecg": {"to_days": 1}}, "would depend on the future"),
    "order": ({"ecg": {"from_days": 1}}, "from_days must not be later"),
    "horizon": ({"outcome": {"from_day": 800}}, "must not be after outcome.horizon_days"),
    "negative": ({"outcome": {"from_day": 400}}, "must not be before"),
    "baseline": ({"baseline_echo": {"from_days": 730, "to_days": 800}}, "no event could follow"),
    "definition": ({"outcome": {"definition": "mine"}}, "must be one of esc2022_severe"),
    "a word for a number": ({"negative": {"last_echo_from_day": "year"}}, "last_echo_from_day"),
    "yes": ({"outcome": {"horizon_days": True}}, "not yes or no"),
    "kind": ({"kind": "other"}, "must be ctrcd or echo_pairs"),
    "class": ({"classes": {"ici": ["x"]}}, "built in already"),
    "no drug": ({"index": {"first": []}}, "at least 1 item"),
    "a text": ({"index": {"first": ["x" * 99]}}, "at most 60"),
    "column": ({"columns": {"echo": {"ef": "EF"}}}, "unknown column ef"),
    "column not there": ({"columns": {"echo": {"gls": "G"}}}, "column missing: G"),
}


@pytest.mark.parametrize("name", BAD_TASKS)
def test_a_task_that_contradicts_itself_is_refused(tmp_path, name):
    task, message = BAD_TASKS[name]
    with pytest.raises(InputError, match=message):
        ecgprep.cohort(task, **write_tables(tmp_path))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("index: [", "is not valid YAML"),
        ("deaths: event\ndeaths: exclude", "key given twice: deaths"),
        ("3", "must be a mapping"),
        ("!!python/object/apply:os.system [true]", "is not valid YAML"),
    ],
)
def test_a_task_file_that_is_no_task_is_refused(tmp_path, task, text, message):
    task.write_text(text)
    with pytest.raises(InputError, match=message):
        ecgprep.cohort(task, **write_tables(tmp_path))


def test_a_missing_or_superfluous_table_is_refused(tmp_path):
    paths = write_tables(tmp_path)
    with pytest.raises(InputError, match="needs --therapy as well"):
        ecgprep.cohort({}, ecg=paths["ecg"], echo=paths["echo"])
    with pytest.raises(InputError, match="does not read --therapy, --followup"):
        ecgprep.cohort({"kind": "echo_pairs"}, **paths)
    with pytest.raises(InputError, match="does not exist"):
        ecgprep.cohort({}, **(paths | {"echo": tmp_path / "none.csv"}))
    with pytest.raises(InputError, match="has no rows"):
        ecgprep.cohort({}, **write_tables(tmp_path, echo="patient_id,date,lvef\n"))


def test_files_of_others_are_not_replaced(tmp_path):
    paths = write_tables(tmp_path)
    (tmp_path / "c.status.csv").write_text("mine\n")
    with pytest.raises(TargetExists):
        ecgprep.cohort({}, out=tmp_path / "c.csv", **paths)
    assert not (tmp_path / "c.csv").exists()
    ecgprep.cohort({}, out=tmp_path / "c.csv", overwrite=True, **paths)
    ecgprep.cohort({}, out=tmp_path / "c.csv", **paths)  # its own
    with pytest.raises(InputError, match="one of the inputs"):
        ecgprep.cohort({}, out=paths["ecg"], overwrite=True, **paths)
    with pytest.raises(InputError, match=r"ends in \.csv"):
        ecgprep.cohort({}, out=tmp_path / "c.txt", **paths)


def test_a_full_disk_leaves_what_was_there(tmp_path, monkeypatch):
    paths = write_tables(tmp_path)
    ecgprep.cohort({}, out=tmp_path / "c.csv", **paths)
    there = files_of(tmp_path)
    calls = iter([None, None, OSError(errno.ENOSPC, "No space left on device")])

    def fill_up(fd: int) -> None:
        error = next(calls)
        if error:
            raise error

    monkeypatch.setattr("ecgprep.files.atomic.os.fsync", fill_up)
    with pytest.raises(NoSpace):
        ecgprep.cohort({"deaths": "event"}, out=tmp_path / "c.csv", **paths)
    assert files_of(tmp_path) == there


def test_each_ecg_is_paired_with_the_nearest_echo(tmp_path):
    ecg = (
        "patient_id,path_xml,acquired_at\n1,a.xml,2020-01-10\n1,b.xml,2020-01-06T08:00\n"
        "1,c.xml,2020-03-01\n2,d.xml,2020-01-01\n3,e.xml,\n4,f.xml,2020-01-01\n"
    )
    echo = (
        "patient_id,date,lvef\n1,2020-01-01,45\n1,2020-01-11,50\n2,2020-01-02,49.9\n"
        "2,2020-01-02,50\n4,2021-01-01,60\n"
    )
    paths = write_tables(tmp_path, ecg=ecg, echo=echo, therapy=None, followup=None)
    rows = ecgprep.cohort({"kind": "echo_pairs"}, out=tmp_path / "p.csv", **paths)
    found = rows[["path_xml", "label", "lvef", "days_to_echo"]].values.tolist()
    assert found == [
        ["b.xml", 1, 45, -5],  # as near as the later one
        ["a.xml", 0, 50, 1],
        ["d.xml", 1, 49.95, 1],
    ]
    assert (tmp_path / "p.status.csv").read_text() == (
        "patient_id,status,n_ecgs,n_pairs\n"
        "1,paired,3,2\n2,paired,1,1\n3,no_ecg,0,0\n4,no_pair,1,0\n"
    )


def test_no_id_path_date_or_text_of_a_table_leaves_the_private_files(tmp_path, task):
    token = "ZQ{}QZ".format

    def poisoned(text: str) -> str:
        for value in ("0001", "0002", "0003", "0004", "0005", "0009", "a/", "paclitaxel"):
            text = text.replace(
                value, token(value.replace("/", "")) + ("/" if "/" in value else "")
            )
        return text

    texts: dict[str, str | None] = {name: poisoned(text) for name, text in TABLES.items()}
    texts["labs"] = f"patient_id,date,name,value\n{token('0001')},2020-02-03,{token('lab')},3\n"
    texts["patients"] = f"patient_id,surname\n{token('0001')},{token('Doe')}\n"
    names = f"columns: {{patients: {{patient_id: {token('id')}}}}}"
    texts["patients"] = texts["patients"].replace("patient_id", token("id"))
    task.write_text(names)
    paths = write_tables(tmp_path, **texts)
    done = command("cohort", task, *options(paths), "-o", tmp_path / "c.csv", "-v")
    assert done.returncode == 0, done.stderr
    shown = done.stdout + done.stderr
    text = read_task(task).canonical_text
    for place in (shown, text):
        assert "ZQ" not in place
        assert "2020-" not in place


@pytest.fixture(scope="module")
def recorded(tmp_path_factory) -> Path:
    """A folder with recordings, and the manifest and task of a cohort of them."""
    folder = write_recordings(tmp_path_factory.mktemp("cohort") / "c", 12).parent
    manifest = pd.read_csv(folder / "manifest.csv", dtype=str)
    first = manifest.drop_duplicates("patient_id")
    ids, labels = first["patient_id"], first["label"]
    ecg = first[["patient_id", "path_xml"]].assign(acquired_at="2020-01-01")
    low = [45 if label == "1" else 60 for label in labels]
    echo = pd.concat(
        [
            pd.DataFrame({"patient_id": ids, "date": "2020-01-01", "lvef": 60}),
            pd.DataFrame({"patient_id": ids, "date": "2021-06-01", "lvef": low}),
        ]
    )
    therapy = pd.DataFrame({"patient_id": ids, "date": "2020-01-02", "drug": "doxorubicin"})
    tables = {"ecg": ecg, "echo": echo, "therapy": therapy}
    ecgprep.cohort({}, out=folder / "cohort.csv", **tables)
    return folder


SMALL = {"hz": 100, "length": 1000, "allow_missing_class": True}


def test_build_notes_the_task_of_a_manifest_as_version_2(recorded, tmp_path):
    store = ecgprep.build(recorded / "cohort.csv", tmp_path / "s.zarr", **SMALL)
    attributes = zarr.open_group(store.path, mode="r").attrs
    assert attributes["format_version"] == 2
    noted = json.loads(attributes["settings"]["task"])
    assert noted["outcome"]["definition"] == "esc2022_moderate"
    assert not {"columns", "dates", "recorded"} & noted.keys()
    assert ecgprep.verify(store).intact
    packed = ecgprep.pack(store, tmp_path / "p.zarr")
    assert files_of(ecgprep.unpack(packed, tmp_path / "u.zarr").path) == files_of(store.path)


def test_a_store_of_a_manifest_without_a_task_is_version_1(recorded, tmp_path):
    bare = tmp_path / "bare.csv"
    bare.write_bytes((recorded / "cohort.csv").read_bytes())
    store = ecgprep.build(bare, tmp_path / "s.zarr", root=recorded, **SMALL)
    assert store.attributes["format_version"] == 1
    assert "task" not in store.attributes["settings"]


def test_an_edited_label_loses_the_task_and_another_column_does_not(recorded, tmp_path, caplog):
    rows = pd.read_csv(recorded / "cohort.csv", dtype=str)
    for name in ("cohort.csv", "cohort.task.yaml"):
        (tmp_path / name).write_bytes((recorded / name).read_bytes())
    rows.assign(centre="1").iloc[::-1].to_csv(tmp_path / "cohort.csv", index=False)
    store = ecgprep.build(tmp_path / "cohort.csv", tmp_path / "a.zarr", root=recorded, **SMALL)
    assert "task" in store.attributes["settings"]
    rows.loc[0, "label"] = "1" if rows.loc[0, "label"] == "0" else "0"
    rows.to_csv(tmp_path / "cohort.csv", index=False)
    store = ecgprep.build(tmp_path / "cohort.csv", tmp_path / "b.zarr", root=recorded, **SMALL)
    assert "task" not in store.attributes["settings"]
    assert "was written for other rows or labels" in caplog.text


def test_a_frame_carries_its_task_to_the_store(recorded, tmp_path):
    tables = {
        "ecg": pd.read_csv(recorded / "cohort.csv", dtype=str)[["patient_id", "path_xml"]],
    }
    ids = tables["ecg"]["patient_id"]
    tables["ecg"]["acquired_at"] = "2020-01-01"
    low = [45 if k % 2 else 60 for k in range(len(ids))]
    tables["echo"] = pd.DataFrame({"patient_id": ids, "date": "2020-01-01", "lvef": low})
    rows = ecgprep.cohort({"kind": "echo_pairs"}, **tables)
    store = ecgprep.build(rows, tmp_path / "s.zarr", root=recorded, **SMALL)
    assert json.loads(store.attributes["settings"]["task"])["kind"] == "echo_pairs"
    plain = pd.DataFrame(rows.to_dict("list"))
    store = ecgprep.build(plain, tmp_path / "s.zarr", root=recorded, replace=True, **SMALL)
    assert "task" not in store.attributes["settings"]


def test_a_plan_on_several_machines_notes_the_task_too(recorded, tmp_path):
    ecgprep.plan(recorded / "cohort.csv", tmp_path / "s.zarr", **SMALL)
    ecgprep.build_part(tmp_path / "s.zarr", 1, 1)
    store = ecgprep.finalise(tmp_path / "s.zarr")
    whole = ecgprep.build(recorded / "cohort.csv", tmp_path / "t.zarr", **SMALL)
    assert store.content_sha256 == whole.content_sha256


@pytest.mark.parametrize(
    "task",
    ["x", "[]", '{"a": 1}', '{"b":1,"a":2}', '{"a":"/home/jane"}', '{"a":"é"}', 3, None],
)
def test_a_store_with_a_strange_task_is_refused(recorded, tmp_path, task):
    store = ecgprep.build(recorded / "cohort.csv", tmp_path / "s.zarr", **SMALL)
    path = store.path / "zarr.json"
    root = json.loads(path.read_text())
    root["attributes"]["settings"]["task"] = task
    path.write_text(json.dumps(root))
    with pytest.raises(StoreError):
        Store(store.path)


def test_a_task_file_that_cohort_did_not_write_is_refused_by_build(recorded, tmp_path):
    for name in ("cohort.csv",):
        (tmp_path / name).write_bytes((recorded / name).read_bytes())
    (tmp_path / "cohort.task.yaml").write_text("deaths: event\n")
    with pytest.raises(InputError, match="was not written by `ecgprep cohort`"):
        ecgprep.build(tmp_path / "cohort.csv", tmp_path / "s.zarr", root=recorded, **SMALL)


def test_a_store_that_is_ensured_notes_the_task_and_follows_a_new_one(recorded, tmp_path):
    for name in ("cohort.csv", "cohort.task.yaml"):
        (tmp_path / name).write_bytes((recorded / name).read_bytes())
    shutil.copytree(recorded / "xml", tmp_path / "xml")
    settings = BuildSettings(Conformity(100, 1000), SplitPlan(allow_missing_class=True))

    def ensure() -> EnsuredStore:
        return ensure_store(tmp_path / "cohort.csv", tmp_path / "s.zarr", settings)

    assert "task" in ensure().store.attributes["settings"]
    assert "is up to date" in ensure().note
    task = tmp_path / "cohort.task.yaml"
    task.write_text(task.read_text().replace("horizon_days: 730", "horizon_days: 900"))
    built = ensure()
    assert built.note.endswith("was built: the settings differ (task); " + AFTER_REBUILDING)
    assert '"horizon_days":900' in built.store.attributes["settings"]["task"]


AFTER_REBUILDING = (
    "runs that were trained on the store before can be applied, but no longer evaluated on it"
)
PIECES = [b"", b",", b"\n", b'"', b"\0", b"\xff", b"-", b"1e309", b"nan", b"0001", b"9999-12-31"]


@pytest.mark.parametrize("seed", range(60))
def test_a_mutated_table_gives_a_cohort_or_a_message(tmp_path, seed):
    draw = random.Random(seed)  # noqa: S311 - no secret
    paths = write_tables(tmp_path)
    for _ in range(draw.randint(1, 3)):
        path = draw.choice(list(paths.values()))
        data = bytearray(path.read_bytes())
        start = draw.randrange(len(data) + 1)
        data[start : start + draw.choice([0, 1, 5])] = draw.choice(PIECES)
        path.write_bytes(bytes(data))
    with contextlib.suppress(InputError):
        assert len(ecgprep.cohort({}, **paths))


def test_a_therapy_table_of_broken_rows_only_is_refused_by_line(tmp_path):
    with pytest.raises(InputError, match=r"therapy.csv, line 2, row: 2 fields"):
        cohort(tmp_path, therapy="patient_id,date,drug\n0001,2020-01-01\n")
