"""SCRUB+R: SCRUB, rewound to where the forget error is that of data which never trained the model."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torch.utils.data import DataLoader

from ..lightning_state import datamodule_of
from ..operator_card import OperatorCard
from ..weights import load_weights, save_weights
from .bases.forget_error import ForgetError
from .scrub import Scrub


class ScrubRewind(Scrub):
    """SCRUB whose release is the candidate that forgot just enough (theory §6, SCRUB+R).

    Pushing further than a model that never saw the forget set would go is itself a trace. So the run keeps the
    weights it started with (candidate 0) and those after every min-phase. At the end the reference is measured: the
    forget error (share of forget atoms on which the prediction is not the original label) of the last weights on
    held-out data of the same kind. The candidate whose forget error is nearest to it is released, the later one of
    equals. Candidate 0 is the original model, running statistics included; if it is chosen, nothing was unlearnt,
    and the record says so.

    Candidates stand in ``candidates`` in the operator's folder until the run has come to its end. One that was
    cut short leaves them, because it may be resumed: delete them if not.

    Guarantee: none (approximate). Stores what SCRUB does, and on the disk the weights of every candidate. Beside
    SCRUB's costs, a forward pass over the forget set per candidate.

    Args:
        alpha: see :class:`Scrub`, as all up to ``role_key``.
        gamma: see :class:`Scrub`.
        temperature: see :class:`Scrub`.
        msteps: see :class:`Scrub`.
        max_phase: see :class:`Scrub`.
        min_phase: see :class:`Scrub`.
        only_fine: see :class:`Scrub`.
        image_key: see :class:`Scrub`.
        fine_key: see :class:`Scrub`.
        coarse_key: see :class:`Scrub`.
        role_key: see :class:`Scrub`.
        held_out: serves batches like the forget loader's, of images that trained nothing; None = a DataModule of ours
            takes its validation images.
        folder: see :class:`~erode.callbacks.UnlearningOperator`.

    Raises:
        ValueError: for arguments out of range.
        MisconfigurationException: as :class:`Scrub`; without held-out data; for forget data of unknown length; and on
            resuming where the candidates are gone.

    Source: Kurmanji et al. 2023, §3.2 (SCRUB+R). The released code has no file for candidate 0.
    """

    card = OperatorCard(
        guarantee="approximate",
        paper="SCRUB+R (Kurmanji et al. 2023, arXiv 2302.09880), pixel-wise; theory §6",
        trains_on="as `Scrub`, rewound to the forget error of held-out images",
        needs=("retained data", "forget set"),
        requests=("pixel",),
        stores="the teacher, and on the disk a copy of the weights after every min-phase, while it runs",
        costs="as `Scrub`, and one pass over the forget set per candidate",
        evaluations_per_step=4 / 3,
        technique="knowledge adaptation",
        manipulation="model shifting",
        config="unlearn/scrub_r.yaml",
        page="scrub.md",
    )

    def __init__(
        self,
        alpha: float = 0.01,
        gamma: float = 1.0,
        temperature: float = 4.0,
        msteps: int = 3,
        max_phase: int | None = 1,
        min_phase: int | None = 20,
        only_fine: bool = False,
        image_key: str | int = "image",
        fine_key: str | int = "mask",
        coarse_key: str | int = "coarse",
        role_key: str | int | None = "role",
        held_out: DataLoader[Any] | None = None,
        folder: str | Path | None = None,
    ) -> None:
        super().__init__(
            alpha,
            gamma,
            temperature,
            msteps,
            max_phase,
            min_phase,
            only_fine,
            image_key,
            fine_key,
            coarse_key,
            role_key,
            folder,
        )
        self.held_out = held_out
        self._curve: list[dict[str, Any]] = []
        self._forget: ForgetError | None = None
        self._reference: ForgetError | None = None

    # Order of a run ------------------------------------------------------------------------------------------

    def check(self, trainer: Trainer, module: LightningModule) -> None:
        """Refuse a run that could not be rewound at its end."""
        super().check(trainer, module)
        loaders = trainer.train_dataloader
        like = loaders.get("forget") if isinstance(loaders, dict) else None
        if not isinstance(like, DataLoader):
            raise MisconfigurationException(
                f"{type(self).__name__} needs a DataLoader under 'forget' to measure the forget error on; use a "
                "DataModule of ours, or give fit {'retain': loader, 'forget': loader}"
            )
        data: Any = datamodule_of(trainer)
        forget, ours = data.forget_data() if hasattr(data, "forget_data") else (like.dataset, None)
        held_out = ours if self.held_out is None else self.held_out.dataset
        if held_out is None:
            raise MisconfigurationException(
                f"{type(self).__name__} rewinds to the forget error of held-out data, and there are none; give "
                "held_out=DataLoader(...) with batches like the forget loader's, of images that trained nothing"
            )
        self._forget = ForgetError(forget, like, self._keys, "forget data")
        self._reference = ForgetError(held_out, self.held_out or like, self._keys, "held-out data")

    def remember(self, trainer: Trainer, module: LightningModule) -> None:
        """Keep the original model as the teacher, and as candidate 0."""
        super().remember(trainer, module)
        self._curve = []
        if trainer.is_global_zero:
            shutil.rmtree(self._candidates, ignore_errors=True)  # of a run that was cut short and not resumed
        self._add_candidate(trainer, module)

    def resume(self, trainer: Trainer, module: LightningModule) -> None:
        """Go on with the candidates of the run that was cut short."""
        missing = [entry["candidate"] for entry in self._curve if not self._path(entry["candidate"]).is_file()]
        if trainer.is_global_zero and missing:
            raise MisconfigurationException(
                f"candidate {missing[0]} of the run is not in {self._candidates}; resume with the folder of the run "
                "that was cut short, or start anew"
            )
        super().resume(trainer, module)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Where a min-phase has just ended, its weights are a candidate."""
        before = self._phase
        if before >= 0 and self._phase_now(trainer) != before and not self._pushes(before):
            self._add_candidate(trainer, pl_module)
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)

    def finish(self, trainer: Trainer, module: LightningModule) -> dict[str, Any]:
        """Measure the reference and go back to the candidate nearest to it."""
        finished = super().finish(trainer, module)
        if trainer.interrupted:
            return finished
        assert self._reference is not None
        self._add_candidate(trainer, module)
        reference = self._reference(trainer, module)
        chosen = nearest([entry["forget_error"] for entry in self._curve], reference)
        if trainer.is_global_zero:
            load_weights(module, self._path(chosen))
        with torch.no_grad():
            for tensor in module.state_dict().values():
                if isinstance(tensor, Tensor):
                    tensor.copy_(trainer.strategy.broadcast(tensor))
        return {**finished, "rewind": {"curve": self._curve, "reference_error": reference, "chosen": chosen}}

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Remove the candidates, unless the run may go on."""
        super().teardown(trainer, pl_module, stage)
        if self.finished and not trainer.interrupted and trainer.is_global_zero:
            shutil.rmtree(self._candidates, ignore_errors=True)
        self._forget = self._reference = None

    def state_dict(self) -> dict[str, Any]:
        """The curve so far, beside what SCRUB keeps."""
        return {**super().state_dict(), "curve": [dict(entry) for entry in self._curve]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the curve of a run that was cut short."""
        super().load_state_dict(state_dict)
        self._curve = [dict(entry) for entry in state_dict["curve"]]

    # Candidates ----------------------------------------------------------------------------------------------

    @property
    def _candidates(self) -> Path:
        return self._release_to / "candidates"

    def _path(self, candidate: int) -> Path:
        return self._candidates / f"{candidate}.safetensors"

    def _add_candidate(self, trainer: Trainer, module: LightningModule) -> None:
        assert self._forget is not None
        candidate = len(self._curve)
        error = self._forget(trainer, module)
        if trainer.is_global_zero:
            save_weights(module, self._path(candidate))
        self._curve.append({"candidate": candidate, "step": trainer.global_step, "forget_error": error})

    def _settings(self) -> dict[str, Any]:
        """A loader is told by its length: its name in memory changes from run to run."""
        images = None if self.held_out is None else len(self.held_out.dataset)  # type: ignore[arg-type]
        return {**super()._settings(), "held_out": None if images is None else f"{images} images"}


def nearest(errors: list[float], reference: float) -> int:
    """Index of the error nearest to the reference, 0 included; the last of equals, which was unlearnt longest.

    Example:
        >>> nearest([0.1, 0.9, 0.5, 0.7], 0.6), nearest([0.1, 0.9], 0.0)
        (3, 0)
    """
    return min(range(len(errors)), key=lambda index: (abs(errors[index] - reference), -index))
