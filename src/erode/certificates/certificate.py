"""Certificates: what was promised, by which mechanism, on what (theory §3, §4)."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch

from .._version import __version__
from ..accounting import rounded_up
from ..files import digest_of, write_json
from ..mechanisms import MEANINGFUL_EPSILON, Mechanism

SCHEMA = "erode-certificate/5"
"""Raise the number when the meaning of a field changes."""

CHECKPOINT_KEY = "erode_certificate"
"""Where a Lightning checkpoint carries one."""

CURVE_DELTAS = (1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 1e-10, 1e-12)
"""δ at which a certificate tells ε."""

ASSUMPTIONS = (
    "The anchor was computed without the forget set.",
    "Every batch of the run held retained data only. A loader of erode marks forget atoms, and they are refused; of "
    "another loader it is the owner's word.",
    "Radius, clip norm, learning rate, ridge, tolerance, steps, anchor and exposed parameters were chosen without the "
    "forget set; numbers of samples and of changed ones that the mechanism names are those of the request.",
    "Training is a function of current weights and retained data: no other code, and no buffer that is not saved, kept "
    "a trace of the original weights. Writes to the exposed weights were watched for as far as torch counts them: "
    "those through Tensor.data are not counted.",
    "The noise is Gaussian, independent and secret. It comes from generators keyed from the operating system's "
    "entropy: cryptographic ones on the CPU; on a GPU Philox, which is not.",
    "What rounding adds to a distance or a step of the clipping mechanisms is held back from their bounds; other "
    "arithmetic is taken as real, that of the noise included. The noise is at least 16 units in the last place of the "
    "largest weight.",
    "Only the released weights leave: the original weights, checkpoints of the run and its logs stay behind or are "
    "deleted. A second unlearning of the same model, if released too, adds up.",
    "It covers the weights after the noisy phase and any later processing of them on retained data, such as the rest "
    "of this run.",
)
"""What the numbers rest on; fixed for a schema."""

NOISE = {
    "generator": "AES-128 in counter mode on the CPU, keyed per step and chunk; Philox with 64-bit seeds on a GPU, "
    "keyed per step; keys are BLAKE2b of a 256-bit secret of rank 0",
    "distribution": "Gaussian per coordinate, drawn in double precision where the device has it",
}


class VerificationError(ValueError):
    """A certificate that does not hold.

    Args:
        field: which part, dotted.
        why: what is wrong with it.

    Example:
        >>> VerificationError("claim.mu", "is 1").field
        'claim.mu'
    """

    def __init__(self, field: str, why: str) -> None:
        super().__init__(f"certificate field '{field}': {why}" if field else why)
        self.field = field


@dataclass(frozen=True, kw_only=True)
class Account:
    """What was done, step by step.

    Args:
        steps: certified steps taken.
        blocks: state of their :class:`~erode.accounting.NoisyIteration`.
    """

    steps: int
    blocks: Sequence[tuple[float, float, float]]


@dataclass(frozen=True, kw_only=True)
class Target:
    """What was asked for; ``epsilon`` None = σ was given by hand."""

    epsilon: float | None
    delta: float


def certificate(
    mechanism: Mechanism,
    target: Target,
    account: Account,
    *,
    exposed: Mapping[str, Sequence[int]],
    digests: Mapping[str, str | None],
    why_not: str | None,
    reproducible: bool,
) -> dict[str, Any]:
    """Make the content of a certificate.

    Args:
        mechanism: all constants.
        target: what was asked for.
        account: what was done.
        exposed: shape of each exposed parameter.
        digests: SHA-256 of ``released_file`` (bytes of weights.safetensors; None in a checkpoint),
            ``released_weights`` and ``anchor_weights`` (as ``erode.weights.weights_digest``), ``split`` and
            ``settings``. None of the original weights: it would let anyone test a guess of them.
        why_not: why nothing is certified; None = it is.
        reproducible: whether the noise came from a known seed; then nothing is certified either.

    Returns:
        Plain data, its own digest last.
    """
    if reproducible and why_not is None:
        why_not = "the noise comes from a known seed, for debugging: anyone can subtract it"
    claim = None if why_not else claim_of(mechanism, target)
    content: dict[str, Any] = {
        "schema": SCHEMA,
        "issued": why_not is None,
        "why_not": why_not,
        "reproducible": reproducible,
        "guarantee": None if claim is None else sentence(claim, mechanism),
        "mechanism": mechanism.constants(),
        "target": {"epsilon": target.epsilon, "delta": target.delta},
        "account": {
            "steps": account.steps,
            "blocks": [list(block) for block in account.blocks],
            "initial_distance": mechanism.initial_distance(),
        },
        "claim": claim,
        "exposed": {
            "d": sum(prod(shape) for shape in exposed.values()),
            "parameters": {name: list(shape) for name, shape in exposed.items()},
        },
        "digests": dict(digests),
        "noise": dict(NOISE),
        "assumptions": list(ASSUMPTIONS),
        "software": software(),
    }
    return {**content, "digest": digest_of(content)}


def claim_of(mechanism: Mechanism, target: Target) -> dict[str, Any]:
    """The numbers that follow from the constants.

    Returns:
        ``mu`` (of the last step alone for model clipping, where ε is smaller than μ says), ``epsilon`` at
        ``delta``, and ``curve``: pairs (δ, ε).

    Example:
        >>> from erode.mechanisms import OutputPerturbationMechanism
        >>> mechanism = OutputPerturbationMechanism.calibrated(1.0, 1e-5, reference="anchor", radius=1.0)
        >>> claim_of(mechanism, Target(epsilon=1.0, delta=1e-5))["epsilon"]
        1.0
    """
    return {
        "mu": mechanism.mu(),
        "epsilon": mechanism.epsilon(target.delta) if target.epsilon is None else target.epsilon,
        "delta": target.delta,
        "curve": [[delta, mechanism.epsilon(delta)] for delta in CURVE_DELTAS],
    }


def sentence(claim: Mapping[str, Any], mechanism: Mechanism) -> str:
    """The guarantee in words; its numbers are rounded up, or it would promise more than the claim."""
    epsilon, delta = rounded_up(claim["epsilon"]), rounded_up(claim["delta"])
    hardly = (
        f" An ε above {MEANINGFUL_EPSILON:g} hardly promises anything." if claim["epsilon"] > MEANINGFUL_EPSILON else ""
    )
    return (
        f"The released weights are (ε = {epsilon}, δ = {delta})-indistinguishable from those of a run that never saw "
        f"the forget set: {mechanism.compared_with()}.{hardly}"
    )


def software() -> dict[str, str]:
    """Versions of what made the certificate."""
    return {"erode": __version__, "torch": str(torch.__version__), "python": platform.python_version()}


def save_certificate(content: Mapping[str, Any], path: str | Path) -> Path:
    """Write a certificate, whole or not at all."""
    return write_json(path, content)
