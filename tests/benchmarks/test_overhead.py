"""The overhead of the noisy phase is measured as its page says."""

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "overhead.py"


def test_it_measures_every_row(tmp_path):
    small = ["--rounds", "1", "--side", "64", "--batch", "1", "--channels", "4", "8"]
    out = tmp_path / "overhead.json"
    subprocess.run([sys.executable, SCRIPT, *small, "--no-opacus", "--out", out], check=True, capture_output=True)
    content = json.loads(out.read_text())
    names = ["GradientClipping", "GradientClipping, with decay", "ModelClipping"]
    assert [row["what"] for row in content["time"]] == ["plain SGD again", *names]
    extra = {row["what"]: row["extra_copies"] for row in content["memory"] if row["side"] == 64}
    assert all(extra[name] < 1.05 for name in names)
