"""The store in a notebook: tables, waveforms and pictures show what the arrays hold."""

from __future__ import annotations

import sys

import numpy as np
import pandas as pd
import pytest
from helpers import changed_store

from ecgprep.errors import STATUSES, EcgError, StoreError
from ecgprep.leads import LEADS
from ecgprep.store import Store, open_store
from ecgprep.store.format import SPLITS


@pytest.fixture(scope="module")
def odd_store(small_store, tmp_path_factory) -> Store:
    """A store whose rows 0 to 3 have every kind of exception."""
    arrays = {
        name: np.array(small_store.array(name))
        for name in ("status", "split", "label", "patient", "lead_mask", "valid_span", "quality")
    }
    arrays["status"][0] = STATUSES.index("duplicate")
    arrays["split"][0] = arrays["patient"][0] = -1
    arrays["label"][1] = -1
    arrays["lead_mask"][2, LEADS.index("V1")] = False
    arrays["valid_span"][2] = (100, 900)
    flags = {name: 1 << k for k, name in enumerate(small_store.quality_flags)}
    arrays["quality"][:] = 0
    arrays["quality"][3, LEADS.index("V1")] = flags["clipped"] | flags["noise"]
    arrays["quality"][3, LEADS.index("II")] = flags["flat"]
    return changed_store(small_store, tmp_path_factory.mktemp("odd") / "odd.zarr", **arrays)


def test_table_has_one_line_per_row_with_the_values_of_the_arrays(odd_store):
    table = odd_store.table()
    assert table.index.name == "row"
    assert table.index.tolist() == list(range(len(odd_store)))
    status, split = odd_store.array("status"), odd_store.array("split")
    assert table["status"].tolist() == [STATUSES[code] for code in status]
    assert table["split"][1:].tolist() == [SPLITS[code] for code in split[1:]]
    np.testing.assert_array_equal(table["rate_hz"], odd_store.array("rate_hz"))
    np.testing.assert_array_equal(table["crc32c"], odd_store.array("crc32c"))
    np.testing.assert_array_equal(table[["age", "sex"]], odd_store.array("covariates"))
    spans = table[["first_sample", "end_sample"]]
    np.testing.assert_array_equal(spans, odd_store.array("valid_span"))
    masks = table[[f"has_{lead}" for lead in LEADS]]
    np.testing.assert_array_equal(masks, odd_store.array("lead_mask"))
    assert masks.dtypes.eq(bool).all()


def test_what_is_not_known_is_missing_in_the_table(odd_store):
    table = odd_store.table()
    assert table["status"][0] == "duplicate"
    assert pd.isna(table["split"][0])
    for name, dtype, row in (("label", "Int8", 1), ("patient", "Int32", 0)):
        assert table[name].dtype == dtype
        assert table[name].isna().to_numpy().nonzero()[0].tolist() == [row]
        known = table[name].notna()
        assert table[name][known].tolist() == odd_store.array(name)[known].tolist()


def test_quality_is_spelt_out_by_lead(odd_store):
    quality = odd_store.table()["quality"]
    assert quality[3] == "II: flat; V1: clipped, noise"
    assert set(quality.drop(3)) == {""}


def test_moments_are_columns_if_asked_for(store):
    assert "sum_uv_I" not in store.table()
    table = store.table(moments=True)
    moments = store.array("moments")
    for k, lead in enumerate(LEADS):
        assert table[f"sum_uv_{lead}"].tolist() == moments[:, k, 0].tolist()
        assert table[f"sum_squares_uv2_{lead}"].tolist() == moments[:, k, 1].tolist()


def test_codes_that_the_format_does_not_define_are_damage(small_store, tmp_path):
    status = np.array(small_store.array("status"))
    status[0] = 200
    damaged = changed_store(small_store, tmp_path / "damaged.zarr", status=status)
    with pytest.raises(StoreError, match=r"status holds a value .* `ecgprep verify"):
        damaged.table()


def test_waveform_is_in_millivolts_by_lead_and_second(store):
    frame = store.waveform(3)
    assert frame.index.tolist() == list(LEADS)
    assert (frame.index.name, frame.columns.name) == ("lead", "seconds")
    np.testing.assert_array_equal(frame.columns, np.arange(5000) / 500)
    np.testing.assert_array_equal(frame.to_numpy(), store.waveforms[3] / 1000)


def test_masked_leads_and_padding_of_a_waveform_are_missing(odd_store):
    frame = odd_store.waveform(2)
    assert frame.loc["V1"].isna().all()
    others = frame.drop("V1")
    assert others.iloc[:, :100].isna().all(axis=None)
    assert others.iloc[:, 900:].isna().all(axis=None)
    assert others.iloc[:, 100:900].notna().all(axis=None)


def test_plot_shows_the_signal_without_a_display_or_pyplot(odd_store, tmp_path):
    loaded = "matplotlib.pyplot" in sys.modules
    figure = odd_store.plot(2, seconds=2)
    (axes,) = figure.axes
    assert len(axes.lines) == 7  # V1 is masked
    limb = axes.lines[0]
    np.testing.assert_allclose(limb.get_xdata(), np.arange(200) / 100)
    np.testing.assert_allclose(limb.get_ydata(), odd_store.waveforms[2, 0, :200] / 1000)
    assert "V1 (none)" in [text.get_text() for text in axes.texts]
    figure.savefig(tmp_path / "row.png")
    assert (tmp_path / "row.png").stat().st_size > 10_000
    assert loaded == ("matplotlib.pyplot" in sys.modules)


@pytest.mark.parametrize("row", [-1, 10**6])
def test_rows_outside_the_store_are_refused(store, row):
    for show in (store.waveform, store.plot):
        with pytest.raises(IndexError, match=rf"^row -?\d+ is outside 0\.\.{len(store) - 1}$"):
            show(row)


def test_plot_of_no_time_is_refused(store):
    with pytest.raises(ValueError, match="seconds"):
        store.plot(0, seconds=0)


def test_plot_without_matplotlib_names_the_extra(store, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(EcgError, match=r"pip install 'ecgprep-ecgfit\[report\]'"):
        store.plot(0)


def test_open_store_is_the_store(store):
    assert open_store(str(store.path)).content_sha256 == store.content_sha256
