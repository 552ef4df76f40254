"""Every unlearning operator for one network and target, best first, each with a sentence why."""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ..accounting.checks import check_delta
from ..mechanisms import BallMechanism, Mechanism
from ..mechanisms.outlook import Outlook, Regime, cheapest, regime_of, remedies, why_cheapest
from ..operator_card import AT_NO_REQUEST, NO_EFFORT, NOTHING, Effort, OperatorCard


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """An unlearning operator as its class describes itself, and its noise.

    Args:
        operator: name.
        card: what its class says about it.
        mechanism: constants of a certified operator; the noise is calibrated anew for each target.
        noisy_evaluations: gradient evaluations of its noisy phase; None = unknown.
        effort: what it computes beside steps; None = unknown.
        per_pass: batches of a pass over the data; None = unknown.
        lacks: what it needs and is not at hand.
        assumes: of the request, where nobody said it.
        why_not: why a certified operator brings no mechanism.
        why_never: why it cannot run on this module at all.
    """

    operator: str
    card: OperatorCard
    mechanism: Mechanism | None = None
    noisy_evaluations: float | None = None
    effort: Effort | None = NO_EFFORT
    per_pass: float | None = None
    lacks: tuple[str, ...] = ()
    assumes: str = ""
    why_not: str | None = None
    why_never: str | None = None

    @property
    def reference(self) -> str | None:
        """What the certificate compares with; None where there is no certificate, or no choice."""
        return None if self.mechanism is None else self.mechanism.reference

    @property
    def beside(self) -> tuple[float, float] | None:
        """Gradient evaluations beside steps, least and most; None = unknown."""
        return None if self.effort is None else self.effort.range(self.per_pass)

    @property
    def evaluations(self) -> float | None:
        """Gradient evaluations of its noisy phase and beside steps, at most; None = unknown."""
        if self.noisy_evaluations is None or self.beside is None:
            return None
        return self.noisy_evaluations + self.beside[1]

    def at(self, epsilon: float, delta: float) -> Mechanism:
        """Its mechanism with the noise that a target needs.

        Raises:
            ValueError: if it has none, or cannot meet the target.
        """
        if self.mechanism is None:
            raise ValueError(self.why_not or "it brings no noise mechanism")
        constants = {k: v for k, v in self.mechanism.constants().items() if k not in ("name", "sigma")}
        try:
            return type(self.mechanism).calibrated(epsilon, delta, **constants)
        except (TypeError, NotImplementedError, OverflowError) as error:
            raise ValueError(f"its noise does not follow from a target alone: {error}") from error

    def outlook(self, epsilon: float, delta: float, d: int, start: float | None) -> Outlook:
        """What it leaves of a network at a target.

        Raises:
            ValueError: if it does not start from the trained weights in a ball, or cannot meet the target.
        """
        made = self.at(epsilon, delta)
        if not isinstance(made, BallMechanism):
            raise ValueError(f"{self.operator} does not start from the trained weights")
        return Outlook(
            operator=self.operator, mechanism=made, epsilon=epsilon, delta=delta, d=d, start=start,
            evaluations=self.evaluations,
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Rank:
    """One line of the ranking."""

    candidate: Candidate
    noise: float | None
    """Predicted norm of the noise; None = there is none, or it is not known."""
    outlook: Outlook | None
    """What is left of the trained weights, for mechanisms that start from them in a ball."""
    why: str
    ratio: float | None = None
    """What is left, or the norm of a head, over the noise; None = not known."""
    regime: Regime | None = None
    """By that ratio."""

    @property
    def promises(self) -> int:
        """How good it is where all that it needs is at hand; smaller is better.

        A certified start or head that survives, exact, certified by regime, not planned, no guarantee.
        """
        if self.candidate.card.guarantee == "exact":
            return 1
        if self.candidate.card.guarantee != "certified":
            return 5
        if self.regime is None:
            return 4 if self.noise is None else 2
        return {Regime.SURVIVES: 0, Regime.PARTLY: 2, Regime.LOST: 3}[self.regime]

    @property
    def group(self) -> int:
        """The same here: what promises something that would need more comes before what promises nothing."""
        if self.candidate.why_never is not None:
            return 7
        if self.promises == 5:
            return 6
        return 5 if self.candidate.lacks else self.promises


@dataclass(frozen=True, kw_only=True)
class Target:
    """All that is said about one ε."""

    epsilon: float
    outlooks: list[Outlook]
    ranking: list[Rank]
    conclusion: str
    remedies: list[str]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What :func:`plan` finds.

    Args:
        d: exposed parameters.
        delta: δ.
        candidates: what was compared.
        targets: one per ε.
        start: distance of the trained weights from the anchor; None = unknown.
        notes: what else should be known before the run.
    """

    d: int
    delta: float
    candidates: Sequence[Candidate]
    targets: list[Target]
    start: float | None = None
    notes: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "d": self.d,
            "delta": self.delta,
            "start": self.start,
            "notes": self.notes,
            "targets": [
                {
                    "epsilon": target.epsilon,
                    "conclusion": target.conclusion,
                    "remedies": target.remedies,
                    "mechanisms": [_outlook_dict(outlook) for outlook in target.outlooks],
                    "ranking": [_rank_dict(rank) for rank in target.ranking],
                }
                for target in self.targets
            ],
        }


def plan(
    candidates: Sequence[Candidate],
    *,
    d: int,
    epsilons: Sequence[float],
    delta: float,
    start: float | None = None,
    weights_norm: float | None = None,
    largest_norm: float | None = None,
    notes: Sequence[str] = (),
) -> Plan:
    """Plan every candidate for every ε; numbers only, so the network may have any size.

    Args:
        candidates: in the order of the table. An operator that occurs with several references is ranked by the first.
        d: exposed parameters, >= 1.
        epsilons: ε > 0 each.
        delta: δ in (0, 1).
        start: distance of the trained weights from the anchor; None = unknown.
        weights_norm: norm of the exposed trained weights; None = unknown.
        largest_norm: what it can be at most, of a head that is a minimiser; takes its place where it is unknown.
        notes: passed on.

    Raises:
        ValueError: if a number is out of range.

    Example:
        >>> from erode.callbacks import Retrain
        >>> exact = Candidate(operator="Retrain", card=Retrain.card)
        >>> made = plan([exact], d=52_000, epsilons=[1.0], delta=1e-7)
        >>> made.targets[0].conclusion
        'Retrain: no forget atom takes part, so epsilon = 0 and delta = 0 without noise, for training on retained data'
    """
    if not epsilons or not all(0 < epsilon < math.inf for epsilon in epsilons):
        raise ValueError(f"epsilon must be positive numbers, got {list(epsilons)}")
    check_delta(delta)
    known = _Known(d=d, delta=delta, start=start, weights_norm=weights_norm, largest_norm=largest_norm)
    targets = [_target(candidates, known, epsilon) for epsilon in epsilons]
    return Plan(d=d, delta=delta, candidates=candidates, targets=targets, start=start, notes=list(notes))


class _Known(NamedTuple):
    """What :func:`plan` was told of the network; see there."""

    d: int
    delta: float
    start: float | None
    weights_norm: float | None
    largest_norm: float | None


def _target(candidates: Sequence[Candidate], known: _Known, epsilon: float) -> Target:
    outlooks: list[Outlook] = []
    ranks: dict[str, Rank] = {}
    for candidate in candidates:
        rank = _rank(candidate, known, epsilon)
        outlooks += [] if rank.outlook is None else [rank.outlook]
        ranks.setdefault(candidate.operator, rank)
    ranking = sorted(ranks.values(), key=_order)
    conclusion, advice = _conclusion(ranking, known.weights_norm)
    return Target(epsilon=epsilon, outlooks=outlooks, ranking=ranking, conclusion=conclusion, remedies=advice)


def _conclusion(ranking: Sequence[Rank], weights_norm: float | None) -> tuple[str, list[str]]:
    """What comes first and why; where that keeps no trained start, also the best that tries, and what would help."""
    first, outlooks = ranking[0], [rank.outlook for rank in ranking if rank.outlook is not None]
    same = [one for one in outlooks if one.mechanism.reference == outlooks[0].mechanism.reference]
    better = [rank for rank in ranking if rank.group == 5 and rank.promises < first.promises]
    advice = [
        f"what is not at hand ({', '.join(rank.candidate.lacks)}): with it {rank.candidate.operator} comes first; "
        f"{rank.why}"
        for rank in better[:1]
    ]
    once = f"once there is what it needs ({', '.join(first.candidate.lacks)}), " if first.candidate.lacks else ""
    if first.outlook is not None:
        return once + _of_balls(first.outlook, same), advice + remedies(first.outlook, weights_norm)
    said = f"{first.candidate.operator}: {once}{first.why}"
    if not same or first.regime is Regime.SURVIVES:
        return said, advice
    best = cheapest(same)
    said += f". Of those that start from the trained weights, {_of_balls(best, same)}"
    return said, advice + remedies(best, weights_norm)


def _of_balls(best: Outlook, same: Sequence[Outlook]) -> str:
    return f"{why_cheapest(same, best)}. {best.regime.value[0].upper()}{best.regime.value[1:]}"


def _order(rank: Rank) -> tuple[object, ...]:
    """Group, the same with all at hand, promises without a limit; the larger ratio (in steps of 1 %) or less noise.

    Then fewer evaluations, nothing stored, the name.
    """
    candidate, card = rank.candidate, rank.candidate.card
    ratio = math.inf if not rank.ratio else -round(100 * math.log(rank.ratio))
    noise = 0.0 if rank.ratio or rank.noise is None else rank.noise
    beside = (candidate.effort or NO_EFFORT).range(candidate.per_pass or 1.0) or (0.0, 0.0)
    cost = card.evaluations_per_step + (candidate.noisy_evaluations or 0.0) + beside[0]
    limited = card.guarantee == "exact" and bool(card.scope)
    return (
        rank.group, rank.promises, len(candidate.lacks), limited, ratio, noise, cost, card.stores != NOTHING,
        candidate.operator,
    )  # fmt: skip


def _rank(candidate: Candidate, known: _Known, epsilon: float) -> Rank:
    made = functools.partial(Rank, candidate=candidate)
    if candidate.why_never is not None:
        return made(noise=None, outlook=None, why=f"cannot run here: {candidate.why_never}")
    if candidate.card.guarantee == "exact":
        why = "no forget atom takes part, so epsilon = 0 and delta = 0 without noise, for training on retained data"
        if candidate.card.manipulation == AT_NO_REQUEST:
            why = f"epsilon = 0 and delta = 0 {candidate.card.scope}, with nothing to compute"
        return made(noise=None, outlook=None, why=why)
    if candidate.card.guarantee != "certified":
        why = "promises nothing, so it meets no target; keeps the trained weights"
        return made(noise=None, outlook=None, why=why)
    try:
        mechanism = candidate.at(epsilon, known.delta)
        if isinstance(mechanism, BallMechanism):
            outlook = candidate.outlook(epsilon, known.delta, known.d, known.start)
            return made(
                noise=outlook.noise, outlook=outlook, why=_why(outlook), ratio=outlook.ratio, regime=outlook.regime
            )
    except ValueError as error:
        return made(noise=None, outlook=None, why=f"certified, but not planned: {error}")
    noise = mechanism.final_noise() * math.sqrt(known.d)
    norm = known.largest_norm if known.weights_norm is None else known.weights_norm
    if norm is None:
        why = "certified; what its noise leaves of the trained weights is not predicted here"
        return made(noise=noise, outlook=None, why=why)
    most = "at most " if known.weights_norm is None else ""
    ratio = norm / max(noise, sys.float_info.min)  # a variance below the smallest float is none
    regime = regime_of(ratio)
    why = f"the head {regime.short}: noise of {noise:.3g} on weights of norm {most}{norm:.3g}"
    why += ", so fitting the head anew is exact and costs no more" if regime is Regime.LOST else ""
    why += f" ({candidate.assumes})" if candidate.assumes else ""
    return made(noise=noise, outlook=None, why=why, ratio=ratio, regime=regime)


def _why(outlook: Outlook) -> str:
    more = ", so exact retraining costs no more" if outlook.regime is Regime.LOST else ""
    return f"the start {outlook.regime.short}{more}"


def _outlook_dict(outlook: Outlook) -> dict[str, Any]:
    return {
        "operator": outlook.operator,
        "constants": outlook.mechanism.constants(),
        "steps": outlook.mechanism.steps,
        "sigma": outlook.mechanism.sigma,
        "final_noise": outlook.mechanism.final_noise(),
        "kept_signal": outlook.signal,
        "noise_norm": outlook.noise,
        "ratio": outlook.ratio,
        "bound": outlook.bound,
        "kept_of_trained_distance": outlook.kept,
        "gradient_evaluations": outlook.evaluations,
        "regime": outlook.regime.short,
    }


def _rank_dict(rank: Rank) -> dict[str, Any]:
    return {
        "operator": rank.candidate.operator,
        "guarantee": rank.candidate.card.guarantee,
        "reference": rank.candidate.reference,
        "ratio": rank.ratio,
        "regime": None if rank.regime is None else rank.regime.short,
        "noise_norm": rank.noise,
        "not_at_hand": list(rank.candidate.lacks),
        "noisy_evaluations": rank.candidate.noisy_evaluations,
        "evaluations_beside_steps": rank.candidate.beside,
        "passes": None if rank.candidate.effort is None else rank.candidate.effort[1:],
        "evaluations_per_step": rank.candidate.card.evaluations_per_step,
        "stores": rank.candidate.card.stores,
        "paper": rank.candidate.card.paper,
        "why": rank.why,
    }
