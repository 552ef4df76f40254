import math

import pytest

from erode.metrics import RelearnTime, anamnesis_index, recovery_threshold, relearn_time


def test_first_crossing_counts_in_either_direction():
    steps, loss = [0, 5, 10, 15], [0.9, math.nan, 0.3, 0.4]
    assert relearn_time(steps, loss, 0.35, "min") == RelearnTime(10, True)
    assert relearn_time(steps, loss, 0.9, "min") == RelearnTime(0, True)
    assert relearn_time(steps, [1 - x for x in loss], 0.65, "max") == RelearnTime(10, True)
    assert relearn_time(steps, loss, 0.1, "min") == RelearnTime(15, False)


def test_index_of_a_model_that_kept_everything_is_0_and_of_a_fresh_one_1():
    fresh = RelearnTime(40, True)
    assert anamnesis_index(RelearnTime(0, True), fresh) == 0
    assert anamnesis_index(fresh, fresh) == 1


def test_recovery_is_relative_to_the_original_model():
    assert recovery_threshold(0.9, 0.05, "max") == pytest.approx(0.855)
    assert recovery_threshold(0.2, 0.05, "min") == pytest.approx(0.21)
    with pytest.raises(ValueError, match="positive original value"):
        recovery_threshold(0.0, 0.05, "max")


def test_censored_times_are_refused_with_what_is_known():
    with pytest.raises(ValueError, match=r"index exceeds 2\.5; give it more steps"):
        anamnesis_index(RelearnTime(100, False), RelearnTime(40, True))
    with pytest.raises(ValueError, match="fresh model did not learn"):
        anamnesis_index(RelearnTime(10, True), RelearnTime(100, False))
    with pytest.raises(ValueError, match="stricter threshold"):
        anamnesis_index(RelearnTime(10, True), RelearnTime(0, True))


def test_curves_that_are_none_are_refused():
    for steps, values in (([], []), ([0, 1], [1.0]), ([1, 1], [1.0, 1.0])):
        with pytest.raises(ValueError, match="steps must increase"):
            relearn_time(steps, values, 0.5, "min")
