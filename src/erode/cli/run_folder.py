"""Run folders: one for each run, and never one that is written over."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from lightning.fabric.utilities.exceptions import MisconfigurationException

from ..files import fresh_folder


def new_run_folder(verb: str | None) -> Path:
    """A new folder ``runs/VERB-N``; processes that a distributed strategy launched share their parent's."""
    inherited = os.environ.get("ERODE_RUN_FOLDER")
    if inherited is not None and "LOCAL_RANK" in os.environ:
        return Path(inherited)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise MisconfigurationException(
            "processes launched from outside (torchrun, SLURM) cannot agree on a new run folder; "
            "give --trainer.default_root_dir"
        )
    folder = fresh_folder("runs", verb or "run")
    os.environ["ERODE_RUN_FOLDER"] = str(folder)
    return folder


@contextlib.contextmanager
def given_back_if_empty() -> Iterator[None]:
    """A run that fails before it has written anything leaves no folder, so that the next has its number."""
    try:
        yield
    except BaseException:
        made = os.environ.get("ERODE_RUN_FOLDER")
        if made is not None and "LOCAL_RANK" not in os.environ:
            with contextlib.suppress(OSError):  # it is not empty
                Path(made).rmdir()
        raise


def refuse_used(folder: Path) -> None:
    """Refuse a folder with a run in it before any logger opens, and so clears, its files."""
    for name in ("config.yaml", "metrics.csv"):
        if (folder / name).exists():
            raise MisconfigurationException(
                f"{folder} already holds a run ({name}), and nothing is overwritten; "
                "give --trainer.default_root_dir another folder, or leave it out to get a new one"
            )
