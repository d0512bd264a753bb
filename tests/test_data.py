"""From store to model input: the right rows, statistics of the train rows alone, exact zeros where nothing was measured."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import changed_store

from ecgfit.data.loader import make_loader
from ecgfit.data.model_input import ModelInput
from ecgfit.data.rows import covariate_columns, fold_rows, select_rows
from ecgfit.data.statistics import CovariateStats, NormStats, SeenRange, lead_deviation
from ecgprep.errors import InputError, StoreError
from ecgprep.leads import LEADS


@pytest.fixture(scope="module")
def stats(store) -> NormStats:
    return NormStats.of(store, select_rows(store, "train", "mask"))


def test_rows_of_the_splits_are_disjoint_usable_and_labelled(store):
    rows = {split: select_rows(store, split, "mask") for split in ("train", "val", "test")}
    assert sum(map(len, rows.values())) == len(store)
    patients = {split: set(store.array("patient")[rows[split]]) for split in rows}
    assert not patients["train"] & patients["val"]
    assert not (patients["train"] | patients["val"]) & patients["test"]


def test_drop_leaves_out_records_with_a_missing_lead(store):
    kept = np.concatenate([select_rows(store, split, "drop") for split in ("train", "val", "test")])
    assert set(kept) == set(np.flatnonzero(store.array("lead_mask").all(axis=1)))
    assert len(kept) < len(store)


def test_unknown_split_is_refused(store):
    with pytest.raises(InputError, match="must be one of train, val, test"):
        select_rows(store, "dev", "drop")


def test_split_without_rows_is_refused(store, monkeypatch):
    monkeypatch.setattr(
        type(store),
        "array",
        lambda self, name: np.zeros((3, 8) if name == "lead_mask" else 3, np.int8),
    )
    with pytest.raises(StoreError, match="--missing mask keeps the others"):
        select_rows(store, "train", "drop")


def inputs(n: int = 3, n_samples: int = 100) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    waveforms = torch.randint(
        -3000,
        3000,
        (n, 8, n_samples),
        dtype=torch.int16,
        generator=torch.Generator().manual_seed(0),
    )
    mask = torch.ones(n, 8, dtype=torch.bool)
    mask[1, 2] = False
    span = torch.tensor([[0, n_samples], [0, n_samples], [10, 90]], dtype=torch.int32)
    return waveforms, mask, span


def stats_of(mean: tuple[float, ...], std: tuple[float, ...]) -> NormStats:
    return NormStats(
        mean, std, 1, CovariateStats(), SeenRange((500.0,), ((0.0, 1.0),) * 8, 100, 8, ())
    )


def test_model_input_is_the_z_score_and_exactly_zero_elsewhere():
    waveforms, mask, span = inputs()
    x, tabular = ModelInput(stats_of(tuple(range(8)), tuple(range(100, 108))), "drop")(
        waveforms, mask, span
    )
    assert tabular is None
    expected = (waveforms.double() - torch.arange(8)[:, None]) / torch.arange(100, 108)[:, None]
    expected[1, 2] = 0
    expected[2, :, :10] = expected[2, :, 90:] = 0
    torch.testing.assert_close(x.double(), expected, rtol=1e-5, atol=1e-5)
    assert (x.dtype, x.shape) == (torch.float32, (3, 8, 100))
    assert not x[1, 2].any()
    assert not x[2, :, :10].any()


def test_ninth_channel_is_the_fraction_of_leads_that_is_signal():
    waveforms, mask, span = inputs()
    x, _ = ModelInput(stats_of((0.0,) * 8, (1.0,) * 8), "mask")(waveforms, mask, span)
    assert x.shape == (3, 9, 100)
    assert (x[0, 8] == 1).all()
    assert (x[1, 8] == 7 / 8).all()
    assert x[2, 8].tolist() == [0.0] * 10 + [1.0] * 80 + [0.0] * 10


def test_lead_that_no_train_row_has_stays_finite():
    waveforms, mask, span = inputs()
    assert torch.isfinite(
        ModelInput(stats_of((0.0,) * 8, (0.0,) * 8), "drop")(waveforms, mask, span)[0]
    ).all()


def test_norm_stats_survive_the_file(stats, tmp_path):
    import json

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


def test_rows_without_a_label_are_there_only_when_asked_for(store, tmp_path):
    label = np.array(store.array("label"))
    label[:7] = -1
    some = changed_store(store, tmp_path / "u.zarr", label=label)
    assert set(range(len(store))) - set(select_rows(some, "all", "mask")) == set(range(7))
    assert len(select_rows(some, "all", "mask", labelled=False)) == len(store)


def test_covariate_statistics_are_those_of_the_train_rows(store, tmp_path):
    """Against pandas, with gaps, and with values elsewhere that would show."""
    import pandas as pd
    from sklearn.preprocessing import StandardScaler

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


def test_unknown_covariate_is_refused_with_those_there_are(store):
    assert covariate_columns(store, ("sex",)).tolist() == [store.covariate_names.index("sex")]
    with pytest.raises(InputError, match=r"has no covariate bmi, lvef \(it has: age, sex\)"):
        covariate_columns(store, ("bmi", "age", "lvef"))


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
