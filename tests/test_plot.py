"""`ecgprep plot`: a row of a store as a picture."""

from __future__ import annotations

import re
import shutil

import numpy as np
import pytest
from helpers import changed_store, command

import ecgprep
from ecgprep.drawing import COARSE_COLOUR
from ecgprep.errors import STATUS_CODE, InputError, TargetExists
from ecgprep.leads import LEADS


def curves(svg: str) -> list[np.ndarray]:
    """Return the black curves of a drawing by matplotlib, each (n, 2) in its own units."""
    found = re.findall(r'<path d="([^"]+)"[^>]*style="[^"]*stroke: #000000; stroke-width: 0.7', svg)
    return [np.array(re.findall(r"(-?[\d.]+) (-?[\d.]+)", path), float) for path in found]


def test_the_picture_shows_the_row_to_scale(small_store, tmp_path):
    row = 17
    out = ecgprep.plot(small_store, row, tmp_path / "r.svg")
    svg = out.read_text()
    assert f"row {row}: 25 mm/s, 10 mm/mV" in svg
    assert COARSE_COLOUR in svg
    mask = small_store.array("lead_mask")[row]
    drawn = curves(svg)
    assert len(drawn) == mask.sum() == len(LEADS)
    for k, curve in enumerate(drawn):
        uv = small_store.waveforms[row, k].astype(float)
        n = min(500, len(uv) // 2)
        shown = uv[:n] if k < 4 else uv[n : 2 * n]
        height, width = np.ptp(curve[:, 1]), np.ptp(curve[:, 0])
        a_second = width / ((n - 1) / small_store.sample_rate_hz)  # 25 mm
        a_millivolt = height / np.ptp(shown) * 1000  # 10 mm
        assert a_millivolt / a_second == pytest.approx(10 / 25, rel=0.02)


def test_command_draws_beside_the_store_and_replaces_its_own_pictures_only(tiny_store, tmp_path):
    path = shutil.copytree(tiny_store.path, tmp_path / "s.zarr")
    for _ in range(2):
        done = command("plot", path, "--row", 3)
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "s.zarr.row3.png").read_bytes().startswith(b"\x89PNG")
    (tmp_path / "other.png").write_bytes(b"not a drawing")
    done = command("plot", path, "--row", 3, "-o", tmp_path / "other.png")
    assert done.returncode == TargetExists.exit_code


def test_rows_that_cannot_be_drawn_are_refused(tiny_store, tmp_path):
    with pytest.raises(InputError, match=rf"must be from 0 to {len(tiny_store) - 1}\."):
        ecgprep.plot(tiny_store, len(tiny_store), tmp_path / "r.png")
    with pytest.raises(InputError, match=r"must end in \.png"):
        ecgprep.plot(tiny_store, 0, tmp_path / "r.bmp")
    status = np.array(tiny_store.array("status"))
    mask = np.array(tiny_store.array("lead_mask"))
    status[2], mask[2] = STATUS_CODE["not_xml"], False
    store = changed_store(tiny_store, tmp_path / "c.zarr", status=status, lead_mask=mask)
    with pytest.raises(InputError, match="its status is not_xml"):
        ecgprep.plot(store, 2, tmp_path / "r.png")
