"""Noisy iteration: what T noisy steps hide of a different start and of different steps (theory §4, lemma)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from .checks import check_non_negative, check_steps
from .clipping import geometric_sum

_SMALLEST, _LARGEST = 1e-150, 1e150
"""Range in which floats hold a number and its square."""

_USUAL = 1e-280, 1e280
"""Range of products that no rounding to a coarser float touches."""


@dataclass
class NoisyIteration:
    r"""Online account of two noisy iterations, by shifted interpolation.

    ``X_{t} = φ_t(X_{t-1}) + σ_t ξ`` and ``X'_{t} = φ'_t(X'_{t-1}) + σ_t ξ'`` with
    ``‖φ_t(x) - φ'_t(y)‖ ≤ c_t ‖x - y‖ + s_t`` for all x, y and ``‖X_0 - X'_0‖ ≤ Δ``. An interpolating
    process moves from X' to X by paying ``a_t`` of the running distance z at step t, ``z_t = c_t z_{t-1} +
    s_t - a_t``, ``z_0 = Δ``. ``X_T`` and ``X'_T`` are μ-GDP for the cheapest payments that clear the
    distance:

        ``μ² = min Σ a_t²/σ_t²   subject to   z_t ≥ 0 for all t,  z_T = 0``.

    With ``w_t = ∏_{k>t} c_k``, ``V_t = Σ_{i≤t} σ_i² w_i²`` and ``D_t = Δ ∏c + Σ_{i≤t} s_i w_i`` (all in the
    units of the last step), the paid total U, seen as a function of V, starts at (0, 0), ends at (V_T, D_T),
    may nowhere exceed D_t at V_t, and costs ``∫ (dU/dV)² dV``. So the best U is the greatest convex minorant
    of (0, 0) and the points (V_t, D_t), and ``μ² = Σ (rise of D)² / (rise of V)`` over its straight pieces.
    One piece is the closed form

        ``μ = (Δ ∏c + Σ s_t w_t) / sqrt(Σ σ_t² w_t²)``,

    which holds for constant σ, s and c ≤ 1, and is attained by a linear map. More pieces are needed when
    late steps differ more, per unit of noise, than early ones: noise cannot hide a difference that comes
    after it.

    Where noise fades below what floats hold (steps without any, after it), μ is ``inf``: never too small by more than
    1e-9 of itself and 1e-20.

    The minorant is built by pooling adjacent violators, so a step costs O(1) amortised, and only the pieces
    are kept: a handful for constant steps with c ≤ 1, at most one per step.

    Args:
        blocks: pieces ``(rise of D, rise of V, contraction since the piece before)`` in the units of their
            last step. They are the whole state: store them to resume an account.

    Source:
        Bok, Su and Altschuler 2024, "Shifted interpolation for differential privacy"; theory §4.

    Example:
        >>> account = NoisyIteration()
        >>> for _ in range(100):
        ...     account.step(contraction=0.99, shift=0.02, sigma=0.1)
        >>> round(account.mu(initial_distance=1.0), 3)
        2.477
    """

    blocks: list[tuple[float, float, float]] = field(default_factory=list)

    def step(self, *, contraction: float, shift: float, sigma: float) -> None:
        """Account for one step.

        Args:
            contraction: c_t >= 0, factor on the distance of two points; above 1 the step expands.
            shift: s_t >= 0, what the two updates may differ by at the same point (units of the weights); <= 1e150.
            sigma: σ_t >= 0, standard deviation of the step's Gaussian noise per coordinate (units of the
            weights); 0, or from 1e-150 to 1e150.

        Raises:
            ValueError: if an argument is out of range.
            OverflowError: if expanding steps push the accumulated variance beyond floats.
        """
        _check_step(contraction, shift, sigma)
        self._append(shift, sigma * sigma, contraction)

    def repeat(self, steps: int, *, contraction: float, shift: float, sigma: float) -> None:
        """Account for equal steps at once: for c <= 1 in closed form, however many.

        With c <= 1 the slopes of equal steps never rise, so together they are one piece of any account:
        ``(s Σ c^k, σ² Σ c^{2k}, c^T)``, k < T. It differs from T calls of :meth:`step` by rounding alone, which may
        leave those with more than one piece.

        Args:
            steps: T >= 1.
            contraction: as for one step.
            shift: as for one step.
            sigma: as for one step.

        Raises:
            ValueError: if an argument is out of range.
            OverflowError: if expanding steps push the accumulated variance beyond floats.

        Example:
            >>> account = NoisyIteration()
            >>> account.repeat(100, contraction=0.99, shift=0.02, sigma=0.1)
            >>> round(account.mu(initial_distance=1.0), 3), len(account.blocks)
            (2.477, 1)
        """
        check_steps(steps)
        _check_step(contraction, shift, sigma)
        if contraction > 1:
            for _ in range(steps):
                self._append(shift, sigma * sigma, contraction)
            return
        decay = 1 - contraction
        rise, variance = geometric_sum(decay, steps), geometric_sum(decay * (2 - decay), steps)
        gap = contraction**steps
        if sigma == 0 and contraction > 0:
            gap = max(gap, math.ulp(0.0))  # without noise a difference never vanishes
        self._append(shift * rise, sigma * sigma * variance, gap)

    def _append(self, rise: float, variance: float, gap: float) -> None:
        """Add a piece, and pool it with earlier ones while it does not rise more steeply."""
        added = gap
        while self.blocks:
            earlier_rise, earlier_variance, earlier_gap = self.blocks[-1]
            # Slopes D/V compared in the units of the new step, where the earlier piece is (gap D, gap² V).
            if _less((earlier_rise, variance), (rise, earlier_variance, gap)):
                break
            self.blocks.pop()
            rise = rise + _at_least(earlier_rise, gap)
            variance = variance + _at_most(earlier_variance, gap)
            gap = gap * earlier_gap if variance else _at_least(gap, earlier_gap)
        if not (max(rise, gap) <= _LARGEST and variance <= _LARGEST**2):
            raise OverflowError(
                f"the accumulated variance exceeds floats at contraction={added}: too many steps expand the "
                "distance; bound them by clipping"
            )
        self.blocks.append((rise, variance, gap))

    def mu(self, initial_distance: float) -> float:
        """Close the account.

        Args:
            initial_distance: Δ >= 0, largest distance of the two starts (units of the weights); <= 1e150.

        Returns:
            μ >= 0; ``inf`` where a difference meets no noise after it.

        Raises:
            ValueError: if ``initial_distance`` is out of range.
            OverflowError: if expanding steps push it beyond floats.
        """
        check_non_negative(initial_distance=initial_distance)
        if initial_distance > _LARGEST:
            raise ValueError(f"initial_distance must be at most {_LARGEST}, got {initial_distance}")
        # Δ is a first step without noise: pool it with the pieces it violates.
        total, rise, variance = 0.0, initial_distance, 0.0
        for next_rise, next_variance, gap in self.blocks:
            if not _less((rise, next_variance), (next_rise, variance, gap)):
                rise, variance = _at_least(rise, gap) + next_rise, _at_most(variance, gap) + next_variance
                if rise > _LARGEST:
                    raise OverflowError(
                        f"the distance of two starts grows to {rise:.3g}, beyond floats: too many steps expand it; "
                        "bound them by clipping"
                    )
            else:
                total = math.hypot(total, _piece_mu(rise, variance))
                rise, variance = next_rise, next_variance
        return math.hypot(total, _piece_mu(rise, variance))


def _piece_mu(rise: float, variance: float) -> float:
    """What one piece adds to μ, in quadrature."""
    if rise == 0:
        return 0.0
    return rise / math.sqrt(variance) if variance else math.inf


def _check_step(contraction: float, shift: float, sigma: float) -> None:
    check_non_negative(contraction=contraction, shift=shift, sigma=sigma)
    if shift > _LARGEST or sigma > _LARGEST or 0 < sigma < _SMALLEST:
        raise ValueError(
            f"shift must be at most {_LARGEST}, sigma 0 or from {_SMALLEST} to {_LARGEST}, as floats do not hold their "
            f"squares else; got {shift} and {sigma}: choose another unit of the weights"
        )


def _less(left: tuple[float, float], right: tuple[float, float, float]) -> bool:
    """Whether one product of numbers >= 0 is less than the other, whatever their size."""
    product, part = left[0] * left[1], right[0] * right[1]
    usual = _USUAL[0] < product < _USUAL[1] and _USUAL[0] < part < _USUAL[1]
    if usual and _USUAL[0] < part * right[2] < _USUAL[1]:
        return product < part * right[2]
    return _exponent_first(left) < _exponent_first(right)


def _exponent_first(factors: Sequence[float]) -> tuple[float, float]:
    """Exponent and mantissa of a product, in the order of the products; floats need not hold it."""
    mantissa, exponent = 1.0, 0
    for factor in factors:
        part, power = math.frexp(factor)
        mantissa, exponent = mantissa * part, exponent + power
    mantissa, power = math.frexp(mantissa)
    return (exponent + power if mantissa else -math.inf), mantissa


def _at_least(distance: float, factor: float) -> float:
    """A distance times a factor; positive if both are, however small."""
    return distance * factor or (math.ulp(0.0) if distance and factor else 0.0)


def _at_most(variance: float, factor: float) -> float:
    """A variance times a factor's square; 0 where floats would round it up by much."""
    found = variance * factor * factor
    return found if found >= _SMALLEST**2 else 0.0
