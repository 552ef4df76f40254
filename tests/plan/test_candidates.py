"""What could answer a request: every operator there is, and what it would wait for."""

from dataclasses import replace

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningDataModule
from torch import nn

from erode import callbacks
from erode.callbacks import CFk, OutputPerturbation, ProjectedNoisySGD, Retrain, UnlearningOperator
from erode.lightning_modules import SegmentationModule
from erode.masks import View
from erode.mechanisms import BallMechanism
from erode.plan.candidates import Setting, candidates


def test_layers_that_cannot_be_drawn_anew_leave_retraining_and_balls_without_an_anchor():
    class Table(nn.Module):
        def __init__(self):
            super().__init__()
            self.values = nn.Parameter(torch.zeros(3))

    module = nn.Sequential(nn.Linear(3, 3), Table())
    found = {one.operator: one.lacks for one in candidates(None, 1e-7, Setting(module=module))}
    assert found["Retrain"] == found["GradientClipping"] == ("anchor",)
    assert found["FineTune"] == ()
    for anchor, exposed, lacks in (("zeros", None, ()), ("gone", None, ("anchor",)), ("zeros", ["0.*"], ("anchor",))):
        operator = OutputPerturbation(anchor=anchor, exposed=exposed)
        assert Setting(module=module).lacks(OutputPerturbation, operator) == lacks


def test_data_of_someone_elses_may_not_serve_what_is_to_be_forgotten():
    setting = Setting.of(SegmentationModule(num_classes=2), LightningDataModule())
    found = {one.operator: one.lacks for one in candidates(None, 1e-7, setting)}
    assert (found["Scrub"], found["NegGradSeg"], found["Retrain"]) == (("forget set",), ("coarse masks",), ())


def test_an_operator_that_is_added_appears_by_itself(monkeypatch):
    class Fresh(UnlearningOperator):
        card = replace(Retrain.card, stores="a checkpoint")
        view = View.RETAIN

    class Demanding(OutputPerturbation):
        card = replace(OutputPerturbation.card, stores="a head")

        def __init__(self, head: str) -> None:
            super().__init__()

    for kind in (Fresh, Demanding):
        monkeypatch.setattr(callbacks, kind.__name__, kind, raising=False)
    monkeypatch.setattr(callbacks, "__all__", [*callbacks.__all__, "Fresh", "Demanding"])
    found = {candidate.operator: candidate for candidate in candidates(None, 1e-7)}
    assert (found["Fresh"].card.guarantee, found["Fresh"].card.stores) == ("exact", "a checkpoint")
    assert "head" in found["Demanding"].why_not


def test_the_projection_of_a_head_is_no_ball_for_others():
    """50 around zero says nothing of a ball around an anchor, and the other way round."""
    head = ProjectedNoisySGD(samples=600, changed=1, radius=40.0)
    usual = {c.operator: c.mechanism for c in candidates(None, 1e-7) if isinstance(c.mechanism, BallMechanism)}
    found = [c for c in candidates(head, 1e-7) if isinstance(c.mechanism, BallMechanism)]
    assert {c.operator: c.mechanism.radius for c in found} == {name: made.radius for name, made in usual.items()}
    balls = [c.mechanism.radius for c in candidates(OutputPerturbation(radius=0.25), 1e-7) if c.operator in usual]
    assert set(balls) == {0.25}


def test_operators_for_the_last_blocks_are_not_ranked_where_their_defaults_leave_none_untouched():
    two = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1))
    found = {one.operator: one.why_never for one in candidates(None, 1e-7, Setting(module=two))}
    for name in ("CFk", "EUk"):
        assert "has 2 blocks, so k = 3 leaves none untouched; lower k" in found[name]
    assert found["FineTune"] is found["Scrub"] is None
    (first, *_) = candidates(CFk(k=1), 1e-7, Setting(module=two))
    assert (first.operator, first.why_never) == ("CFk", None)
    with pytest.raises(MisconfigurationException, match="so k = 2 leaves none"):
        candidates(CFk(k=2), 1e-7, Setting(module=two))
