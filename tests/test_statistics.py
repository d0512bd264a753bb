"""Statistics of the train rows: exact, of these rows alone, and read back from their file."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import changed_store
from sklearn.preprocessing import StandardScaler

from ecgfit.data.loader import make_loader
from ecgfit.data.model_input import ModelInput
from ecgfit.data.rows import select_rows
from ecgfit.data.statistics import CovariateStats, NormStats, lead_deviation
from ecgprep.errors import InputError
from ecgprep.leads import LEADS


@pytest.fixture(scope="module")
def stats(store) -> NormStats:
    return NormStats.of(store, select_rows(store, "train", "mask"))


def test_norm_stats_survive_the_file(stats, tmp_path):
    stats.save(tmp_path / "n.json")
    value = json.loads((tmp_path / "n.json").read_bytes())
    assert NormStats.from_json(value) == stats
    assert value["leads"] == list(LEADS)
    for broken in (
        {},
        {**value, "leads": ["I"]},
        {**value, "mean_uv": [1]},
        {**value, "std_uv": "x"},
        {**value, "seen": {}},
    ):
        with pytest.raises(ValueError, match=r"^is damaged$|^is not for the leads"):
            NormStats.from_json(broken)


def test_covariate_statistics_are_those_of_the_train_rows(store, tmp_path):
    """Against pandas, with gaps, and with values elsewhere that would show."""
    rows = select_rows(store, "train", "mask")
    values = np.array(store.array("covariates"))
    values[rows[::5], 0] = np.nan
    values[np.setdiff1d(np.arange(len(store)), rows)] = 1e9
    gaps = changed_store(store, tmp_path / "gaps.zarr", covariates=values)
    stats = NormStats.of(gaps, rows, ("sex", "age"))
    table = pd.DataFrame(values[rows].astype(float), columns=list(store.covariate_names))
    assert stats.covariates.names == ("sex", "age")
    assert stats.covariates.median == pytest.approx((table.sex.median(), table.age.median()))
    assert stats.covariates.scale == pytest.approx(
        StandardScaler().fit(table[["sex", "age"]].to_numpy()).scale_
    )
    assert stats.seen.covariates == (
        (table.sex.min(), table.sex.max()),
        (table.age.min(), table.age.max()),
    )
    batch = next(iter(make_loader(gaps, rows, len(rows), covariates=("sex", "age"))))
    _, tabular = ModelInput(stats, "mask")(
        batch.waveforms, batch.lead_mask, batch.valid_span, batch.covariates
    )
    assert tabular.shape == (len(rows), 4)
    missing = table.age.isna().to_numpy(copy=True)
    assert missing.sum() == len(rows[::5])
    assert torch.equal(tabular[:, 3].bool(), torch.tensor(missing))
    assert not tabular[missing, 1].any()
    expected = (table.age - table.age.median()) / table.age.std(ddof=0)
    np.testing.assert_allclose(tabular[~missing, 1], expected[~missing], rtol=1e-5, atol=1e-6)


def test_constant_covariate_has_scale_one_and_an_empty_one_is_refused(store, tmp_path):
    values = np.array(store.array("covariates"))
    values[:, 0], values[:, 1] = 4, np.nan
    flat = changed_store(store, tmp_path / "flat.zarr", covariates=values)
    names = store.covariate_names
    assert CovariateStats.of(flat, np.arange(5), names[:1]) == CovariateStats(
        (names[0],), (4.0,), (1.0,)
    )
    with pytest.raises(InputError, match=f"no train recording has a value of {names[1]}"):
        CovariateStats.of(flat, np.arange(5), names)


def test_deviation_of_a_lead_is_that_of_its_valid_samples(store):
    deviation = lead_deviation(
        store.array("moments")[:], np.diff(store.array("valid_span")[:], axis=1)[:, 0]
    )
    for i in range(0, len(store), 9):
        start, end = store.array("valid_span")[i]
        lead = int(np.argmax(store.array("lead_mask")[i]))
        assert deviation[i, lead] == pytest.approx(
            store.array("waveforms")[i][lead, start:end].std(), rel=1e-9
        )
