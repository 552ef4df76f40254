import torch
from torch import nn
from torch.utils.data import DataLoader
from two_loaders import TheirModule, copy_of, squares, trainer_for

from erode.callbacks import FineTune
from erode.callbacks.bases.running_statistics import RunningStatistics


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


def test_a_run_cut_short_averages_on_over_all_its_batches(tmp_path):
    """Two epochs in one run, and with a resume between: the statistics are those of all batches."""
    torch.manual_seed(0)
    start = TheirModule()
    found = []
    for parts in ([2], [1, 2]):
        module, checkpoint = copy_of(start), None
        for epochs in parts:
            trainer = trainer_for(tmp_path / str(len(parts)) / str(epochs), FineTune(), max_epochs=epochs)
            trainer.fit(module, DataLoader(squares(8, 1), 4), ckpt_path=checkpoint)
            checkpoint = tmp_path / f"{len(parts)}-{epochs}.ckpt"
            trainer.save_checkpoint(checkpoint)
        found.append(module.body[1].running_mean.clone())
    assert torch.equal(*found)
