"""Model clipping: steps, σ and ε determine each other."""

import pytest

from erode.callbacks import ModelClipping


@pytest.mark.parametrize(("ratio", "steps"), [(0.2, 1), (2.0, 6), (2.5, 9), (3.9, 36)])
def test_automatic_steps_are_the_fewest(ratio, steps):
    """Check values of theory §4."""
    operator = ModelClipping(epsilon=1.0, delta=1e-5, radius=ratio / 2, sigma=1.0, steps="auto")
    assert operator.mechanism.steps == steps
    assert operator.mechanism.epsilon(1e-5) <= 1.0


def test_more_steps_need_less_noise_but_not_against_pure_noise():
    sigma = [ModelClipping(steps=n).mechanism.sigma for n in (1, 3, 10)]
    assert sigma == sorted(sigma, reverse=True)
    assert len({ModelClipping(steps=n, reference="noise").mechanism.sigma for n in (1, 3)}) == 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": "auto"}, {"steps": "auto", "epsilon": None, "sigma": 1.0}, {"learning_rate": -1.0},
        {"steps": "auto", "sigma": 1.0, "reference": "noise"}, {"radius": 0.0}, {"sigma": 1.0},
    ],
)  # fmt: skip
def test_arguments_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=r"\w"):
        ModelClipping(**wrong)
