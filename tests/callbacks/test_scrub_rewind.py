"""SCRUB+R: the choice against a brute-force search, candidate 0 included; resuming; what is refused."""

import json

import lightning.pytorch as pl
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader, IterableDataset, TensorDataset
from two_loaders import BY_EPOCH, KEYS, TheirModule, coarse_trained, copy_of, pair, squares, trainer_for

from erode.callbacks import Scrub, ScrubRewind
from erode.datamodules import SyntheticDermoscopy
from erode.lightning_modules import SegmentationModule
from erode.masks import DiskDilation
from erode.weights import weights_digest

torch.set_num_threads(1)
EPOCHS, MIN_PHASES = 7, (0, 2, 4, 5, 6)
TWICE = {**BY_EPOCH, "msteps": 2}


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("original"))
        return coarse_trained()


class Keep(pl.Callback):
    """The weights after every epoch, by a way of its own."""

    def __init__(self):
        self.states = []

    def on_train_epoch_end(self, trainer, module):
        self.states.append({name: value.clone() for name, value in module.state_dict().items()})


def error(state, data):
    """Share of coarse-foreground pixels that are not predicted as foreground, one image at a time."""
    module = TheirModule()
    module.load_state_dict(state)
    module.eval()
    wrong = total = 0
    for image, _, coarse in data:
        with torch.inference_mode():
            prediction = module(image[None]).argmax(1)[0]
        wrong += int((prediction[coarse > 0] != 1).sum())
        total += int((coarse > 0).sum())
    return wrong / total


def record_of(folder):
    return json.loads((folder / "unlearned" / "unlearning.json").read_text())


def as_predicted_by(state, data):
    """The images, with what a model predicts as their original labels."""
    module = TheirModule()
    module.load_state_dict(state)
    with torch.inference_mode():
        prediction = module.eval()(data.tensors[0]).argmax(1)
    return TensorDataset(data.tensors[0], data.tensors[1], prediction)


@pytest.mark.parametrize("case", ["held-out images", "nothing forgotten is nearest"])
def test_the_choice_is_that_of_a_brute_force_search(original, tmp_path, case):
    """Candidates from a plain SCRUB run that nobody rewound, errors and choice by hand."""
    start = {name: value.clone() for name, value in original.state_dict().items()}
    keep = Keep()
    trainer_for(tmp_path / "plain", Scrub(**TWICE), keep, max_epochs=EPOCHS).fit(copy_of(original), pair())
    candidates = [start, *(keep.states[epoch] for epoch in MIN_PHASES)]
    held_out = squares(10, 9)
    if case == "nothing forgotten is nearest":  # the last weights make no error on these: only the start is so near
        held_out = as_predicted_by(candidates[-1], held_out)
    module = copy_of(original)
    operator = ScrubRewind(**TWICE, held_out=DataLoader(held_out, 3))
    trainer_for(tmp_path / "rewound", operator, max_epochs=EPOCHS).fit(module, pair())

    errors = [error(state, squares(12, 2)) for state in candidates]
    reference = error(candidates[-1], held_out)
    best = min(abs(value - reference) for value in errors)
    chosen = [index for index, value in enumerate(errors) if abs(value - reference) == best][-1]
    said = record_of(tmp_path / "rewound")["rewind"]
    assert said["curve"] == [
        {"candidate": index, "step": 3 * (epoch + 1), "forget_error": errors[index]}
        for index, epoch in enumerate((-1, *MIN_PHASES))
    ]
    assert (said["reference_error"], said["chosen"]) == (reference, chosen)
    assert (chosen == 0) is (case == "nothing forgotten is nearest")
    for name, value in module.state_dict().items():
        assert torch.equal(value, candidates[chosen][name]), name
    assert not (tmp_path / "rewound" / "unlearned" / "candidates").exists()


def test_a_run_cut_short_keeps_its_candidates_and_goes_on(original, tmp_path):
    held_out = DataLoader(squares(10, 9), 3)
    folder = tmp_path / "run"
    whole = copy_of(original, norm=True)
    trainer_for(tmp_path / "whole", ScrubRewind(**TWICE, held_out=held_out), max_epochs=EPOCHS).fit(whole, pair())

    class Break(pl.Callback):
        def on_train_epoch_start(self, trainer, module):
            if trainer.current_epoch == 5:
                raise RuntimeError("power cut")

    keep = ModelCheckpoint(tmp_path / "checkpoints", filename="{epoch}", save_top_k=-1)
    options = {"max_epochs": EPOCHS, "enable_checkpointing": True}
    with pytest.raises(RuntimeError, match="power cut"):
        trainer_for(folder, ScrubRewind(**TWICE, held_out=held_out), Break(), keep, **options).fit(
            copy_of(original), pair()
        )
    assert record_of(folder)["completed"] is False
    resumed = TheirModule(seed=3)
    again = trainer_for(folder, ScrubRewind(**TWICE, held_out=held_out), max_epochs=EPOCHS)
    again.fit(resumed, pair(), ckpt_path=tmp_path / "checkpoints" / "epoch=3.ckpt", weights_only=True)
    first, second = record_of(tmp_path / "whole")["rewind"], record_of(folder)["rewind"]
    assert [entry["step"] for entry in second["curve"]] == [entry["step"] for entry in first["curve"]]
    assert second["curve"][:2] == first["curve"][:2]
    assert not (folder / "unlearned" / "candidates").exists()

    elsewhere = trainer_for(tmp_path / "else", ScrubRewind(**TWICE, held_out=held_out), max_epochs=EPOCHS)
    with pytest.raises(MisconfigurationException, match=r"candidate 0 of the run is not in .*resume with the folder"):
        elsewhere.fit(TheirModule(), pair(), ckpt_path=tmp_path / "checkpoints" / "epoch=3.ckpt", weights_only=True)


def test_our_data_bring_their_own_reference(tmp_path):
    """Forget errors are over coarse foreground of C; the reference is over that of the validation images."""
    data = SyntheticDermoscopy(
        size=32, train_images=20, val_images=6, test_images=4, batch_size=4, fine_fraction=0.4,
        coarsening=DiskDilation(4),
    )  # fmt: skip
    data.setup("fit")
    forget, held_out = data.forget_data()
    assert {case.id for case in forget.cases} == set(data.split.coarse)
    assert {case.id for case in held_out.cases} == {case.id for case in data.part("val")}
    for part in (forget, held_out):
        for item in map(part.__getitem__, range(len(part))):
            assert torch.equal(item["role"] == 1, item["coarse"] > 0)
            assert torch.equal(item["mask"], item["coarse"])
    module = SegmentationModule(num_classes=3)
    trainer_for(tmp_path, ScrubRewind(msteps=1, max_phase=None, min_phase=None), max_epochs=3, limit_val_batches=0).fit(
        module, datamodule=data
    )
    record = record_of(tmp_path)
    assert [entry["candidate"] for entry in record["rewind"]["curve"]] == [0, 1, 2]
    assert 0 <= record["rewind"]["reference_error"] <= 1
    assert weights_digest(module) == record["released_weights"]


class Endless(IterableDataset):
    def __iter__(self):
        return iter([squares(1, 0)[0]] * 8)


@pytest.mark.parametrize(
    ("loaders", "options", "message"),
    [
        (pair(), {}, "rewinds to the forget error of held-out data, and there are none; give held_out"),
        (
            {"retain": DataLoader(squares(8, 0), 4), "forget": DataLoader(Endless(), 4)},
            {"held_out": DataLoader(squares(4, 0), 4)},
            "the forget data come from an IterableDataset.*serve them from a map-style dataset",
        ),
        (
            pair(forget=TensorDataset(*squares(8, 0).tensors[:2], torch.zeros(8, 8, 8, dtype=torch.long))),
            {"held_out": DataLoader(squares(4, 0), 4)},
            "no forget atom in the forget data.*check role_key and coarse_key",
        ),
    ],
    ids=["no held-out data", "no length", "no atoms"],
)
def test_what_cannot_be_rewound_is_refused_before_the_first_step(loaders, options, message, tmp_path):
    module = TheirModule()
    before = weights_digest(module)
    with pytest.raises(MisconfigurationException, match=message):
        trainer_for(tmp_path, ScrubRewind(max_phase=1, min_phase=1, **KEYS, **options), max_steps=9).fit(
            module, loaders
        )
    assert weights_digest(module) == before
