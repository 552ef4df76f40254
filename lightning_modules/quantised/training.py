"""Training whose weights provably do not depend on any few samples (theory §5, PCMU)."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from ...accounting import GRID, RemovalBudgets, removal_budget, smoothed_threshold
from ...files import write_json
from ...lightning_state import datamodule_of, run_folder
from ...operator_card import OperatorCard
from ...weights import weights_digest
from ..segmentation import SegmentationModule
from .per_sample import fingerprint, samples_of
from .randomness import generator_states
from .refusals import check_data, check_module, check_trainer, check_transfer, check_tuners

QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95)
"""Of the budgets, in the record."""


class QuantisedTraining(LightningModule):
    """Mixin that replaces each step's gradient by its smoothed, quantised form, and counts what it withstands.

    One step takes all samples. The gradient of each is clipped to ±b per coordinate and rounded to whole numbers, so
    their sum is exact in any order and on any number of processes; the user's optimiser then gets
    ``S(g) = argmax_{a ∈ {-1,0,1}} P[Q_κ(g + η) = a]``, η ~ N(0, σ²), in closed form. Each step and coordinate has a
    budget: how many samples could be removed without changing its value. Training without any m samples, from the same
    initial weights and with the same number of steps, gives the same weights bit for bit for every m up to the least
    of them, which ``removal.json`` reports with quantiles and the certified part for each m.

    Guarantee: exact (ε = 0, δ = 0) within the budget, for samples that the initial weights, the settings and the
    choice among checkpoints did not depend on. Sample = image. Stores nothing; one gradient evaluation of each sample
    a step, one by one: a sample's gradient must not be rounded differently in other company.

    A DataModule of ours serves each image once a step and unflipped meanwhile; other loaders have to.

    Put it first: ``class Mine(QuantisedTraining, YourModule)``. Your ``training_step`` and ``configure_optimizers``
    stay; the first is called with batches of one.

    Args:
        bound: b > 0, of a coordinate of one sample's gradient.
        kappa: κ >= 0, half-width of the quantiser's zero, in the units of the gradient.
        smoothing: σ >= 0 of the quantiser's noise, in the same units.
        arguments: those of your module.

    Raises:
        ValueError: if an argument is out of range, or the threshold that follows is b or more.
        MisconfigurationException: before the first step, for what could make a sample's part in a step depend on
            others or on chance; at a step, if the samples are not those of the step before.
        FloatingPointError: for a gradient that is not finite.

    Source:
        Zhang Z. et al. 2022, "Prompt certified machine unlearning with randomized gradient smoothing and
        quantization" (idea); theory §5 (budgets).

    Example:
        >>> module = QuantisedSegmentationModule(bound=0.1, kappa=0.01, smoothing=0.01)
        >>> round(module.threshold / GRID * module.bound, 5)
        0.00969
    """

    card: ClassVar[OperatorCard] = OperatorCard(
        guarantee="exact",
        scope="for as many removals as its budget states",
        paper="after PCMU (Zhang Z. et al. 2022), budgets in whole numbers; theory §5",
        trains_on="all data, one full batch per step; nothing runs at a request",
        needs=("quantised training",),
        requests=("item",),
        costs="one gradient evaluation of each image per step",
        technique="certified removal",
        manipulation="none at request time",
        config="model/quantised_unet.yaml",
        page="quantised.md",
    )

    def __init__(
        self, *arguments: Any, bound: float = 0.1, kappa: float = 0.01, smoothing: float = 0.01, **keywords: Any
    ) -> None:
        super().__init__(*arguments, **keywords)
        if not 0 < bound < float("inf"):
            raise ValueError(f"bound must be a finite number > 0, got {bound}")
        self.automatic_optimization = False
        self.bound = bound
        self.kappa = kappa
        self.smoothing = smoothing
        self.threshold = round(smoothed_threshold(kappa, smoothing) / bound * GRID)
        """τ in whole numbers, b = GRID."""
        if self.threshold >= GRID:
            raise ValueError(f"kappa = {kappa} lies above bound = {bound}, so no weight would ever move; lower kappa")
        self.budgets: RemovalBudgets | None = None
        """Of the steps so far."""
        self._data: tuple[int, int] | None = None
        self._start = ""
        self._first_buffers: dict[str, Tensor] = {}
        self._total: list[Tensor] = []
        self._seen = [0, 0]
        self._setup_checked = False
        self._size = 0

    def setup(self, stage: str) -> None:
        """Ask a DataModule of ours for each image once and unchanged, for as long as it is trained on."""
        super().setup(stage)
        if stage == "fit":
            check_tuners(self.trainer)
        self._ask_for_all(stage, True)

    def teardown(self, stage: str) -> None:
        """Let it mirror images again."""
        super().teardown(stage)
        self._ask_for_all(stage, False)

    def on_fit_start(self) -> None:
        """Refuse what could make the promise false."""
        super().on_fit_start()
        if self.trainer.ckpt_path is not None:
            raise MisconfigurationException(
                f"{type(self).__name__} cannot go on from {self.trainer.ckpt_path}: its budgets are those of one whole "
                "run; start anew (the same data and weights give the same run)"
            )
        check_trainer(self.trainer)
        check_module(self)
        check_transfer(self, datamodule_of(self.trainer))
        self.budgets = self._data = None
        self._setup_checked = True
        self._first_buffers = {name: buffer.detach().clone() for name, buffer in self.named_buffers()}
        self._forget_samples()

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        """Add the gradients of all samples of a batch; after the last batch of the data, take the step."""
        if not self._setup_checked:
            raise MisconfigurationException(
                f"{type(self).__name__} has an on_fit_start of its own that leaves out super().on_fit_start(), so "
                "nothing was checked; call it"
            )
        if self.budgets is None and batch_idx == 0:
            self._size, self._start = check_data(self.trainer), weights_digest(self)
        for sample in samples_of(batch):
            gradients = self._gradients(sample)
            if self.budgets is None:  # in the first step, every one twice
                self._check_repeatable(gradients, self._gradients(sample))
            for total, gradient in zip(self._total, gradients, strict=True):
                total += self._whole(gradient)
            self._seen[0] += 1
            self._seen[1] += fingerprint(sample)
        if batch_idx + 1 == self.trainer.num_training_batches:
            self._step()

    def on_train_end(self) -> None:
        """Write what the run withstands."""
        super().on_train_end()
        folder = run_folder(self.trainer)  # every process asks
        if self.trainer.is_global_zero and self.budgets is not None:
            write_json(folder / "removal.json", self.removal())

    def removal(self) -> dict[str, Any]:
        """What the run withstands, plain data.

        Raises:
            RuntimeError: before the first step.
        """
        if self.budgets is None:
            raise RuntimeError("no step was taken yet, so there is nothing to report; call fit first")
        completed = self.trainer.global_step == self.trainer.max_steps
        return {
            "guarantee": self.card.guarantee,
            "paper": self.card.paper,
            "completed": completed,
            "samples": self.budgets.samples,
            "steps": self.trainer.global_step,
            "coordinates": sum(parameter.numel() for parameter in self._trained()),
            "bound": self.bound,
            "kappa": self.kappa,
            "smoothing": self.smoothing,
            "threshold": self.threshold * self.bound / GRID,
            "removals_withstood": self.budgets.minimum if completed else None,
            "quantiles": {str(level): self.budgets.quantile(level) for level in QUANTILES},
            "certified_fraction": [self.budgets.fraction(removed) for removed in range(self.budgets.samples)],
            "budget_counts": self.budgets.counts,
            "initial_weights": self._start,
            "released_weights": weights_digest(self),
            "torch": str(torch.__version__),
        }

    def _ask_for_all(self, stage: str, wanted: bool) -> None:
        data: Any = datamodule_of(self.trainer)
        if stage == "fit" and hasattr(data, "serve_as_they_are"):
            data.serve_as_they_are(wanted)

    def _gradients(self, sample: Any) -> list[Tensor]:
        states = generator_states(self.device)
        output: Any = super().training_step(sample, 0)  # the number of a batch would tell how many samples came before
        if output is None:
            raise MisconfigurationException(
                f"{type(self).__name__}: training_step returned no loss for a sample; each sample has to have one"
            )
        loss = output["loss"] if isinstance(output, dict) else output
        trained = self._trained()
        found = torch.autograd.grad(loss, trained, allow_unused=True)
        if generator_states(self.device) != states:
            raise MisconfigurationException(
                f"training_step of {type(self).__name__} drew random numbers, so the gradient of a sample depends on "
                "how many came before it; take layers and losses that draw none (no drop-path, dropout or noise)"
            )
        return [torch.zeros_like(p) if g is None else g for p, g in zip(trained, found, strict=True)]

    def _whole(self, gradient: Tensor) -> Tensor:
        if not bool(torch.isfinite(gradient).all()):
            raise FloatingPointError("the gradient of a sample is not finite; look for the image that makes it so")
        return (gradient.double() / self.bound).clamp(-1, 1).mul(GRID).round().long()

    def _step(self) -> None:
        everyone = [
            self.trainer.strategy.reduce(part, reduce_op="sum")
            for part in (*self._total, torch.tensor(self._seen, device=self.device))
        ]
        samples, print_of_all = (int(value) for value in everyone.pop())
        self._check_same(samples, print_of_all)
        assert self.budgets is not None
        optimizer = self.optimizers()
        assert not isinstance(optimizer, list)  # refused before the first step
        for parameter, total in zip(self._trained(), everyone, strict=True):
            moves = total.sign() * (total.abs() > self.threshold * samples)
            parameter.grad = moves.to(parameter.dtype)
            self.budgets.add(removal_budget(total.cpu().numpy(), samples, self.threshold))
        optimizer.step()
        optimizer.zero_grad()
        schedulers = self.lr_schedulers()
        for scheduler in schedulers if isinstance(schedulers, list) else [schedulers]:
            if scheduler is not None:
                scheduler.step()  # plateau schedulers are refused
        self._forget_samples()

    def _check_same(self, samples: int, print_of_all: int) -> None:
        """Each step must see the samples of the first, and leave no other trace of them than its gradient."""
        if samples != self._size:
            raise MisconfigurationException(
                f"a step saw {samples} samples, the data set has {self._size}; let each batch be what the default "
                "collation makes of its samples, with a tensor first whose first axis counts them"
            )
        if self._data is None or self.budgets is None:
            self._data, self.budgets = (samples, print_of_all), RemovalBudgets(samples)
        elif self._data != (samples, print_of_all):
            raise MisconfigurationException(
                f"this step saw {samples} samples that are not the {self._data[0]} of the first step bit for bit; "
                "switch off augmentation and random crops, and serve the whole data each epoch"
            )
        for name, buffer in self.named_buffers():
            if name not in self._first_buffers or not torch.equal(buffer, self._first_buffers[name]):
                raise MisconfigurationException(
                    f"the buffer {name} changed in training, so it may depend on any sample; use a layer without it"
                )

    @staticmethod
    def _check_repeatable(once: list[Tensor], again: list[Tensor]) -> None:
        if not all(torch.equal(one, other) for one, other in zip(once, again, strict=True)):
            raise MisconfigurationException(
                "the gradient of a sample differed when it was computed again, so training_step draws random numbers, "
                "remembers samples, or uses kernels that are not deterministic; switch that off "
                "(Trainer(deterministic=True))"
            )

    def _forget_samples(self) -> None:
        self._total = [torch.zeros_like(p, dtype=torch.int64) for p in self._trained()]
        self._seen = [0, 0]

    def _trained(self) -> list[nn.Parameter]:
        return [parameter for parameter in self.parameters() if parameter.requires_grad]


class QuantisedSegmentationModule(QuantisedTraining, SegmentationModule):
    """:class:`SegmentationModule`, trained by :class:`QuantisedTraining`.

    Args:
        bound: see :class:`QuantisedTraining`.
        kappa: see there.
        smoothing: see there.
        keywords: see :class:`SegmentationModule`.

    Example:
        >>> QuantisedSegmentationModule(num_classes=3, bound=0.05)(torch.zeros(1, 3, 64, 64)).shape
        torch.Size([1, 3, 64, 64])
    """

    def __init__(self, bound: float = 0.1, kappa: float = 0.01, smoothing: float = 0.01, **keywords: Any) -> None:
        super().__init__(bound=bound, kappa=kappa, smoothing=smoothing, **keywords)

    @classmethod
    def of(
        cls, module: SegmentationModule, bound: float = 0.1, kappa: float = 0.01, smoothing: float = 0.01
    ) -> QuantisedSegmentationModule:
        """The network of a module, to be trained this way with the same loss, optimiser and schedule.

        Args:
            module: whose network becomes that of the new one.
            bound: see :class:`QuantisedTraining`.
            kappa: see there.
            smoothing: see there.
        """
        return cls(bound, kappa, smoothing, **module.arguments())

    def describe(self) -> dict[str, Any]:
        """Also the constants of the quantiser."""
        constants = {"bound": self.bound, "kappa": self.kappa, "smoothing": self.smoothing}
        return {**super().describe(), **constants}
