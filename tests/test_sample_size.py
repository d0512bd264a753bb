"""Sample sizes are those that the papers and the authors' own programs print."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score

import ecgprep
from ecgprep.cli import cli
from ecgprep.errors import InputError
from ecgprep.study import development, validation
from ecgprep.study.binormal import Binormal, LinearPredictor, largest_cox_snell_r2

ONE_PERCENT = 0.01
CTRCD = {"prevalence": 0.087, "auroc": 0.78, "parameters": 10}


def about(value: float, rel: float = ONE_PERCENT):
    return pytest.approx(value, rel=rel)


def normal(mean: float, sd: float) -> LinearPredictor:
    """Return log-odds that are normal in the whole population, as some papers report them."""
    x = np.linspace(-10, 10, 4001)
    weights = np.exp(-(x**2) / 2)
    return LinearPredictor(mean + sd * x, weights / weights.sum())


def test_development_of_the_example_in_the_bmj():
    """Pre-eclampsia, in BMJ 2020;368:m441: 30 parameters, R² 0.05, prevalence 0.05."""
    assert np.ceil(development.patients_for_shrinkage(30, 0.05)) == 5249
    assert largest_cox_snell_r2(0.05) == about(0.33)
    assert np.ceil(development.patients_for_risk(0.05)) == 73


@pytest.mark.parametrize(
    ("r2", "parameters", "prevalence", "patients"),
    [
        (0.288, 24, 0.174, (623, 662, 221)),
        (0.55, 24, 0.174, (255, 532, 221)),
        (0.288, 36, 0.174, (934, 992, 221)),
        (0.288, 24, 0.25, (623, 590, 289)),
    ],
)
def test_development_as_pmsampsize_has_it(r2, parameters, prevalence, patients):
    """From the tests of the authors' R package from 1.1.1 on, which no longer rounds max R².

    The first case is the Chagas example of Stat Med 2019;38:1276, with 4.8 events per parameter.
    """
    found = (
        development.patients_for_shrinkage(parameters, r2),
        development.patients_for_optimism(parameters, r2, largest_cox_snell_r2(prevalence)),
        development.patients_for_risk(prevalence),
    )
    assert tuple(np.ceil(found)) == patients


@pytest.mark.parametrize(
    ("auroc", "prevalence", "r2"),
    [(0.74, 0.03, 0.023), (0.89, 0.174, 0.2909)],
)
def test_r2_of_an_auroc_as_published(auroc, prevalence, r2):
    """The first: Martin, Riley, Grant, "Statistical Primer: Sample size", example 1."""
    assert Binormal(prevalence, auroc).cox_snell_r2() == pytest.approx(r2, abs=5e-4)


def test_r2_of_an_auroc_is_that_of_a_fitted_model():
    """The method of Stat Med 2021;40:859: draw both classes, fit a logistic model, take its R²."""
    n, prevalence, auroc = 400_000, 0.087, 0.78
    model = Binormal(prevalence, auroc)
    generator = np.random.default_rng(1)
    label = np.arange(n) < prevalence * n
    x = generator.normal(np.where(label, model.sd, 0), 1)
    fitted = LogisticRegression(C=np.inf).fit(x[:, None], label).predict_proba(x[:, None])
    null = log_loss(label, np.full(n, label.mean()))
    assert roc_auc_score(label, x) == about(auroc)
    assert model.cox_snell_r2() == about(-np.expm1(2 * (log_loss(label, fitted) - null)), 0.02)


def test_binormal_model_is_calibrated():
    model = Binormal(0.018, 0.8)
    population = model.linear_predictor()
    assert population.mean(1 / (1 + np.exp(-population.log_odds))) == pytest.approx(0.018, abs=1e-9)


@pytest.mark.parametrize(
    ("prevalence", "width", "patients"),
    [(0.5, 0.2, 384), (0.1, 0.2, 3460), (0.1, 0.7, 294), (0.018, 1.0, 905)],
)
def test_validation_of_o_e_as_published(prevalence, width, patients):
    """Sections 3.1.1 and 4 of Stat Med 2021;40:4230."""
    assert validation.oe_patients(prevalence, width) == about(patients)


@pytest.mark.parametrize(
    ("auroc", "prevalence", "patients"), [(0.7, 0.1, 1154), (0.8, 0.5, 302), (0.8, 0.018, 4252)]
)
def test_validation_of_the_c_statistic_as_published(auroc, prevalence, patients):
    """Sections 3.3.1 and 4 of the same paper."""
    assert validation.c_patients(auroc, prevalence, 0.1) == about(patients, 0.002)


@pytest.mark.parametrize(
    ("population", "patients"),
    [(normal(-5, 2.5), 4544), (Binormal(0.018, 0.8).linear_predictor(), 17180)],
)
def test_validation_of_the_slope_as_pmvalsampsize_has_it(population, patients):
    """pmvalsampsize 0.2.1 with a million draws: lpnormal=(-5, 2.5), lpcstat=-4.7073."""
    variance = validation.slope_variance(population)
    assert validation.patients_for_width(variance, 0.2) == about(patients)


def test_validation_of_net_benefit_by_the_formula_of_the_paper():
    """Section 3.4.1: sensitivity 0.6, specificity 0.88, threshold 0.8, prevalence 0.72."""
    weight = 0.28 / 0.72 * 4
    terms = 0.24 / 0.72 + weight**2 * (0.88 * 0.12 / 0.28 + 0.12**2 / (0.72 * 0.28))
    variance = validation.net_benefit_variance(0.72, 0.6, 0.88, 0.8)
    assert validation.patients_for_width(variance, 0.2) == about(terms / 0.051**2)


def test_all_criteria_of_validation_as_pmvalsampsize_has_them():
    """pmvalsampsize(type="b", prevalence=.087, cstatistic=.78, lpcstat=-2.9473, threshold=.1)."""
    size = ecgprep.sample_size(**CTRCD, risk_threshold=0.1)
    expected = {"O/E": 4035, "calibration slope": 5221, "C statistic": 1028, "net benefit": 1498}
    assert {row.name: row.patients for row in size.validation} == {
        name: about(n) for name, n in expected.items()
    }
    assert size.validation_patients == about(5221)


def test_what_given_patients_reach_is_the_target_when_they_are_those_needed():
    for name in ("development", "validation"):
        for row in getattr(ecgprep.sample_size(**CTRCD, risk_threshold=0.1), name):
            planned = ecgprep.sample_size(**CTRCD, patients=row.patients, risk_threshold=0.1)
            reached = {other.name: other.reached for other in getattr(planned, name)}
            assert reached[row.name] == about(row.target)


def test_parameters_that_patients_allow_need_no_more_patients():
    most = ecgprep.sample_size(**CTRCD, patients=500).most_parameters
    needed = [
        ecgprep.sample_size(prevalence=0.087, auroc=0.78, parameters=n).development[0].patients
        for n in (most, most + 1)
    ]
    assert needed[0] <= 500 < needed[1]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"prevalence": 0.0}, "prevalence (=0) must be above 0 and below 1."),
        ({"prevalence": 8.7}, "prevalence (=8.7) must be a number, from 0 to 1."),
        ({"auroc": 0.5}, "auroc (=0.5) must be above 0.5 and below 1."),
        ({"parameters": 0}, "parameters (=0) must be a whole number, from 1 to 10,000."),
        ({"risk_threshold": 1.0}, "risk_threshold (=1) must be above 0 and below 1."),
        ({"patients": 0}, "patients (=0) must be a whole number, from 1 to 10,000,000."),
    ],
)
def test_values_outside_the_limits_are_refused(changed, message):
    with pytest.raises(InputError) as error:
        ecgprep.sample_size(**CTRCD | changed)
    assert str(error.value) == message


OPTIONS = "sample-size --prevalence 0.087 --auroc 0.78 --parameters 10".split()


def test_command_prints_what_the_api_returns():
    shown = CliRunner().invoke(cli, [*OPTIONS, "--patients", "1000", "--json"])
    assert json.loads(shown.stdout) == json.loads(
        json.dumps(ecgprep.sample_size(**CTRCD, patients=1000).as_dict())
    )


def test_command_says_whose_the_parameters_are():
    shown = CliRunner().invoke(cli, OPTIONS).stdout
    assert "1,001 patients, 8.7 events per parameter" in shown
    assert "The parameters are those of a regression" in shown


def test_command_asks_for_what_it_needs():
    shown = CliRunner().invoke(cli, ["sample-size", "--auroc", "0.8"])
    assert shown.exit_code == 2
    assert "Missing option '--prevalence'" in shown.stderr
