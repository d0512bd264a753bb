"""The status of a simulated patient under each definition of an event, from what was drawn.

This is the answer that a cohort is compared with, so it shares no code with the engine. It knows
days and agents as they were drawn; it reads no table, date or drug name. The rules are those of the
example task: first anthracycline; baseline echo from day -365 to 14 with an LVEF of 50 or more; ECG
from day -365 to 0; events from day 1 to 730; negative with an echo on day 365 or later; deaths
excluded; the mean of several echos on one day.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from ecgprep.simulation.visits import Echo, Lab, Visits

TASK = """\
# The task of a simulated hospital. All that is not here has its default.
index:         {first: [anthracycline]}
baseline_echo: {from_days: -365, to_days: 14, keep: last, lvef_at_least: 50}
ecg:           {from_days: -365, to_days: 0, keep: last}
outcome:       {definition: esc2022_moderate, from_day: 1, horizon_days: 730}
negative:      {last_echo_from_day: 365}
deaths:        exclude
same_day:      mean
gls_sign:      negative
"""
"""The task that the statuses here are for."""

BASELINE_WINDOW = (-365, 14)
ECG_WINDOW = (-365, 0)
NORMAL_LVEF = 50
EVENT_FROM_DAY = 1
HORIZON_DAY = 730
NEGATIVE_FROM_DAY = 365
LAB_DAYS = 14
LIMITS = {"BNP": 35.0, "NT-proBNP": 125.0}
"""Upper limits in pg/mL where the laboratory states none."""
BIOMARKERS = ("BNP", "NT-proBNP", "Troponin T")


@dataclass(frozen=True)
class Finding:
    """One echo beside the baseline echo."""

    before: float
    """LVEF at baseline."""
    lvef: float
    drop: float
    strain_fell: bool
    """GLS fell by more than 15 % of its magnitude at baseline."""
    markers_rose: bool


Meets = Callable[[Finding], bool]


def _severe(x: Finding) -> bool:
    return x.lvef < 40 <= x.before


def _moderate(x: Finding) -> bool:
    supported = x.drop >= 10 or x.strain_fell or x.markers_rose
    return _severe(x) or (40 <= x.lvef < 50 and supported)


def _mild(x: Finding) -> bool:
    return _moderate(x) or (x.lvef >= 50 and (x.strain_fell or x.markers_rose))


def _fda_doxorubicin(x: Finding) -> bool:
    low = x.drop >= 10 and x.lvef < 50
    return low or (x.lvef <= 45 and x.lvef < x.before) or x.drop >= 20


DEFINITIONS: dict[str, Meets] = {
    "esc2022_severe": _severe,
    "esc2022_moderate": _moderate,
    "esc2022_mild": _mild,
    "ase2014": lambda x: x.drop > 10 and x.lvef < 53,
    "hera": lambda x: x.drop >= 10 and x.lvef < 50,
    "crec": lambda x: x.drop >= 10 and x.lvef < 55,
    "fda_doxorubicin": _fda_doxorubicin,
}
"""Definition -> whether an echo meets it; the sources are on the page of definitions."""


def statuses(visits: Visits) -> dict[str, str]:
    """Return the status of a patient under each definition: the first that applies."""
    reason = _reason_for_exclusion(visits)
    if reason:
        return dict.fromkeys(DEFINITIONS, reason)
    baseline = _baseline(visits)
    assert baseline is not None
    later = [echo for echo in _one_a_day(visits.echos) if echo.day > baseline.day]
    found = [(echo.day, _compare(echo, baseline, visits.labs)) for echo in later]
    return {name: _outcome(found, meets, visits) for name, meets in DEFINITIONS.items()}


def _reason_for_exclusion(visits: Visits) -> str:
    if not any(dose.is_anthracycline for dose in visits.doses):
        return "no_index"
    baseline = _baseline(visits)
    if baseline is None:
        return "no_baseline_echo"
    if baseline.lvef < NORMAL_LVEF:
        return "already_reduced"
    first, last = ECG_WINDOW
    in_window = [x for x in visits.ecgs if x.flaw != "undated" and first <= x.day <= last]
    if not in_window:
        return "no_ecg"
    return "" if any(not ecg.flaw for ecg in in_window) else "ecg_unusable"


def _outcome(found: list[tuple[int, Finding]], meets: Meets, visits: Visits) -> str:
    if any(EVENT_FROM_DAY <= day <= HORIZON_DAY and meets(finding) for day, finding in found):
        return "positive"
    if visits.death_day is not None and 1 <= visits.death_day <= HORIZON_DAY:
        return "death_first"
    if any(day >= NEGATIVE_FROM_DAY and not meets(finding) for day, finding in found):
        return "negative"
    return "unknown_followup"


def _baseline(visits: Visits) -> Echo | None:
    """Return the last echo in the baseline window."""
    first, last = BASELINE_WINDOW
    echos = [echo for echo in _one_a_day(visits.echos) if first <= echo.day <= last]
    return echos[-1] if echos else None


def _one_a_day(echos: list[Echo]) -> list[Echo]:
    """Return the mean of the echos of each day, in the order of days."""
    days = sorted({echo.day for echo in echos})
    return [_mean([echo for echo in echos if echo.day == day]) for day in days]


def _mean(echos: list[Echo]) -> Echo:
    strains = [echo.gls for echo in echos if echo.gls is not None]
    return Echo(
        echos[0].day,
        round(sum(echo.lvef for echo in echos) / len(echos), 6),
        sum(strains) / len(strains) if strains else None,
        "mean",
    )


def _compare(echo: Echo, baseline: Echo, labs: list[Lab]) -> Finding:
    strain_fell = False
    if echo.gls is not None and baseline.gls is not None:
        fall = (abs(baseline.gls) - abs(echo.gls)) / abs(baseline.gls)
        strain_fell = round(100 * fall, 6) > 15
    return Finding(
        before=baseline.lvef,
        lvef=echo.lvef,
        drop=round(baseline.lvef - echo.lvef, 6),
        strain_fell=strain_fell,
        markers_rose=_any_high(labs, echo.day) and not _any_high(labs, baseline.day),
    )


def _any_high(labs: Iterable[Lab], day: int) -> bool:
    """Return whether a cardiac biomarker is above its limit within 14 days of a day."""
    return any(
        lab.value > (lab.upper_limit or LIMITS[lab.name])
        for lab in labs
        if lab.name in BIOMARKERS and abs(lab.day - day) <= LAB_DAYS
    )
