"""Exposure: what is exposed, what the anchor is, and that anything else must be shown to be clean."""

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


def test_patterns():
    assert list(exposed_parameters(network(), ["2.*"])) == ["2.weight", "2.bias"]
    with pytest.raises(MisconfigurationException, match="fit no parameter"):
        exposed_parameters(network(), ["head.*"])
    with pytest.raises(MisconfigurationException, match="nothing to unlearn"):
        exposed_parameters(network().requires_grad_(False), None)
