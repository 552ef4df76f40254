"""What could answer a request for one network: every unlearning operator, made for its module and its data."""

from __future__ import annotations

import inspect
import math
from dataclasses import dataclass, replace
from typing import Any, get_args

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningDataModule
from torch import nn

from . import callbacks
from .callbacks import UnlearningOperator
from .callbacks.head_operator import HeadOperator
from .callbacks.noisy_phase import NoisyPhase
from .datamodules import MaskDataModule
from .lightning_modules import PixelHead
from .mechanisms import Mechanism
from .plan_ranking import Candidate
from .ridge import RidgeHead


@dataclass(frozen=True, kw_only=True)
class Setting:
    """For what is planned, as far as it is known.

    Args:
        module: of any device; None = any network.
        samples: images of the training set; None = unknown.
    """

    module: nn.Module | None = None
    samples: int | None = None

    @classmethod
    def of(cls, module: nn.Module, data: LightningDataModule | None) -> Setting:
        """Of a configuration; reads no pixel."""
        samples = None
        if isinstance(data, MaskDataModule):
            try:
                samples = len(data.part("train"))
            except (OSError, ValueError):  # a plan does not need the data
                samples = None
        return cls(module=module, samples=samples or None)

    @property
    def largest_head(self) -> float | None:
        """Largest norm that a strongly convex head's minimiser can have, ``sqrt(2 ln K / λ)``; None = no such head.

        ``λ/2 ‖w*‖² ≤ F(w*) ≤ F(0) = ln K``.
        """
        if not isinstance(self.module, RidgeHead):
            return None
        return math.sqrt(2 * math.log(len(self.module.head)) / self.module.ridge)

    def refuses(self, kind: type[UnlearningOperator]) -> str | None:
        """Why an operator could not run here whatever its settings, with a remedy; None = it could."""
        if self.module is None:
            return None
        prepares = kind.card.guarantee != "approximate" and not issubclass(kind, HeadOperator)
        if prepares and isinstance(self.module, PixelHead) and self.module.tolerance is not None:
            return (
                f"{type(self.module).__name__} is fitted to its tolerance before the first step, over whatever was "
                "prepared; give it tolerance=None, or take an operator for heads"
            )
        return kind.refuses(self.module)

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
        samples = getattr(operator, "samples", None)
        if None not in (samples, self.samples) and samples != self.samples:
            raise MisconfigurationException(
                f"{type(operator).__name__} was given samples = {samples}, the data have {self.samples} training "
                "images; the guarantee rests on it, so give their number"
            )

    def arguments(self, kind: type[UnlearningOperator]) -> dict[str, Any]:
        """What an operator's constants have to be here; on the retain view every image has other labels than before."""
        found: dict[str, Any] = {}
        if issubclass(kind, HeadOperator) and isinstance(self.module, RidgeHead):
            found["ridge"] = self.module.ridge
        if self.samples is not None:
            found |= {"samples": self.samples, "changed": self.samples}
        return found


def candidates(operator: UnlearningOperator | None, delta: float, setting: Setting | None = None) -> list[Candidate]:
    """All operators that ``erode.callbacks`` offers, the configured one first and with its own constants.

    The others are taken as their defaults make them; those that begin in a ball around an anchor at the configured
    one's radius, if that does too; those for heads with the module's ridge and for as many images as the data has, all
    of them changed; certified ones with each reference that makes a difference.

    Args:
        operator: configured by the user; None = there is none.
        delta: δ.
        setting: module and data; None = nothing is known of them.
    """
    setting = setting or Setting()
    found = [] if operator is None else [candidate(type(operator), operator)]
    balls = {"radius": operator.mechanism.radius} if isinstance(operator, NoisyPhase) else {}
    for name in callbacks.__all__:
        kind = getattr(callbacks, name)
        usual = isinstance(kind, type) and issubclass(kind, UnlearningOperator) and kind is not UnlearningOperator
        if not usual or inspect.isabstract(kind) or kind is type(operator):
            continue
        why = setting.refuses(kind)
        if why is not None or kind.card.guarantee != "certified":
            found.append(Candidate(operator=kind.__name__, card=kind.card, why_never=why))
            continue
        takes = inspect.signature(kind, eval_str=True).parameters
        known = {"delta": delta, **setting.arguments(kind), **(balls if issubclass(kind, NoisyPhase) else {})}
        settings = {key: value for key, value in known.items() if key in takes}
        references = get_args(takes["reference"].annotation) if "reference" in takes else ()
        for chosen in [{"reference": reference} for reference in references] or [{}]:
            new = _try(kind, {**settings, **chosen})
            if getattr(new.mechanism, "changed", 0):
                new = replace(
                    new, assumes=f"all {settings['changed']} images counted as changed, as on the retain view"
                )
            if not any(_same_noise(new, old) for old in found):
                found.append(new)
    return found


def candidate(kind: type[UnlearningOperator], made: UnlearningOperator) -> Candidate:
    """What an operator's class says about it, and one of its kind about its noise."""
    mechanism = getattr(made, "mechanism", None)
    steps = getattr(made, "optimizer_steps", None)
    certified = isinstance(mechanism, Mechanism)
    return Candidate(
        operator=kind.__name__,
        card=kind.card,
        mechanism=mechanism if certified else None,
        noisy_evaluations=steps * kind.card.evaluations_per_step if certified and steps is not None else None,
    )


def _try(kind: type[UnlearningOperator], settings: dict[str, Any]) -> Candidate:
    wanted = [p.name for p in inspect.signature(kind).parameters.values() if p.default is p.empty]
    missing = ", ".join(name for name in wanted if name not in settings)
    try:
        if missing:
            raise ValueError(f"{missing} belong to the request, not to the network; configure it as the run's operator")
        return candidate(kind, kind(**settings))
    except (ValueError, TypeError, MisconfigurationException) as error:
        return Candidate(operator=kind.__name__, card=kind.card, why_not=str(error))


def _same_noise(one: Candidate, other: Candidate) -> bool:
    """Whether a second reference would only repeat a line: ``noise`` is ``anchor`` where no gradient is taken."""
    if one.mechanism is None or other.mechanism is None:
        return one.operator == other.operator and one.mechanism is other.mechanism
    constants = [{k: v for k, v in made.constants().items() if k != "reference"} for made in
                 (one.mechanism, other.mechanism)]  # fmt: skip
    return one.operator == other.operator and constants[0] == constants[1]
