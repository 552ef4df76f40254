"""A ranking: what keeps the start, then what is exact, then by noise and cost; what cannot run comes last."""

import math
import time
from dataclasses import dataclass, replace

import pytest
import torch
from plans import candidates
from torch import nn

from erode.accounting import gdp_mu
from erode.callbacks import GradientClipping, OutputPerturbation, Retrain
from erode.callbacks.guards.exposure import exposed_parameters
from erode.mechanisms import (
    Mechanism,
    OutputPerturbationMechanism,
)
from erode.mechanisms.outlook import (
    LOST_BELOW,
    Regime,
)
from erode.operator_card import Effort
from erode.plan import Candidate, plan, print_plan
from erode.plan.candidates import candidates as real_candidates


def order(made):
    return [[rank.candidate.operator for rank in target.ranking] for target in made.targets]


def test_what_keeps_the_start_comes_first_then_what_is_exact():
    made = plan(candidates(), d=100, epsilons=[1.0, 1e4], delta=1e-7)
    lost, survives = order(made)
    assert lost == ["retrain", "rewind", "output", "gradient", "model", "lost", "unplanned", "fine-tune"]
    assert survives[0] == "output"
    assert survives[-1] == "fine-tune"
    whys = {rank.candidate.operator: rank.why for rank in made.targets[0].ranking}
    assert "exact retraining costs no more" in whys["output"]
    assert whys["lost"] == "certified, but not planned: give a head"
    assert "give the number of samples" in whys["unplanned"]
    assert "promises nothing" in whys["fine-tune"]


@dataclass(frozen=True, kw_only=True)
class Elsewhere(Mechanism):
    """A mechanism that knows no ball: a proved distance and one Gaussian."""

    name = "elsewhere"

    distance: float = 1e-3

    def bounds(self):
        return 1.0, 0.0

    def initial_distance(self):
        return self.distance

    @classmethod
    def calibrated(cls, epsilon, delta, **constants):
        return cls(sigma=constants["distance"] / gdp_mu(epsilon, delta), **constants)


def test_a_mechanism_that_starts_elsewhere_is_ranked_by_its_noise_alone():
    made = Candidate(operator="head", card=GradientClipping.card,
                     mechanism=Elsewhere(reference="retrained", steps=1, sigma=1.0))  # fmt: skip
    found = plan([*candidates(), made], d=400, epsilons=[1.0], delta=1e-7)
    rank = next(rank for rank in found.targets[0].ranking if rank.candidate.operator == "head")
    assert rank.noise == pytest.approx(1e-3 / gdp_mu(1.0, 1e-7) * 20)
    assert rank.outlook is None
    assert order(found)[0][:3] == ["retrain", "rewind", "head"]


def heads(*distances):
    return [
        Candidate(operator=f"head {distance:g}", card=GradientClipping.card,
                  mechanism=Elsewhere(reference="retrained", steps=1, sigma=1.0, distance=distance))
        for distance in distances
    ]  # fmt: skip


def test_heads_of_which_nothing_is_known_are_ranked_by_their_noise():
    made = plan([*heads(1e3, 1e-4, 1.0), *candidates()], d=400, epsilons=[1.0], delta=1e-7)
    assert order(made)[0][2:5] == ["head 0.0001", "head 1", "head 1000"]


@pytest.mark.parametrize(
    "known", [{"weights_norm": 5.0}, {"largest_norm": 5.0}, {"weights_norm": 5.0, "largest_norm": 9}]
)
def test_a_head_is_ranked_by_its_norm_over_the_noise(known):
    """One that survives comes before exact retraining, one that does not after all that start in a ball."""
    made = plan([*heads(1e3, 1e-4, 0.5), *candidates()], d=400, epsilons=[1.0], delta=1e-7, **known)
    ranking = {rank.candidate.operator: rank for rank in made.targets[0].ranking}
    assert order(made)[0][:4] == ["head 0.0001", "retrain", "rewind", "head 0.5"]
    assert order(made)[0].index("head 1000") > order(made)[0].index("gradient")
    for rank in (ranking["head 1000"], ranking["head 0.0001"], ranking["head 0.5"]):
        assert rank.ratio == pytest.approx(5 / rank.noise)
    regimes = [ranking[name].regime for name in ("head 0.0001", "head 0.5", "head 1000")]
    assert regimes == [Regime.SURVIVES, Regime.PARTLY, Regime.LOST]
    assert ("at most 5" in ranking["head 0.5"].why) == ("weights_norm" not in known)
    assert "fitting the head anew" in ranking["head 1000"].why


def test_the_conclusion_speaks_of_what_comes_first():
    """Where a head survives, nothing of balls; where nothing trained does, also the best that tries, and remedies."""
    (target,) = plan([*candidates(), *heads(1e-4)], d=400, epsilons=[1.0], delta=1e-7, largest_norm=5.0).targets
    assert target.conclusion.startswith("head 0.0001: the head survives: noise of")
    assert "not survive" not in target.conclusion
    assert target.remedies == []
    lost, survives = plan(candidates(), d=100, epsilons=[1.0, 1e4], delta=1e-7).targets
    assert lost.conclusion.startswith("retrain: no forget atom takes part")
    assert "start from the trained weights, output needs the least noise" in lost.conclusion
    assert "The start will not survive" in lost.conclusion
    assert len(lost.remedies) == 4
    assert survives.conclusion.startswith("output needs the least noise")
    assert survives.remedies == []


def test_what_waits_for_something_comes_before_what_promises_nothing(capsys):
    waiting = [replace(one, lacks=("checkpoints with ledgers",)) if one.operator in ("rewind", "output") else one
               for one in [*candidates(), *heads(1e-4)]]  # fmt: skip
    made = plan(waiting, d=100, epsilons=[1.0], delta=1e-7)
    assert order(made)[0][-3:] == ["rewind", "output", "fine-tune"]
    assert made.targets[0].conclusion.startswith("retrain: ")
    print_plan(made)
    assert "ledgers" in capsys.readouterr().out


def test_where_all_wait_the_conclusion_says_for_what():
    waiting = [replace(one, lacks=("anchor",)) for one in candidates() if one.operator in ("output", "gradient")]
    made = plan(waiting, d=100, epsilons=[1.0], delta=1e-7)
    assert made.targets[0].conclusion.startswith("once there is what it needs (anchor), output needs the least noise")


def test_an_approximate_inverse_costs_more_than_the_noise_that_it_shares():
    """As CNS and output perturbation: equal noise, other costs."""
    ball = OutputPerturbationMechanism(reference="retrained", radius=1.0, sigma=1.0)
    costly, free = (
        Candidate(operator=name, card=GradientClipping.card, mechanism=ball, noisy_evaluations=0.0, effort=effort)
        for name, effort in (("a costly one", Effort(680.0, 1.0, 1.0)), ("free", Effort()))
    )
    (target,) = plan([costly, free], d=100, epsilons=[1.0], delta=1e-7).targets
    assert [rank.candidate.operator for rank in target.ranking] == ["free", "a costly one"]
    assert "free needs the least noise at the same kept signal and no gradient" in target.conclusion
    assert "an unknown number of gradient evaluations" in target.conclusion
    (target,) = plan([replace(costly, per_pass=75.0), free], d=100, epsilons=[1.0], delta=1e-7).targets
    assert "755 gradient evaluations of its own" in target.conclusion


def test_what_cannot_run_comes_last_and_is_not_planned(capsys):
    never = [Candidate(operator=name, card=card, why_never="no such layer") for name, card in
             (("stuck", Retrain.card), ("held", GradientClipping.card))]  # fmt: skip
    made = plan([*never, *candidates()], d=100, epsilons=[1.0], delta=1e-7)
    assert set(order(made)[0][-2:]) == {"stuck", "held"}
    assert all(rank.noise is None for rank in made.targets[0].ranking[-2:])
    print_plan(made)
    assert "cannot run here: stuck, held: no such layer" in capsys.readouterr().out


@pytest.mark.parametrize("epsilons", [[], [0.0], [-1.0], [math.inf], [math.nan]])
def test_targets_out_of_range_are_refused(epsilons):
    with pytest.raises(ValueError, match="epsilon must be positive"):
        plan(candidates(), d=10, epsilons=epsilons, delta=1e-7)


@pytest.mark.parametrize("radius", [0.001, 1.0, 5.0, 50.0])
def test_a_network_of_a_billion_parameters_is_planned_in_under_a_second(radius):
    """With the operators that there are: at a radius of 50 gradient clipping takes half a million steps."""
    with torch.device("meta"):
        network = nn.Linear(31_623, 31_623)
    began = time.process_time()
    d = sum(parameter.numel() for parameter in exposed_parameters(network, None).values())
    made = plan(real_candidates(OutputPerturbation(radius=radius), 1e-7), d=d, epsilons=[1.0, 3.0, 8.0], delta=1e-7)
    assert time.process_time() - began < 1
    assert d > 10**9
    steps = {outlook.operator: outlook.mechanism.steps for outlook in reversed(made.targets[0].outlooks)}
    assert steps["GradientClipping"] == round(1e4 * radius)  # of the first reference
    assert all(rank.outlook is None or rank.outlook.ratio < LOST_BELOW for t in made.targets for rank in t.ranking)
