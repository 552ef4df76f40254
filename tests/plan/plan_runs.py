"""What the tests of `erode plan` share: the configurations of a run, and what a plan wrote."""

import json
from importlib.resources import files
from pathlib import Path

CONFIGS = files("erode.configs")
DATA = ["--config", str(CONFIGS / "data" / "synthetic.yaml")]
MODEL = ["--config", str(CONFIGS / "model" / "unet.yaml")]
HEAD = ["--config", str(CONFIGS / "model" / "pixel_head.yaml")]
USUAL = [*DATA, *MODEL]


def unlearn(name):
    return ["--config", str(CONFIGS / "unlearn" / f"{name}.yaml")]


def read(folder):
    return json.loads((Path(folder) / "plan.json").read_text())
