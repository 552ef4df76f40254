"""The metrics of a run: what counts, what each name holds, and values of a table worked by hand."""

import math

import pytest
import torch

from erode.batch import UNKNOWN_ARTEFACT, UNKNOWN_FLAG
from erode.lightning_modules.evaluation import Evaluation

NAMES = ["background", "benign", "malignant"]


def logits_of(prediction, sure=8.0):
    return sure * torch.nn.functional.one_hot(prediction, 3).movedim(-1, 1).float()


def make_batch(mask, artefact=None, flag=None, counted=None):
    size = len(mask)
    return {
        "mask": mask,
        "artefact": torch.zeros_like(mask, dtype=torch.uint8) if artefact is None else artefact,
        "label": mask.flatten(1).amax(1),
        "flag": torch.zeros(size, dtype=torch.long) if flag is None else flag,
        "counted": torch.ones(size, dtype=torch.bool) if counted is None else counted,
    }


def four_images():
    """4 x 4: a benign and a malignant square of four pixels, each without and with an artefact of two pixels."""
    mask = torch.zeros(4, 4, 4, dtype=torch.long)
    mask[:2, :2, :2] = 1
    mask[2:, :2, :2] = 2
    artefact = torch.zeros(4, 4, 4, dtype=torch.uint8)
    artefact[1::2, 3, :2] = 1
    return make_batch(mask, artefact, flag=torch.tensor([0, 1, 0, 1]))


def test_a_perfect_model():
    batch = four_images()
    evaluation = Evaluation(NAMES, positive_class=2)
    evaluation.update(logits_of(batch["mask"]), batch)
    values = {name: value.item() for name, value in evaluation.compute().items()}
    for name in ("dice_lesion", "dice_class", "dice_benign", "dice_malignant", "foreground_correct", "auroc"):
        assert values[name] == 1, name
    assert values["auroc_robust"] == values["auroc_worst"] == 1
    for name in ("foreground_flip", "foreground_miss", "leakage", "leakage_gap", "s_global"):
        assert values[name] == 0, name


def test_a_model_that_takes_the_artefact_for_the_lesion():
    """It adds both artefact pixels, calls what shows them malignant, and the rest benign."""
    batch = four_images()
    shown = batch["flag"].view(-1, 1, 1)
    prediction = torch.where((batch["mask"] > 0) | (batch["artefact"] > 0), 1 + shown, 0)
    evaluation = Evaluation(NAMES, positive_class=2)
    evaluation.update(logits_of(prediction), batch)
    values = {name: value.item() for name, value in evaluation.compute().items()}
    # 4, 6, 4, 6 pixels predicted where 4 are lesion: Dice 1, .8, 1, .8, and the mean over images
    assert values["dice_lesion"] == pytest.approx(0.9)
    assert (values["dice_benign"], values["dice_malignant"]) == pytest.approx((0.5, 0.4))
    assert (values["foreground_correct"], values["foreground_flip"], values["foreground_miss"]) == (0.5, 0.5, 0)
    assert values["leakage"] == values["leakage_gap"] == 1  # all artefact pixels, and no other background
    assert values["auroc"] == 0.5
    assert values["auroc_robust"] == 0  # shown and benign ranks above not shown and malignant
    assert values["s_global"] > 0


def test_one_score_grows_with_the_lesion_and_the_other_does_not():
    """A large benign lesion gathers more of the malignant class over the image than a small malignant one."""
    mask = torch.zeros(2, 4, 4, dtype=torch.long)
    mask[0] = 1
    mask[1, 0, 0] = 2
    logits = logits_of(mask, sure=1.0)
    logits[:, 0] = torch.where(mask > 0, -20.0, 20.0)  # no class beside the lesion
    evaluation = Evaluation(NAMES, positive_class=2)
    evaluation.update(logits, make_batch(mask, flag=torch.tensor([1, 0])))
    values = {name: value.item() for name, value in evaluation.compute().items()}
    assert values["auroc"] == values["auroc_robust"] == 0
    assert values["auroc_foreground"] == values["auroc_foreground_robust"] == 1


def test_padding_copies_do_not_count():
    batch = four_images()
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 3, 4, 4, generator=generator)
    padded = {key: torch.cat([value, value[:3]]) for key, value in batch.items()}
    padded["counted"][4:] = False
    results = []
    for inputs in ((logits, batch), (torch.cat([logits, torch.randn(3, 3, 4, 4)]), padded)):
        evaluation = Evaluation(NAMES, positive_class=2, bootstrap=20)
        evaluation.update(*inputs)
        results.append({name: value.item() for name, value in evaluation.compute().items()})
    assert results[0] == results[1]
    assert {"s_global_low", "s_global_high"} <= results[0].keys()


def test_what_is_unknown_is_not_a_number_and_reset_forgets():
    batch = four_images()
    batch["artefact"].fill_(UNKNOWN_ARTEFACT)
    batch["flag"].fill_(UNKNOWN_FLAG)
    evaluation = Evaluation(NAMES, positive_class=2)
    for _ in range(2):
        evaluation.update(logits_of(batch["mask"]), batch)
        values = evaluation.compute()
        assert values["dice_lesion"] == 1
        assert all(math.isnan(values[name]) for name in ("auroc_robust", "leakage", "leakage_gap", "s_global"))
        evaluation.reset()
