"""The rules of a cohort, one patient and one row at a time, in plain Python.

Written from docs/cohort.md alone, slowly and without any code of ecgprep, so that a test can
compare both. It knows tables as lists of dicts of text, as a CSV file holds them.
"""

from __future__ import annotations

from collections import defaultdict
from datetime import date
from typing import Any

Row = dict[str, str]
AGENTS = {
    "anthracycline": ("doxorubicin", "daunorubicin", "epirubicin", "idarubicin"),
    "anti_her2": ("trastuzumab", "pertuzumab"),
}
TRADE = {"adriamycin": "doxorubicin", "herceptin": "trastuzumab"}
LIMIT = {"BNP": 35.0, "NT-proBNP": 125.0}


def day_of(text: str) -> int | None:
    return date.fromisoformat(text[:10]).toordinal() if text else None


def is_of_class(drug: str, entries: list[str]) -> bool:
    for mark in ",-()":
        drug = drug.replace(mark, " ")
    words = {TRADE.get(word, word) for word in drug.lower().split()}
    return any(agent in words for entry in entries for agent in AGENTS.get(entry, (entry,)))


def merged(echos: list[dict[str, Any]], rule: str) -> list[dict[str, Any]]:
    """Make the echos of one day into one: sorted by day."""
    by_day = defaultdict(list)
    for echo in echos:
        by_day[echo["day"]].append(echo)
    result = []
    for day, same in sorted(by_day.items()):
        if rule == "last":
            latest = max(echo["time"] for echo in same)
            same = [echo for echo in same if echo["time"] == latest]
        one: dict[str, Any] = {"day": day}
        for name in ("lvef", "gls"):
            values = [echo[name] for echo in same if echo[name] is not None]
            value = None
            if values:
                value = min(values) if rule == "lowest" else sum(values) / len(values)
                value = round(value, 6)
            one[name] = value
        result.append(one)
    return result


def is_event(name: str, f: float, b: float, fall: float | None, rise: bool, limit: float) -> bool:
    """Say whether an echo with LVEF f meets a definition, b being the baseline LVEF."""
    drop = round(b - f, 6)
    other = rise or (fall is not None and fall > 15)
    severe = f < 40 <= b
    moderate = severe or (40 <= f < 50 and (drop >= 10 or other))
    if name == "esc2022_severe":
        return severe
    if name == "esc2022_moderate":
        return moderate
    if name == "esc2022_mild":
        return moderate or (f >= 50 and other)
    if name == "ase2014":
        return drop > 10 and f < 53
    if name == "hera":
        return drop >= 10 and f < 50
    if name == "crec":
        return drop >= 10 and f < 55
    assert name == "fda_doxorubicin"
    return (drop >= 10 and f < limit) or (f <= 45 and f < b) or drop >= 20


class Patient:
    """The rows of one patient, with days as numbers."""

    def __init__(self, tables: dict[str, list[Row]], patient: str, task: dict[str, Any]) -> None:
        self.task = task

        def own(name: str) -> list[Row]:
            return [row for row in tables.get(name, []) if row["patient_id"] == patient]

        def number(text: str) -> float | None:
            return float(text) if text else None

        self.doses = [(day_of(row["date"]), row["drug"]) for row in own("therapy")]
        self.echos = [
            {
                "day": day_of(row["date"]),
                "time": row["date"][11:] or "00:00:00",
                "lvef": number(row["lvef"]),
                "gls": None if number(row.get("gls", "")) is None else abs(float(row["gls"])),
            }
            for row in own("echo")
        ]
        self.ecgs = [
            (day_of(row["acquired_at"]), row["acquired_at"], row["path_xml"], row["status"])
            for row in own("ecg")
            if row["acquired_at"]
        ]
        self.lab_days = [day_of(row["date"]) for row in own("labs")]
        self.labs = []
        for row in own("labs"):
            limit = number(row["upper_limit"]) or LIMIT.get(row["name"])
            if limit is not None:
                self.labs.append((day_of(row["date"]), float(row["value"]) > limit))
        died = [row["died"] for row in own("followup")]
        self.died = day_of(died[0]) if died else None

    def index(self) -> int | None:
        entries, washout = self.task["first"], self.task["washout_days"]
        days = sorted({day for day, drug in self.doses if is_of_class(drug, entries)})
        first_record = min(
            [day for day, _ in self.doses]
            + [echo["day"] for echo in self.echos]
            + [ecg[0] for ecg in self.ecgs]
            + self.lab_days
        )
        for day in days:
            if washout is None:
                return day
            earlier = [other for other in days if day - washout <= other < day]
            if not earlier and first_record <= day - washout:
                return day
        return None

    def near(self, day: int) -> bool:
        within = self.task["labs_within_days"]
        return any(high for other, high in self.labs if abs(other - day) <= within)

    def decide(self) -> dict[str, Any]:  # noqa: C901, PLR0912 - the rules in their order
        task = self.task
        nothing = {"status": "no_index", "b": None, "event": None, "last": None, "death": None}
        nothing |= {"n_ecgs": 0, "ecg": None}
        index = self.index()
        if index is None:
            return nothing
        echos = merged(self.echos, task["same_day"])
        for echo in echos:
            echo["d"] = echo["day"] - index
        death = None if self.died is None else self.died - index
        last = echos[-1]["d"] if echos else None
        found = nothing | {"last": last, "death": death}
        low, high = task["baseline"]
        inside = [echo for echo in echos if low <= echo["d"] <= high]
        baseline = None
        if inside:
            baseline = inside[-1] if task["baseline_keep"] == "last" else inside[0]
        low, high = task["ecg"]
        ecgs = [
            (day - index, at, path, status)
            for day, at, path, status in self.ecgs
            if low <= day - index <= high and (death is None or day - index < death)
        ]
        usable = sorted(
            (at.ljust(19, "0") if len(at) == 10 else at, path, day, at)
            for day, at, path, status in ecgs
            if status == "ok"
        )
        found["n_ecgs"] = len(usable)
        if usable:
            found["ecg"] = usable[-1][1] if task["ecg_keep"] == "last" else usable[0][1]
        if baseline is None:
            return found | {"status": "no_baseline_echo"}
        b = baseline["lvef"]
        found["b"] = b
        later = [echo for echo in echos if echo["d"] > baseline["d"]]
        for echo in later:
            fall = None
            if echo["gls"] is not None and baseline["gls"]:
                fall = round(100 * (baseline["gls"] - echo["gls"]) / baseline["gls"], 6)
            rise = self.near(echo["day"]) and not self.near(baseline["day"])
            echo["meets"] = is_event(
                task["definition"], echo["lvef"], b, fall, rise, task["lower_limit"]
            )
        events = [echo for echo in later if echo["meets"] and echo["d"] >= task["from_day"]]
        if task["confirm"] is not None:
            events = [
                echo
                for echo in events
                if any(
                    other["meets"] and echo["d"] < other["d"] <= echo["d"] + task["confirm"]
                    for other in later
                )
            ]
        event = events[0]["d"] if events else None
        found["event"] = event
        if b < task["lvef_at_least"]:
            status = "already_reduced"
        elif not ecgs:
            status = "no_ecg"
        elif not usable:
            status = "ecg_unusable"
        elif event is not None and event <= task["horizon"]:
            status = "positive"
        elif death is not None and 1 <= death <= task["horizon"]:
            by_rule = {"exclude": "death_first", "negative": "negative", "event": "positive"}
            status = by_rule[task["deaths"]]
        elif any(echo["d"] >= task["negative"] and not echo["meets"] for echo in later):
            status = "negative"
        else:
            status = "unknown_followup"
        return found | {"status": status}


def decide_all(tables: dict[str, list[Row]], task: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Decide every patient of the therapy table."""
    patients = sorted({row["patient_id"] for row in tables["therapy"]})
    return {patient: Patient(tables, patient, task).decide() for patient in patients}
