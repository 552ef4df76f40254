import torch
from torch import nn

from erode.callbacks.running_statistics import RunningStatistics


def test_statistics_start_anew_and_forget_the_past():
    torch.manual_seed(0)
    layer = nn.BatchNorm2d(2, momentum=0.1)
    layer(100 * torch.randn(4, 2, 8, 8))
    statistics = RunningStatistics(layer)
    assert statistics.reset() == [""]
    batches = [torch.randn(4, 2, 8, 8) + 3 for _ in range(5)]
    for batch in batches:
        statistics.before_batch()
        layer(batch)
    expected = torch.stack([batch.mean((0, 2, 3)) for batch in batches]).mean(0)
    assert torch.allclose(layer.running_mean, expected, atol=1e-6)
    for _ in range(20):
        statistics.before_batch()
    assert layer.momentum == 0.1  # a plain average until it is as long as the layer's own
    statistics.give_back()
    assert layer.momentum == 0.1


def test_layers_without_statistics_are_left_alone():
    network = nn.Sequential(nn.InstanceNorm2d(2), nn.GroupNorm(1, 2), nn.BatchNorm2d(2, track_running_stats=False))
    assert RunningStatistics(network).reset() == []
