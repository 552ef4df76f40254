"""Initial weights count among the settings, and looking at them changes nothing."""

import functools
import random

import numpy as np
import pytest
import torch
from torch import nn

from erode.lightning_modules import SegmentationModule
from erode.lightning_modules.fresh import describe_fresh


def of(network):
    return SegmentationModule(network=network)


def pretrained():
    network = nn.Conv2d(3, 2, 1)
    nn.init.zeros_(network.weight)
    return of(network)


def fresh():
    return of(nn.Conv2d(3, 2, 1))


def test_other_initial_weights_are_told_apart():
    records = []
    for make in (fresh, pretrained, fresh):
        torch.rand(7)  # where the random state stands has no part in it
        records.append(describe_fresh(make))
    assert records[0] == records[2] != records[1]
    assert {**records[0], "initial weights": ""} == {**records[1], "initial weights": ""}


def test_random_states_stay_as_they_are():
    def draws():
        return torch.rand(3).tolist(), np.random.rand(3).tolist(), random.random()  # noqa: NPY002

    def seed():
        torch.manual_seed(5)
        np.random.seed(5)  # noqa: NPY002
        random.seed(5)

    seed()
    expected = draws()
    seed()
    describe_fresh(fresh)
    assert draws() == expected


def test_a_factory_whose_modules_share_a_network_is_refused():
    shared = functools.partial(SegmentationModule, network=nn.Conv2d(3, 2, 1))
    with pytest.raises(ValueError, match=r"share network\.weight, so each row would start from what the one before"):
        describe_fresh(shared)
