"""The example in docs/api.md runs as it stands, block after block, in an empty folder."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = (Path(__file__).parent.parent / "docs" / "api.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def test_the_example_runs_as_it_stands_and_prints_nothing(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in BLOCKS:
        exec(compile(block, "docs/api.md", "exec"), names)  # noqa: S102 - our own page
    assert capfd.readouterr().out == ""
    assert len(names["table"]) == len(names["store"])
    assert names["metrics"]["split"] == "test"
    assert names["new"]["status"].tolist() == ["ok", "ok"]
    assert names["batch"].waveforms.shape[1:] == (8, 1000)
