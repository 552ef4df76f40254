"""``erode plan``: the configurations of a run, and what its target would leave of the network, without the run."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from torch import nn

from .. import callbacks, lightning_modules  # noqa: F401  # short class names need the import
from .._version import __version__
from ..callbacks import UnlearningOperator
from ..callbacks.bases.noisy_phase import NoisyPhase
from ..callbacks.guards.exposure import INITIALISATION, anchor_of, exposed_parameters
from ..callbacks.guards.refusals import check_rounding
from ..callbacks.noise.noisy_sgd import vector_norm
from ..datamodules import MaskDataModule
from ..files import fresh_folder
from ..mechanisms import BallMechanism, Mechanism
from ..mechanisms.outlook import too_many_pixels
from ..parsing import HintingParser
from ..weights import load_weights
from .candidates import Setting, candidates
from .ranking import Candidate, plan
from .report import print_plan, write_plan

EPSILONS = (1.0, 3.0, 8.0)
"""Planned where nobody wished for one."""

DELTA = 1e-7
"""As the operators' default."""

_NOT_HERE = ("ckpt_path", "weights_only", "verbose", "return_predictions")
"""What the saved configuration of a run may hold beside its sections."""


class _Parser(HintingParser, LightningArgumentParser):
    """As that of the runs that are planned."""


class PlanCLI(LightningCLI):
    """Reads the configurations of ``erode fit`` and ``erode unlearn``; makes the model and the operator, nothing else.

    Without weights to measure, the model is made on PyTorch's meta device, so that its size costs nothing.
    """

    def __init__(self, args: Sequence[str]) -> None:
        self._given = args
        super().__init__(
            LightningModule,
            trainer_class=Trainer,
            save_config_callback=None,
            subclass_mode_model=True,
            parser_class=_Parser,
            run=False,
            seed_everything_default=False,
            auto_configure_optimizers=False,
            parser_kwargs={
                "prog": "erode plan",
                "version": __version__,
                "description": "What a target (ε, δ) would leave of the trained weights, by mechanism, before it is "
                "paid for. Takes the configurations of erode fit; an operator among trainer.callbacks is planned with "
                "its own constants.",
            },
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """The target, what to measure and where to write."""
        parser.add_argument("--epsilon", type=float, nargs="+", help="ε wished for, one or more (default: 1 3 8)")
        parser.add_argument("--delta", type=float | None, default=None, help="δ (default: the operator's, or 1e-7)")
        parser.add_argument(
            "--init_from",
            type=str | None,
            default=None,
            help="Measure the distance of these weights from the anchor: .safetensors or a checkpoint",
        )
        parser.add_argument(
            "--out", type=str | None, default=None, help="Folder for plan.json and plan.png (default: runs/plan-N)"
        )
        parser.add_argument("--optimizer", type=Any, default=None, help="not used: a run's configuration may hold it")
        parser.add_argument("--lr_scheduler", type=Any, default=None, help="not used, likewise")
        for name in _NOT_HERE:
            parser.add_argument(f"--{name}", type=Any, default=None, help="not used, likewise")

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """As Lightning does, without its warning that a program has arguments of its own."""
        self.config = parser.parse_args(self._given)

    def instantiate_classes(self) -> None:
        """Make all but the Trainer, whose devices need not be here."""
        if self.config.init_from is not None:
            self.config_init = self.parser.instantiate_classes(self.config)
            return
        try:
            with torch.device("meta"):
                self.config_init = self.parser.instantiate_classes(self.config)
        except Exception:  # some networks look at values when they are made; what is really wrong is raised again
            self.config_init = self.parser.instantiate_classes(self.config)


class Measured(NamedTuple):
    """What is known of a network's weights."""

    d: int
    """Exposed parameters."""
    start: float | None
    """Distance of the trained weights from the anchor; None = no trained weights."""
    weights_norm: float | None
    """Norm of the exposed trained weights."""


def plan_command(args: Sequence[str]) -> str:
    """Tell what a target (ε, δ) would leave of the network, what would change that, and what is cheapest.

    Args:
        args: the command line after ``plan``.

    Returns:
        Where the JSON and the picture are, for people.

    Raises:
        MisconfigurationException: for two operators, for one whose run this module or these data would end before its
            first step, and for parameters that it could not unlearn.
        ValueError: for targets out of range, or weights of another architecture.
    """
    cli = PlanCLI(args)
    given = cli.config_init
    operator = _operator(given.trainer.callbacks or [])
    setting = Setting.of(given.model, given.data, given.trainer)
    delta = given.delta or getattr(operator, "delta", None) or DELTA
    found = candidates(operator, delta, setting)
    folder = None if given.out is None else Path(given.out)
    if folder is not None and (folder / "plan.json").exists():
        raise MisconfigurationException(
            f"{folder} already holds a plan, and nothing is overwritten; give another --out"
        )
    measured = measure(given.model, operator, given.init_from)
    made = plan(
        found,
        d=measured.d,
        epsilons=given.epsilon or _own_epsilons(operator, delta) or EPSILONS,
        delta=delta,
        start=measured.start,
        weights_norm=measured.weights_norm,
        largest_norm=setting.largest_head,
        notes=[*_taken(found, measured, setting), *_notes(given.data, delta)],
    )
    print_plan(made)
    folder = folder or fresh_folder("runs", "plan")
    write_plan(made, folder)
    return f"plan: {', '.join(str(path) for path in sorted(folder.glob('plan.*')))}"


def measure(module: nn.Module, operator: UnlearningOperator | None, weights: str | None) -> Measured:
    """Count exposed parameters and, given trained weights, measure how far they are from the anchor.

    Args:
        module: of any device if there are no weights, else on the CPU; holds the weights afterwards.
        operator: its ``anchor`` and ``exposed`` are used, where it has them.
        weights: file of the trained weights.

    Raises:
        MisconfigurationException: if nothing is exposed, the anchor cannot be drawn, or the operator's noise would be
            lost in rounding.
        ValueError: if the weights are of another architecture.
    """
    patterns = getattr(operator, "exposed", None)
    exposed = exposed_parameters(module, patterns)
    d = sum(parameter.numel() for parameter in exposed.values())
    if weights is None:
        return Measured(d, None, None)
    load_weights(module, weights)
    anchor = anchor_of(module, getattr(operator, "anchor", None) or INITIALISATION, secrets.randbits(63))
    with torch.no_grad():
        distance = vector_norm([parameter - anchor.state[name] for name, parameter in exposed.items()])
        norm = vector_norm(list(exposed.values()))
        if isinstance(operator, NoisyPhase):
            _check_rounding(operator, list(exposed.values()), [anchor.state[name] for name in exposed])
        return Measured(d, float(distance), float(norm))


def _check_rounding(operator: NoisyPhase, trained: Sequence[torch.Tensor], anchor: Sequence[torch.Tensor]) -> None:
    """What a run asks of radius and σ once it has both weights."""
    weights = [parameter.clone() for parameter in trained]
    operator.allow_for_rounding(anchor)
    operator.clip_start(weights, anchor)
    check_rounding(weights, operator.mechanism.sigma)


def _operator(given: Sequence[object]) -> UnlearningOperator | None:
    operators = [callback for callback in given if isinstance(callback, UnlearningOperator)]
    if len(operators) > 1:
        names = ", ".join(type(operator).__name__ for operator in operators)
        raise MisconfigurationException(f"{names} in one configuration: plan one operator at a time, or none for all")
    return operators[0] if operators else None


def _own_epsilons(operator: UnlearningOperator | None, delta: float) -> list[float]:
    mechanism = getattr(operator, "mechanism", None)
    if not isinstance(mechanism, Mechanism):
        return []
    return [getattr(operator, "epsilon", None) or mechanism.epsilon(delta)]


def _taken(found: Sequence[Candidate], measured: Measured, setting: Setting) -> list[str]:
    """What was assumed of weights that nobody gave."""
    if measured.start is not None:
        return []
    if any(isinstance(one.mechanism, BallMechanism) for one in found):
        return ["the trained weights were taken to fill the ball; --init_from WEIGHTS measures how far they really are"]
    if setting.largest_head is not None:
        return ["the head was taken to be as long as its minimiser can be; --init_from WEIGHTS measures it"]
    return []


def _notes(data: LightningDataModule | None, delta: float) -> list[str]:
    notes: list[str] = []
    if data is None:
        notes.append("no data were configured, so nothing was asked of them, nor whether they are at hand")
    if isinstance(data, MaskDataModule):
        try:
            image = data.read(data.part("train")[0]).image
        except (OSError, ValueError, IndexError) as error:  # a plan does not need the data
            return [f"delta was not held against the pixels of an image, as none could be read: {error}"]
        many = too_many_pixels(delta, prod(image.shape[1:]))
        notes += [] if many is None else [many]
    return notes
