"""Turn the texts of a header into plausible values, or into none.

Unlike the fields of a waveform, nothing here refuses a file: what is absent, masked, a sentinel,
ambiguous or impossible becomes "" or None, never a guess. Nothing here raises for what a file
holds.

    field          plausible         also none
    rate           10 to 400 bpm     65535, 32767, -32768; so are 0, -1, `*` and any other text
    PR             20 to 1000 ms     the same
    QRS            20 to 500 ms      the same
    QT, QTc        100 to 1000 ms    the same
    axes           -360 to 360 deg   65535, 32767, -32768, `*` and any other text; 0 and -1 are axes
    age            0 to 130 years    born after the recording
    acquisition    1900 to 2100      parts masked or missing, any order but the vendor's own,
                                     what databases fill in for no date (1900-01-01)
    birth          1850 to 2100      the same
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Iterable
from datetime import date

from ecgprep.header import MEASUREMENTS
from ecgprep.readers.xml import Element

RANGES = {
    "heart_rate_bpm": (10.0, 400.0),
    "pr_ms": (20.0, 1000.0),
    "qrs_ms": (20.0, 500.0),
    "qt_ms": (100.0, 1000.0),
    "qtc_ms": (100.0, 1000.0),
    "p_axis_deg": (-360.0, 360.0),
    "qrs_axis_deg": (-360.0, 360.0),
    "t_axis_deg": (-360.0, 360.0),
}
"""Measurement -> least and greatest value that a living patient can have."""

SENTINELS = {65535.0, 32767.0, -32768.0}
"""What carts write for "not measured", whatever the unit."""

UNITS = {
    "bpm": {"bpm": 1.0, "/min": 1.0, "1/min": 1.0, "{beats}/min": 1.0, "{beat}/min": 1.0},
    "ms": {"ms": 1.0, "msec": 1.0, "s": 1e3, "sec": 1e3, "us": 1e-3, "µs": 1e-3, "μs": 1e-3},
    "deg": {"deg": 1.0, "degree": 1.0, "degrees": 1.0, "°": 1.0, "rad": 180 / math.pi},
}
"""Unit of a measurement's name -> units of files, in lower case, -> factor."""

_DAYS_A_YEAR = 365.25
YEARS_PER_UNIT = {
    **dict.fromkeys(("a", "y", "yr", "year", "years"), 1.0),
    **dict.fromkeys(("mo", "month", "months"), 1 / 12),
    **dict.fromkeys(("wk", "week", "weeks"), 7 / _DAYS_A_YEAR),
    **dict.fromkeys(("d", "day", "days"), 1 / _DAYS_A_YEAR),
    **dict.fromkeys(("h", "hour", "hours"), 1 / (24 * _DAYS_A_YEAR)),
}
"""Unit of an age, in lower case, -> years. UCUM's symbols, and words. `m` could be minutes."""

FIRST_YEAR, LAST_YEAR = 1850, 2100
"""Years of birth. Recordings are from 1900 on; real ones, from when carts were digital."""
NOT_DATES = {"1899-12-30", "1899-12-31", "1900-01-01"}
"""What databases and spreadsheets fill in for a date that nobody knows."""
OLDEST_YEARS = 130
CHILD_YEARS = 2
"""Below this age decimals count; from it on, carts state completed years, and so do we."""

_BREAK = re.compile(r"[\x00-\x1f\x7f]")
"""A line break, tab or DEL: a manifest refuses an id that holds one."""
_BLANKS = re.compile(r"[\x00-\x20\x7f]+")
_INVISIBLE = "\ufeff\u200b\u200c\u200d\u2060"
_NOT_IDS = {"UNK", "NA", "N/A"}
_SEXES = {"F": "F", "FEMALE": "F", "M": "M", "MALE": "M"}

_YMD = re.compile(r"(\d{4})-(\d{1,2})-(\d{1,2})", re.ASCII)
_COMPACT = re.compile(r"(\d{4})(\d\d)(\d\d)", re.ASCII)
_MDY = re.compile(r"(\d{1,2})-(\d{1,2})-(\d{4})", re.ASCII)
_CLOCK = re.compile(r"(\d{1,2}):(\d\d)(?::(\d\d)(?:\.(\d{1,9}))?)?", re.ASCII)
_COMPACT_CLOCK = re.compile(r"(\d\d)(\d\d)(?:(\d\d)(?:\.(\d{1,9}))?)?", re.ASCII)
_DMY = re.compile(r"(\d{1,2})-([a-z]{3})-(\d{4})", re.ASCII | re.IGNORECASE)
_MONTHS = "jan feb mar apr may jun jul aug sep oct nov dec".split()
_ZONE = re.compile(r"(Z|[+-](?:0\d|1[0-4])(?::?[0-5]\d)?)$", re.ASCII)


def child(parent: Element | None, name: str) -> Element | None:
    """Return the first direct child of that local name.

    lxml's `find` does the same in three times the time, and a header is a dozen of these.
    """
    return None if parent is None else next(parent.iterchildren(f"{{*}}{name}"), None)


def all_at(parents: Iterable[Element], *path: str) -> list[Element]:
    """Return all elements at a path of local names below any of `parents`, in document order."""
    found = list(parents)
    for name in path:
        found = [element for parent in found for element in parent.iterchildren(f"{{*}}{name}")]
    return found


def first_at(parent: Element, *path: str) -> Element | None:
    """Return the first element at a path of local names."""
    return next(iter(all_at([parent], *path)), None)


def texts_of(parent: Element | None, names: tuple[str, ...]) -> dict[str, str]:
    """Return name -> text of the direct children of these local names; the first of each counts."""
    texts: dict[str, str] = {}
    if parent is not None:
        for element in parent.iterchildren(*_in_any_namespace(names)):
            texts.setdefault(element.tag.rpartition("}")[2], element.text or "")
    return texts


@functools.cache
def _in_any_namespace(names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the tags by which lxml finds local names. Readers ask for the same few each time."""
    return tuple(f"{{*}}{name}" for name in names)


def identifier(text: str | None) -> str:
    """Return an id as the file has it, without white space and invisible marks around it.

    What stands on two lines, which no manifest can hold, is put on one. What holds no letter or
    digit (`---`, `?`), or says that there is none, is no id.
    """
    stripped = _trim(text)
    if _BREAK.search(stripped):
        stripped = _trim(_BLANKS.sub(" ", stripped))
    is_id = any(map(str.isalnum, stripped)) and stripped.upper() not in _NOT_IDS
    return stripped if is_id else ""


def _trim(text: str | None) -> str:
    """Strip white space and invisible marks, in whatever order they come."""
    stripped = (text or "").strip()
    while stripped and (stripped[0] in _INVISIBLE or stripped[-1] in _INVISIBLE):
        stripped = stripped.strip(_INVISIBLE).strip()
    return stripped


def sex_of(text: str | None) -> str:
    """Return F or M for `F`, `female` and the like, in any case; "" for everything else."""
    return _SEXES.get((text or "").strip().upper(), "")


def _number(text: str | None) -> float | None:
    """Return a decimal number, or None. NaN and infinity pass: they lie in no range."""
    if not text or "_" in text or not text.isascii():  # Python reads 1_0 as 10
        return None
    try:
        return float(text)
    except ValueError:
        return None


def measurement(name: str, text: str | None, unit: str | None = None) -> float | None:
    """Return a measurement in the unit of its name, if it is plausible.

    `name` is one of MEASUREMENTS. A text without a unit is in that unit, and the range shows it: no
    QT has 400 s. A unit that is not in UNITS gives None.
    """
    value = _number(text)
    if value is None:
        return None
    if unit:
        factor = UNITS[name.rpartition("_")[2]].get(unit.strip().lower())
        if factor is None or value in SENTINELS:
            return None
        value = round(value * factor, 6)  # 0.412 s are 412 ms, not 411.99999999999994
    low, high = RANGES[name]
    return value if low <= value <= high else None


def measurements(texts: Iterable[str | None]) -> dict[str, float | None]:
    """Return measurement -> value from the eight texts in the order of MEASUREMENTS."""
    pairs = zip(MEASUREMENTS, texts, strict=True)
    return {name: measurement(name, text) for name, text in pairs}


def stated_age(text: str | None, unit: str | None) -> float | None:
    """Return a stated age in years. An age without a known unit is none: 11 may be months."""
    value = _number(text)
    factor = YEARS_PER_UNIT.get((unit or "").strip().lower())
    return None if value is None or factor is None else _plausible_age(value * factor)


def age_years(stated: float | None, birth: str, acquired_at: str) -> float | None:
    """Return the stated age, or that from an ISO date of birth and the time of acquisition.

    A stated age of 0 gives way to a date of birth, which says more: some systems write 0 for an age
    that they do not know.
    """
    if stated:
        return stated
    from_birth = _age_from_birth(birth, acquired_at[:10])
    return stated if from_birth is None else from_birth


def _age_from_birth(birth: str, acquired_on: str) -> float | None:
    """Return the completed years from one ISO date to another; below two years with decimals."""
    if not birth or not acquired_on:
        return None
    born, acquired = date.fromisoformat(birth), date.fromisoformat(acquired_on)
    had_birthday = (acquired.month, acquired.day) >= (born.month, born.day)
    years = acquired.year - born.year - (not had_birthday)
    if 0 <= years < CHILD_YEARS:
        exact = (acquired - born).days / _DAYS_A_YEAR
        return _plausible_age(min(exact, CHILD_YEARS - 0.01))
    return _plausible_age(years)


def _plausible_age(years: float) -> float | None:
    if not 0 <= years <= OLDEST_YEARS:
        return None
    return float(math.floor(years)) if years >= CHILD_YEARS else round(years, 2)


def date_of(year: str | None, month: str | None, day: str | None) -> str:
    """Return the ISO date of three texts, or "" for a date that does not exist."""
    match = _YMD.fullmatch(f"{(year or '').strip()}-{(month or '').strip()}-{(day or '').strip()}")
    return _iso(*match.groups()) if match else ""


def _iso(year: str, month: str, day: str) -> str:
    """Return the ISO date of three texts of digits, or "" for a date that does not exist."""
    try:
        on = date(int(year), int(month), int(day))
    except ValueError:  # 30 February
        return ""
    text = on.isoformat()
    return text if FIRST_YEAR <= on.year <= LAST_YEAR and text not in NOT_DATES else ""


def iso_date(text: str | None) -> str:
    """Return the ISO date of `YYYY-MM-DD` or `YYYYMMDD`; "" for anything else."""
    stripped = (text or "").strip()
    if not stripped:
        return ""
    match = _YMD.fullmatch(stripped) or _COMPACT.fullmatch(stripped)
    return _iso(*match.groups()) if match else ""


def us_date(text: str | None) -> str:
    """Return the ISO date of `MM-DD-YYYY`, `DD-MMM-YYYY` or `YYYY-MM-DD`; "" for anything else.

    The day is only first where the month is a name: where the month is above 12, the date is not
    understood.
    """
    stripped = (text or "").strip()
    if match := _MDY.fullmatch(stripped):
        return _iso(match[3], match[1], match[2])
    match = _DMY.fullmatch(stripped)
    if match and (month := match[2].lower()) in _MONTHS:
        return _iso(match[3], str(_MONTHS.index(month) + 1), match[1])
    return iso_date(stripped)


def clock_time(text: str | None) -> str:
    """Return the ISO time of `HH:MM[:SS[.f]]` or `HHMM[SS[.f]]`; "" for anything else.

    Seconds are there if the file has them, and fractions of a second if they are not 0.
    """
    stripped = (text or "").strip()
    match = _CLOCK.fullmatch(stripped) or _COMPACT_CLOCK.fullmatch(stripped)
    if match is None:
        return ""
    hour, minute, second, fraction = match.groups()
    if int(hour) > 23 or int(minute) > 59 or int(second or 0) > 59:
        return ""
    fraction = (fraction or "").rstrip("0")
    seconds = f":{second}" if second else ""
    return f"{int(hour):02d}:{minute}{seconds}{'.' if fraction else ''}{fraction}"


def moment(on: str, at: str) -> str:
    """Join an ISO date and an ISO time. Without a time it is the date, without a date nothing.

    A date before 1900 is none: nobody recorded an ECG.
    """
    if on < "1900":
        return ""
    return f"{on}T{at}" if at else on


def timestamp(text: str | None) -> str:
    """Return ISO 8601 for `YYYYMMDD[HHMM[SS[.f]]][+ZZ[ZZ]]` (HL7) or ISO 8601 itself.

    A zone stays where there is a time. A time that is not understood leaves the date, and a date
    that is not understood leaves nothing.
    """
    on, at, zone = _split(text)
    time = clock_time(at)
    if time and zone != "Z":
        zone = f"{zone[:3]}:{zone[3:].lstrip(':') or '00'}" if zone else ""
    return moment(iso_date(on), f"{time}{zone}" if time else "")


def date_in(text: str | None) -> str:
    """Return the ISO date of a timestamp, such as that of a birth."""
    return iso_date(_split(text)[0])


def _split(text: str | None) -> tuple[str, str, str]:
    """Return the texts of date, time and zone in a timestamp."""
    stripped, zone = (text or "").strip(), ""
    found = _ZONE.search(stripped, 8)  # behind a date
    if found:
        stripped, zone = stripped[: found.start()].rstrip(), found[1]
    on, _, at = stripped.replace(" ", "T").partition("T")
    return (on, at, zone) if at or not on[:8].isdecimal() else (on[:8], on[8:], zone)
