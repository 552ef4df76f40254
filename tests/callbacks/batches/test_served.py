"""FORGET marks are found however a batch is put together."""

from collections import namedtuple
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException

from erode.batch import Role
from erode.callbacks.batches.served import roles_of

FORGET = torch.full((2, 2), int(Role.FORGET))
Tuple = namedtuple("Tuple", ["image", "role"])


@dataclass
class Record:
    image: torch.Tensor
    role: torch.Tensor


@dataclass(slots=True)
class Slots:
    role: torch.Tensor


@pytest.mark.parametrize(
    "batch",
    [
        {"role": FORGET},
        {"role": FORGET.tolist()},
        {"role": np.array([[0], FORGET[0].tolist()], dtype=object)},
        Slots(FORGET),
        {"role": [FORGET[:1], FORGET]},  # images of several sizes
        {"role": FORGET.numpy()},
        {"role": [np.asarray(FORGET)]},
        Tuple(torch.zeros(2), FORGET),
        Record(torch.zeros(2), FORGET),
        [{"left": {"role": FORGET}}, torch.zeros(2)],
        ({"deep": [Record(torch.zeros(2), FORGET)]},),
    ],
    ids=[
        "tensor",
        "numbers",
        "ragged array",
        "slots",
        "list",
        "array",
        "arrays",
        "named tuple",
        "data class",
        "nested",
        "data class, nested",
    ],
)
def test_marks_are_found(batch):
    assert any(bool((role == Role.FORGET).any()) for role in roles_of(batch))


@pytest.mark.parametrize(
    "batch",
    [{"image": FORGET}, (FORGET, FORGET), {"role": "reader"}, {"role": ["a", "b"]}, {"role": np.array(["a"])}, None],
)
def test_what_says_nothing_of_pixels_is_no_mark(batch):
    assert list(roles_of(batch)) == []


def test_what_cannot_be_searched_is_refused():
    with pytest.raises(MisconfigurationException, match="a 'role' of type Record"):
        list(roles_of({"role": Record(FORGET, FORGET)}))
