"""What a grid asks for: a base configuration, and axes whose values are patches of it."""

from __future__ import annotations

import copy
import inspect
import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentError

from ..comparison import COLUMNS, Experiment, check_order, compare, settings_of
from ..files import digest_of
from ..object_settings import settings_of as plain
from ..parsing import FreshParser, meant
from ..rows import check_once, check_size
from .tables import folder_of

Config = dict[str, Any]
"""A configuration of ``erode compare``, plain data."""

RESERVED = {
    "method", "title", "seed", "guarantee", "epsilon_certified", "delta_certified", "gradient_evaluations",
    "parameters", "device", "split", "part", "configuration", "seconds", *(name for name, _ in COLUMNS),
}  # fmt: skip
"""Columns of the results that an axis of the same name would be overwritten by."""


NO_PART = {"out", "wandb_group", "accelerator", "methods", "seeds"}
"""Entries that rows do not depend on: where they lie and are computed, and which there are."""
NO_PART_OF_DATA = {"root", "cache", "cache_folder", "num_workers", "validate_data"}
"""The same of the data: the contents of files count, wherever they lie."""


@dataclass(frozen=True)
class Cell:
    """One point of the grid: a comparison of its own.

    Args:
        values: the value of each axis.
        config: configuration of ``erode compare``, which repeats the cell by itself.
    """

    values: Mapping[str, str]
    config: Config

    @property
    def name(self) -> str:
        """Folder of the cell."""
        return folder_of(self.values.values())

    @property
    def methods(self) -> list[Any]:
        """Rows in their order."""
        return list(self.config["methods"])

    @property
    def seeds(self) -> list[int]:
        """Repetitions."""
        return list(self.config["seeds"])

    def experiment(self, out: Path, wandb_group: str | None) -> Experiment:
        """The experiment that computes its rows."""
        given = _arguments(self.config)
        rows = {"seeds", "methods", "out", "wandb_group"}
        return Experiment(
            **{key: value for key, value in given.items() if key not in rows}, out=out, wandb_group=wandb_group
        )

    def settings(self) -> dict[str, Any]:
        """All that its rows depend on, as the experiment would write it; reads all files once, trains nothing."""
        given = _arguments(self.config)
        return settings_of(**{name: given[name] for name in inspect.signature(settings_of).parameters})

    def digest(self, method: str, seed: int, settings: Config) -> str:
        """Of everything that one row came from: configuration, method and seed, and what these meant.

        Args:
            method: of the row.
            seed: of the row.
            settings: of its folder: data, model, defaults and version of torch.
        """
        asked = {key: value for key, value in self.config.items() if key not in ("methods", "seeds")}
        return digest_of({"config": asked, "settings": settings, "method": method, "seed": seed})


def read_grid(path: Path, patch: Config | None = None) -> list[Cell]:
    """The cells of a grid file, in the order of its axes; the last axis varies fastest.

    The file has two entries: ``base``, a configuration of ``erode compare`` with ``methods`` and ``seeds``, and
    ``axes``: for each axis its values by name, each a configuration that is merged into the base. Every axis can set
    anything: data, coarsening, fine fraction, network, ε, steps, methods. ``{}`` changes nothing, null leaves the
    value out.

    Args:
        path: YAML.
        patch: merged into the whole file first, e.g. ``{"base": {"steps": 20}}``.

    Raises:
        ValueError: for other entries, names that cannot be folders, or a configuration that ``erode compare`` refuses.
    """
    content = merged(_read(path), patch or {})
    strange = content.keys() - {"base", "axes"}
    if strange or not isinstance(content.get("base"), dict) or not {"methods", "seeds"} <= content["base"].keys():
        raise ValueError(
            f"{path} must have 'base' (a configuration of erode compare, with methods and seeds) and may have 'axes'"
            + (f"; it also has {sorted(strange)}" if strange else "")
        )
    axes: dict[str, dict[str, Config]] = content.get("axes") or {}
    if not isinstance(axes, dict) or not all(isinstance(values, dict) for values in axes.values()):
        raise ValueError(f"{path}: 'axes' must give each axis its values by name, as in {{task: {{binary: {{}}}}}}")
    for axis, values in axes.items():
        if axis in RESERVED:
            raise ValueError(f"{path}: the results have a column {axis!r} already; give the axis another name")
        for name in [axis, *values]:
            if not isinstance(name, str) or not name or set(name) & set("_/\\") or name.startswith("."):
                raise ValueError(
                    f"{path}: {name!r} names a folder: quote it as text, without '_', '/' or a leading '.'"
                )
            if name != axis and not isinstance(values[name], dict | None):
                raise ValueError(
                    f"{path}: {axis}, {name} must be a configuration such as {{steps: 20}}, got {values[name]!r}"
                )
    cells = []
    kept = [[(name, value) for name, value in values.items() if value is not None] for values in axes.values()]
    if empty := [axis for axis, values in zip(axes, kept, strict=True) if not values]:
        raise ValueError(f"{path}: every value of axis {empty[0]!r} is left out (null), so no row is; keep one")
    for chosen in itertools.product(*kept):
        config = content["base"]
        for _, value in chosen:
            config = merged(config, value)
        cell = Cell(dict(zip(axes, (name for name, _ in chosen), strict=True)), config)
        try:
            _arguments(config)
            check_order(cell.methods)
            check_once(methods=cell.methods, seeds=cell.seeds)
            check_size(config.get("steps", 1), cell.seeds)
        except (ArgumentError, TypeError, ValueError) as error:
            near = meant(str(error), inspect.signature(compare).parameters)
            raise ValueError(f"{path}, {cell.name}: {error}" + (f"\n{near}" if near else "")) from error
        cells.append(cell)
    return cells


def merged(base: Config, patch: Config) -> Config:
    """A copy of ``base`` with ``patch`` over it; mappings are merged, anything else is replaced.

    Example:
        >>> merged({"a": {"b": 1, "c": [2]}}, {"a": {"c": [3]}, "d": 4})
        {'a': {'b': 1, 'c': [3]}, 'd': 4}
    """
    result = copy.deepcopy(base)
    for key, value in patch.items():
        both = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = merged(result[key], value) if both else copy.deepcopy(value)
    return result


def meaning(config: Config) -> Config:
    """What a configuration says about rows: with all defaults, full class names, and without entries of no effect.

    Raises:
        ArgumentError: if ``erode compare`` would refuse it.

    Example:
        >>> meaning({"steps": 600, "seeds": [0], "accelerator": "cpu"}) == meaning({})
        True
    """
    told: Config = plain(_parser().parse_object(config).as_dict(), depth=30)
    data = told.get("data") or {}
    kept = {key: value for key, value in data.get("init_args", {}).items() if key not in NO_PART_OF_DATA}
    return {**{key: value for key, value in told.items() if key not in NO_PART}, "data": {**data, "init_args": kept}}


def _read(path: Path) -> Config:
    if not path.is_file():
        raise ValueError(f"there is no grid at {path}; give a YAML file as in docs/benchmark.md")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except yaml.MarkedYAMLError as error:
        line = "" if error.problem_mark is None else f":{error.problem_mark.line + 1}"
        raise ValueError(f"{path}{line} is no readable YAML: {error.problem}; close brackets and quotes") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no readable YAML: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must be a mapping with 'base' and 'axes', not a {type(content).__name__}")
    return content


def _arguments(config: Config) -> dict[str, Any]:
    """Arguments of :func:`~erode.comparison.compare`, built from plain data."""
    parser = _parser()
    return dict(parser.instantiate(parser.parse_object(config)).items(branches=False, nested=False))


def _parser() -> FreshParser:
    parser = FreshParser(exit_on_error=False)
    parser.add_function_arguments(compare)
    return parser
