"""What every test shares: few threads, no network, quiet loggers."""

import os
import warnings

os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("MPLBACKEND", "Agg")

import pytest
import torch
from hypothesis import settings

# Anywhere else examples are new each time; a landing must not depend on luck.
settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("ci")

torch.set_num_threads(1)  # tiny networks gain nothing from more, and threads that wait for a busy core spin
warnings.filterwarnings("ignore", message=".*does not have many workers.*")


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    """Loggers and run folders default to the working directory: give each test its own."""
    monkeypatch.chdir(tmp_path)
