"""What is certified is what was calibrated."""

import pytest
from lightning.fabric.utilities.exceptions import MisconfigurationException
from noisy_runs import Module, fit, network

from erode.callbacks import Blockwise, GradientClipping, ModelClipping, OutputPerturbation
from erode.verify import verify


@pytest.mark.parametrize(
    ("operator_class", "setting", "value"),
    [
        (GradientClipping, "learning_rate", 0.5),
        (ModelClipping, "radius", 1.0),
        (OutputPerturbation, "radius", 1.0),
        (Blockwise, "clip_norm", 9.0),
    ],
)
def test_settings_that_change_after_the_calibration_are_refused(operator_class, setting, value, tmp_path):
    operator = operator_class()
    setattr(operator, setting, value)
    with pytest.raises(MisconfigurationException, match=r"settings of this .* were changed after it was made"):
        fit(Module(network(norm=False)), tmp_path, operator)
    assert not (tmp_path / "unlearned").exists()


def test_a_second_run_with_one_operator_is_certified_too(tmp_path):
    operator = Blockwise(steps=1)
    for name in ("first", "second"):
        operator._folder = tmp_path / name
        fit(Module(network(norm=False)), tmp_path, operator)
        verify(tmp_path / name / "certificate.json")
