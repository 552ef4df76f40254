"""The rows of a comparison: every way to train on coarse masks, to unlearn them, or to do without them."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from ..callbacks import (
    CNS,
    Blockwise,
    CFk,
    EUk,
    FineTune,
    GradientClipping,
    ModelClipping,
    NegGradPlus,
    NegGradSeg,
    NewtonStep,
    OutputPerturbation,
    ProjectedNoisySGD,
    ResidualCertificate,
    Retrain,
    Rewind,
    Scrub,
    ScrubRewind,
    UnlearningOperator,
)
from ..datamodules import MaskDataModule
from ..lightning_modules import PixelHead, QuantisedSegmentationModule, SegmentationModule
from ..masks import View
from .unexposed_head import unexposed_head

MethodName = Literal[
    "coarse",
    "retrain_fine",
    "fine_tune",
    "fine_tune_retain",
    "neg_grad",
    "retain_view",
    "oracle",
    "scrub",
    "scrub_r",
    "neg_grad_plus",
    "cf_k",
    "eu_k",
    "gradient_clipping",
    "model_clipping",
    "output_perturbation",
    "blockwise",
    "cns",
    "same_noise",
    "staged",
    "rewind",
    "pixel_head",
    "residual_certificate",
    "newton_step",
    "projected_noisy_sgd",
    "pcmu",
]
DEFAULT_METHODS: tuple[MethodName, ...] = (
    "coarse", "retrain_fine", "fine_tune", "neg_grad", "retain_view", "oracle"
)  # fmt: skip


@dataclass(frozen=True)
class Task:
    """What a method has to know of the row it works for.

    Args:
        folder: where the row keeps its weights.
        data: serves the split of the row's seed.
        steps: gradient steps of a row.
        model: makes a fresh module of the comparison.
        start: folder of the row it starts from, if any.
        epsilon: ε of certified rows.
        delta: δ of certified rows.
        accelerator: see Lightning's Trainer.
    """

    folder: Path
    data: MaskDataModule
    steps: int
    model: Callable[[], SegmentationModule]
    start: Path | None = None
    epsilon: float = 1.0
    delta: float = 1e-7
    accelerator: str = "auto"


@dataclass(frozen=True)
class Method:
    """One row of the table.

    Args:
        title: what people read in the table.
        short: what they read above a picture.
        view: labels it trains on; where there is an operator, those that it asks for.
        operator: makes the unlearning operator; None = plain training.
        start: row whose weights of the same seed it starts from; None = a fresh network.
        module: makes its module; None = the one of the comparison.
        share: part of the steps of a row that it takes.
        first: labels that it learns in the other part, before; those weights are kept too, all with their ledgers.
        certified: whether ε and δ of the comparison have a part in it.
    """

    title: str
    short: str
    view: View
    operator: Callable[[Task], UnlearningOperator] | None = None
    start: MethodName | None = None
    module: Callable[[Task], SegmentationModule] | None = None
    share: float = 1.0
    first: View | None = None
    certified: bool = False


class _Certified(Protocol):
    def __call__(self, epsilon: float, delta: float, *, folder: Path) -> UnlearningOperator: ...


def _certified(title: str, operator: _Certified) -> Method:
    return Method(
        f"certified: {title}",
        title,
        View.RETAIN,
        lambda task: operator(task.epsilon, task.delta, folder=task.folder),
        start="coarse",
        certified=True,
    )


def _approximate(title: str, operator: Callable[..., UnlearningOperator], view: View = View.RETAIN) -> Method:
    return Method(title, title, view, lambda task: operator(folder=task.folder), start="coarse")


RIDGE = 1e-4
"""λ of pixel heads: weak, as ``configs/model/pixel_head.yaml`` has it."""

SGD_RIDGE = 1e-2
"""λ of the noisy SGD row: with 400 steps of rate 1.9, ``(1 - 1.9 λ)^400`` is 5e-4 here, and .93 at ``RIDGE``."""


def _head(ridge: float = RIDGE) -> Callable[[Task], PixelHead]:
    """A pixel head on the encoder of the row it starts from, or on one that it trains on the fine images."""
    return lambda task: unexposed_head(task.start or task.folder, task.data, task.steps, ridge, task.accelerator)


def _noisy_sgd(task: Task) -> ProjectedNoisySGD:
    """From anywhere in a ball that holds every minimiser, until its diameter has shrunk below the noise of a step."""
    samples = len(task.data.part("train"))
    return ProjectedNoisySGD(
        samples,
        samples,
        task.epsilon,
        task.delta,
        epochs=100,
        learning_rate=1.9,
        ridge=SGD_RIDGE,
        batch_size=max(1, samples // 4),
        radius=math.sqrt(2 * math.log(task.data.num_classes) / SGD_RIDGE),
        folder=task.folder,
    )


def _newton(task: Task) -> NewtonStep:
    """The retain view changes the label of every image, so all of them count; noise this large leaves no head."""
    samples = len(task.data.part("train"))
    return NewtonStep(samples, samples, task.epsilon, task.delta, ridge=RIDGE, folder=task.folder)


def _quantised(task: Task) -> QuantisedSegmentationModule:
    return QuantisedSegmentationModule.of(task.model())


METHODS: dict[MethodName, Method] = {
    "coarse": Method("coarse masks (to unlearn)", "coarse", View.COARSE),
    "retrain_fine": Method(
        "retrain on the fine images",
        "retrained",
        View.FINE_SUBSET,
        lambda task: Retrain(only_fine=True, folder=task.folder),
    ),
    "fine_tune": _approximate("fine-tune", FineTune, View.FINE_SUBSET),
    "fine_tune_retain": _approximate("fine-tune on the retain view", functools.partial(FineTune, only_fine=False)),
    "neg_grad": _approximate("NegGrad-Seg", NegGradSeg, View.FINE_SUBSET),
    "retain_view": Method("exact: retain view", "retain view", View.RETAIN, lambda task: Retrain(folder=task.folder)),
    "oracle": Method("all masks fine (oracle)", "oracle", View.FINE),
    "gradient_clipping": _certified("gradient clipping", GradientClipping),
    "model_clipping": _certified("model clipping", ModelClipping),
    "output_perturbation": _certified("output perturbation", OutputPerturbation),
    # The least noise in the end, and most of the run for free training: there are dozens of layers, and at the default
    # rate more steps on each do not train it against its noise.
    "blockwise": _certified("blockwise", functools.partial(Blockwise, steps=1)),
    "cns": _certified("CNS", CNS),
    "same_noise": Method(
        "control: gradient clipping, no trained start",
        "same noise",
        View.RETAIN,
        lambda task: GradientClipping(task.epsilon, task.delta, folder=task.folder),
        certified=True,
    ),
    "scrub": _approximate("SCRUB", Scrub),
    "scrub_r": _approximate("SCRUB+R", ScrubRewind),
    "neg_grad_plus": _approximate("NegGrad+", NegGradPlus),
    "cf_k": _approximate("CF-k", CFk),
    "eu_k": _approximate("EU-k", EUk),
    "staged": Method("retain view, then coarse masks (to rewind)", "staged", View.COARSE, share=0.5, first=View.RETAIN),
    "rewind": Method(
        "exact: rewind, then retain view",
        "rewound",
        View.RETAIN,
        lambda task: Rewind(task.start or task.folder, folder=task.folder),
        start="staged",
        share=0.5,
    ),
    "pixel_head": Method("pixel head, coarse masks (to unlearn)", "pixel head", View.COARSE, module=_head()),
    "residual_certificate": Method(
        "certified: residual of a pixel head",
        "residual",
        View.RETAIN,
        lambda task: ResidualCertificate(task.epsilon, task.delta, ridge=RIDGE, folder=task.folder),
        start="pixel_head",
        module=_head(),
        certified=True,
    ),
    "newton_step": Method(
        "certified: Newton step of a pixel head",
        "Newton step",
        View.RETAIN,
        _newton,
        start="pixel_head",
        module=_head(),
        certified=True,
    ),
    "projected_noisy_sgd": Method(
        "certified: noisy SGD of a pixel head",
        "noisy SGD",
        View.RETAIN,
        _noisy_sgd,
        start="pixel_head",
        module=_head(SGD_RIDGE),
        certified=True,
    ),
    # Each of its steps takes all images, one by one: what an epoch of the other rows takes, and longer.
    "pcmu": Method("PCMU, coarse masks (forgets within its budget)", "PCMU", View.COARSE, module=_quantised, share=0.1),
}
