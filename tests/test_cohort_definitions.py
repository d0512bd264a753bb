"""Definitions at their borders, worked out by hand, and the expressions that they are made of."""

from __future__ import annotations

import numpy as np
import pytest

from ecgprep.cohorts.definitions import (
    DEFINITIONS,
    FLAGS,
    NUMBERS,
    describe_definitions,
    find_definition,
)
from ecgprep.cohorts.drugs import agents_of, doxorubicin_factor, is_known, names_any
from ecgprep.cohorts.expression import MAX_LENGTH, Truth, parse_expression
from ecgprep.cohorts.run import make_cohort
from ecgprep.cohorts.task import make_task

ECG = "patient_id,path_xml,acquired_at\n1,1.xml,2020-01-01\n2,2.xml,2020-01-01\n"
THERAPY = "patient_id,date,drug\n1,2020-01-01,doxorubicin\n2,2020-01-01,doxorubicin\n"
# The second patient is negative by any definition, so that no cohort is empty.
CONTROL = "2,2020-01-01,60,-20\n2,2022-01-01,60,-20\n"


def event_of(folder, definition, b, f, g0="", g="", labs=None, **task) -> bool:
    """Say whether an echo with LVEF f makes an event, computed through files."""
    echo = f"patient_id,date,lvef,gls\n1,2020-01-01,{b},{g0}\n1,2020-06-01,{f},{g}\n{CONTROL}"
    texts = {"ecg": ECG, "therapy": THERAPY, "echo": echo}
    if labs:
        texts["labs"] = f"patient_id,date,name,value,upper_limit\n{labs}"
    sources = {}
    for name, text in texts.items():
        sources[name] = folder / f"{name}.csv"
        sources[name].write_text(text)
    settings = {
        "baseline_echo": {"lvef_at_least": None},
        "outcome": {"definition": definition} | task,
        "gls_sign": "negative",
    }
    result = make_cohort(make_task(settings, "Task"), sources)
    return result.status["event_day"].notna().iloc[0]


BORDERS = [
    # definition, b, f, g0, g, event?
    ("esc2022_severe", 40, 39.9, "", "", True),
    ("esc2022_severe", 39.9, 39, "", "", False),  # b must be at least 40
    ("esc2022_severe", 60, 40, "", "", False),
    ("esc2022_moderate", 60, 50, "", "", False),
    ("esc2022_moderate", 60, 49.9, "", "", True),
    ("esc2022_moderate", 59.9, 49.9, "", "", True),  # b - f = 10
    ("esc2022_moderate", 59.8, 49.9, "", "", False),  # 9.9
    ("esc2022_moderate", 50, 40, "", "", True),
    ("esc2022_moderate", 49.9, 40, "", "", False),
    ("esc2022_moderate", 40, 39.9, "", "", True),  # severe
    ("esc2022_moderate", 55, 49, "-20", "-17", False),  # falls by 15 %, which is not more
    ("esc2022_moderate", 55, 49, "-20", "-16.9", True),
    ("esc2022_moderate", 55, 49, "-20", "", False),
    ("esc2022_moderate", 55, 49, "", "-10", False),
    ("esc2022_moderate", 55, 50, "-20", "-10", False),
    ("esc2022_mild", 55, 50, "-20", "-10", True),
    ("esc2022_mild", 55, 50, "-20", "-17", False),
    ("esc2022_mild", 60, 49.9, "", "", True),
    ("ase2014", 63, 53, "", "", False),
    ("ase2014", 63, 52.9, "", "", True),
    ("ase2014", 62.9, 52.9, "", "", False),  # b - f = 10 is not more than 10
    ("ase2014", 64.4, 54.4, "", "", False),
    ("ase2014", 62.4, 52.4, "", "", False),  # in floating point 62.4 - 52.4 is more than 10
    ("hera", 60, 50, "", "", False),
    ("hera", 59.9, 49.9, "", "", True),
    ("hera", 59.8, 49.9, "", "", False),
    ("crec", 65, 55, "", "", False),
    ("crec", 64.9, 54.9, "", "", True),
    ("crec", 60, 54.9, "", "", False),  # symptoms are not known
    ("fda_doxorubicin", 60, 50, "", "", False),
    ("fda_doxorubicin", 59.9, 49.9, "", "", True),
    ("fda_doxorubicin", 46, 45, "", "", True),
    ("fda_doxorubicin", 45, 45, "", "", False),  # no fall
    ("fda_doxorubicin", 80, 60, "", "", True),
    ("fda_doxorubicin", 80, 60.1, "", "", False),
]


@pytest.mark.parametrize(("definition", "b", "f", "g0", "g", "expected"), BORDERS)
def test_a_definition_at_its_borders(tmp_path, definition, b, f, g0, g, expected):
    assert event_of(tmp_path, definition, b, f, g0, g) == expected


def test_the_lower_limit_of_normal_is_the_tasks(tmp_path):
    assert not event_of(tmp_path, "fda_doxorubicin", 62, 52)
    assert event_of(tmp_path, "fda_doxorubicin", 62, 52, lower_limit=53)


@pytest.mark.parametrize(
    ("labs", "expected"),
    [
        ("1,2020-06-10,BNP,36,\n", True),
        ("1,2020-06-10,BNP,35,\n", False),
        ("1,2020-06-15,nt-pro-BNP,126,\n", True),  # 14 days after the echo
        ("1,2020-06-16,nt-pro-BNP,126,\n", False),
        ("1,2020-06-10,NT-proBNP,36,\n", False),
        ("1,2020-06-10,hs-cTnT,15,14\n", True),
        ("1,2020-06-10,Troponin I,15,\n", False),  # without a limit nobody can say
        ("1,2020-06-10,creatinine,15,1\n", False),
        ("1,2020-06-10,BNP,36,\n1,2020-01-10,BNP,40,\n", False),  # it was high at baseline
        ("1,2020-06-10,BNP,36,\n1,2020-01-10,BNP,20,\n", True),
        ("1,2020-06-10,BNP,20,\n1,2020-06-11,BNP,36,\n", True),  # the highest counts
        ("1,2020-06-10,BNP,>36,\n", True),
        ("1,2020-06-10,BNP,<36,40\n", False),
    ],
)
def test_a_rise_of_a_biomarker_counts_with_a_small_fall(tmp_path, labs, expected):
    assert event_of(tmp_path, "esc2022_moderate", 55, 49, labs=labs) == expected


@pytest.mark.parametrize(("sign", "b", "f"), [("negative", "-20", "-16"), ("positive", "20", "16")])
def test_gls_of_either_sign_gives_the_same_fall(tmp_path, sign, b, f):
    echo = f"patient_id,date,lvef,gls\n1,2020-01-01,55,{b}\n1,2020-06-01,49,{f}\n"
    for name, text in {"ecg": ECG, "therapy": THERAPY, "echo": echo}.items():
        (tmp_path / f"{name}.csv").write_text(text)
    sources = {name: tmp_path / f"{name}.csv" for name in ("ecg", "therapy", "echo")}
    result = make_cohort(make_task({"gls_sign": sign}, "Task"), sources)
    assert result.counts["positive"] == 1


def test_symptoms_lower_the_bar_of_crec_where_a_column_tells_them(tmp_path):
    echo = "patient_id,date,lvef,hf\n1,2020-01-01,58,\n1,2020-06-01,53,1\n2,2020-01-01,58,\n"
    echo += "2,2021-06-01,53,0\n"
    for name, text in {"ecg": ECG, "therapy": THERAPY, "echo": echo}.items():
        (tmp_path / f"{name}.csv").write_text(text)
    sources = {name: tmp_path / f"{name}.csv" for name in ("ecg", "therapy", "echo")}
    task = {"outcome": {"definition": "crec"}, "columns": {"echo": {"symptoms": "hf"}}}
    result = make_cohort(make_task(task, "Task"), sources)
    assert result.status["status"].tolist() == ["positive", "negative"]


def met(text: str, **values: float) -> bool:
    """Evaluate an expression for one observation."""
    arrays = {name: np.array([value], float) for name, value in values.items()}
    flags = {"yes": Truth(np.array([True]), np.array([False]))}
    flags["unknown"] = Truth(np.array([False]), np.array([False]))
    expression = parse_expression(text, arrays, flags)
    return bool(expression.met(arrays | flags, 1)[0])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x < 2", True),
        ("x < 1", False),
        ("1 <= x < 2 <= y", True),
        ("1 <= x < 2 <= y < 2", False),
        ("y - x * 2 == 0", True),
        ("-x < 0 and not y < 0", True),
        ("y / 0 > 1", False),
        ("not y / 0 > 1", False),
        ("gone < 1", False),
        ("not gone < 1", False),  # the negation of what is not known is not known either
        ("gone < 1 or x == 1", True),
        ("not (gone < 1 and x == 2)", True),  # false whatever the missing value is
        ("unknown or yes", True),
        ("not unknown", False),
        ("0.1 + 0.2 == 0.3", True),
    ],
)
def test_an_expression_is_evaluated_in_three_valued_logic(text, expected):
    assert met(text, x=1, y=2, gone=np.nan) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "lvef",
        "1",
        "lvef < 'a'",
        "lvef < True",
        "lvef < 1e999",
        "nonsense < 3",
        "symptoms < 3",
        "drop and symptoms",
        "__import__('os').system('true')",
        "(lambda: 1)() < 3",
        "lvef.real < 3",
        "lvef[0] < 3",
        "abs(drop) > 3",
        "lvef < 3; 1",
        "lvef if symptoms else drop",
        "lvef ** 9 < 3",
        "lvef in (1, 2)",
        "lvef is 3",
        "x := 3",
        "[lvef < 3 for x in y]",
        "(" * 300 + "lvef" + ")" * 300,
        "lvef < 50" + " and lvef < 50" * MAX_LENGTH,
    ],
)
def test_what_is_not_in_the_grammar_is_refused(text):
    with pytest.raises(ValueError, match=r"must"):
        find_definition(text)


def test_an_expression_may_stand_in_place_of_a_name(tmp_path):
    assert event_of(tmp_path, "lvef < 50 and drop >= 10", 60, 49.9)
    assert not event_of(tmp_path, "lvef < 50 and drop >= 10", 60, 50)
    assert find_definition("lvef<50   and drop>=10").criterion.text == "lvef < 50 and drop >= 10"


def test_a_definition_without_any_of_its_inputs_is_not_assessable():
    strain = find_definition("gls_fall > 15")
    assert not strain.is_assessable(())
    assert strain.is_assessable({"gls_fall"})
    assert DEFINITIONS["esc2022_mild"].is_assessable(())


def test_every_definition_has_a_source_and_is_printed():
    text = describe_definitions()
    for name, one in DEFINITIONS.items():
        assert one.source
        assert one.clause
        assert name in text
        assert one.criterion.names <= NUMBERS.keys() | FLAGS.keys()


@pytest.mark.parametrize(
    ("text", "agents"),
    [
        ("Doxorubicin HCl", "doxorubicin"),
        ("liposomal DOXORUBICIN", "doxorubicin"),
        ("doxorubicin, pegylated liposomal", "doxorubicin"),
        ("Adriamycin 50 mg", "doxorubicin"),
        ("Trastuzumab-xyz", "trastuzumab"),
        ("Phesgo", "trastuzumab"),
        ("ｅｐｉｒｕｂｉｃｉｎ", "epirubicin"),
        ("Trastuzumab emtansine", "trastuzumab emtansine"),
    ],
)
def test_a_drug_belongs_to_the_agent_that_is_one_of_its_words(text, agents):
    assert names_any(text, [agents])


@pytest.mark.parametrize("text", ["doxorubicinol", "mitoxantrone", "trastuzumabx", "", "rubicin"])
def test_a_drug_is_not_guessed(text):
    assert not names_any(text, agents_of(["anthracycline", "anti_her2"], {}))


def test_mitoxantrone_counts_only_where_it_is_named():
    assert names_any("Mitoxantrone", agents_of(["anthracycline", "mitoxantrone"], {}))
    assert is_known("Novantrone", {})
    assert doxorubicin_factor("Novantrone") == 10.5


def test_a_task_may_have_classes_of_its_own():
    own = {"platinum": ("cisplatin", "carboplatin")}
    assert agents_of(["platinum"], own) == ("cisplatin", "carboplatin")
    assert is_known("Cisplatin", own)
    assert not is_known("Cisplatin", {})
