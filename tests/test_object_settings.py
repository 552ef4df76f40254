"""Settings of objects: told apart by every argument, and by nothing that use changes."""

import functools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.transforms import (
    Compose,
    EnsureTyped,
    Lambdad,
    NormalizeIntensityd,
    OneOf,
    RandAffined,
    RandAxisFlipd,
    RandGaussianNoised,
    RandHistogramShiftd,
    RandRotate90d,
    RandZoomd,
    ScaleIntensityRanged,
)

from erode.datamodules import SyntheticDermoscopy
from erode.object_settings import module_settings, settings_of

KEYS = ["image", "mask"]
PAIRS = {
    "probability": (lambda: RandRotate90d(KEYS, prob=0.5), lambda: RandRotate90d(KEYS, prob=0.6)),
    "keys": (lambda: RandAxisFlipd(KEYS), lambda: RandAxisFlipd(["image"])),
    "range": (
        lambda: RandAffined(KEYS, prob=1.0, rotate_range=[0.1, 0.2]),
        lambda: RandAffined(KEYS, prob=1.0, rotate_range=[0.1, 0.3]),
    ),
    "within a composition": (
        lambda: Compose([EnsureTyped(KEYS), RandGaussianNoised(["image"], prob=1.0, std=0.1)]),
        lambda: Compose([EnsureTyped(KEYS), RandGaussianNoised(["image"], prob=1.0, std=0.2)]),
    ),
    "arrays": (
        lambda: NormalizeIntensityd(["image"], subtrahend=np.full((3, 1, 1), 1.0)),
        lambda: NormalizeIntensityd(["image"], subtrahend=np.full((3, 1, 1), 2.0)),
    ),
    "order": (
        lambda: Compose([RandAxisFlipd(KEYS), RandZoomd(KEYS, prob=1.0)]),
        lambda: Compose([RandZoomd(KEYS, prob=1.0), RandAxisFlipd(KEYS)]),
    ),
    "weights": (
        lambda: OneOf([RandAxisFlipd(KEYS), RandZoomd(KEYS)], weights=[0.5, 0.5]),
        lambda: OneOf([RandAxisFlipd(KEYS), RandZoomd(KEYS)], weights=[0.4, 0.6]),
    ),
    "interpolation": (
        lambda: RandZoomd(KEYS, mode=["bilinear", "nearest"]),
        lambda: RandZoomd(KEYS, mode=["area", "nearest"]),
    ),
    "functions": (lambda: Lambdad(["image"], torch.sqrt), lambda: Lambdad(["image"], torch.square)),
    "arguments of functions": (
        lambda: Lambdad(["image"], functools.partial(torch.clamp, max=1.0)),
        lambda: Lambdad(["image"], functools.partial(torch.clamp, max=2.0)),
    ),
    "bounds": (
        lambda: ScaleIntensityRanged(["image"], 0, 1, 0, 2, clip=True),
        lambda: ScaleIntensityRanged(["image"], 0, 1, 0, 2, clip=False),
    ),
    "control points": (
        lambda: RandHistogramShiftd(["image"], num_control_points=(3, 5)),
        lambda: RandHistogramShiftd(["image"], num_control_points=(3, 6)),
    ),
}

TRANSFORMS = [*PAIRS]


class Private:
    """Keeps what it was told to itself."""

    def __init__(self, told):
        self._told = told


class Slots:
    __slots__ = ("told",)

    def __init__(self, told):
        self.told = told


def enclosing(told):
    return lambda item: item + told


PAIRS |= {
    "private attributes": (lambda: Private(1), lambda: Private(2)),
    "slots": (lambda: Slots(1), lambda: Slots(2)),
    "closures": (lambda: enclosing(1), lambda: enclosing(2)),
    "defaults": (lambda: lambda item, told=1: item, lambda: lambda item, told=2: item),
    "code": (lambda: lambda item: item in {"a", "b"}, lambda: lambda item: item in {"a", "c"}),
    "paths": (lambda: Private(Path("a")), lambda: Private(Path("b"))),
    "numbers of NumPy": (lambda: Private(np.float32(1)), lambda: Private(np.float32(2))),
    "types of numbers": (lambda: Private(torch.float32), lambda: Private(torch.float64)),
    "infinite numbers": (lambda: Private(float("inf")), lambda: Private(float("-inf"))),
    "methods": (lambda: Slots(1).__init__, lambda: Slots(2).__init__),
    "modules": (lambda: Private(torch.nn.Dropout(0.1)), lambda: Private(torch.nn.Dropout(0.2))),
}


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
def test_every_argument_counts(pair):
    one, other = pair
    assert settings_of(one()) == settings_of(one())
    assert settings_of(one()) != settings_of(other())
    json.dumps(settings_of(one()), allow_nan=False)


@pytest.mark.parametrize("make", [PAIRS[name][0] for name in TRANSFORMS], ids=TRANSFORMS)
def test_a_data_module_says_the_same_after_use(make):
    data = SyntheticDermoscopy(train_images=20, val_images=10, test_images=10, size=32, batch_size=4, transform=make())
    before = data.describe()
    data.setup("fit")
    next(iter(data.train_dataloader()))
    assert data.describe() == before


def test_a_data_module_tells_its_transforms_apart():
    one, other = (
        SyntheticDermoscopy(
            train_images=20, val_images=10, test_images=10, size=32, batch_size=4, transform=RandZoomd(KEYS, prob=prob)
        )
        for prob in (0.1, 0.2)
    )
    assert one.describe() != other.describe()


class Part(torch.nn.Module):
    """Knows the whole that it is a part of, as hooks and adapters do."""

    def __init__(self, whole):
        super().__init__()
        self.whole = [whole]


class Whole(torch.nn.Module):
    def __init__(self, parts):
        super().__init__()
        self.parts = torch.nn.ModuleList(Part(self) for _ in range(parts))


def test_parts_that_know_their_whole_are_described_once():
    described = json.dumps(module_settings(Whole(12)))
    assert len(described) < 12_000
    assert described == json.dumps(module_settings(Whole(12)))
    assert described != json.dumps(module_settings(Whole(11)))


def test_what_is_compiled_is_described_by_what_it_compiles():
    first, second, other = (torch.compile(torch.nn.Dropout(p)) for p in (0.5, 0.5, 0.1))
    assert module_settings(first) == module_settings(second)
    assert module_settings(first) != module_settings(other)
