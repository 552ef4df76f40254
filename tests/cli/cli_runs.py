"""What the tests of the command line share: short commands, and how they are started as a user starts them."""

import csv
import json
import os
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

CONFIGS = files("erode.configs")
ERODE = str(Path(sys.executable).parent / "erode")
DATA = ["--config", str(CONFIGS / "data" / "synthetic.yaml")]
MODEL = ["--config", str(CONFIGS / "model" / "unet.yaml")]
SMALL = [
    "--data.size=32", "--data.train_images=24", "--data.val_images=8", "--data.test_images=7", "--data.batch_size=4",
    "--data.fine_fraction=0.25", "--model.bootstrap=20",
]  # fmt: skip
SHORT = [
    "--trainer.accelerator=cpu", "--trainer.devices=1", "--trainer.max_steps=2", "--trainer.log_every_n_steps=1",
    "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false", "--trainer.num_sanity_val_steps=0",
]  # fmt: skip
USUAL = [*DATA, *MODEL, *SMALL, *SHORT]


def start(*command, cwd):
    """Start a command in a shell's environment, with few threads."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "120"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=cwd, env=environment, **pipes)


def finish(process):
    """Wait for a command that is to succeed; returns what it printed."""
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    return out


def erode(*arguments, cwd):
    return finish(start(ERODE, *arguments, cwd=cwd))


def metrics(folder, prefix):
    """The last value of each metric in a run's table, as printed."""
    with (folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    return {name: row[name] for row in rows for name in row if name.startswith(prefix) and row[name]}


def read(path):
    return json.loads(path.read_text())
