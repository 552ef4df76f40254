import pytest

from erode.protocols.classification.training import Run


@pytest.mark.parametrize(("steps", "validations", "message"), [(0, 5, "at least one step"), (5, 0, "1 or more, got 0")])
def test_a_run_that_chooses_nothing_is_refused(steps, validations, message):
    with pytest.raises(ValueError, match=message):
        Run(steps, validations, "cpu")
