"""What every test shares: few threads, no network, quiet loggers."""

import functools
import os
import subprocess
import sys
import warnings

os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("MPLBACKEND", "Agg")

import lightning.pytorch as pl
import pytest
import torch
from hypothesis import settings

# Anywhere else examples are new each time; a landing must not depend on luck.
settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("ci")

torch.set_num_threads(1)  # tiny networks gain nothing from more, and threads that wait for a busy core spin
warnings.filterwarnings("ignore", message=".*does not have many workers.*")


def pytest_addoption(parser):
    parser.addoption("--accelerator", default="cpu", help="where tests train that ask for the CPU: cpu or gpu")


def pytest_configure(config):
    """Tests are written for the CPU; most hold on a GPU too, in this process (not in those that tests launch)."""
    accelerator = config.getoption("--accelerator")
    if accelerator == "cpu":
        return
    init = pl.Trainer.__init__

    @functools.wraps(init)
    def elsewhere(self, *args, **settings):
        if settings.get("accelerator") == "cpu" and settings.get("devices") in (None, 1, "auto"):
            settings = {"deterministic": "warn"} | settings | {"accelerator": accelerator, "devices": 1}
        init(self, *args, **settings)

    pl.Trainer.__init__ = elsewhere


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    """Loggers and run folders default to the working directory: give each test its own."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def as_script():
    """Run a test file as a script on a folder: its processes fork from one that has no threads of pytest."""

    def run(file, folder):
        done = subprocess.run([sys.executable, file, str(folder)], capture_output=True, text=True, timeout=280)
        assert done.returncode == 0, done.stderr

    return run
