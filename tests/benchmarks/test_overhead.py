"""The overhead of the noisy phase is measured as its page says."""

import json
import logging
import runpy
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "overhead.py"


@pytest.fixture
def loud_again():
    """The script quietens Lightning for good."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    yield
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


def test_it_measures_every_row(tmp_path, monkeypatch, loud_again):
    small = ["--rounds", "1", "--side", "16", "--batch", "1", "--channels", "4", "8"]
    out = tmp_path / "overhead.json"
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *small, "--no-opacus", "--out", str(out)])
    monkeypatch.syspath_prepend(SCRIPT.parent)
    runpy.run_path(str(SCRIPT), run_name="__main__")
    content = json.loads(out.read_text())
    names = ["GradientClipping", "GradientClipping, with decay", "ModelClipping"]
    assert [row["what"] for row in content["time"]] == ["plain SGD again", *names]
    extra = {row["what"]: row["extra_copies"] for row in content["memory"] if row["side"] == 16}
    assert all(extra[name] < 1.05 for name in names)
