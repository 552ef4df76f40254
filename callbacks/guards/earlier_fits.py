"""What an earlier fit left in a Trainer: it would steer this one by what it saw (theory §4)."""

from __future__ import annotations

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer


def check_first_fit(trainer: Trainer, operator: str) -> None:
    """Refuse a Trainer that has trained before, and a loss scale that has been used.

    A Trainer counts steps and epochs on from one fit to the next, so how long the first took, which early stopping may
    have read off the forget set, decides how long the second takes. A loss scale decides which steps are skipped.

    Args:
        trainer: of a run that begins, and goes on from no checkpoint.
        operator: name of the callback, for messages.

    Raises:
        MisconfigurationException: naming what is left.
    """
    if trainer.global_step or trainer.current_epoch:
        raise MisconfigurationException(
            f"this Trainer has trained before, and counts on from step {trainer.global_step} and epoch "
            f"{trainer.current_epoch}: how long {operator} trains would depend on how long that took, and so on the "
            "forget set; make a new Trainer"
        )
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    if getattr(scaler, "_scale", None) is not None:
        raise MisconfigurationException(
            f"the loss scale of {type(trainer.precision_plugin).__name__} comes from an earlier fit: which steps of "
            f"{operator} are skipped would depend on it; make a new plugin, or give precision='16-mixed'"
        )
