"""Plans: the noise floor is met exactly or missed from below, and every remedy does what it says."""

import json
import math
import time
from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from erode.accounting import gdp_mu
from erode.callbacks import FineTune, GradientClipping, OutputPerturbation, Retrain, Rewind
from erode.callbacks.exposure import exposed_parameters
from erode.mechanisms import (
    GradientClippingMechanism,
    Mechanism,
    ModelClippingMechanism,
    OutputPerturbationMechanism,
)
from erode.operator_card import Effort
from erode.plan import (
    LOST_BELOW,
    Outlook,
    Regime,
    cheapest,
    largest_d,
    remedies,
    smallest_epsilon,
    too_many_pixels,
    why_cheapest,
)
from erode.plan_candidates import candidates as real_candidates
from erode.plan_ranking import Candidate, plan
from erode.plan_report import plan_figure, print_plan, write_plan

STEP = {"clip_norm": 1.0, "learning_rate": 0.01, "weight_decay": 0.5}
KINDS = {
    "gradient": (GradientClippingMechanism, {**STEP, "steps": 30}),
    "model": (ModelClippingMechanism, {"steps": 3}),
    "output": (OutputPerturbationMechanism, {}),
}
REFERENCES = st.sampled_from(["retrained", "anchor", "noise"])
EPSILONS, DIMENSIONS = st.floats(0.05, 500.0), st.integers(100, 10**9)


def outlook(name="output", *, epsilon=1.0, delta=1e-7, d=52_000, start=None, evaluations=None, reference="retrained",
            radius=1.0, **changed):  # fmt: skip
    kind, constants = KINDS[name]
    made = kind.calibrated(epsilon, delta, reference=reference, radius=radius, **{**constants, **changed})
    return Outlook(operator=name, mechanism=made, epsilon=epsilon, delta=delta, d=d, start=start,
                   evaluations=evaluations)  # fmt: skip


def floor(epsilon, delta, reference, d):
    return gdp_mu(epsilon, delta) / ((2 if reference == "retrained" else 1) * math.sqrt(d))


# The noise floor -------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=30)
@given(EPSILONS, DIMENSIONS, REFERENCES, st.floats(1e-4, 1e2))
def test_output_perturbation_meets_the_bound(epsilon, d, reference, radius):
    made = outlook(epsilon=epsilon, d=d, reference=reference, radius=radius)
    assert made.ratio == pytest.approx(floor(epsilon, 1e-7, reference, d), rel=1e-8)
    assert made.bound == pytest.approx(made.ratio, rel=1e-8)


@settings(deadline=None, max_examples=60)
@given(
    EPSILONS, DIMENSIONS, REFERENCES, st.floats(1e-4, 1e2), st.integers(1, 40), st.floats(0, 10), st.floats(1e-5, 0.1),
    st.floats(0, 10),
)  # fmt: skip
def test_gradient_clipping_never_exceeds_it(epsilon, d, reference, radius, steps, clip_norm, learning_rate, decay):
    constants = {"steps": steps, "clip_norm": clip_norm, "learning_rate": learning_rate, "weight_decay": decay}
    made = outlook("gradient", epsilon=epsilon, d=d, reference=reference, radius=radius, **constants)
    assert made.ratio <= floor(epsilon, 1e-7, reference, d)


@settings(deadline=None, max_examples=60)
@given(EPSILONS, DIMENSIONS, REFERENCES, st.floats(1e-4, 1e2), st.integers(1, 40))
def test_model_clipping_never_exceeds_it(epsilon, d, reference, radius, steps):
    """Although its last step alone has less noise, the more steps it takes."""
    made = outlook("model", epsilon=epsilon, d=d, reference=reference, radius=radius, steps=steps)
    assert made.ratio <= floor(epsilon, 1e-7, reference, d)


def test_the_number_of_the_theory():
    """52,000 parameters, retrained, (1, 1e-5): six parts in ten thousand."""
    assert outlook(delta=1e-5).ratio == pytest.approx(5.9e-4, rel=0.01)


# Regimes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ratio", "regime"),
    [(0.099, Regime.LOST), (0.101, Regime.PARTLY), (0.999, Regime.PARTLY), (1.001, Regime.SURVIVES)],
)
def test_regimes_by_ratio(ratio, regime):
    made = OutputPerturbationMechanism(reference="anchor", radius=ratio, sigma=0.1)
    assert Outlook(operator="", mechanism=made, epsilon=1.0, delta=1e-5, d=100).regime is regime


@pytest.mark.parametrize(("start", "regime"), [(1.0, Regime.SURVIVES), (4.0, Regime.PARTLY), (20.0, Regime.LOST)])
def test_a_start_of_which_the_ball_keeps_little_does_not_survive(start, regime):
    made = OutputPerturbationMechanism(reference="anchor", radius=1.0, sigma=0.01)
    found = Outlook(operator="", mechanism=made, epsilon=1.0, delta=1e-5, d=100, start=start)
    assert found.ratio == pytest.approx(10)
    assert found.kept == pytest.approx(1 / start)
    assert found.regime is regime
    if regime is not Regime.SURVIVES:
        assert f"radius = {start:.3g} keeps all of it" in " ".join(remedies(found))


def test_a_start_closer_than_the_radius_is_less_signal():
    assert outlook(start=0.25).ratio == pytest.approx(outlook().ratio / 4)
    assert outlook(start=4.0).ratio == outlook().ratio


def test_the_sentence_holds_numbers_and_regime():
    sentence = outlook("gradient").sentence()
    assert "52,000 exposed parameters" in sentence
    assert "the start will not survive: this is a re-initialisation; retrain exactly on the retain view" in sentence


@pytest.mark.parametrize("wrong", [{"d": 0}, {"start": 0.0}, {"start": float("nan")}])
def test_numbers_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=r"at least 1|must differ from the anchor"):
        outlook(**wrong)


# What would change it --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", KINDS)
def test_the_largest_d_is_the_largest(name):
    made = outlook(name, epsilon=400.0, reference="anchor")
    most = largest_d(made)
    assert most > 1
    ratios = [outlook(name, epsilon=400.0, reference="anchor", d=d).ratio for d in (most, most + 1)]
    assert ratios[0] >= 1 > ratios[1]


def test_at_a_small_epsilon_not_even_one_parameter_is_few_enough():
    assert largest_d(outlook(epsilon=1.0)) == 0
    assert "not even one" in remedies(outlook(epsilon=1.0))[0]


@pytest.mark.parametrize("name", KINDS)
def test_at_the_smallest_epsilon_the_ratio_is_one(name):
    epsilon = smallest_epsilon(outlook(name, d=1000))
    assert outlook(name, d=1000, epsilon=epsilon).ratio == pytest.approx(1.0, rel=1e-4)


def test_a_start_that_survives_needs_no_remedy():
    assert remedies(outlook(epsilon=1e4, d=100)) == []


def test_how_close_an_anchor_has_to_be():
    """At the radius that is named, noise and weights are equally long."""
    text = " ".join(remedies(outlook(radius=1.0), weights_norm=13.0))
    radius = float(text.partition("from a radius of ")[2].split()[0])
    assert outlook(radius=radius).noise == pytest.approx(13.0, rel=0.05)


# The cheapest ----------------------------------------------------------------------------------------------------


def test_output_perturbation_is_the_cheapest():
    made = [outlook("gradient", evaluations=30.0), outlook("model", evaluations=3.0), outlook(evaluations=0.0)]
    assert cheapest(made) is made[2]
    assert why_cheapest(made).startswith("output needs the least noise at the same kept signal and no gradient")


def test_of_equal_noise_fewer_gradients_win():
    made = [outlook("model", steps=1, evaluations=1.0), outlook(evaluations=0.0), outlook(evaluations=None)]
    assert made[0].ratio == pytest.approx(made[1].ratio)
    assert cheapest(made) is made[1]
    assert cheapest([made[2], made[0]]) is made[0]


# Pixels ----------------------------------------------------------------------------------------------------------


@given(st.floats(1e-12, 0.5), st.integers(1, 10**9))
def test_the_delta_that_is_advised_is_small_enough(delta, pixels):
    why = too_many_pixels(delta, pixels)
    assert (why is None) == (delta * pixels <= 0.01)
    if why is not None:
        assert too_many_pixels(float(why.rpartition("<= ")[2]), pixels) is None


# The ranking -----------------------------------------------------------------------------------------------------


class Unplanned(OutputPerturbationMechanism):
    """One whose noise needs more than a target."""

    name = "unplanned"

    @classmethod
    def calibrated(cls, epsilon, delta, **constants):
        raise NotImplementedError("give the number of samples")


def candidates(reference="retrained", radius=1.0):
    made = {
        name: kind(**{"reference": reference, "radius": radius, "sigma": 1.0, **constants})
        for name, (kind, constants) in KINDS.items()
    }
    return [
        *(Candidate(operator=name, card=GradientClipping.card, mechanism=m, noisy_evaluations=float(m.steps))
          for name, m in made.items()),
        Candidate(operator="fine-tune", card=FineTune.card),
        Candidate(operator="retrain", card=Retrain.card),
        Candidate(operator="rewind", card=Rewind.card),
        Candidate(operator="lost", card=GradientClipping.card, why_not="give a head"),
        Candidate(operator="unplanned", card=GradientClipping.card,
                  mechanism=Unplanned(reference="anchor", radius=1.0, sigma=1.0)),
    ]  # fmt: skip


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


# What people see -------------------------------------------------------------------------------------------------


def test_tables_picture_and_json_say_the_same(tmp_path, capsys):
    made = plan(candidates(), d=52_000, epsilons=[1.0, 8.0], delta=1e-7, start=3.0, notes=["mind the gap"])
    print_plan(made)
    shown = capsys.readouterr().out
    assert "52,000 exposed parameters" in shown
    assert "mind the gap" in shown
    written = json.loads((write_plan(made, tmp_path) / "plan.json").read_text())
    for target, found in zip(written["targets"], made.targets, strict=True):
        ratios = {line["operator"]: line["ratio"] for line in target["mechanisms"]}
        assert ratios == {line.operator: line.ratio for line in found.outlooks}
        assert [line["operator"] for line in target["ranking"]] == [r.candidate.operator for r in found.ranking]
    assert (tmp_path / "plan.png").read_bytes().startswith(b"\x89PNG")
    axis = plan_figure(made).axes[0]
    assert (axis.get_xscale(), axis.get_yscale()) == ("log", "log")
    curves = {line.get_label(): line for line in axis.lines if "T =" in str(line.get_label())}
    assert len(curves) == 3
    x, y = curves["output (retrained, T = 1)"].get_data()
    nearest = abs(x - 8.0).argmin()
    assert y[nearest] == pytest.approx(floor(x[nearest], 1e-7, "retrained", 52_000), rel=1e-6)


def test_nothing_to_draw_where_nothing_is_noisy(tmp_path):
    made = plan([Candidate(operator="retrain", card=Retrain.card)], d=10, epsilons=[1.0], delta=1e-7)
    write_plan(made, tmp_path)
    assert not (tmp_path / "plan.png").exists()
