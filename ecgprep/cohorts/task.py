"""The task: when the clock starts, which ECG counts, what an event is, and who is not known.

A task is one YAML file. Unknown keys, contradictions and values that are not allowed are refused by
name. `canonical_text` is what a store keeps of it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from ecgprep.cohorts.definitions import Definition, find_definition
from ecgprep.cohorts.drugs import CLASSES, agents_of
from ecgprep.errors import InputError
from ecgprep.files.atomic import canonical_json
from ecgprep.files.strict_yaml import read_yaml

EXAMPLES = {
    "ctrcd": Path(__file__).with_name("example.yaml"),
    "echo_pairs": Path(__file__).with_name("example_pairs.yaml"),
}
"""Kind of task -> what `ecgprep cohort --example` prints; its values are the defaults."""

RECORDED = "recorded"
"""Key under which a task that was carried out notes its manifest; it is ignored when read again."""

TASK_MARK = rb"\A# The task of a cohort by ecgprep"
"""What a task file that we wrote begins with."""

_NOT_IN_STORE = {"columns", "dates"}
"""Keys that say how one hospital writes its tables; they change no label."""

_MAX_DAYS = 36_500
_WORDS = re.compile(r"[A-Za-z0-9][A-Za-z0-9 _-]{0,59}")


def _not_bool(value: Any) -> Any:
    """Refuse what YAML reads `no` and `on` as: they would pass for 0 and 1."""
    if isinstance(value, bool):
        raise ValueError("must be a number, not yes or no")
    return value


def _listed(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


def _plain_words(text: str) -> str:
    if not _WORDS.fullmatch(text):
        raise ValueError("must be letters, digits, blanks, _ and -, at most 60 of them")
    return text.strip().casefold()


def _definition(text: str) -> str:
    """Return the name of a built-in definition, or an expression in its canonical form."""
    found = find_definition(text)
    return found.criterion.text if found.name == "custom" else found.name


Day = Annotated[int, BeforeValidator(_not_bool), Field(ge=-_MAX_DAYS, le=_MAX_DAYS)]
Days = Annotated[int, BeforeValidator(_not_bool), Field(ge=0, le=_MAX_DAYS)]
Percent = Annotated[float, BeforeValidator(_not_bool), Field(ge=0, le=100, allow_inf_nan=False)]
Words = Annotated[str, AfterValidator(_plain_words)]
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,39}$")]
WordList = Annotated[tuple[Words, ...], BeforeValidator(_listed), Field(min_length=1)]
SameDay = Literal["mean", "lowest", "last"]
TableName = Literal["ecg", "echo", "therapy", "followup", "labs", "patients"]
DateFormat = Literal["iso", "compact", "dmy", "mdy"]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class _Window(_Part):
    """Days from the index date, both ends included."""

    from_days: Day = -365
    to_days: Day = 0

    @model_validator(mode="after")
    def _in_order(self) -> _Window:
        if self.from_days > self.to_days:
            raise ValueError("from_days must not be later than to_days")
        return self


class Index(_Part):
    """The day on which the clock starts: the first dose of these drugs or classes."""

    first: WordList = ("anthracycline",)
    washout_days: Days | None = None


class BaselineEcho(_Window):
    """Which echocardiogram tells the LVEF before the disease."""

    to_days: Day = 14
    keep: Literal["last", "first"] = "last"
    lvef_at_least: Percent | None = 50.0


class EcgWindow(_Window):
    """Which ECGs count."""

    keep: Literal["last", "first", "all"] = "last"


class Outcome(_Part):
    """What an event is, and from when until when it makes a patient positive."""

    definition: Annotated[str, AfterValidator(_definition)] = "esc2022_moderate"
    from_day: Day = 1
    horizon_days: Days = 730
    confirm_within_days: Annotated[Days, Field(ge=1)] | None = None
    labs_within_days: Days = 14
    lower_limit: Percent = 50.0


class Negative(_Part):
    """How long a patient must be followed without an event to be negative."""

    last_echo_from_day: Days = 365


class Pairs(_Part):
    """Which echocardiogram an ECG is paired with, and what makes the pair positive."""

    within_days: Days = 14
    lvef_below: Percent = 50.0
    keep: Literal["last", "first", "all"] = "all"


class _AnyTask(_Part):
    """What both kinds of task have in common: how tables are read."""

    same_day: SameDay = "mean"
    missing_lvef: Literal["refuse", "skip"] = "refuse"
    columns: dict[TableName, dict[Name, str]] = Field(default_factory=dict)
    dates: dict[TableName, DateFormat] = Field(default_factory=dict)

    @property
    def canonical_text(self) -> str:
        """The task as canonical JSON with every default, without columns' names and dates."""
        values = self.model_dump(mode="json", exclude=_NOT_IN_STORE)
        return canonical_json(values).decode()

    def to_yaml(self, recorded: Mapping[str, str] | None = None) -> str:
        """Write the whole task, every default included, with what is `recorded` beside it."""
        every = self.model_dump(mode="json")
        # What is asked comes before how tables are read, as in the example.
        values = {key: every[key] for key in sorted(every, key=_AnyTask.model_fields.__contains__)}
        if recorded:
            values[RECORDED] = dict(recorded)
        return yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=100)


class CtrcdTask(_AnyTask):
    """Cardiac dysfunction after a therapy has begun: the label is an event in the future."""

    kind: Literal["ctrcd"] = "ctrcd"
    index: Index = Field(default_factory=Index)
    baseline_echo: BaselineEcho = Field(default_factory=BaselineEcho)
    ecg: EcgWindow = Field(default_factory=EcgWindow)
    outcome: Outcome = Field(default_factory=Outcome)
    negative: Negative = Field(default_factory=Negative)
    deaths: Literal["exclude", "negative", "event"] = "exclude"
    rows: Literal["labelled", "all"] = "labelled"
    gls_sign: Literal["negative", "positive"] | None = None
    biomarkers: WordList = ("bnp", "nt-probnp", "troponin")
    echo_without_therapy: Literal["refuse", "ignore"] = "refuse"
    classes: dict[Name, WordList] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _windows_agree(self) -> CtrcdTask:
        faults = list(_contradictions(self))
        if faults:
            raise ValueError("; ".join(faults))
        return self

    @cached_property
    def definition(self) -> Definition:
        """What an event is."""
        return find_definition(self.outcome.definition)

    @property
    def agents(self) -> tuple[str, ...]:
        """The drugs whose first dose starts the clock."""
        return agents_of(self.index.first, self.classes)


class EchoPairsTask(_AnyTask):
    """Each ECG with the nearest echocardiogram: the label is a low LVEF at about that time."""

    kind: Literal["echo_pairs"]
    pairs: Pairs = Field(default_factory=Pairs)


Task = CtrcdTask | EchoPairsTask


def _contradictions(task: CtrcdTask) -> list[str]:
    """List the windows of a task that contradict each other."""
    outcome = task.outcome
    faults = []
    if task.ecg.to_days >= outcome.from_day:
        faults.append(
            f"ecg.to_days (={task.ecg.to_days}) must be before outcome.from_day "
            f"(={outcome.from_day}), or the choice of the ECG would depend on the future"
        )
    if outcome.from_day > outcome.horizon_days:
        faults.append(
            f"outcome.from_day (={outcome.from_day}) must not be after outcome.horizon_days "
            f"(={outcome.horizon_days})"
        )
    if task.baseline_echo.from_days >= outcome.horizon_days:
        faults.append(
            f"baseline_echo.from_days (={task.baseline_echo.from_days}) must be before "
            f"outcome.horizon_days (={outcome.horizon_days}), or no event could follow it"
        )
    if task.negative.last_echo_from_day < outcome.from_day:
        faults.append(
            f"negative.last_echo_from_day (={task.negative.last_echo_from_day}) must not be before "
            f"outcome.from_day (={outcome.from_day}), or a patient would be negative before an "
            "event could count"
        )
    taken = sorted(task.classes.keys() & CLASSES.keys())
    if taken:
        faults.append(f"classes: {', '.join(taken)}: built in already; choose another name")
    return faults


def read_task(source: str | Path | Mapping[str, Any]) -> Task:
    """Read a task from a YAML file or a mapping, and check it. Raises InputError."""
    if isinstance(source, Mapping):
        return make_task(source, "Task")
    path = Path(source)
    return make_task(read_yaml(path, "Task"), f"Task {path.name}")


def make_task(values: Any, where: str) -> Task:
    """Check a task; `where` opens the message. Raises InputError that names every fault."""
    if not isinstance(values, Mapping) or not all(isinstance(key, str) for key in values):
        raise InputError(
            f"{where} must be a mapping of settings. `ecgprep cohort --example` prints one."
        )
    settings = {key: value for key, value in values.items() if key != RECORDED}
    model: type[CtrcdTask] | type[EchoPairsTask] = CtrcdTask
    if settings.get("kind") == "echo_pairs":
        model = EchoPairsTask
    try:
        return model(**settings)
    except ValidationError as error:
        faults = dict.fromkeys(_fault(item, model) for item in error.errors(include_url=False))
        raise InputError(f"{where}: {'; '.join(faults)}.") from None


def _fault(item: Any, model: type[BaseModel]) -> str:
    """Say what is wrong with one key, without repeating its value."""
    message = str(item["msg"]).removeprefix("Value error, ").removesuffix(".")
    key = ".".join(str(part)[:40] for part in item["loc"])
    if item["type"] == "extra_forbidden":
        allowed = _fields_beside(model, item["loc"])
        return f"{key}: unknown key; allowed are {', '.join(allowed)}"
    if key == "kind":
        return "kind: must be ctrcd or echo_pairs"
    return f"{key}: {message[:1].lower()}{message[1:]}" if key else message


def _fields_beside(model: type[BaseModel], loc: tuple[Any, ...]) -> list[str]:
    """List the keys that are allowed where an unknown one was found."""
    for part in loc[:-1]:
        inner = model.model_fields[str(part)].annotation
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            break
        model = inner
    return list(model.model_fields)
