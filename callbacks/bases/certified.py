"""What every certified operator is: an unlearning run that ends in a certificate (theory §3)."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import WandbLogger
from torch import nn

from ...certificates import CHECKPOINT_KEY, Account, Target, certificate, save_certificate
from ...files import digest_of, file_digest
from ...mechanisms import Mechanism
from ...weights import weights_digest
from ..batches.served import split_of
from ..guards.refusals import manual
from .operator import WEIGHTS_KEY, UnlearningOperator


class CertifiedOperator(UnlearningOperator, base=True):
    """Base of operators with an (ε, δ) guarantee; rank 0 writes ``certificate.json`` beside the weights.

    Where nothing can be certified (the run ended too early, or the noise had a known seed) the certificate says so
    and why. Checkpoints carry one too, for the weights in them.

    Subclasses say what was done (:meth:`account`), note the exposed parameters (:meth:`note_exposed`), and put the
    digest of the anchor into ``self._record["anchor_weights"]``.

    Args:
        mechanism: all constants.
        target: what was asked for.
        seed: for debugging only: makes the noise reproducible, so that no certificate is issued.
        folder: see :class:`~erode.callbacks.UnlearningOperator`.
    """

    def __init__(self, mechanism: Mechanism, target: Target, seed: int | None, folder: str | Path | None) -> None:
        super().__init__(folder)
        self.mechanism = mechanism
        self.target = target
        self.seed = seed
        self._shapes: dict[str, list[int]] = {}
        self._calibrated_for = self._given_so_far()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse settings that were changed since the noise was calibrated for them."""
        super().setup(trainer, pl_module, stage)
        now = self._given_so_far()
        for name, value in self._calibrated_for.items() if stage == "fit" else ():
            if now.get(name) != value:
                raise MisconfigurationException(
                    f"{name} of this {type(self).__name__} was changed from {value} to {now.get(name)} after it was "
                    "made, and its noise was calibrated before; make a new one with the settings that you want"
                )

    @classmethod
    def refuses(cls, module: nn.Module) -> str | None:
        """Also modules that optimise manually."""
        return super().refuses(module) or manual(module, cls.__name__)

    @abstractmethod
    def account(self) -> Account:
        """What was done so far."""

    def note_exposed(self, exposed: dict[str, nn.Parameter]) -> None:
        """Note the parameters that training on the forget set could change, for the certificate."""
        self._shapes = {name: list(parameter.shape) for name, parameter in exposed.items()}

    def shortfall(self) -> str | None:
        """A run that ended before the last certified step releases nothing."""
        taken = self.account().steps
        if taken < self.mechanism.steps:
            return f"the run ended after {taken} of {self.mechanism.steps} certified steps"
        return None

    def finish(self, trainer: Trainer, module: LightningModule) -> dict[str, Any]:
        """Point to the certificate; noise with a known seed guarantees nothing."""
        guarantee = {} if self.seed is None else {"guarantee": "approximate"}
        return {**guarantee, "certificate": "certificate.json"}

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Release the weights, and the certificate beside them."""
        super().on_train_end(trainer, pl_module)
        if self.released and trainer.is_global_zero:
            self._write_certificate(trainer, None)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Put a certificate for the weights of this moment into the checkpoint."""
        super().on_save_checkpoint(trainer, pl_module, checkpoint)
        if self._record:
            other = None if WEIGHTS_KEY in checkpoint else "the weights are not those that the run ended with"
            why_not = self.shortfall() or other
            checkpoint[CHECKPOINT_KEY] = self._certificate(trainer, why_not, released_file=None)

    def _write_incomplete(self, trainer: Trainer, why: str) -> None:
        super()._write_incomplete(trainer, why)
        if trainer.is_global_zero:
            self._write_certificate(trainer, why)

    def _write_certificate(self, trainer: Trainer, why_not: str | None) -> None:
        weights = self._release_to / "weights.safetensors"
        content = self._certificate(trainer, why_not, file_digest(weights) if why_not is None else None)
        path = save_certificate(content, self._release_to / "certificate.json")
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                _publish(content, path, logger.experiment)

    def _certificate(self, trainer: Trainer, why_not: str | None, released_file: str | None) -> dict[str, Any]:
        split = split_of(trainer)
        return certificate(
            self.mechanism,
            self.target,
            self.account(),
            exposed=self._shapes,
            digests={
                "released_file": released_file,
                "released_weights": weights_digest(trainer.lightning_module) if why_not is None else None,
                "anchor_weights": self._record.get("anchor_weights"),
                "split": None if split is None else split.digest,
                "settings": digest_of(self._record["settings"]),
            },
            why_not=why_not,
            reproducible=self.seed is not None,
        )


def _publish(content: dict[str, Any], path: Path, run: Any) -> None:
    """Weights & Biases: the numbers as summary, the file as artefact."""
    claim = content["claim"] or {}
    run.summary["certificate"] = {
        "issued": content["issued"],
        "why_not": content["why_not"],
        "mechanism": content["mechanism"]["name"],
        "reference": content["mechanism"]["reference"],
        **{name: claim.get(name) for name in ("epsilon", "delta", "mu")},
    }
    run.log_artifact(str(path), name="certificate", type="certificate")
