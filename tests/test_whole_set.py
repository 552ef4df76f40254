"""Who reads the data set itself reads no image that the loader never serves: held against what loaders draw."""

import lightning.pytorch as pl
import pytest
import torch
from lightning.fabric.utilities.distributed import DistributedSamplerWrapper
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    RandomSampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from erode.datamodules.dataset import EvaluationSampler
from erode.whole_set import why_partial

SIZE, EPOCHS = 10, 40
DATA = torch.arange(SIZE)


def drawn(loaders):
    """Every image that the processes draw in many epochs; the number of images divides, so no share is padded."""
    seen = set()
    for epoch in range(EPOCHS):
        for loader in loaders:
            if hasattr(loader.sampler, "set_epoch"):
                loader.sampler.set_epoch(epoch)
            seen |= {int(i) for batch in loader for i in torch.atleast_1d(batch)}
    return seen


def shared(sampler):
    return [sampler(rank) for rank in range(2)]


def of_two(kind, **options):
    return shared(lambda rank: kind(DATA, num_replicas=2, rank=rank, **options))


WHOLE = {
    "in order": [DataLoader(DATA, 4)],
    "shuffled": [DataLoader(DATA, 4, shuffle=True, drop_last=True)],
    "one by one": [DataLoader(DATA, batch_size=None, shuffle=True)],
    "in batches": [DataLoader(DATA, batch_sampler=BatchSampler(RandomSampler(DATA), 4, drop_last=True))],
    "by class": [DataLoader(DATA, 4, sampler=WeightedRandomSampler([0.5] * 5 + [1.0] * 5, SIZE))],
    "dropped nothing": [DataLoader(DATA, 5, drop_last=True)],
    "shared": [DataLoader(DATA, 4, sampler=s) for s in of_two(DistributedSampler, shuffle=False)],
    "shared and shuffled": [DataLoader(DATA, 4, sampler=s, drop_last=True) for s in of_two(DistributedSampler)],
    "ours": [DataLoader(DATA, 4, sampler=s) for s in of_two(EvaluationSampler)],
    "shared by Lightning": [
        DataLoader(DATA, 4, sampler=DistributedSamplerWrapper(
            WeightedRandomSampler([1.0] * SIZE, SIZE), num_replicas=2, rank=rank)) for rank in range(2)
    ],
}  # fmt: skip


class First(SequentialSampler):
    """A class of its own."""

    def __iter__(self):
        return iter(range(SIZE - 1))


PARTIAL = {
    "subset": DataLoader(DATA, 4, sampler=SubsetRandomSampler(range(SIZE - 1))),
    "list": DataLoader(DATA, 4, sampler=list(range(SIZE - 1))),
    "shorter": DataLoader(DATA, 4, sampler=RandomSampler(range(SIZE - 1))),
    "shorter, in order": DataLoader(DATA, 4, sampler=SequentialSampler(range(SIZE - 1))),
    "own class": DataLoader(DATA, 4, sampler=First(DATA)),
    "weight 0": DataLoader(DATA, 4, sampler=WeightedRandomSampler([1.0] * (SIZE - 1) + [0.0], SIZE)),
    "in batches": DataLoader(DATA, batch_sampler=BatchSampler(SubsetRandomSampler(range(SIZE - 1)), 4, False)),
    "batches of one's own": DataLoader(DATA, batch_sampler=[[0, 1], [2, 3]]),
    "end dropped": DataLoader(DATA, 3, drop_last=True),
    "less than a batch": DataLoader(DATA, SIZE + 1, drop_last=True, shuffle=True),
    "end of a share dropped": DataLoader(
        DATA, 3, drop_last=True, sampler=DistributedSampler(DATA, num_replicas=2, rank=0, shuffle=False)),
    "share of a subset": DataLoader(
        DATA, 4, sampler=DistributedSampler(DATA[: SIZE - 1], num_replicas=1, rank=0)),
    "shared by Lightning": DataLoader(DATA, 4, sampler=DistributedSamplerWrapper(
        SubsetRandomSampler(range(SIZE - 1)), num_replicas=1, rank=0)),
}  # fmt: skip


def run(processes=1, **options):
    """A Trainer; none of them fits."""
    strategy = "auto" if processes == 1 else "ddp_fork"
    return pl.Trainer(
        accelerator="cpu", devices=processes, strategy=strategy, logger=False, enable_checkpointing=False, **options
    )


@pytest.mark.parametrize("name", WHOLE)
def test_what_passes_draws_every_image_in_the_long_run(name):
    torch.manual_seed(0)
    loaders = WHOLE[name]
    assert [why_partial(loader, run(len(loaders))) for loader in loaders] == [None] * len(loaders)
    assert drawn(loaders) == set(range(SIZE))


@pytest.mark.parametrize("name", PARTIAL)
def test_what_leaves_an_image_out_for_good_does_not_pass(name):
    loader = PARTIAL[name]
    processes = getattr(loader.sampler, "num_replicas", 1)
    assert drawn([loader]) < set(range(SIZE))
    assert "torch.utils.data.Subset" in why_partial(loader, run(processes))


def test_shares_that_no_process_takes_are_left_out():
    loader = DataLoader(DATA, 4, sampler=DistributedSampler(DATA, num_replicas=4, rank=0, shuffle=False))
    assert drawn([loader]) < set(range(SIZE))
    assert why_partial(loader, run()).startswith("DistributedSampler")


@pytest.mark.parametrize("limit", [{"limit_train_batches": 2}, {"limit_train_batches": 0.5}, {"overfit_batches": 1}])
def test_what_lies_beyond_a_limit_is_left_out_where_the_order_is_fixed(limit):
    assert "limit_train_batches" in why_partial(DataLoader(DATA, 4), run(**limit))
    assert why_partial(DataLoader(DATA, 4, shuffle=True), run(**limit)) is None


@pytest.mark.parametrize("harmless", [{"limit_train_batches": 3}, {"fast_dev_run": True}])
def test_limits_that_leave_nothing_out_or_release_nothing_pass(harmless):
    assert why_partial(DataLoader(DATA, 4), run(**harmless)) is None


def test_random_draws_leave_nothing_out_for_good():
    for options in ({"replacement": True}, {"num_samples": 2}):
        assert why_partial(DataLoader(DATA, 4, sampler=RandomSampler(DATA, **options)), run()) is None


def test_a_data_set_without_a_length_is_named():
    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            return iter(range(3))

    assert why_partial(DataLoader(Stream()), run()).startswith("Stream has no length")
