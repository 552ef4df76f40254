"""Certified unlearning by noisy steps along clipped gradients, one block of parameters after the other."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from torch import nn

from ..accounting import NoisyIteration, Reference, gradient_clipping_steps
from ..certificates import Account, Target
from ..mechanisms import BlockwiseMechanism
from ..operator_card import OperatorCard
from .bases.blocks import blocks_of
from .bases.noisy_phase import NoisyPhase
from .guards.exposure import INITIALISATION, exposed_parameters
from .noise.draws import Draw
from .noise.noisy_sgd import Vector, clip_, project_
from .noise.rounding import clip_norm_within, radius_within, reach

_Item = TypeVar("_Item")


class Blockwise(NoisyPhase):
    """Clip all blocks around the anchor, then noise and train them one by one, then train freely on retained data.

    All blocks are clipped before the first step, block i to ``D_i = C0 √(d_i/d)``. Then each in turn takes T steps
    ``x ← x - γ(Π(g) + λ(x - θ₀)) + σξ``, the gradient of the block clipped to ``C1 √(d_i/d)``, while all others stand
    still. σ is that of :class:`GradientClipping` with the same C0, C1 and T, and no block waits under noise that it
    could not train against. Between blocks nothing else is trained: whatever reads a block that has no noise yet is no
    post-processing (docs/operators/blockwise.md), so a write by anything else ends the run.

    Guarantee: certified (ε, δ), for any loss and network. Stores one copy of the exposed parameters if λ > 0. One
    gradient evaluation per step, k T steps.

    Args:
        epsilon: ε asked for; None if ``sigma`` is given.
        delta: δ; 1e-7 keeps the pixel-level consequence small up to 100,000 pixels (theory §3).
        radius: C0 > 0, of all blocks together: ``Σ D_i² = C0²``.
        clip_norm: C1 > 0, of the gradients of all blocks together.
        learning_rate: γ > 0, constant, of the noisy steps only.
        weight_decay: λ >= 0, pull to the anchor, outside the clip.
        steps: T >= 1 of each block, or ``auto``: those that need the least noise per step.
        blocks: ``layers`` (each layer with a kernel, and the normalisations and activations behind it, in the order
            of the network), or a shell pattern for each block, in the order of their turns; a parameter belongs to
            the first that fits.
        reference: see :data:`~erode.accounting.Reference`.
        anchor: see :class:`~erode.callbacks.bases.noisy_phase.NoisyPhase`.
        exposed: see there.
        sigma: σ of each step; then ε follows.
        shrink: see there.
        seed: debugging only: no certificate.
        folder: see :class:`~erode.callbacks.UnlearningOperator`.

    Raises:
        ValueError: for arguments out of range.
        MisconfigurationException: before the first step, also if an exposed parameter is in no block, or a block is
            empty; else see :class:`~erode.callbacks.bases.noisy_phase.NoisyPhase`.

    Source:
        Dolgova and Stich 2026, "Sequential subspace noise injection"; with a real clip in place of an assumed
        distance, and exact composition; theory §4.

    Example:
        >>> operator = Blockwise(epsilon=1.0, delta=1e-5, radius=0.1, learning_rate=0.01, blocks=["encoder.*", "*"])
        >>> operator.mechanism.steps, round(operator.mechanism.sigma, 3)
        (10, 0.472)
    """

    card = OperatorCard(
        guarantee="certified",
        scope="any loss, any network",
        paper="Dolgova and Stich 2026, clipped and centred on an anchor; theory §4",
        trains_on="noisy steps on retained data, one block of parameters after the other, then your own training on it",
        needs=("retained data", "anchor"),
        requests=("item", "pixel"),
        stores="one copy of the exposed parameters (the anchor), if it decays",
        technique="certified removal",
        manipulation="model shifting",
        config="unlearn/blockwise.yaml",
        page="blockwise.md",
    )
    mechanism: BlockwiseMechanism

    def __init__(
        self,
        epsilon: float | None = 1.0,
        delta: float = 1e-7,
        radius: float = 1e-3,
        clip_norm: float = 1.0,
        learning_rate: float = 1e-4,
        weight_decay: float = 0.0,
        steps: int | Literal["auto"] = "auto",
        blocks: Sequence[str] | Literal["layers"] = "layers",
        reference: Reference = "retrained",
        anchor: str | Path = INITIALISATION,
        exposed: Sequence[str] | None = None,
        sigma: float | None = None,
        shrink: bool = True,
        seed: int | None = None,
        folder: str | Path | None = None,
    ) -> None:
        self.epsilon = epsilon
        self.delta = delta
        self.radius = radius
        self.clip_norm = clip_norm
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.steps = steps
        self.blocks = blocks
        self.reference = reference
        self.sigma = sigma
        self.keeps_anchor = weight_decay > 0
        self._members: list[list[int]] = []
        self._radii: list[float] = []
        self._clip_norms: list[float] = []
        self._earlier: list[tuple[float, float, float]] = []
        # Of one block until the network is known; noise and guarantee are the same.
        whole = self._mechanism([1])
        super().__init__(whole, Target(epsilon=epsilon, delta=delta), anchor, exposed, shrink, seed, folder)

    def check_module(self, module: nn.Module) -> None:
        """Find the blocks."""
        super().check_module(module)
        exposed = exposed_parameters(module, self.exposed)
        named = divided(module, list(exposed), self.blocks)
        place = {name: index for index, name in enumerate(exposed)}
        self._members = [[place[name] for name in block] for block in named]
        self.mechanism = self._mechanism([sum(exposed[name].numel() for name in block) for block in named])
        self.optimizer_steps = self.mechanism.steps

    def prepare(self, trainer: Trainer, module: LightningModule) -> None:
        """Clip every block around the anchor and take over the optimiser."""
        self._earlier = []
        super().prepare(trainer, module)

    def allow_for_rounding(self, anchor: Vector) -> None:
        """Of the radius and the clip norm of each block, by its own parameters."""
        self._radii, self._clip_norms, reaches = [], [], []
        for index, members in enumerate(self._members):
            block, theta_0 = self.mechanism.block(index), _some(anchor, members)
            whose = f"block {index + 1} of {len(self._members)} (larger ones lose less; see blocks=): "
            self._radii.append(radius_within(block.radius, theta_0, whose))
            self._clip_norms.append(clip_norm_within(block, theta_0, whose))
            reaches.append(reach(block, theta_0))
        self._reach = math.hypot(*reaches)

    def clip_start(self, weights: Vector, anchor: Vector) -> None:
        """Clip each block by itself, all before the first step."""
        for radius, members in zip(self._radii, self._members, strict=True):
            project_(_some(weights, members), _some(anchor, members), radius)

    def update(self, weights: Vector, gradients: Vector, anchor: Vector) -> None:
        """Decay the block whose turn it is towards the anchor, then step along its clipped gradient."""
        members = self._turn()
        block, gradient = _some(weights, members), _some(gradients, members)
        clip_(gradient, self._clip_norms[self._taken // self.mechanism.steps_per_block])
        rate = self.mechanism.learning_rate
        decay = rate * self.mechanism.weight_decay
        if decay:
            torch._foreach_lerp_(block, _some(anchor, members), decay)
        torch._foreach_add_(block, gradient, alpha=-rate)

    def draw(self, weights: Vector) -> Draw:
        """The noise of one step for the block whose turn it is."""
        return super().draw(_some(weights, self._turn()))

    def account_step(self) -> None:
        """Account for it, in the account of its block."""
        super().account_step()
        if self._taken % self.mechanism.steps_per_block == 0:  # the account of the next block is its own
            self._earlier += self._account.blocks
            self._account = NoisyIteration()

    def account(self) -> Account:
        """The certified steps so far, block after block."""
        return Account(steps=self._taken, blocks=[*self._earlier, *self._account.blocks])

    def state_dict(self) -> dict[str, Any]:
        """The account so far, plain data, and never the secret."""
        return {**super().state_dict(), "earlier": [list(piece) for piece in self._earlier]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the account of a run that was cut short."""
        super().load_state_dict(state_dict)
        self._earlier = [(rise, variance, gap) for rise, variance, gap in state_dict["earlier"]]

    def finish(self, trainer: Trainer, module: LightningModule) -> dict[str, Any]:
        """Add the blocks to the record."""
        names = list(self._shapes)
        return {**super().finish(trainer, module), "blocks": [_some(names, members) for members in self._members]}

    def _turn(self) -> list[int]:
        if self._taken >= self.mechanism.steps:
            raise RuntimeError(f"all {self.mechanism.steps} steps of {type(self).__name__} are taken")
        return self._members[self._taken // self.mechanism.steps_per_block]

    def _mechanism(self, sizes: Sequence[int]) -> BlockwiseMechanism:
        constants: dict[str, Any] = {
            "reference": self.reference,
            "radius": self.radius,
            "clip_norm": self.clip_norm,
            "learning_rate": self.learning_rate,
            "weight_decay": self.weight_decay,
        }
        each = gradient_clipping_steps(**constants) if self.steps == "auto" else self.steps
        steps = each * len(sizes)
        return BlockwiseMechanism.from_target(
            self.epsilon, self.delta, self.sigma, sizes=sizes, steps=steps, **constants
        )


def divided(module: nn.Module, names: Sequence[str], blocks: Sequence[str] | Literal["layers"]) -> list[list[str]]:
    """Divide parameters into blocks.

    Args:
        module: the network.
        names: of its parameters that are exposed, in the order of the network.
        blocks: ``layers``, or a shell pattern for each block.

    Returns:
        Names of each block, in the order of their turns; together all names, each once.

    Raises:
        MisconfigurationException: if a parameter is in no block, or a block is empty.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.PReLU(), nn.Conv2d(2, 2, 1, bias=False))
        >>> names = [name for name, _ in net.named_parameters()]
        >>> divided(net, names, "layers")
        [['0.weight', '0.bias', '1.weight'], ['2.weight']]
        >>> divided(net, names, ["*.bias", "*"])
        [['0.bias'], ['0.weight', '1.weight', '2.weight']]
    """
    if blocks == "layers":
        layers = _dealt(names, [block.parameters for block in blocks_of(module)])
        return [layer for layer in layers if layer]  # one may be frozen, or share all that it has with an earlier one
    found = _dealt(names, [{name for name in names if fnmatchcase(name, pattern)} for pattern in blocks])
    for pattern, block in zip(blocks, found, strict=True):
        if not block:
            raise MisconfigurationException(
                f"the block {pattern!r} is empty: no exposed parameter that an earlier block does not have fits it; "
                f"names look like {list(names)[:3]}"
            )
    if left := [name for name in names if not any(name in block for block in found)]:
        raise MisconfigurationException(
            f"{left[0]} is exposed but in no block, so it would keep the forget set; end blocks with '*', or set "
            "exposed"
        )
    return found


def _dealt(names: Sequence[str], takers: Sequence[Collection[str]]) -> list[list[str]]:
    """What each taker wants of the names that none before it took."""
    taken: set[str] = set()
    found = []
    for wanted in takers:
        found.append([name for name in names if name in wanted and name not in taken])
        taken.update(found[-1])
    return found


def _some(items: Sequence[_Item], members: Sequence[int]) -> list[_Item]:
    return [items[index] for index in members]
