"""Exposure: what is exposed, what the anchor is, and that anything else must be shown to be clean."""

import numpy
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import nn

from erode.callbacks.guards.exposure import anchor_of, check_unexposed, exposed_parameters
from erode.weights import save_weights, weights_digest


def network():
    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2), nn.Linear(2, 2))


@pytest.mark.parametrize("kind", ["initialisation", "zeros", "file"])
def test_an_anchor_does_not_depend_on_the_weights_and_leaves_them_and_the_seed_alone(kind, tmp_path):
    anchor = save_weights(network(), tmp_path / "anchor.safetensors") if kind == "file" else kind
    found = []
    for _ in range(2):
        module = network()
        module(torch.randn(8, 3))
        before, state = weights_digest(module), torch.get_rng_state()
        found.append(anchor_of(module, anchor, seed=5))
        assert weights_digest(module) == before
        assert torch.equal(torch.get_rng_state(), state)
    assert found[0].state.keys() == found[1].state.keys()
    assert all(torch.equal(value, found[1].state[name]) for name, value in found[0].state.items())
    assert "0.weight" in found[0].state


def test_another_seed_is_another_initialisation():
    module = network()
    first, second = (anchor_of(module, "initialisation", seed) for seed in (0, 1))
    assert first.digest != second.digest


def test_one_bit_outside_the_exposed_parameters_is_noticed():
    module = network()
    anchor = anchor_of(module, "zeros", 0)
    everything = list(module.parameters())
    check_unexposed(module, everything, anchor.state)
    module[1].running_mean[1] = 1e-30
    with pytest.raises(MisconfigurationException, match=r"1\.running_mean is neither"):
        check_unexposed(module, everything, anchor.state)
    module[1].reset_running_stats()
    with pytest.raises(MisconfigurationException, match=r"0\.weight is neither"):
        check_unexposed(module, everything[1:], anchor.state)


def test_patterns_choose_what_is_exposed_and_have_to_fit_something():
    assert list(exposed_parameters(network(), ["2.*"])) == ["2.weight", "2.bias"]
    with pytest.raises(MisconfigurationException, match="fit no parameter"):
        exposed_parameters(network(), ["head.*"])
    with pytest.raises(MisconfigurationException, match="nothing to unlearn"):
        exposed_parameters(network().requires_grad_(False), None)


def test_a_shared_parameter_goes_by_any_of_its_names():
    module = network()
    module.append(nn.Linear(2, 2))
    module[3].weight = module[2].weight
    assert list(exposed_parameters(module, ["3.weight"])) == ["2.weight"]
    assert list(exposed_parameters(module, ["2.weight", "3.*"])) == ["2.weight", "3.bias"]


def test_complex_parameters_are_refused_for_what_they_are():
    module = network()
    module.register_parameter("phase", nn.Parameter(torch.zeros(3, dtype=torch.complex64)))
    with pytest.raises(MisconfigurationException, match=r"phase is complex.*view_as_real"):
        exposed_parameters(module, None)


class Own(nn.Linear):
    """Draws from a generator that is not torch's."""

    def reset_parameters(self):
        with torch.no_grad():
            self.weight.copy_(torch.from_numpy(numpy.random.randn(*self.weight.shape)))  # noqa: NPY002
            self.bias.zero_()


def test_an_initialisation_that_no_seed_repeats_is_refused_at_once():
    module = nn.Sequential(Own(3, 2), nn.Linear(2, 2))
    before = weights_digest(module)
    with pytest.raises(MisconfigurationException, match=r"another generator than torch's own.*anchor='zeros'"):
        anchor_of(module, "initialisation", 0)
    assert weights_digest(module) == before
    assert anchor_of(module, "zeros", 0).state["0.weight"].sum() == 0


class Expanded(nn.Linear):
    """Positions of which all rows are one."""

    def __init__(self, persistent):
        super().__init__(3, 2)
        self.register_buffer("positions", torch.arange(5).expand(3, -1), persistent=persistent)


@pytest.mark.parametrize("anchor", ["initialisation", "zeros"])
def test_an_expanded_buffer_is_left_as_it_was(anchor):
    module = Expanded(persistent=False)
    before = weights_digest(module)
    anchor_of(module, anchor, 0)
    assert weights_digest(module) == before
    assert torch.equal(module.positions, torch.arange(5).expand(3, -1))


def test_an_expanded_buffer_that_is_saved_is_refused_in_words(tmp_path):
    module = Expanded(persistent=True)
    file = save_weights(module, tmp_path / "weights.safetensors")
    with pytest.raises(MisconfigurationException, match="cannot re-initialise positions"):
        anchor_of(module, "initialisation", 0)
    with pytest.raises(MisconfigurationException, match=r"positions was expanded.*clone\(\)"):
        anchor_of(module, file, 0)


def test_a_frozen_base_is_told_which_anchor_it_needs():
    module = network()
    module[0].requires_grad_(False)
    with pytest.raises(MisconfigurationException, match=r"such as the base of LoRA, that is a file .* pretrained"):
        check_unexposed(module, list(exposed_parameters(module, None).values()), anchor_of(module, "zeros", 0).state)


def test_two_parameters_in_one_place_are_refused():
    """One of two noises could be lost, or both count."""
    module = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    module[1].weight.data = module[0].weight.data
    with pytest.raises(MisconfigurationException, match=r"0\.weight and 1\.weight are two parameters in the same"):
        exposed_parameters(module, None)
    module[1].weight = module[0].weight  # the parameter itself
    assert list(exposed_parameters(module, None)) == ["0.weight", "0.bias", "1.bias"]
    lstm = nn.LSTM(2, 3)
    assert len(exposed_parameters(lstm, None)) == 4
