"""Run a grid: whatever is done stays done, and results are written after every row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from jsonargparse import ArgumentError
from lightning.fabric.utilities.exceptions import MisconfigurationException

from ..comparison import Row
from ..files import write_json, write_text
from ..rows import check_settings, differences, refuse_run
from .figures import draw_figures
from .grid import Cell, Config, meaning, read_grid
from .shared_rows import ROWS, take_over
from .tables import markdown, write_tables

REFUSALS = (MisconfigurationException, ValueError, RuntimeError, ArithmeticError, FileNotFoundError)
"""What one row may raise without ending the others; where it starts from a row that failed, weights are not found."""


class FailedRowsError(ValueError):
    """Some rows of a grid are missing; all others are there."""


def benchmark(grid: Path, out: Path | None = None, patch: dict[str, Any] | None = None, wandb: bool = False) -> None:
    """Run every row of a grid of comparisons; write one results file, tables and figures.

    A grid that was killed goes on where it stopped when it is called again; a grid that has grown computes what is
    new. What ε and δ have no part in is computed once for all cells that differ in nothing else, unless ``wandb`` wants
    a run for each. Each cell has a folder with its ``config.yaml``, which ``erode compare --config`` repeats alone,
    and with the weights, certificates and logs of its rows. ``results.csv`` has one line per row in the order of the
    grid, with the digest of its configuration and settings; wall times, which no two runs share, stand in
    ``timings.csv``. A row that fails does not end the others: ``failures.json`` says why, and the next call tries
    again.

    Args:
        grid: YAML, see :func:`erode.benchmark.grid.read_grid`.
        out: folder of the results; None = ``runs`` and the name of the grid file.
        patch: merged into the grid, e.g. ``{"base": {"steps": 20}}``.
        wandb: log every row to Weights & Biases, as one group named after ``out``.

    Raises:
        ValueError: if the grid is not one, or ``out`` holds a cell with other settings; before any row is computed.
        FailedRowsError: at the end, if rows failed.
    """
    cells = read_grid(grid, patch)
    out = Path("runs") / grid.stem if out is None else out
    refuse_run(out)
    _check_folders(cells, out)
    failures: dict[str, str] = {}
    for cell in cells:
        folder = out / "cells" / cell.name
        if _is_done(cell, folder):
            continue
        experiment = cell.experiment(folder, out.name if wandb else None)
        write_text(folder / "config.yaml", yaml.safe_dump(cell.config, sort_keys=False, allow_unicode=True))
        print(f"{cell.name}:", flush=True)
        for seed in cell.seeds:
            for method in cell.methods:
                try:
                    if not wandb:  # there, every row is a run of its own
                        take_over(out / "cells", folder, method, seed)
                    experiment.row(method, seed)
                except REFUSALS as error:
                    failures[f"{cell.name}/{method}-seed{seed}"] = f"{type(error).__name__}: {error}"
                    print(f"failed: {error}", flush=True)
                    continue
                write_results(cells, out)
    results, timings = write_results(cells, out)
    write_json(out / "failures.json", failures)
    write_tables(results, timings, out)
    draw_figures(results, out)
    print(markdown(results, timings))
    print(f"results: {out / 'results.csv'}")
    if failures:
        raise FailedRowsError(
            f"{len(failures)} rows failed, see {out / 'failures.json'}: {next(iter(failures.values()))}"
        )


def write_results(cells: list[Cell], out: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Gather the rows that are there, in the order of the grid.

    Rows that another configuration asked for are left out until :func:`benchmark` has come to their cell, and rows
    whose settings are not there.

    Returns:
        Contents of ``results.csv`` and ``timings.csv``.
    """
    rows, times = [], []
    for cell in cells:
        settings = _read_settings(out / "cells" / cell.name)
        if settings is None or not _is_of(cell, out / "cells" / cell.name):
            continue
        for seed in cell.seeds:
            for method in cell.methods:
                path = _path(out / "cells" / cell.name, method, seed)
                if path.exists():
                    row: Row = json.loads(path.read_text(encoding="utf-8"))
                    key = {**cell.values, "method": method, "title": row["title"], "seed": seed}
                    rows.append(
                        {
                            **key,
                            **_content(row),
                            "part": settings["evaluated on"],
                            "configuration": cell.digest(method, seed, settings),
                        }
                    )
                    times.append({**key, "seconds": row["seconds"]})
    results, timings = pd.DataFrame(rows), pd.DataFrame(times)
    for frame, name in ((results, "results.csv"), (timings, "timings.csv")):
        write_text(out / name, frame.to_csv(index=False))
    return results, timings


def _content(row: Row) -> dict[str, Any]:
    promise = row["unlearning"] or {}
    return {
        "guarantee": promise.get("guarantee"),
        "epsilon_certified": promise.get("epsilon"),
        "delta_certified": promise.get("delta"),
        "gradient_evaluations": promise.get("gradient_evaluations", row["steps"]),
        "parameters": row["parameters"],
        "device": row.get("device"),  # rows of older folders do not say
        "split": row["split"],
        **row["metrics"],
    }


def _check_folders(cells: list[Cell], out: Path) -> None:
    """Refuse data that cannot be read, and a folder whose rows came from other data, another model or other versions.

    Before any row is computed, and finished cells too: the same configuration means something else once images,
    defaults or torch changed. This reads every file once, and decodes up to 16 images per cell.

    Raises:
        ValueError: naming the cell.
    """
    for cell in cells:
        folder = out / "cells" / cell.name
        try:
            settings = cell.settings()
        except (OSError, ValueError, MisconfigurationException) as error:
            raise ValueError(f"{cell.name}: {error} (or leave this value out, with null in --patch)") from error
        if folder.exists():
            check_settings(folder, settings, "comparison")
            _check_configuration(cell, folder)


def _check_configuration(cell: Cell, folder: Path) -> None:
    """Refuse rows of a configuration that means something else, which settings need not show.

    Rows stay where what changed is spelt differently or has no part in them.
    """
    if _is_of(cell, folder) or not any(folder.glob("rows/*.json")):
        return
    before = _read_config(folder)
    if before is None:
        raise ValueError(f"{folder} holds rows without their config.yaml; put it back, or choose another out")
    try:
        changed = differences(meaning(before), meaning(cell.config))
    except ArgumentError as error:
        changed = [f"erode compare reads its config.yaml no longer: {error}"]
    if changed:
        raise ValueError(
            f"{folder} holds a comparison of another configuration ({'; '.join(changed)}); nothing is overwritten, "
            "choose another out"
        )


def _read_settings(folder: Path) -> dict[str, Any] | None:
    path = folder / "settings.json"
    if not path.exists():
        return None
    settings: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return settings


def _is_done(cell: Cell, folder: Path) -> bool:
    """Whether all rows are there, and were asked for by the same configuration; else the experiment has to look."""
    there = all(_path(folder, method, seed).exists() for seed in cell.seeds for method in cell.methods)
    return there and _is_of(cell, folder)


def _is_of(cell: Cell, folder: Path) -> bool:
    """Whether a folder belongs to the configuration of a cell, methods and seeds aside."""
    before = _read_config(folder)
    return before is not None and _without_rows(before) == _without_rows(cell.config)


def _read_config(folder: Path) -> Config | None:
    try:
        config: Config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    except OSError:
        return None
    return config


def _without_rows(config: Config) -> Config:
    return {key: value for key, value in config.items() if key not in ROWS}


def _path(folder: Path, method: str, seed: int) -> Path:
    return folder / "rows" / f"{method}-seed{seed}.json"
