"""What every test shares: few threads, no network, quiet loggers."""

import functools
import multiprocessing
import os
import runpy
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
def forks():
    """Processes that fork from one without threads of pytest, in which the libraries are loaded: that takes seconds."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["erode.benchmark", "erode.cli.lightning_cli"])
    return context


@pytest.fixture(scope="session")
def scripts(forks):
    """Run files as scripts, all at once: each is a file and its arguments. What they say of errors is captured."""

    def run(*commands):
        processes = []
        for file, *arguments in commands:
            process = forks.Process(target=runpy.run_path, args=(str(file),), kwargs={"run_name": "__main__"})
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(sys, "argv", [str(file), *map(str, arguments)])  # a fork gets that of its parent
                process.start()
            processes.append(process)
        for process in processes:
            process.join(timeout=280)
        codes = [process.exitcode for process in processes]
        for process in processes:
            process.kill()
        assert codes == [0] * len(commands)

    return run


@pytest.fixture(scope="session")
def as_script(scripts):
    """Run a test file as a script on a folder."""
    return lambda file, folder: scripts((file, folder))
