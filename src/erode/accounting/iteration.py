"""Noisy iteration: what T noisy steps hide of a different start and of different steps (theory §4, lemma)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from ._checks import check_non_negative, check_steps
from .clipping import geometric_sum


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
            shift: s_t >= 0, what the two updates may differ by at the same point (units of the weights).
            sigma: σ_t >= 0, standard deviation of the step's Gaussian noise per coordinate (units of the
            weights).

        Raises:
            ValueError: if an argument is out of range.
            OverflowError: if expanding steps push the accumulated variance beyond floats.
        """
        check_non_negative(contraction=contraction, shift=shift, sigma=sigma)
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
        check_non_negative(contraction=contraction, shift=shift, sigma=sigma)
        if contraction > 1:
            for _ in range(steps):
                self._append(shift, sigma * sigma, contraction)
            return
        decay = 1 - contraction
        rise, variance = geometric_sum(decay, steps), geometric_sum(decay * (2 - decay), steps)
        self._append(shift * rise, sigma * sigma * variance, contraction**steps)

    def _append(self, rise: float, variance: float, gap: float) -> None:
        """Add a piece, and pool it with earlier ones while it does not rise more steeply."""
        added = gap
        while self.blocks:
            earlier_rise, earlier_variance, earlier_gap = self.blocks[-1]
            # Slopes D/V compared in the units of the new step, where the earlier piece is (gap D, gap² V).
            if earlier_rise * variance < rise * earlier_variance * gap:
                break
            self.blocks.pop()
            rise, variance = rise + earlier_rise * gap, variance + earlier_variance * gap * gap
            gap *= earlier_gap
        if not math.isfinite(rise + variance + gap):
            raise OverflowError(
                f"the accumulated variance exceeds floats at contraction={added}: too many steps expand the "
                "distance; bound them by clipping"
            )
        self.blocks.append((rise, variance, gap))

    def mu(self, initial_distance: float) -> float:
        """Close the account.

        Args:
            initial_distance: Δ >= 0, largest distance of the two starts (units of the weights).

        Returns:
            μ >= 0; ``inf`` where a difference meets no noise after it.

        Raises:
            ValueError: if ``initial_distance`` is out of range.
        """
        check_non_negative(initial_distance=initial_distance)
        # Δ is a first step without noise: pool it with the pieces it violates.
        total, rise, variance = 0.0, initial_distance, 0.0
        for next_rise, next_variance, gap in self.blocks:
            if rise * next_variance >= next_rise * variance * gap:
                rise, variance = rise * gap + next_rise, variance * gap * gap + next_variance
            else:
                total = math.hypot(total, _piece_mu(rise, variance))
                rise, variance = next_rise, next_variance
        return math.hypot(total, _piece_mu(rise, variance))


def _piece_mu(rise: float, variance: float) -> float:
    """What one piece adds to μ, in quadrature."""
    if rise == 0:
        return 0.0
    return rise / math.sqrt(variance) if variance else math.inf
