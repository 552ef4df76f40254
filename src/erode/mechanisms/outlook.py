"""What a wished (ε, δ) will leave of a network's trained weights, before it is paid for (theory §4, noise floor)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum

from scipy.optimize import brentq

from ..accounting import gdp_mu, rounded_up
from .base import MEANINGFUL_EPSILON
from .clipping import BallMechanism

SURVIVES_FROM, LOST_BELOW = 1.0, 0.1
"""Kept signal over noise: from 1 on half of the squared length is signal, below 0.1 less than 1 % is."""

KEPT_HALF = 0.5
"""Part of the trained distance that a start which survives still has."""

PIXEL_BUDGET = 0.01
"""Largest δ·|Λ|: what δ may add, over all pixels, to what is said of single ones (theory §3)."""


class Regime(Enum):
    """What becomes of the trained start, in words."""

    LOST = (
        "the start will not survive: this is a re-initialisation; retrain exactly on the retain view (Retrain) for the "
        "same cost"
    )
    PARTLY = "the start partly survives: the free phase has to make up for more noise than there is trained weight"
    SURVIVES = "the start survives: at least half of the squared length of what is left is trained weight"

    @property
    def short(self) -> str:
        """For tables.

        Example:
            >>> Regime.LOST.short
            'will not survive'
        """
        return {"LOST": "will not survive", "PARTLY": "partly survives", "SURVIVES": "survives"}[self.name]


def regime_of(ratio: float, kept: float = 1.0) -> Regime:
    """By signal over noise, and by the part of the trained distance that the signal is.

    Example:
        >>> regime_of(2.0).short, regime_of(2.0, kept=0.3).short, regime_of(0.01).short
        ('survives', 'partly survives', 'will not survive')
    """
    if ratio < LOST_BELOW or kept < LOST_BELOW:
        return Regime.LOST
    return Regime.SURVIVES if ratio >= SURVIVES_FROM and kept >= KEPT_HALF else Regime.PARTLY


@dataclass(frozen=True, kw_only=True)
class Outlook:
    """What one mechanism leaves of the trained start of one network, at one target.

    Args:
        operator: its name, for people.
        mechanism: all constants, noise included.
        epsilon: ε that they give at ``delta``.
        delta: δ.
        d: exposed parameters, >= 1.
        start: measured distance of the trained weights from the anchor (units of the weights); None = unknown, and
            then it is taken to fill the ball, the best case.
        evaluations: gradient evaluations of the noisy phase and beside steps; None = unknown.

    Raises:
        ValueError: if a number is out of range.

    Source:
        Theory §4, "The noise floor": ``signal / noise <= μ / (κ √d)``, κ = 2 or 1 by reference.

    Example:
        >>> from erode.mechanisms import OutputPerturbationMechanism
        >>> made = OutputPerturbationMechanism.calibrated(1.0, 1e-5, reference="retrained", radius=1.0)
        >>> outlook = Outlook(operator="OutputPerturbation", mechanism=made, epsilon=1.0, delta=1e-5, d=52_000)
        >>> f"{outlook.ratio:.1e}", outlook.regime.short
        ('5.9e-04', 'will not survive')
    """

    operator: str
    mechanism: BallMechanism
    epsilon: float
    delta: float
    d: int
    start: float | None = None
    evaluations: float | None = None

    def __post_init__(self) -> None:
        if self.d < 1:
            raise ValueError(f"d counts exposed parameters, so it is at least 1; got {self.d}")
        if self.start is not None and not self.start > 0:
            raise ValueError(
                f"the trained weights must differ from the anchor, got a distance of {self.start}; "
                "an anchor equal to them is no anchor: it saw the forget set"
            )

    @property
    def signal(self) -> float:
        """Norm of what is left of the trained start."""
        return self.mechanism.signal_and_noise(self.d, self.start)[0]

    @property
    def noise(self) -> float:
        """Norm of the noise after the last step."""
        return self.mechanism.signal_and_noise(self.d, self.start)[1]

    @property
    def ratio(self) -> float:
        """Kept signal over noise."""
        signal, noise = self.mechanism.signal_and_noise(self.d, self.start)
        return signal / noise

    @property
    def kept(self) -> float | None:
        """Part of the trained distance from the anchor that is kept, noise aside; None = distance unknown."""
        return None if self.start is None else self.signal / self.start

    @property
    def bound(self) -> float:
        """``μ/(κ √d)``: no mechanism around an anchor has a larger ratio."""
        kappa = self.mechanism.initial_distance() / self.mechanism.radius
        return gdp_mu(self.epsilon, self.delta) / (kappa * math.sqrt(self.d))

    @property
    def regime(self) -> Regime:
        """By the ratio; a start of which the clip keeps little does not survive either."""
        return regime_of(self.ratio, 1.0 if self.kept is None else self.kept)

    def sentence(self) -> str:
        """Numbers and regime; nothing in it depends on the trained weights unless ``start`` was given."""
        hardly = ", which hardly promises anything," if self.epsilon > MEANINGFUL_EPSILON else ""
        kept = "" if self.kept is None else f" ({self.kept:.2g} of the trained distance)"
        return (
            f"{self.operator} at epsilon = {rounded_up(self.epsilon, 4)}, delta = {rounded_up(self.delta, 3)}{hardly} "
            f"with {self.d:,} exposed parameters: kept signal {self.signal:.3g}{kept}, noise {self.noise:.3g}, ratio "
            f"{self.ratio:.2g}; {self.regime.value}"
        )


def largest_d(outlook: Outlook) -> int:
    """Most exposed parameters at which the ratio is at least 1, noise and all else as it is; 0 = not even one.

    Example:
        >>> from erode.mechanisms import OutputPerturbationMechanism
        >>> made = OutputPerturbationMechanism(reference="anchor", radius=1.0, sigma=0.1)
        >>> largest_d(Outlook(operator="", mechanism=made, epsilon=1.0, delta=1e-5, d=1000))
        100
    """
    low, high = 0, 1
    while _ratio_at(outlook, high) >= SURVIVES_FROM:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _ratio_at(outlook, middle) >= SURVIVES_FROM else (low, middle)
    return low


def smallest_epsilon(outlook: Outlook) -> float:
    """ε at which the ratio is 1, all constants but the noise as they are.

    Example:
        >>> from erode.mechanisms import OutputPerturbationMechanism
        >>> made = OutputPerturbationMechanism.calibrated(1.0, 1e-5, reference="anchor", radius=1.0)
        >>> round(smallest_epsilon(Outlook(operator="", mechanism=made, epsilon=1.0, delta=1e-5, d=100)))
        92
    """

    def excess(log_sigma: float) -> float:
        signal, noise = replace(outlook.mechanism, sigma=math.exp(log_sigma)).signal_and_noise(outlook.d, outlook.start)
        return math.log(max(signal, 1e-300) / noise)

    low = high = math.log(outlook.mechanism.sigma)
    while excess(low) < 0:
        low -= math.log(4)
    while excess(high) > 0:
        high += math.log(4)
    sigma = math.exp(low if low == high else float(brentq(excess, low, high, rtol=1e-9)))
    return replace(outlook.mechanism, sigma=sigma).epsilon(outlook.delta)


def remedies(outlook: Outlook, weights_norm: float | None = None) -> list[str]:
    """What would let the start survive, each as a sentence; empty where it does.

    Args:
        outlook: of one mechanism.
        weights_norm: norm of the exposed trained weights, for how close an anchor has to be; None = unknown.
    """
    if outlook.regime is Regime.SURVIVES:
        return []
    sentences = []
    if outlook.ratio < SURVIVES_FROM:
        most, epsilon = largest_d(outlook), smallest_epsilon(outlook)
        sentences.append(
            f"fewer exposed parameters: a ratio of 1 allows {most:,} of {outlook.d:,}; all others must hold the "
            "anchor's values (exposed=...)"
            if most
            else "fewer exposed parameters: not even one would be few enough at this noise"
        )
        promise = ", which hardly promises anything" if epsilon > MEANINGFUL_EPSILON else ""
        sentences.append(f"another target: a ratio of 1 needs epsilon = {rounded_up(epsilon, 3)}{promise}")
        if outlook.mechanism.reference == "retrained":
            sentences.append("another reference: 'anchor' or 'noise' at best doubles the ratio, and promises less")
    return sentences + _anchor_remedies(outlook, weights_norm)


def cheapest(outlooks: Sequence[Outlook]) -> Outlook:
    """The least noise at the same kept signal; of those within 1 % of it, the fewest gradient evaluations.

    Args:
        outlooks: at least one; of the same target and reference, or they promise different things.
    """
    best = max(outlook.ratio for outlook in outlooks)
    near = [outlook for outlook in outlooks if outlook.ratio >= 0.99 * best]
    return min(near, key=lambda outlook: math.inf if outlook.evaluations is None else outlook.evaluations)


def why_cheapest(outlooks: Sequence[Outlook], best: Outlook | None = None) -> str:
    """:func:`cheapest` in one sentence; ``best`` where it is known already."""
    best = best or cheapest(outlooks)
    others = "; ".join(_against(best, outlook) for outlook in outlooks if outlook is not best)
    least = f"{best.operator} needs the least noise at the same kept signal and {_evaluations(best)}"
    return f"{least} ({others})" if others else least


def too_many_pixels(delta: float, pixels: int) -> str | None:
    """What is wrong with δ for images of so many pixels; None = nothing (theory §3, choice of δ).

    Args:
        delta: δ in (0, 1).
        pixels: |Λ|, pixels (or voxels) of one image.

    Example:
        >>> too_many_pixels(1e-7, 256 * 256)
        >>> too_many_pixels(1e-5, 64 * 64).rpartition("; ")[2]
        'choose delta <= 2e-06'
    """
    if delta * pixels <= PIXEL_BUDGET:
        return None
    digit = 10 ** math.floor(math.log10(PIXEL_BUDGET / pixels))
    fits = math.floor(PIXEL_BUDGET / pixels / digit) * digit
    return (
        f"delta = {rounded_up(delta, 3)} times {pixels:,} pixels per image is {delta * pixels:.2g}, more than "
        f"{PIXEL_BUDGET}: what may go wrong over a whole mask grows with both; choose delta <= {fits:.3g}"
    )


def _ratio_at(outlook: Outlook, d: int) -> float:
    signal, noise = outlook.mechanism.signal_and_noise(d, outlook.start)
    return signal / noise


def _anchor_remedies(outlook: Outlook, weights_norm: float | None) -> list[str]:
    radius = outlook.mechanism.radius
    per_radius = outlook.noise / radius
    close = (
        f"a closer anchor: it leaves the ratio, as noise grows with the radius, but a noise of {per_radius:.3g} times "
        "the radius then does less harm"
    )
    if weights_norm is not None:
        close += f"; below the norm of the weights ({weights_norm:.3g}) it is from a radius of"
        close += f" {weights_norm / per_radius:.2g} on downwards"
    sentences = [close]
    if outlook.start is not None and outlook.start > radius:
        sentences.append(
            f"a larger radius: {radius:.3g} of the trained distance {outlook.start:.3g} are kept, a larger one keeps "
            "more with that much more noise. That distance was learnt from the forget set too, and the certificate "
            "assumes a radius chosen without it: take one from training that never saw the forget set"
        )
    return sentences


def _against(best: Outlook, other: Outlook) -> str:
    factor = best.ratio / other.ratio if other.ratio > 0 else math.inf
    noise = f"{factor:.2f} times the noise" if factor < 1e3 else "next to nothing of the start left"
    return f"{other.operator}: {noise}, {_evaluations(other)}"


def _evaluations(outlook: Outlook) -> str:
    if outlook.evaluations is None:
        return "an unknown number of gradient evaluations"
    return f"{outlook.evaluations:,g} gradient evaluations of its own" if outlook.evaluations else "no gradient"
