r"""The objective of a pixel head: multinomial logistic regression with ridge on frozen features (theory §5).

``F(W) = (1/n) Σ_i ℓ_i(W) + λ/2 ‖W‖²`` over n images, ``ℓ_i`` the mean cross-entropy of the labelled pixels of image i
(0 where it has none). It is λ-strongly convex, and everything is computed in double precision.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

Total = Callable[[Tensor], Tensor]
"""Sums a tensor over all processes."""


class HeadPixels(NamedTuple):
    """Labelled pixels of some images, those of one image together."""

    features: Tensor
    """φ, ``[M, D]``, norm at most 1."""
    targets: Tensor
    """q, ``[M, K]``, on the simplex."""
    weight: Tensor
    """``[M]``, 1 over the number of labelled pixels of the pixel's image."""
    pixels: Tensor
    """``[I]``, int64: labelled pixels of each image, in the order in which they come; 0 for an image without any."""


def check_atoms(atoms: HeadPixels) -> None:
    """Refuse atoms for which the constants of theory §5 do not hold.

    They are bounds on a single pixel, and hold for the loss of an image because that is a mean over its pixels: their
    weights must be >= 0 and sum to at most 1.

    Raises:
        ValueError: for a feature vector longer than 1, targets off the simplex, weights of an image that are no mean,
            other numbers of pixels than there are, or values that are not finite.

    Example:
        >>> check_atoms(HeadPixels(torch.ones(1, 2), torch.tensor([[0.0, 1.0]]), torch.ones(1), torch.tensor([1])))
        Traceback (most recent call last):
        ...
        ValueError: a feature vector has norm 1.41421, above 1; scale the features (feature_norm of PixelHead)
    """
    rows = {name: len(value) for name, value in atoms._asdict().items() if name != "pixels"}
    if set(rows.values()) != {int(atoms.pixels.sum())} or bool((atoms.pixels < 0).any()):
        raise ValueError(
            f"HeadPixels.pixels must say how many of the {rows['weight']} pixels each image has, got {rows} and "
            f"{atoms.pixels.tolist()[:5]} (…), {int(atoms.pixels.sum())} in all"
        )
    if not len(atoms.weight):
        return
    longest = float(torch.linalg.vector_norm(atoms.features.double(), dim=1).max())
    if not longest <= 1:
        raise ValueError(
            f"a feature vector has norm {longest:.6g}, above 1; scale the features (feature_norm of PixelHead)"
        )
    # Single-precision targets q and 1 - q miss the simplex by rounding, which is neglected as all rounding is.
    off = float((atoms.targets.double().sum(1) - 1).abs().max())
    if not (off <= 1e-6 and bool((atoms.targets >= 0).all())):
        raise ValueError("targets must be probabilities: no negative value, and a sum of 1 at each pixel")
    images = torch.arange(len(atoms.pixels), device=atoms.pixels.device).repeat_interleave(atoms.pixels)
    sums = torch.zeros(len(atoms.pixels), dtype=torch.float64, device=atoms.weight.device)
    sums.index_add_(0, images.to(sums.device), atoms.weight.double())
    # 1 over a count in single precision misses it by rounding too.
    if not (float(sums.max()) <= 1 + 1e-6 and bool((atoms.weight >= 0).all())):
        raise ValueError(
            "weights of an image's pixels must be >= 0 and sum to at most 1, or the Lipschitz constant of its loss is "
            f"not √2: an image has {float(sums.max()):.6g}, the least of a pixel is {float(atoms.weight.min()):.6g}; "
            "give each pixel 1 over the number of labelled pixels of its image"
        )


class RidgeObjective:
    """F of this module, over atoms that are held in memory.

    Args:
        batches: atoms of each batch, always in the same order; this process's share of them.
        images: number of images of each batch, over all processes; at least as many as have atoms.
        ridge: λ > 0.
        total: sums over processes.
        fingerprints: of each image with its labels, by its place in the data set, ``[N]``, int64; 0 where another
            process holds the image.

    Raises:
        ValueError: for λ or atoms of which the constants of theory §5 do not hold.

    Example:
        >>> atoms = HeadPixels(torch.tensor([[1.0]]), torch.tensor([[0.0, 1.0]]), torch.ones(1), torch.tensor([1]))
        >>> objective = RidgeObjective([atoms], [1], ridge=0.5)
        >>> objective.gradient(torch.zeros(2, 1).double()).flatten().tolist()
        [0.5, -0.5]
    """

    def __init__(
        self,
        batches: Sequence[HeadPixels],
        images: Sequence[int],
        ridge: float,
        total: Total = lambda tensor: tensor,
        fingerprints: Tensor | None = None,
    ) -> None:
        if not ridge > 0:
            raise ValueError(f"ridge must be > 0, got {ridge}: without it the objective is not strongly convex")
        for atoms in batches:
            check_atoms(atoms)
        mine = torch.tensor([len(atoms.pixels) for atoms in batches])
        held = total(mine.to(batches[0].weight.device) if batches else mine).tolist()
        if len(held) != len(images) or any(there > said for there, said in zip(held, images, strict=True)):
            raise ValueError(
                f"images = {list(images)[:5]} says how many images each batch has, over all processes, but the atoms "
                f"are those of {held[:5]}: the objective would be more than a mean; give the numbers of images"
            )
        self.batches = list(batches)
        self.images = list(images)
        self.ridge = ridge
        self._total = total
        self.read = 0
        """Images of which a gradient or a Hessian was computed, each time counted."""
        self.fingerprints: list[int] = [] if fingerprints is None else total(fingerprints).tolist()

    @property
    def samples(self) -> int:
        """N, images over all processes."""
        return sum(self.images)

    def value(self, weights: Tensor) -> float:
        """F at weights ``[K, D]``, in nats."""
        loss = torch.zeros((), dtype=torch.float64, device=weights.device)
        for atoms in self.batches:
            log_p = (atoms.features.double() @ weights.T).log_softmax(1)
            loss -= atoms.weight.double() @ (atoms.targets * log_p).sum(1)
        return float(self._total(loss)) / self.samples + self.ridge / 2 * float(weights.square().sum())

    def gradient(self, weights: Tensor) -> Tensor:
        """∇F at weights ``[K, D]``."""
        self.read += self.samples
        mine = torch.zeros_like(weights)
        for atoms in self.batches:
            mine += _sum_of_gradients(atoms, weights)
        summed: Tensor = self._total(mine)
        return summed / self.samples + self.ridge * weights

    def batch_gradient(self, batch: int, weights: Tensor) -> Tensor:
        """Gradient of the same objective over the images of one batch."""
        self.read += self.images[batch]
        summed: Tensor = self._total(_sum_of_gradients(self.batches[batch], weights))
        return summed / self.images[batch] + self.ridge * weights

    def hessian(self, weights: Tensor) -> Tensor:
        """∇²F at weights ``[K, D]``, as a matrix ``[K·D, K·D]``."""
        self.read += self.samples
        classes, dims = weights.shape
        mine = torch.zeros(classes, dims, classes, dims, dtype=torch.float64, device=weights.device)
        for atoms in self.batches:
            features = atoms.features.double()
            p = (features @ weights.T).softmax(1)
            for k in range(classes):
                for other in range(k + 1):
                    weight = atoms.weight * p[:, k] * (float(k == other) - p[:, other])
                    mine[k, :, other] += (features * weight.unsqueeze(1)).T @ features
        for k in range(classes):
            for other in range(k):
                mine[other, :, k] = mine[k, :, other]  # each block is symmetric
        summed: Tensor = self._total(mine)
        matrix = summed.reshape(classes * dims, classes * dims) / self.samples
        matrix.diagonal().add_(self.ridge)
        return matrix

    def newton_direction(self, weights: Tensor, gradient: Tensor) -> Tensor:
        """``∇²F⁻¹ ∇F``, ``[K, D]``."""
        factor = torch.linalg.cholesky(self.hessian(weights))
        return torch.cholesky_solve(gradient.reshape(-1, 1), factor).reshape(weights.shape)


@runtime_checkable
class RidgeHead(Protocol):
    """What operators on strongly convex heads ask of a LightningModule; ``PixelHead`` is one."""

    ridge: float

    @property
    def head(self) -> nn.Parameter:
        """Weights ``[K, D]``, the only parameter that labels have reached."""
        ...

    def objective(self, batch_size: int | None = None, *, retained_only: bool = True) -> RidgeObjective:
        """Read the training set once; see ``PixelHead.objective``."""
        ...

    def unexposed(self) -> dict[str, Tensor] | None:
        """What the encoder held before any label was seen, by name in the module; None = not known."""
        ...


def minimise(
    objective: RidgeObjective, start: Tensor, tolerance: float, max_steps: int = 100
) -> tuple[Tensor, float, int]:
    """Newton's method, damped so that the norm of the gradient falls at each step.

    Values of the objective are not compared: they stop telling points apart long before gradients do.

    Args:
        objective: to be minimised.
        start: ``[K, D]``, double.
        tolerance: τ >= 0; stop at ``‖∇F‖ ≤ τ``.
        max_steps: give up after.

    Returns:
        The weights, the norm of their gradient (above ``tolerance`` where rounding or ``max_steps`` ended the search),
        and passes over the data.

    Example:
        >>> atoms = HeadPixels(torch.tensor([[1.0]]), torch.tensor([[0.0, 1.0]]), torch.ones(1), torch.tensor([1]))
        >>> weights, norm, _ = minimise(RidgeObjective([atoms], [1], 0.5), torch.zeros(2, 1).double(), 1e-12)
        >>> [round(value, 4) for value in weights.flatten().tolist()], norm < 1e-12
        ([-0.5213, 0.5213], True)
    """
    weights, gradient, passes = start, objective.gradient(start), 1
    norm = float(torch.linalg.vector_norm(gradient))
    for _ in range(max_steps):
        if norm <= tolerance:
            break
        direction, passes = objective.newton_direction(weights, gradient), passes + 1
        scale = 1.0
        while scale > 1e-6:
            trial = weights - scale * direction
            trial_gradient, passes = objective.gradient(trial), passes + 1
            trial_norm = float(torch.linalg.vector_norm(trial_gradient))
            if trial_norm <= (1 - scale / 4) * norm:
                break
            scale /= 2
        else:
            break
        weights, gradient, norm = trial, trial_gradient, trial_norm
    return weights, norm, passes


def project_to_ball(weights: Tensor, radius: float) -> Tensor:
    """The nearest point of norm at most ``radius``.

    Example:
        >>> [round(value, 3) for value in project_to_ball(torch.tensor([3.0, 4.0]), 1.0).tolist()]
        [0.6, 0.8]
    """
    norm = float(torch.linalg.vector_norm(weights))
    return weights if norm <= radius else weights * (radius / norm)


def noisy_sgd(
    gradient: Callable[[int, Tensor], Tensor],
    weights: Tensor,
    *,
    batches: int,
    epochs: int,
    learning_rate: float,
    radius: float,
    add_noise: Callable[[Tensor], Tensor],
) -> Tensor:
    """Projected noisy SGD: ``w ← Π_R(w - η g_B(w) + noise)`` over fixed cyclic batches.

    Args:
        gradient: of one batch at weights.
        weights: the start, projected first.
        batches: number of batches.
        epochs: K.
        learning_rate: η.
        radius: R > 0.
        add_noise: gives weights plus the noise of one step.

    Returns:
        The last iterate.

    Source:
        Chien et al. 2024; theory §5.

    Example:
        >>> noisy_sgd(lambda batch, w: w, torch.ones(1), batches=1, epochs=2, learning_rate=0.5, radius=9.0,
        ...           add_noise=lambda w: w).tolist()
        [0.25]
    """
    weights = project_to_ball(weights, radius)
    for _ in range(epochs):
        for batch in range(batches):
            moved = weights - learning_rate * gradient(batch, weights)
            weights = project_to_ball(add_noise(moved), radius)
    return weights


def _sum_of_gradients(atoms: HeadPixels, weights: Tensor) -> Tensor:
    features = atoms.features.double()
    error = (features @ weights.T).softmax(1) - atoms.targets
    return (error * atoms.weight.double().unsqueeze(1)).T @ features
