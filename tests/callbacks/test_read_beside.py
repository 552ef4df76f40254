"""What reaches weights beside the batches is counted, or refused, as if a batch had held it."""

import json

import lightning.pytorch as pl
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from linear_classifier import Items, classifier
from torch import nn
from torch.utils.data import DataLoader, Subset, SubsetRandomSampler

from erode.callbacks import (
    BackgroundNormalisation,
    ExposureLedger,
    FineTune,
    NoisyLearning,
    ResidualCertificate,
    Retrain,
    Rewind,
)
from erode.certificates import verify
from erode.datamodules import SyntheticDermoscopy
from erode.lightning_modules import ImageClassifier, PixelHead
from erode.objectives import GroupDRO, JustTrainTwice
from erode.requests import ForgetRequest, Level, read_ledger, restore_to
from erode.weights import save_weights

torch.set_num_threads(1)
RIDGE = 0.01


def data(view="coarse"):
    made = SyntheticDermoscopy(
        size=32, train_images=8, val_images=2, test_images=2, view=view, batch_size=4, flips=False, position_prior=False
    )
    made.prepare_data()
    made.setup("fit")
    return made


def head(folder, **options):
    torch.manual_seed(0)
    encoder = nn.Conv2d(3, 4, 3, padding=1)
    file = save_weights(encoder, folder / "encoder.safetensors")
    return PixelHead(encoder, 4, num_classes=3, ridge=RIDGE, encoder_weights=str(file), **options)


def fit(module, source, folder, *callbacks, **options):
    trainer = pl.Trainer(
        accelerator="cpu", devices=1, callbacks=list(callbacks), default_root_dir=folder, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
        **{"max_steps": 3, **options},
    )  # fmt: skip
    given = {"datamodule": source} if isinstance(source, pl.LightningDataModule) else {"train_dataloaders": source}
    trainer.fit(module, **given)
    return trainer


# The ledger --------------------------------------------------------------------------------------------------------


def beside(folder):
    """Callbacks and options of the fits that take no batch."""
    noisy = NoisyLearning(epochs=2, batch_size=4, folder=folder)
    return {"own fit": ([], {}), "noisy learning": ([noisy], {"tolerance": None})}


@pytest.mark.parametrize("name", ["own fit", "noisy learning"])
def test_a_head_that_was_fitted_without_a_batch_saw_the_whole_set(name, tmp_path):
    callbacks, options = beside(tmp_path)[name]
    module, source = head(tmp_path, **options), data()
    before = module.head.detach().clone()
    trainer = fit(module, source, tmp_path, ExposureLedger("initialisation"), *callbacks)
    assert trainer.global_step == 0
    assert not torch.equal(before, module.head)
    path = save_weights(module, tmp_path / "weights.safetensors")
    ledger, request = read_ledger(path), ForgetRequest.of(source.split)
    assert {ledger.exposure.levels[name] for name in source.split.coarse} == {Level.FORGET}
    assert ledger.exposed_tensors(request.limits) == ["network.head"]  # not the frozen encoder
    held, whole = ledger.last_run
    assert whole
    assert held.why_exposed(request.limits) is not None
    with pytest.raises(ValueError, match=r"no checkpoint .* is unexposed .* network\.head: it saw FORGET"):
        restore_to(tmp_path, request, tmp_path / "answer")


def test_on_retained_data_it_is_unexposed(tmp_path):
    source = data("retain")
    fit(head(tmp_path), source, tmp_path, ExposureLedger("initialisation"))
    ledger = read_ledger(tmp_path / "ledger.json")
    assert len(ledger.images) == 8
    assert ledger.why_exposed(ForgetRequest.of(source.split).limits) is None


class Meddle(pl.Callback):
    """Writes a parameter that learns, as a fit of one's own does, and ends the run without a batch."""

    def on_train_start(self, trainer, module):
        module.head.data.add_(1.0)
        trainer.should_stop = True


@pytest.mark.filterwarnings("ignore:the history of these weights is unknown")
def test_what_changed_without_a_batch_or_a_word_is_unknown(tmp_path):
    fit(head(tmp_path, tolerance=None), data(), tmp_path, ExposureLedger("initialisation"), Meddle())
    ledger = read_ledger(tmp_path / "ledger.json")
    assert ledger.exposed_tensors({"never seen": Level.FORGET}) == ["network.head"]
    assert ledger.last_run[0].unknown


OBJECTIVES = {
    "erm": (lambda: None, False),
    "group_dro": (lambda: GroupDRO(step_size=0.5, adjustment=5.0), True),
    "jtt": (lambda: JustTrainTwice(first_steps=1, upweight=20.0), True),
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_an_objective_that_counts_groups_exposes_to_images_that_no_batch_held(name, tmp_path):
    """The witness: weights that depend on the label of an image are exposed to it."""
    make, exposed = OBJECTIVES[name]
    weights = []
    for turned in ((), (15,)):
        module, folder = classifier(make()), tmp_path / str(len(turned))
        torch.manual_seed(1)
        fit(module, DataLoader(Items(turned=turned), 4), folder, ExposureLedger("initialisation"))  # 12 of 16 images
        weights.append(module.network[1].weight.detach().clone())
        ledger = read_ledger(folder / "ledger.json")
        assert (ledger.why_exposed(ForgetRequest.of(["s15"], "outside").limits) is not None) == exposed
    assert torch.equal(*weights) != exposed


@pytest.mark.parametrize("training", [True, False])
def test_a_mean_background_that_trains_was_taken_of_every_image(training, tmp_path):
    """It is taken in on_fit_start, before the account begins."""
    normalise = BackgroundNormalisation(mask_key="mask", training=training)
    module = ImageClassifier(nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 3)), num_classes=3)
    fit(module, data("retain"), tmp_path, normalise, ExposureLedger("initialisation"), max_steps=1)
    assert (len(read_ledger(tmp_path / "ledger.json").images & set(data().split.coarse)) == 7) == training


# Operators ---------------------------------------------------------------------------------------------------------


def start(folder):
    """A folder with weights that saw coarse images as the retain view serves them."""
    module, source = head(folder, tolerance=None), data("retain")
    seen = Subset(
        source.dataset("train"), [i for i, c in enumerate(source.part("train")) if c.id in source.split.coarse]
    )
    fit(module, DataLoader(seen, 4), folder, ExposureLedger("initialisation"), max_steps=1)
    save_weights(module, folder / "weights.safetensors")
    return folder


def released(folder):
    return (folder / "unlearned" / "weights.safetensors").exists()


@pytest.mark.parametrize("view", ["coarse", "fine"])
@pytest.mark.parametrize("operator", ["rewind", "retrain", "fine-tune"])
def test_a_head_that_reads_forget_atoms_itself_is_refused(operator, view, tmp_path):
    source = data(view)
    make = {
        "rewind": lambda: Rewind(start(tmp_path / "0"), request=source.split),
        "retrain": Retrain,
        "fine-tune": FineTune,
    }[operator]
    with pytest.raises(MisconfigurationException, match="still serves forget atoms"):
        fit(head(tmp_path), source.train_dataloader(), tmp_path / "1", make())
    assert not released(tmp_path / "1")


def test_a_head_that_reads_an_image_of_the_request_is_refused(tmp_path):
    """Nothing marks it: a request for images takes back what the retain view serves of them, too."""
    source = data("retain")
    rewind = Rewind(start(tmp_path / "0"), request=list(source.split.fine), atoms="foreground", unrecorded="all")
    with pytest.raises(MisconfigurationException, match=r"serves what has to be forgotten \(it saw FOREGROUND of"):
        fit(head(tmp_path), source.train_dataloader(), tmp_path / "1", rewind)
    assert not released(tmp_path / "1")


@pytest.mark.parametrize("operator", ["rewind", "retrain"])
def test_what_a_hook_wrote_where_there_was_no_batch_is_not_released(operator, tmp_path):
    make = {"rewind": lambda: Rewind(start(tmp_path / "0")), "retrain": Retrain}[operator]
    with pytest.raises(MisconfigurationException, match="something wrote the weights"):
        fit(head(tmp_path, tolerance=None), data("retain"), tmp_path / "1", make(), Meddle())
    assert not released(tmp_path / "1")


def test_a_certified_head_reads_no_image_that_the_sampler_leaves_out(tmp_path):
    whole = data("retain").dataset("train")
    kept = [i for i in range(8) if i != 5]
    out = tmp_path / "unlearned"
    with pytest.raises(
        MisconfigurationException, match=r"SubsetRandomSampler may leave out .* torch.utils.data.Subset"
    ):
        fit(head(tmp_path), DataLoader(whole, 4, sampler=SubsetRandomSampler(kept)), tmp_path,
            ResidualCertificate(ridge=RIDGE))  # fmt: skip
    assert not released(tmp_path)
    out = tmp_path / "again"
    fit(head(tmp_path), DataLoader(Subset(whole, kept), 4, shuffle=True), tmp_path,
        ResidualCertificate(ridge=RIDGE, folder=out))  # fmt: skip
    verify(out / "certificate.json", out / "weights.safetensors")


def test_an_exact_classifier_counts_no_image_that_the_sampler_leaves_out(tmp_path):
    objective, _ = OBJECTIVES["group_dro"]
    loader = DataLoader(Items(), 4, sampler=SubsetRandomSampler(range(15)))
    with pytest.raises(MisconfigurationException, match=r"counts the classes .* SubsetRandomSampler may leave out"):
        fit(classifier(objective()), loader, tmp_path, Retrain())
    assert not released(tmp_path)
    fit(classifier(objective()), DataLoader(Subset(Items(), range(15)), 4, shuffle=True), tmp_path, Retrain(
        folder=tmp_path / "again"))  # fmt: skip
    assert json.loads((tmp_path / "again" / "unlearning.json").read_text())["guarantee"] == "exact"
