"""The account is attained by a linear map, solves its convex problem, and refuses the invalid shortcut."""

import math
from fractions import Fraction
from itertools import pairwise

import mpmath
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from erode.accounting import NoisyIteration, gdp_epsilon

Step = tuple[float, float, float]


def account(steps: list[Step]) -> NoisyIteration:
    result = NoisyIteration()
    for contraction, shift, sigma in steps:
        result.step(contraction=contraction, shift=shift, sigma=sigma)
    return result


def chord(steps: list[Step], distance: float) -> float:
    """The closed form of theory §4, which assumes that one straight piece is feasible."""
    variance = 0.0
    for contraction, shift, sigma in steps:
        distance = contraction * distance + shift
        variance = contraction**2 * variance + sigma**2
    return distance / math.sqrt(variance)


def solve(steps: list[Step], distance: float) -> float:
    """The convex problem of the docstring, by a general solver: payments a_t, running distance z_t >= 0."""

    def distances(payments):
        z, out = distance, []
        for (contraction, shift, _), payment in zip(steps, payments, strict=True):
            z = contraction * z + shift - payment
            out.append(z)
        return np.array(out)

    sigmas = np.array([sigma for *_, sigma in steps])
    start, z = [], distance
    for contraction, shift, _ in steps:  # pay everything at once
        start.append(contraction * z + shift)
        z = 0.0
    result = minimize(
        lambda a: np.sum((a / sigmas) ** 2),
        start,
        method="SLSQP",
        constraints=[
            {"type": "ineq", "fun": lambda a: distances(a)[:-1]},
            {"type": "eq", "fun": lambda a: distances(a)[-1]},
        ],
        options={"maxiter": 500, "ftol": 1e-13},
    )
    # 8: no descent is left within rounding, which happens at the optimum; the comparison of values decides.
    assert result.success or result.status == 8, result.message
    return math.sqrt(result.fun)


def number(low: float, high: float) -> st.SearchStrategy[float]:
    return st.floats(low, high, allow_subnormal=False)


STEPS = st.lists(st.tuples(number(0.3, 1.5), number(0, 2), number(0.2, 2)), min_size=1, max_size=6)


def test_a_linear_map_attains_mu():
    rng, runs = np.random.default_rng(0), 400_000
    steps = [(0.9, 0.3, 0.5), (0.8, 0.2, 0.4), (0.95, 0.1, 0.6), (0.7, 0.1, 0.5)]
    x, y = np.full(runs, 0.5), np.full(runs, -0.5)
    for contraction, shift, sigma in steps:
        x = contraction * x + shift / 2 + sigma * rng.standard_normal(runs)
        y = contraction * y - shift / 2 + sigma * rng.standard_normal(runs)
    measured = (x.mean() - y.mean()) / math.sqrt((x.var() + y.var()) / 2)
    assert account(steps).mu(1.0) == pytest.approx(measured, abs=5 * math.sqrt(2 / runs))


@given(STEPS, number(0, 3))
@settings(deadline=None, max_examples=60)
def test_pieces_solve_the_convex_problem(steps, distance):
    assert account(steps).mu(distance) == pytest.approx(solve(steps, distance), rel=1e-4, abs=1e-5)


@given(STEPS, number(0, 3))
@settings(deadline=None, max_examples=200)
def test_never_below_the_linear_map_and_never_above_paying_at_once(steps, distance):
    mu = account(steps).mu(distance)
    at_once = [((distance * steps[0][0] if t == 0 else 0) + s) / sigma for t, (_, s, sigma) in enumerate(steps)]
    assert chord(steps, distance) <= mu * (1 + 1e-9)
    assert mu <= math.hypot(*at_once) * (1 + 1e-9)


@given(number(0.5, 1), number(0, 2), number(0.1, 2), number(0, 3), st.integers(1, 300))
@settings(deadline=None, max_examples=100)
def test_constant_contracting_steps_have_the_closed_form(contraction, shift, sigma, distance, steps):
    repeated = [(contraction, shift, sigma)] * steps
    assert account(repeated).mu(distance) == pytest.approx(chord(repeated, distance), rel=1e-9)


@given(STEPS, number(0, 3), number(0, 1), st.integers(0, 5), st.integers(0, 2))
@settings(deadline=None, max_examples=100)
def test_more_distance_shift_or_contraction_never_lowers_mu(steps, distance, extra, index, which):
    worse = [list(step) for step in steps]
    worse[index % len(steps)][which] += extra if which < 2 else 0
    assert account(steps).mu(distance) <= account([tuple(s) for s in worse]).mu(distance) * (1 + 1e-9)
    assert account(steps).mu(distance) <= account(steps).mu(distance + extra) * (1 + 1e-9)


@given(STEPS, number(0.1, 3))
@settings(deadline=None, max_examples=50)
def test_equal_contracting_steps_have_the_closed_form_under_any_schedule(steps, distance):
    steps = [(min(c, 1.0), 0.0, sigma) for c, _, sigma in steps]
    assert account(steps).mu(distance) == pytest.approx(chord(steps, distance), rel=1e-9)


def test_noise_does_not_hide_a_difference_that_comes_after_it():
    """Rounding to even or odd numbers: the closed form promises μ = 0.02 where two runs surely differ."""
    rng, runs = np.random.default_rng(1), 10_000
    steps = [(1.0, 0.0, 100.0), (1.0, 2.0, 0.05)]
    start = 100 * rng.standard_normal((2, runs))
    even = 2 * np.round(start[0] / 2) + 0.05 * rng.standard_normal(runs)
    odd = 2 * np.round((start[1] - 1) / 2) + 1 + 0.05 * rng.standard_normal(runs)
    told_apart = np.mean(np.round(even) % 2 == 0), np.mean(np.round(odd) % 2 == 1)
    assert min(told_apart) == 1.0
    assert chord(steps, 0.0) < 0.021
    assert account(steps).mu(0.0) == pytest.approx(40.0)


def test_a_shift_without_noise_after_it_is_not_hidden():
    steps = [(1.0, 0.0, 1.0), (1.0, 0.5, 0.0)]
    assert account(steps).mu(1.0) == math.inf
    assert NoisyIteration().mu(1.0) == math.inf
    assert account([*steps, (1.0, 0.0, 0.5)]).mu(0.0) == pytest.approx(1.0)  # only the last noise counts


def test_free_steps_and_forgetting_steps():
    steps = [(0.9, 0.1, 0.5), (0.8, 0.2, 0.5)]
    assert account([*steps, (0.5, 0.0, 0.0)]).mu(1.0) == pytest.approx(account(steps).mu(1.0))
    assert account([*steps, (0.0, 0.3, 0.5)]).mu(1.0) == pytest.approx(0.6)  # contraction 0: only its own shift
    assert account([]).mu(0.0) == 0.0


def test_published_configuration_certifies_6_57_not_1():
    """Released configuration λ = 10, γ = .01, C0 = .01, C1 = 1, T = 1, sold as ε = 1."""
    mu = account([(0.9, 0.02, 0.02687)]).mu(0.02)
    assert mu == pytest.approx(1.414, abs=1e-3)
    assert gdp_epsilon(mu, 1e-5) == pytest.approx(6.57, abs=0.01)


def test_a_million_steps_stay_exact_and_small():
    contraction, shift, sigma, steps = 1 - 1e-5, 0.02, 0.1, 10**6
    result = account([(contraction, shift, sigma)] * steps)
    log_c = math.log(contraction)
    mean = math.exp(steps * log_c) - shift * math.expm1(steps * log_c) / (1 - contraction)
    variance = -(sigma**2) * math.expm1(2 * steps * log_c) / (1 - contraction**2)
    assert result.mu(1.0) == pytest.approx(mean / math.sqrt(variance), rel=1e-9)
    assert len(result.blocks) < 10


STEPS = st.tuples(st.floats(0, 1.2), st.floats(0, 5), st.floats(0.1, 5))


@settings(deadline=None)
@given(st.lists(st.tuples(STEPS, st.integers(1, 30)), min_size=1, max_size=5), st.floats(0, 10))
def test_equal_steps_at_once_are_the_same_steps_one_by_one(runs, distance):
    """Before, between and after others, expanding ones too."""
    at_once = NoisyIteration()
    for (contraction, shift, sigma), times in runs:
        at_once.repeat(times, contraction=contraction, shift=shift, sigma=sigma)
    one_by_one = account([step for step, times in runs for _ in range(times)])
    assert at_once.mu(distance) == pytest.approx(one_by_one.mu(distance), rel=1e-9)


@pytest.mark.parametrize("contraction", [0.0, 1e-20, 1 - 1e-9, 1 - 2**-53, 1.0])
def test_any_number_of_equal_steps_is_one_piece(contraction):
    at_once = NoisyIteration()
    at_once.repeat(10**9, contraction=contraction, shift=0.1, sigma=0.3)
    (piece,) = at_once.blocks
    decay = 1 - contraction
    rise = 10**9 if decay < 1e-12 else -math.expm1(10**9 * math.log1p(-decay)) / decay if decay < 1 else 1.0
    assert piece[0] == pytest.approx(0.1 * rise, rel=1e-6)
    for wrong in (0, 1.5):
        with pytest.raises(ValueError, match="steps must be a whole number"):
            at_once.repeat(wrong, contraction=1.0, shift=0.1, sigma=0.3)


def test_an_account_resumes_from_its_blocks():
    steps = [(1.1, 0.1, 0.5), (0.9, 1.0, 0.2), (0.8, 2.0, 0.4)]
    resumed = NoisyIteration(list(account(steps[:2]).blocks))
    resumed.step(contraction=0.8, shift=2.0, sigma=0.4)
    assert resumed.mu(1.0) == account(steps).mu(1.0)


@pytest.mark.parametrize("wrong", [{"contraction": -0.1}, {"shift": math.nan}, {"sigma": math.inf}])
def test_wrong_values_are_named(wrong):
    with pytest.raises(ValueError, match=f"^{next(iter(wrong))} must"):
        NoisyIteration().step(**({"contraction": 1.0, "shift": 0.0, "sigma": 1.0} | wrong))


def test_endless_expansion_is_refused():
    with pytest.raises(OverflowError, match="contraction=2"):
        account([(2.0, 0.0, 1.0)] * 2000)


# Numbers of any size -----------------------------------------------------------------------------------------------


def exact(steps: list[Step], distance: float) -> float:
    """The greatest convex minorant of the docstring in rational numbers."""
    weights = [Fraction(1)]
    for contraction, *_ in reversed(steps):
        weights.insert(0, weights[0] * Fraction(contraction))
    variance, way = Fraction(0), Fraction(distance) * weights[0]
    hull = [(variance, Fraction(0)), (variance, way)]
    for (_, shift, sigma), weight in zip(steps, weights[1:], strict=True):
        variance, way = variance + (Fraction(sigma) * weight) ** 2, way + Fraction(shift) * weight
        hull.append((variance, way))
    kept = hull[:1]
    for point in hull[1:]:
        kept.append(point)
        while len(kept) > 2:
            (v0, d0), (v1, d1), (v2, d2) = kept[-3:]
            if (d1 - d0) * (v2 - v1) < (d2 - d1) * (v1 - v0):
                break
            del kept[-2]
    total = Fraction(0)
    for (v0, d0), (v1, d1) in pairwise(kept):
        if d1 > d0 and v1 == v0:
            return math.inf
        total += (d1 - d0) ** 2 / (v1 - v0) if d1 > d0 else 0
    return float(mpmath.sqrt(mpmath.mpf(total.numerator) / total.denominator))


def power(low: float, high: float) -> st.SearchStrategy[float]:
    return st.floats(low, high).map(lambda exponent: 10**exponent)


SIZES = st.tuples(
    st.one_of(st.sampled_from([0.0, 0.5, 1.0, 1.3]), power(-200, 40)),
    st.one_of(st.just(0.0), power(-300, 150)),
    st.one_of(st.just(0.0), power(-150, 150)),
)


@settings(deadline=None, max_examples=300)
@given(st.lists(SIZES, min_size=1, max_size=6), st.one_of(st.just(0.0), power(-300, 150)))
@example([(1.0, 0.0, 1e-80), (1.0, 1e-165, 1e-150)], 0.0)
@example([(1.0, 0.0, 1e-80), (1.0, 1e-153, 1e-150)], 0.0)
@example([(0.5, 0.0, 1e120), (1.0, 0.0, 0.0), (1.0, 1e120, 1e120)], 1e150)
@example([(1.0, 0.0, 1.0), *[(0.5, 0.0, 0.0)] * 1100], 1.0)
@example([(1e-200, 0.0, 0.0)] * 3, 1.0)
def test_no_size_of_numbers_makes_mu_too_small(steps, distance):
    try:
        mu = account(steps).mu(distance)
    except OverflowError:
        return
    truth = exact(steps, distance)
    assert mu >= truth * (1 - 1e-9) - 1e-20
    if all(sigma > 0 for *_, sigma in steps):  # noise that fades after its step may be counted as none
        assert mu <= truth * (1 + 1e-9) + 1e-20


def test_any_number_of_equal_steps_without_noise_hides_nothing():
    for distance, expected in ((0.0, 0.0), (1.0, math.inf)):
        at_once = NoisyIteration()
        at_once.repeat(10**9, contraction=0.5, shift=0.0, sigma=0.0)
        assert at_once.mu(distance) == expected


@pytest.mark.parametrize("wrong", [{"sigma": 1e-151}, {"sigma": 1e151}, {"shift": 1e151}])
def test_sizes_that_floats_do_not_hold_are_refused(wrong):
    with pytest.raises(ValueError, match="choose another unit"):
        NoisyIteration().step(**({"contraction": 1.0, "shift": 0.0, "sigma": 1.0} | wrong))
    with pytest.raises(ValueError, match="initial_distance must be at most"):
        NoisyIteration().mu(1e151)
    with pytest.raises(OverflowError, match="grows to"):
        account([(1e100, 0.0, 1.0)]).mu(1e100)
