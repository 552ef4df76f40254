"""Model clipping: steps, σ and ε determine each other."""

import math

import pytest
from noisy_runs import Module, fit, network

from erode.callbacks import GradientClipping, ModelClipping
from erode.weights import save_weights


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
        {"learning_rate": math.inf}, {"weight_decay": math.nan}, {"steps": 2.0}, {"delta": 1e-320}, {"epsilon": True},
        {"steps": "auto", "sigma": 1.0, "reference": "noise"}, {"radius": 0.0}, {"sigma": 1.0},
    ],
)  # fmt: skip
def test_arguments_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=r"\w"):
        ModelClipping(**wrong)


class Frozen(Module):
    """Stops a normalisation layer after the first batch, as people do after a warm-up."""

    def __init__(self):
        super().__init__(network())
        self.seen = []

    def training_step(self, batch, index):
        self.network[1].train(self.global_step == 0)
        self.seen.append(self.network[1].running_mean.clone())
        return super().training_step(batch, index)


@pytest.mark.parametrize(("operator_class", "carried"), [(ModelClipping, False), (GradientClipping, True)])
def test_no_step_reads_statistics_of_the_start(operator_class, carried, tmp_path):
    """Each would contract the distance to another start; what a layer kept of it is not contracted."""
    module = Frozen()
    fit(module, tmp_path, operator_class(steps=4))
    assert [bool(mean.any()) for mean in module.seen[:4]] == [False, *[carried] * 3]


class Piling(Module):
    """Never zeroes a gradient."""

    def __init__(self):
        super().__init__(network(norm=False))
        self.left = []

    def optimizer_zero_grad(self, epoch, index, optimizer):
        self.left.append(any(p.grad is not None and bool(p.grad.any()) for p in self.parameters()))


@pytest.mark.parametrize("exposed", [None, ["network.2.*"]], ids=["all", "head"])
def test_no_gradient_of_the_start_goes_on_past_a_projection(exposed, tmp_path):
    """Nor one of a parameter that gets no noise: a hook may scale gradients by the norm of all."""
    module = Piling()
    other = Piling()
    other.network[0].load_state_dict(module.network[0].state_dict())
    anchor = save_weights(other, tmp_path / "anchor.safetensors")
    fit(module, tmp_path, ModelClipping(steps=4, exposed=exposed, anchor=anchor))
    assert module.left[:5] == [False] * 5
    assert any(module.left[5:])
