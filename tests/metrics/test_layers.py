import math

import pytest
import torch
from torch import nn

from erode.metrics import layer_distances


def network(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Sequential(nn.Linear(4, 2)))


def test_distances_are_norms_of_the_flattened_difference():
    models = [network(seed) for seed in range(3)]
    rows = layer_distances(*(model.state_dict() for model in models))
    assert [row.layer for row in rows] == ["0", "1", "2.0", "all"]
    parts = [nn.utils.parameters_to_vector(model.parameters()).detach().double() for model in models]
    total = rows[-1]
    assert total.parameters == parts[0].numel()
    assert total.moved == pytest.approx(float((parts[0] - parts[1]).norm()))
    assert total.retrained == pytest.approx(float((parts[0] - parts[2]).norm()))
    assert total.remaining == pytest.approx(float((parts[1] - parts[2]).norm()))
    first = [nn.utils.parameters_to_vector(model[0].parameters()).detach().double() for model in models]
    assert rows[0].moved == pytest.approx(float((first[0] - first[1]).norm()))
    assert total.moved**2 == pytest.approx(sum(row.moved**2 for row in rows[:-1]))


def test_running_statistics_are_no_weights():
    before, after = network(0), network(0)
    after[1].running_mean += 5
    assert {row.moved for row in layer_distances(before.state_dict(), after.state_dict())} == {0.0}


def test_ratio_and_absent_reference():
    one, other = {"a.w": torch.zeros(1)}, {"a.w": torch.ones(1)}
    assert layer_distances(one, other, {"a.w": torch.full((1,), 2.0)})[0].ratio == 0.5
    assert layer_distances(one, other, one)[0].ratio == math.inf
    assert math.isnan(layer_distances(one, other)[0].retrained)


def test_other_architectures_are_refused_by_name():
    with pytest.raises(ValueError, match=r"e\.g\. b\.w"):
        layer_distances({"a.w": torch.zeros(1)}, {"a.w": torch.zeros(1), "b.w": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"a\.w is \[1\] in original but \[2\] in retrained"):
        layer_distances({"a.w": torch.zeros(1)}, {"a.w": torch.zeros(1)}, {"a.w": torch.zeros(2)})
