"""Learning by projected noisy SGD, and what later unlearning has to know of it (theory §5)."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from ..accounting.checks import check_non_negative
from ..files import parse_json, write_json
from ..lightning_state import run_folder
from ..mechanisms import NoisySGDMechanism
from ..ridge import RidgeHead, noisy_sgd
from ..weights import state_digest
from .bases.head_operator import head_of
from .guards.refusals import check_setup
from .noise.keyed_noise import KeyedNoise, shared_secret

FILE = "noisy_learning.json"
"""Where a process stands, beside its weights."""


@dataclass(frozen=True, kw_only=True)
class Process:
    """Where a process of projected noisy SGD stands.

    Args:
        learning_rate: η.
        ridge: λ.
        samples: n.
        batch_size: b.
        radius: R.
        sigma: of the last phase's noise.
        epochs: over all phases.
        carried: distance left by earlier requests.
        weights: digest of the head at this point.
        images: fingerprint of each image with its labels, in the order of the data set.
    """

    learning_rate: float
    ridge: float
    samples: int
    batch_size: int
    radius: float
    sigma: float
    epochs: int
    carried: float
    weights: str
    images: list[int]

    def __post_init__(self) -> None:
        check_non_negative(carried=self.carried, sigma=self.sigma)

    @classmethod
    def load(cls, path: str | Path) -> Process:
        """Read what :meth:`save` wrote.

        Raises:
            ValueError: for another file.
        """
        try:
            return cls(**parse_json(Path(path).read_text(encoding="utf-8")))
        except FileNotFoundError:
            raise ValueError(
                f"there is no {path}: NoisyLearning and ProjectedNoisySGD write it unless the head was trained on "
                "after them (min_steps, min_epochs); without it give learned=None, which counts the whole ball"
            ) from None
        except (OSError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is no {FILE} of a NoisyLearning or ProjectedNoisySGD run: {error}") from error

    def save(self, folder: Path) -> Path:
        """Write it into a folder."""
        return write_json(folder / FILE, asdict(self))


class NoisyLearning(Callback):
    """Learn a head by projected noisy SGD from zeros, so that :class:`ProjectedNoisySGD` can unlearn cheaply.

    ``w ← Π_R(w - η ∇F_B(w) + σξ)`` over fixed cyclic batches; image i belongs to batch ``i mod (n // b)``. It takes the
    place of the module's own fit. ``noisy_learning.json`` says where the process stands; keep it beside the weights.

    Args:
        epochs: T >= 1.
        sigma: σ > 0 of each step, on the weights.
        learning_rate: η, at most ``1/(1/2 + λ)``.
        batch_size: b.
        radius: R > 0.
        folder: where the file goes; None = the folder of the run.

    Raises:
        ValueError: for arguments out of range.
        MisconfigurationException: for a module without a strongly convex head.

    Source:
        Chien et al. 2024; theory §5.
    """

    def __init__(
        self,
        epochs: int = 100,
        sigma: float = 1e-3,
        learning_rate: float = 1.0,
        batch_size: int = 16,
        radius: float = 50.0,
        folder: str | Path | None = None,
    ) -> None:
        if epochs < 1 or not sigma > 0 or not radius > 0 or not learning_rate > 0 or batch_size < 1:
            raise ValueError("epochs, sigma, learning_rate, batch_size and radius must all be above 0")
        self.epochs = epochs
        self.sigma = sigma
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.radius = radius
        self.folder = folder
        self._process: Process | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse what cannot work, before the data are read."""
        head_of(pl_module, type(self).__name__)
        check_setup(trainer, pl_module, type(self).__name__, 0)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Run the process, and end the run."""
        assert isinstance(pl_module, RidgeHead)
        objective = pl_module.objective(self.batch_size, retained_only=False)
        batches = len(objective.images)
        NoisySGDMechanism(  # refuses a learning rate at which a step need not contract
            reference="retrained", learning_rate=self.learning_rate, ridge=pl_module.ridge, batches=batches,
            batch_size=self.batch_size, changed=1, trained_epochs=self.epochs, start=0.0, carried=0.0, steps=batches,
            sigma=self.sigma,
        )  # fmt: skip
        noise, drawn = KeyedNoise(shared_secret(trainer.strategy.broadcast)), 0

        def add_noise(weights: Tensor) -> Tensor:
            nonlocal drawn
            drawn += 1
            return weights + self.sigma * noise.draw([weights], drawn)[0]

        head = pl_module.head
        start = torch.zeros(head.shape, dtype=torch.float64, device=objective.batches[0].features.device)
        ended = noisy_sgd(
            objective.batch_gradient, start, batches=batches, epochs=self.epochs, learning_rate=self.learning_rate,
            radius=self.radius, add_noise=add_noise,
        )  # fmt: skip
        with torch.no_grad():
            head.copy_(trainer.strategy.broadcast(ended.cpu()).to(head.device))
        trainer.should_stop = True
        self._process = Process(
            learning_rate=self.learning_rate, ridge=pl_module.ridge, samples=objective.samples,
            batch_size=self.batch_size, radius=self.radius, sigma=self.sigma, epochs=self.epochs, carried=0.0,
            weights=head_digest(head), images=objective.fingerprints,
        )  # fmt: skip
        rank_zero_info(f"NoisyLearning: {self.epochs} epochs of {batches} batches over {objective.samples} images")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write where the process stands."""
        folder = run_folder(trainer) if self.folder is None else Path(self.folder)
        if self._process is None or not trainer.is_global_zero:
            return
        if head_digest(head_of(pl_module, type(self).__name__)) != self._process.weights:
            raise MisconfigurationException(
                "the head was trained on after NoisyLearning, so it is not where that process ended; leave out "
                "min_steps and min_epochs"
            )
        self._process.save(folder)


def head_digest(head: Tensor) -> str:
    """SHA-256 of a head."""
    return state_digest({"head": head})
