"""The rows of a comparison: every way to train on coarse masks, to unlearn them, or to do without them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from .callbacks import (
    CNS,
    Blockwise,
    CFk,
    EUk,
    FineTune,
    GradientClipping,
    ModelClipping,
    NegGradPlus,
    NegGradSeg,
    OutputPerturbation,
    Retrain,
    Scrub,
    ScrubRewind,
    UnlearningOperator,
)
from .masks import View

MethodName = Literal[
    "coarse",
    "retrain_fine",
    "fine_tune",
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
]
DEFAULT_METHODS: tuple[MethodName, ...] = (
    "coarse", "retrain_fine", "fine_tune", "neg_grad", "retain_view", "oracle"
)  # fmt: skip


@dataclass(frozen=True)
class Task:
    """What an operator has to know of the row it works for.

    Args:
        folder: where it releases.
        epsilon: ε of certified rows.
        delta: δ of certified rows.
    """

    folder: Path
    epsilon: float = 1.0
    delta: float = 1e-7


@dataclass(frozen=True)
class Method:
    """One row of the table.

    Args:
        title: what people read in the table.
        short: what they read above a picture.
        view: labels it trains on, where no operator says so.
        operator: makes the unlearning operator; None = plain training.
        from_coarse: start from the coarse row's weights of the same seed instead of a fresh network.
    """

    title: str
    short: str
    view: View
    operator: Callable[[Task], UnlearningOperator] | None = None
    from_coarse: bool = False


METHODS: dict[MethodName, Method] = {
    "coarse": Method("coarse masks (to unlearn)", "coarse", View.COARSE),
    "retrain_fine": Method(
        "retrain on the fine images",
        "retrained",
        View.FINE_SUBSET,
        lambda task: Retrain(only_fine=True, folder=task.folder),
    ),
    "fine_tune": Method(
        "fine-tune",
        "fine-tuned",
        View.FINE_SUBSET,
        lambda task: FineTune(folder=task.folder),
        from_coarse=True,
    ),
    "neg_grad": Method(
        "NegGrad-Seg",
        "NegGrad-Seg",
        View.FINE_SUBSET,
        lambda task: NegGradSeg(folder=task.folder),
        from_coarse=True,
    ),
    "retain_view": Method("exact: retain view", "retain view", View.RETAIN, lambda task: Retrain(folder=task.folder)),
    "oracle": Method("all masks fine (oracle)", "oracle", View.FINE),
    "gradient_clipping": Method(
        "certified: gradient clipping",
        "gradient clipping",
        View.RETAIN,
        lambda task: GradientClipping(task.epsilon, task.delta, folder=task.folder),
        from_coarse=True,
    ),
    "model_clipping": Method(
        "certified: model clipping",
        "model clipping",
        View.RETAIN,
        lambda task: ModelClipping(task.epsilon, task.delta, folder=task.folder),
        from_coarse=True,
    ),
    "output_perturbation": Method(
        "certified: output perturbation",
        "output perturbation",
        View.RETAIN,
        lambda task: OutputPerturbation(task.epsilon, task.delta, folder=task.folder),
        from_coarse=True,
    ),
    "blockwise": Method(
        "certified: blockwise",
        "blockwise",
        View.RETAIN,
        lambda task: Blockwise(task.epsilon, task.delta, folder=task.folder),
        from_coarse=True,
    ),
    "cns": Method(
        "certified: CNS",
        "CNS",
        View.RETAIN,
        lambda task: CNS(task.epsilon, task.delta, folder=task.folder),
        from_coarse=True,
    ),
    "same_noise": Method(
        "control: gradient clipping, no trained start",
        "same noise",
        View.RETAIN,
        lambda task: GradientClipping(task.epsilon, task.delta, folder=task.folder),
    ),
    "scrub": Method("SCRUB", "SCRUB", View.FINE_SUBSET, lambda task: Scrub(folder=task.folder), from_coarse=True),
    "scrub_r": Method(
        "SCRUB+R", "SCRUB+R", View.FINE_SUBSET, lambda task: ScrubRewind(folder=task.folder), from_coarse=True
    ),
    "neg_grad_plus": Method(
        "NegGrad+", "NegGrad+", View.FINE_SUBSET, lambda task: NegGradPlus(folder=task.folder), from_coarse=True
    ),
    "cf_k": Method("CF-k", "CF-k", View.FINE_SUBSET, lambda task: CFk(folder=task.folder), from_coarse=True),
    "eu_k": Method("EU-k", "EU-k", View.FINE_SUBSET, lambda task: EUk(folder=task.folder), from_coarse=True),
}
