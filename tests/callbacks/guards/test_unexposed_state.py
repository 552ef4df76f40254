"""What gets no noise and changed in the noisy phase is found, whatever it is."""

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import nn

from erode.callbacks.guards.unexposed_state import UnexposedState


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))


def exposed(module):
    return {name: p for name, p in module.named_parameters() if name.startswith("0.")}


def test_exposed_parameters_may_change():
    module = network()
    bystanders = UnexposedState(module, exposed(module))
    module[0].weight.data.add_(1.0)
    bystanders.check(module)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda m: m[1].running_mean.add_(1e-9), "buffer 1.running_mean changed"),
        (lambda m: m[1].num_batches_tracked.add_(1), "buffer 1.num_batches_tracked changed"),
        (lambda m: m.register_buffer("average", torch.zeros(1)), "buffer average changed"),
        (lambda m: m[2].weight.data.add_(1e-6), "a parameter that is not exposed changed"),
        (lambda m: m.register_parameter("teacher", nn.Parameter(torch.zeros(1))), "a parameter that is not exposed"),
    ],
)
def test_anything_else_may_not(change, match):
    module = network()
    bystanders = UnexposedState(module, exposed(module))
    bystanders.check(module)
    change(module)
    with pytest.raises(MisconfigurationException, match=match):
        bystanders.check(module)
