import math

import numpy as np
from sklearn.metrics import matthews_corrcoef

from erode.datamodules import Case, artefact_correlations
from erode.datamodules.parts.correlations import phi


def test_phi_is_matthews_coefficient():
    rng = np.random.default_rng(0)
    for _ in range(20):
        first, second = rng.random((2, 40)) < rng.random((2, 1)) * 0.8 + 0.1
        assert math.isclose(phi(first, second), matthews_corrcoef(first, second), abs_tol=1e-12)
    assert math.isnan(phi(np.ones(3, bool), np.array([True, False, True])))


def test_parts_are_counted_apart_and_unknowns_left_out():
    cases = [
        Case("a", 1, "train", {"ink": 1}),
        Case("b", 0, "train", {"ink": 0, "hair": 1}),
        Case("c", 1, "train"),
        Case("d", 2, "train", {"ink": 1}),
        Case("e", 1, "test", {"ink": 0}),
    ]
    rows = artefact_correlations(cases, lambda case: None if case.label == 2 else case.label == 1)
    assert [(row.part, row.artefact, row.images, row.positive) for row in rows] == [
        ("train", "ink", 2, 1),
        ("train", "hair", 1, 0),
        ("test", "ink", 1, 1),
        ("test", "hair", 0, 0),
    ]
    ink = rows[0]
    assert (ink.artefacts_positive, ink.artefacts_negative, ink.phi) == (1.0, 0.0, 1.0)
    assert math.isnan(rows[2].artefacts_negative)
