"""Settings of transforms: told apart by every argument, and by nothing that use changes."""

import functools
import json

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
from erode.datamodules.transform_settings import settings_of

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


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
def test_every_argument_counts(pair):
    one, other = pair
    assert settings_of(one()) == settings_of(one())
    assert settings_of(one()) != settings_of(other())
    json.dumps(settings_of(one()), allow_nan=False)


@pytest.mark.parametrize("make", [pair[0] for pair in PAIRS.values()], ids=PAIRS)
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
