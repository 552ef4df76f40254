"""What could answer a request for one network: every unlearning operator, made for its module and its data."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningDataModule
from torch import nn

from ..callbacks import Retrain, Rewind, UnlearningOperator
from ..callbacks.bases.certified import CertifiedOperator
from ..callbacks.bases.head_operator import HeadOperator
from ..callbacks.bases.noisy_phase import NoisyPhase
from ..callbacks.guards.exposure import INITIALISATION, ZEROS, exposed_parameters
from ..callbacks.guards.refusals import (
    check_averaging,
    check_callbacks,
    check_precision,
    check_steps,
    check_weights_stay,
    refuse_memories,
)
from ..datamodules import MaskDataModule
from ..lightning_modules import PixelHead, QuantisedTraining
from ..mechanisms import Mechanism
from ..operator_card import Need, OperatorCard
from ..operators import operator_kinds
from ..requests import read_ledger
from ..ridge import RidgeHead
from .ranking import Candidate

_LONG_NAMES = {"None": "32-true", "16": "16-mixed", "bf16": "bf16-mixed", "32": "32-true", "64": "64-true"}
"""Of precisions that the Trainer takes by a short one."""

_OF_DATA: tuple[Need, ...] = ("retained data", "coarse masks", "forget set")


@dataclass(frozen=True, kw_only=True)
class Setting:
    """For what is planned, as far as it is known.

    Args:
        module: of any device; None = any network, and then nothing is asked of what has to be at hand.
        samples: images of the training set; None = unknown.
        batch_size: of training.
        data: what the data serve of what operators need.
        precision: of the Trainer, by its long name.
        max_steps: of the Trainer; below 0 = as many as its epochs have.
        callbacks: of the Trainer, the operator among them.
    """

    module: nn.Module | None = None
    samples: int | None = None
    batch_size: int = 1
    data: tuple[Need, ...] = _OF_DATA
    precision: str = "32-true"
    max_steps: int = -1
    callbacks: Sequence[Callback] = ()

    @classmethod
    def of(cls, module: nn.Module, data: LightningDataModule | None, trainer: Any = None) -> Setting:
        """Of a configuration; reads no pixel. Without data, what they would serve is not asked for.

        Args:
            module: to be planned for.
            data: of the configuration; None = there are none.
            trainer: the Trainer's arguments, as attributes; None = its defaults.
        """
        given: dict[str, Any] = {}
        if trainer is not None:
            given["precision"] = _precision(str(trainer.precision), trainer.accelerator)
            given["max_steps"] = -1 if trainer.max_steps is None else trainer.max_steps
            given["callbacks"] = trainer.callbacks or ()
        if not isinstance(data, MaskDataModule):
            return cls(module=module, data=_OF_DATA if data is None else ("retained data",), **given)
        try:
            samples = len(data.part("train"))
        except (OSError, ValueError):  # a plan does not need the data
            samples = 0
        return cls(module=module, samples=samples or None, batch_size=data.batch_size, **given)

    @property
    def batches(self) -> int | None:
        """Of an epoch, the last incomplete one dropped."""
        return None if self.samples is None else max(1, self.samples // self.batch_size)

    @property
    def per_pass(self) -> float | None:
        """Batches that all images are."""
        return None if self.samples is None else self.samples / self.batch_size

    @property
    def largest_head(self) -> float | None:
        """Largest norm that a strongly convex head's minimiser can have, ``sqrt(2 ln K / λ)``; None = no such head.

        ``λ/2 ‖w*‖² ≤ F(w*) ≤ F(0) = ln K``.
        """
        if not isinstance(self.module, RidgeHead):
            return None
        return math.sqrt(2 * math.log(len(self.module.head)) / self.module.ridge)

    def refuses(self, kind: type) -> str | None:
        """Why an operator could not run here whatever its settings, with a remedy; None = it could."""
        if self.module is None or not issubclass(kind, UnlearningOperator):
            return None
        prepares = kind.card.guarantee != "approximate" and not issubclass(kind, HeadOperator)
        if prepares and isinstance(self.module, PixelHead) and self.module.tolerance is not None:
            return (
                f"{type(self.module).__name__} is fitted to its tolerance before the first step, over whatever was "
                "prepared; give it tolerance=None, or take an operator for heads"
            )
        return kind.refuses(self.module) or self._trainer_refuses(kind)

    def refuses_defaults(self, kind: type) -> str | None:
        """Why an operator could not run here as its defaults make it; None = it could, or it has to be configured."""
        if self.module is None or not issubclass(kind, UnlearningOperator) or _wanted(kind):
            return None
        try:
            kind().check_module(self.module)
        except MisconfigurationException as error:
            return str(error)
        return None

    def check(self, operator: UnlearningOperator) -> None:
        """Refuse a configured operator whose run would be refused.

        Raises:
            MisconfigurationException: with the reason and the remedy.
        """
        if self.module is None:
            return
        if (why := self.refuses(type(operator))) is not None:
            raise MisconfigurationException(why)
        operator.check_module(self.module)
        if operator in self.callbacks:
            check_averaging(self.callbacks, operator)
        self.check_steps(operator)
        samples = getattr(operator, "samples", None)
        if None not in (samples, self.samples) and samples != self.samples:
            raise MisconfigurationException(
                f"{type(operator).__name__} was given samples = {samples}, the data have {self.samples} training "
                "images; the guarantee rests on it, so give their number"
            )

    def check_steps(self, operator: UnlearningOperator) -> None:
        """Refuse certified steps that ``max_steps`` leaves no room for.

        Raises:
            MisconfigurationException: with both numbers.
        """
        if isinstance(operator, NoisyPhase) and self.max_steps >= 0:
            check_steps(self.max_steps, type(operator).__name__, operator.optimizer_steps)

    def _trainer_refuses(self, kind: type[UnlearningOperator]) -> str | None:
        """What a run would find wrong with precision and callbacks."""
        try:
            check_callbacks(self.callbacks, kind.__name__)
            if issubclass(kind, CertifiedOperator):
                check_precision(self.precision, kind.__name__)
                check_weights_stay(self.callbacks, kind.__name__)
            elif kind.card.guarantee == "exact":
                refuse_memories(self.callbacks)
        except MisconfigurationException as error:
            return str(error)
        return None

    def lacks(self, kind: type, operator: UnlearningOperator | None = None) -> tuple[Need, ...]:
        """What an operator needs and is not at hand; as its defaults make it where none is given."""
        if self.module is None:
            return ()
        card: OperatorCard = kind.card  # type: ignore[attr-defined]  # whatever has no card is no operator
        needs = [*card.needs, "anchor"] if issubclass(kind, Retrain) else card.needs
        return tuple(need for need in needs if not self._at_hand(need, self.module, kind, operator))

    def _at_hand(self, need: Need, module: nn.Module, kind: type, operator: UnlearningOperator | None) -> bool:
        if need in _OF_DATA:
            return need in self.data
        anchor = getattr(operator, "anchor", None)
        if isinstance(anchor, (str, Path)) and anchor not in (INITIALISATION, ZEROS):
            return Path(anchor).is_file()
        if need == "anchor":
            drawn = anchor == ZEROS or drawn_anew(module)
            return drawn and (issubclass(kind, Retrain) or _all_exposed(module, operator))
        if need == "unexposed encoder":
            return self._encoder_known
        if need == "checkpoints with ledgers":
            return isinstance(operator, Rewind) and holds_ledgers(operator.checkpoints)
        return isinstance(module, QuantisedTraining)

    @functools.cached_property
    def _encoder_known(self) -> bool:
        return isinstance(self.module, RidgeHead) and self.module.unexposed() is not None

    def arguments(self, kind: type[UnlearningOperator]) -> dict[str, Any]:
        """What an operator's constants have to be here; on the retain view every image has other labels than before."""
        found: dict[str, Any] = {}
        if issubclass(kind, HeadOperator) and isinstance(self.module, RidgeHead):
            found["ridge"] = self.module.ridge
        if self.samples is not None:
            found |= {"samples": self.samples, "changed": self.samples}
        return found


def candidates(operator: UnlearningOperator | None, delta: float, setting: Setting | None = None) -> list[Candidate]:
    """Everything with a card that erode offers, the configured operator first and with its own constants.

    The others are taken as their defaults make them; those that begin in a ball around an anchor at the configured
    one's radius, if that does too; those for heads with the module's ridge and for as many images as the data have, all
    of them changed; certified ones with each reference that makes a difference.

    Args:
        operator: configured by the user; None = there is none.
        delta: δ.
        setting: module and data; None = nothing is known of them.

    Raises:
        MisconfigurationException: if a run of the configured operator would be refused.
    """
    setting = setting or Setting()
    found = []
    if operator is not None:
        setting.check(operator)
        found.append(candidate(type(operator), operator, setting))
    balls = {"radius": operator.mechanism.radius} if isinstance(operator, NoisyPhase) else {}
    for kind in operator_kinds().values():
        if inspect.isabstract(kind) or kind is type(operator):
            continue
        if not issubclass(kind, CertifiedOperator) or setting.refuses(kind) is not None:
            plain = candidate(kind, None, setting)
            found.append(replace(plain, why_never=plain.why_never or setting.refuses_defaults(kind)))
            continue
        takes = inspect.signature(kind, eval_str=True).parameters
        known = {"delta": delta, **setting.arguments(kind), **(balls if issubclass(kind, NoisyPhase) else {})}
        settings = {key: value for key, value in known.items() if key in takes}
        references = get_args(takes["reference"].annotation) if "reference" in takes else ()
        for chosen in [{"reference": reference} for reference in references] or [{}]:
            new = _try(kind, {**settings, **chosen}, setting)
            if not any(_same_noise(new, old) for old in found):
                found.append(new)
    return found


def candidate(kind: type, made: UnlearningOperator | None, setting: Setting) -> Candidate:
    """What an operator's class says about it, and one of its kind about its noise and its costs."""
    card: OperatorCard = kind.card  # type: ignore[attr-defined]  # whatever has no card is no operator
    plain = Candidate(
        operator=kind.__name__,
        card=card,
        lacks=setting.lacks(kind, made),
        why_never=setting.refuses(kind),
        per_pass=setting.per_pass,
    )
    if made is None:
        return replace(plain, effort=None) if card.guarantee == "certified" else plain
    mechanism = getattr(made, "mechanism", None)
    steps = getattr(made, "optimizer_steps", None)
    certified = isinstance(mechanism, Mechanism)
    return replace(
        plain,
        mechanism=mechanism if certified else None,
        noisy_evaluations=steps * card.evaluations_per_step if certified and steps is not None else None,
        effort=made.effort(setting.batches),
    )


def drawn_anew(module: nn.Module) -> bool:
    """Whether each layer with parameters, or one around it, has a ``reset_parameters``; more only a run can tell.

    Example:
        >>> import torch
        >>> drawn_anew(nn.Linear(2, 1)), drawn_anew(nn.ParameterList([nn.Parameter(torch.zeros(1))]))
        (True, False)
    """
    if callable(getattr(module, "reset_parameters", None)):
        return True
    own = next(module.parameters(recurse=False), None)
    return own is None and all(drawn_anew(layer) for layer in module.children())


def _all_exposed(module: nn.Module, operator: UnlearningOperator | None) -> bool:
    """Whether every parameter is: none has to equal an anchor that is drawn."""
    exposed = exposed_parameters(module, getattr(operator, "exposed", None))
    return exposed.keys() == dict(module.named_parameters()).keys()


def holds_ledgers(folder: str | Path) -> bool:
    """Whether any checkpoint below a folder carries a ledger, or weights have one beside them."""
    folder = Path(folder)
    for path in (*folder.rglob("*.ckpt"), *folder.rglob("*.safetensors")):
        try:
            read_ledger(path)
        except (OSError, ValueError):
            continue
        return True
    return False


def _try(kind: type[CertifiedOperator], settings: dict[str, Any], setting: Setting) -> Candidate:
    missing = ", ".join(name for name in _wanted(kind) if name not in settings)
    try:
        if missing:
            raise ValueError(f"{missing} belong to the request, not to the network; configure it as the run's operator")
        made = kind(**settings)
        if setting.module is not None:
            made.check_module(setting.module)
            setting.check_steps(made)
    except (ValueError, TypeError, MisconfigurationException) as error:
        return replace(candidate(kind, None, setting), why_not=str(error))
    new = candidate(kind, made, setting)
    if "changed" in settings and getattr(new.mechanism, "changed", None):
        return replace(new, assumes=f"all {settings['changed']} images counted as changed, as on the retain view")
    return new


def _precision(given: str, accelerator: object) -> str:
    """What the Trainer makes of it: float16 is not for the CPU."""
    long = _LONG_NAMES.get(given, given)
    return "bf16-mixed" if (long, accelerator) == ("16-mixed", "cpu") else long


def _wanted(kind: type) -> list[str]:
    """Arguments without a default."""
    return [p.name for p in inspect.signature(kind).parameters.values() if p.default is p.empty]


def _same_noise(one: Candidate, other: Candidate) -> bool:
    """Whether a second reference would only repeat a line: ``noise`` is ``anchor`` where no gradient is taken."""
    if one.mechanism is None or other.mechanism is None:
        return one.operator == other.operator and one.mechanism is other.mechanism
    constants = [{k: v for k, v in made.constants().items() if k != "reference"} for made in
                 (one.mechanism, other.mechanism)]  # fmt: skip
    return one.operator == other.operator and constants[0] == constants[1]
