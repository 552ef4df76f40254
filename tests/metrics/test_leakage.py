import math

import torch

from erode.batch import UNKNOWN_ARTEFACT
from erode.metrics import SpuriousLeakage


def test_hand_computed_rates():
    """Background: 5 artefact pixels called 1 1 1 2 0, 4 clean ones called 1 0 0 0.

    Leak_1 = 3/5, gap_1 = 3/5 - 1/4 = .35; Leak_2 = 1/5 = gap_2; any: 4/5 and 4/5 - 1/4 = .55.
    """
    pred = torch.tensor([[1, 1, 1, 2, 0, 1, 0, 0, 0, 1, 2]])
    mask = torch.tensor([[0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]])
    artefact = torch.tensor([[1, 3, 1, 1, 2, 0, 0, 0, 0, 1, UNKNOWN_ARTEFACT]])
    metric = SpuriousLeakage(num_classes=3)
    metric.update(pred, mask, artefact)
    expected = {"leak_class_1": 0.6, "leak_class_2": 0.2, "leak_any": 0.8}
    expected |= {"gap_class_1": 0.35, "gap_class_2": 0.2, "gap_any": 0.55}
    computed = metric.compute()
    assert computed.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(computed[name], torch.tensor(value).double(), rtol=0, atol=1e-7)


def test_without_artefacts_there_is_no_rate():
    metric = SpuriousLeakage(num_classes=2)
    metric.update(*torch.zeros(3, 1, 4, dtype=torch.long))
    assert all(math.isnan(value) for value in metric.compute().values())


def test_it_sees_the_model_that_information_misses():
    """A model that fires only on the artefact: S_global 0, gap 1."""
    metric = SpuriousLeakage(num_classes=2)
    artefact = torch.tensor([[1, 1, 0, 0, 0]])
    metric.update(artefact, torch.tensor([[0, 0, 0, 1, 1]]), artefact)
    assert metric.compute()["gap_any"] == 1
