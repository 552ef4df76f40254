"""Counts of predictions by slice, against a table made by hand and one counted pixel by pixel."""

import pytest
import torch

from erode.batch import UNKNOWN_ARTEFACT
from erode.metrics import SliceCounts


def test_a_table_by_hand():
    """Two images of 2 x 3 pixels, three classes; one pixel and one image are not annotated."""
    counts = SliceCounts(3)
    pred = torch.tensor([[[0, 1, 1], [2, 2, 0]], [[1, 1, 1], [1, 1, 1]]])
    mask = torch.tensor([[[0, 0, 1], [2, 1, 1]], [[1, 1, 1], [1, 1, 1]]])
    artefact = torch.tensor([[[0, 1, 0], [2, 0, 0]], [[0, 0, 0], [0, 0, 0]]], dtype=torch.uint8)
    artefact[0, 1, 2], artefact[1] = UNKNOWN_ARTEFACT, UNKNOWN_ARTEFACT
    counts.update(pred, mask, artefact)
    found = counts.compute()
    # [S][Y][Z]. Clean: background as background, class 1 as class 1 and as class 2.
    clean = [[1, 0, 0], [0, 1, 1], [0, 0, 0]]
    # Artefacts of both types: background as class 1, class 2 as class 2.
    shown = [[0, 1, 0], [0, 0, 0], [0, 0, 1]]
    assert found["counts"].tolist() == [clean, shown]
    assert found["images"] == 1


def test_batches_add_up_and_padding_is_left_out():
    generator = torch.Generator().manual_seed(0)
    pred, mask, artefact = (torch.randint(2, (5, 4, 3, 2), generator=generator) for _ in range(3))
    counts = SliceCounts(2)
    for part in (slice(0, 2), slice(2, 5)):
        counts.update(pred[part], mask[part], artefact[part].bool(), counted=torch.arange(5)[part] != 4)
    expected = torch.zeros(2, 2, 2, dtype=torch.int64)
    for z, y, s in zip(*(values[:4].flatten().tolist() for values in (pred, mask, artefact)), strict=True):
        expected[s, y, z] += 1
    assert torch.equal(counts.compute()["counts"], expected)
    assert counts.compute()["images"] == 4
    counts.reset()
    assert not counts.compute()["counts"].any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pred": torch.zeros(1, 2, 3, dtype=torch.long)}, "one shape"),
        ({"mask": torch.full((1, 2, 2), 2)}, "mask holds classes"),
        ({"pred": torch.zeros(1, 2, 2)}, "pred must hold integer classes"),
    ],
)
def test_what_does_not_fit_is_refused(change, message):
    fits = {name: torch.zeros(1, 2, 2, dtype=torch.long) for name in ("pred", "mask", "artefact")}
    with pytest.raises(ValueError, match=message):
        SliceCounts(2).update(**{**fits, **change})
