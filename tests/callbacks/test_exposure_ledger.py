"""The ledger never says less than what reached the weights: checked by changing what it calls unexposed."""

import json

import lightning.pytorch as pl
import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint, ModelPruning, StochasticWeightAveraging
from torch import nn
from torch.utils.data import DataLoader

from erode.batch import FIELDS, NO_PRIOR, Role
from erode.callbacks import ExposureLedger, FineTune, GradientClipping, Retrain
from erode.callbacks.batches.atoms import AtomReader
from erode.datamodules import SyntheticDermoscopy
from erode.masks import View
from erode.requests import ForgetRequest
from erode.requests.ledger import CHECKPOINT_KEY, Ledger, Level, read_ledger
from erode.weights import load_weights, save_weights, weights_digest

FORGET, FOREGROUND, OUTSIDE, IMAGE = Level.FORGET, Level.FOREGROUND, Level.OUTSIDE, Level.IMAGE


class Module(pl.LightningModule):
    """A body with running statistics and a head."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.head = nn.Conv2d(4, 2, 1)

    def training_step(self, batch, index):
        return nn.functional.cross_entropy(self.head(self.body(batch["image"])), batch["mask"].clamp(max=1))

    def validation_step(self, batch, index):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], lr=0.1, weight_decay=0.1)


def item(name, role=Role.RETAIN, seed=0):
    generator = torch.Generator().manual_seed(seed)
    mask = torch.zeros(8, 8, dtype=torch.long)
    mask[2:5, 2:6] = 1 if role != Role.UNLABELLED else 0
    roles = torch.zeros(8, 8, dtype=torch.uint8)
    roles[2:5, 2:6] = role
    prior = torch.full((8, 8), NO_PRIOR)
    return {"image": torch.randn(3, 8, 8, generator=generator), "mask": mask, "role": roles, "prior": prior, "id": name}


def loader(*items, batch_size=1):
    return DataLoader(list(items), batch_size=batch_size)


def fit(module, data, folder, *callbacks, max_steps=-1, **options):
    trainer = pl.Trainer(
        accelerator="cpu", devices=1, max_steps=max_steps, max_epochs=1 if max_steps < 0 else -1,
        callbacks=list(callbacks), default_root_dir=folder, logger=False,
        enable_checkpointing=any(isinstance(c, ModelCheckpoint) for c in callbacks), enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0,
    )  # fmt: skip
    trainer.fit(module, data, **options)
    return trainer


def each_step(folder):
    return ModelCheckpoint(folder, filename="{step}", every_n_train_steps=1, save_top_k=-1)


# What batches hold -----------------------------------------------------------------------------------------------


def test_every_checkpoint_names_what_was_seen_before_it_and_no_more(tmp_path):
    items = [item("a", Role.UNLABELLED), item("b"), item("c", Role.FORGET)]
    fit(Module(), loader(*items), tmp_path, ExposureLedger("initialisation"), each_step(tmp_path / "c"))
    seen = [dict(read_ledger(tmp_path / "c" / f"step={k}.ckpt").exposure.levels) for k in (1, 2, 3)]
    assert seen == [{"a": OUTSIDE}, {"a": OUTSIDE, "b": FOREGROUND}, {"a": OUTSIDE, "b": FOREGROUND, "c": FORGET}]
    assert read_ledger(tmp_path / "ledger.json").exposure.levels == seen[-1]
    for k in (1, 2, 3):
        checkpoint = torch.load(tmp_path / "c" / f"step={k}.ckpt", weights_only=True)
        Ledger.parse(checkpoint[CHECKPOINT_KEY]).check_weights(checkpoint["state_dict"], "here")


def test_what_a_checkpoint_calls_unseen_can_be_anything(tmp_path):
    """The independent witness: other content of the unseen images, the same bits."""
    digests = []
    for seed in (0, 99):
        pl.seed_everything(3, verbose=False)
        folder = tmp_path / str(seed)
        items = [item("a"), item("b", seed=1), item("c", Role.FORGET, seed=seed)]
        fit(Module(), loader(*items), folder, ExposureLedger("initialisation"), each_step(folder / "c"))
        ledgers = [read_ledger(folder / "c" / f"step={k}.ckpt") for k in (1, 2, 3)]
        assert [ledger.why_exposed({"c": IMAGE}) is None for ledger in ledgers] == [True, True, False]
        digests.append([ledger.weights for ledger in ledgers])
    assert digests[0][:2] == digests[1][:2]
    assert digests[0][2] != digests[1][2]


@pytest.mark.parametrize(
    ("view", "coarse", "fine"),
    [(View.COARSE, FORGET, FORGET), (View.RETAIN, OUTSIDE, FOREGROUND), (View.FINE, FORGET, FOREGROUND)],
)
def test_views_of_our_data(tmp_path, view, coarse, fine):
    data = SyntheticDermoscopy(
        size=32, train_images=8, val_images=2, test_images=2, batch_size=4, view=view, fine_fraction=0.25, flips=False,
        position_prior=False,
    )  # fmt: skip
    fit(Module(), None, tmp_path, ExposureLedger("initialisation"), datamodule=data)
    ledger = read_ledger(tmp_path / "ledger.json")
    levels = ledger.exposure.levels
    assert {levels[name] for name in data.split.coarse} == {coarse}
    assert {levels[name] for name in data.split.fine} == {fine}
    assert levels["val-00000"] == FOREGROUND
    assert ledger.episodes[-1]["split"] == data.split.digest
    assert (ledger.why_exposed(ForgetRequest.of(data.split).limits) is None) == (view is View.RETAIN)


def test_a_prior_exposes_to_all_fine_masks_from_the_first_batch_on():
    data = SyntheticDermoscopy(size=32, train_images=8, view=View.RETAIN, fine_fraction=0.25)
    name = data.split.coarse[0]
    batch = {**item(name, Role.UNLABELLED)}
    batch = {k: [v] if k == "id" else v[None] for k, v in batch.items()}
    assert set(AtomReader()(batch, data).levels) == {name}
    batch["prior"] = torch.full((1, 8, 8), 0.5)
    assert set(AtomReader()(batch, data).levels) == {name, *data.split.fine}
    assert AtomReader()(batch).unknown  # and without a split nobody knows whose masks they were


def test_drawing_by_class_exposes_to_every_class():
    data = SyntheticDermoscopy(size=32, train_images=8, class_balance=0.5, view=View.RETAIN)
    batch = {k: [v] if k == "id" else v[None] for k, v in item("train-00000", Role.UNLABELLED).items()}
    assert len(AtomReader()(batch, data).levels) == 8


def test_batches_of_strangers():
    tagged = {"x": 1, "atoms": ["forget:a:1", "image:b"]}
    assert AtomReader()(tagged).levels == {"a:1": FORGET, "b": IMAGE}
    assert AtomReader()({"one": tagged, "two": {"atoms": ["outside:b"]}}).levels == {"a:1": FORGET, "b": OUTSIDE}
    assert AtomReader(lambda batch: {str(batch[0]): "foreground"})((7, None)).levels == {"7": FOREGROUND}
    assert AtomReader({"outside": ["a"]})(None).levels == {"a": OUTSIDE}
    assert AtomReader()({"image": 0, "id": ["a"]}).levels == {"a": IMAGE}
    with pytest.raises(ValueError, match="no level of exposure"):
        AtomReader({"ring": ["a"]})
    for silent in ((1, 2), {"image": 0, "id": ["a"], "box": 1}, {"image": 0}):
        with pytest.raises(MisconfigurationException, match="nothing says which atoms"):
            AtomReader()(silent)


@pytest.mark.parametrize("kind", ["function", "declared", "string", "id", "roles", "no id"])
def test_strangers_ids_are_strings(kind, tmp_path):
    """A request for '0' would find nothing in a ledger that counts 0, and prove what is not so."""
    numbered = {**{k: v[None] for k, v in item("a").items() if k != "id"}, "id": torch.tensor([0])}
    readers = {
        "function": (AtomReader(lambda batch: {0: "forget"}), None, "the function atoms= names an image 0, .* int"),
        "id": (AtomReader(), {"image": 0, "id": torch.tensor([0])}, "'id' of a batch names an image .* Tensor"),
        "roles": (AtomReader(), numbered, "'id' of a batch names an image .* Tensor"),
        "no id": (AtomReader(), {"atoms": ["forget"]}, "'forget', which names no image; each is 'LEVEL:id'"),
    }
    if kind in readers:
        reader, batch, match = readers[kind]
        with pytest.raises(MisconfigurationException, match=match):
            reader(batch)
        return
    names, match = {
        "declared": (range(8), "atoms= names an image 0, .* int; .* give str"),
        "string": ("scan 3", r"atoms= gives the string 'scan 3' where a list .* give \['scan 3'\]"),
    }[kind]
    with pytest.raises(ValueError, match=match):
        ExposureLedger("initialisation", atoms={"foreground": names})


# Which tensors -----------------------------------------------------------------------------------------------------


def test_frozen_groups_stay_unexposed_until_they_learn(tmp_path):
    module = Module()
    module.body.requires_grad_(False).eval()
    module.body.train = lambda mode=True: module.body
    fit(module, loader(item("a", Role.FORGET)), tmp_path, ExposureLedger("unexposed"))
    ledger = read_ledger(tmp_path / "ledger.json")
    assert set(ledger.exposed_tensors({"a": FORGET})) == {"head.weight", "head.bias"}


def test_statistics_learn_in_training_mode_although_nothing_requires_a_gradient(tmp_path):
    module = Module()
    module.body.requires_grad_(False)
    fit(module, loader(item("a", Role.FORGET)), tmp_path, ExposureLedger("unexposed"))
    exposed = set(read_ledger(tmp_path / "ledger.json").exposed_tensors({"a": FORGET}))
    statistics = {"body.1.running_mean", "body.1.running_var", "body.1.num_batches_tracked"}
    assert exposed == {"head.weight", "head.bias"} | statistics


def test_a_frozen_tensor_that_changes_is_exposed(tmp_path):
    class Meddle(pl.Callback):
        def on_train_batch_end(self, trainer, module, *_):
            module.body[0].bias.data.add_(1)

    module = Module()
    module.body.requires_grad_(False)
    fit(module, loader(item("a", Role.FORGET)), tmp_path, Meddle(), ExposureLedger("unexposed"))
    assert "body.0.bias" in read_ledger(tmp_path / "ledger.json").exposed_tensors({"a": FORGET})


def test_a_head_learns_what_its_frozen_body_knows(tmp_path):
    """Its gradients come through features that saw 'a', although 'a' is in no batch of its own run."""
    module = Module()
    module.head.requires_grad_(False)
    fit(module, loader(item("a", Role.FORGET)), tmp_path / "1", ExposureLedger("initialisation"))
    assert "head.weight" not in read_ledger(tmp_path / "1" / "ledger.json").exposed_tensors({"a": IMAGE})
    module.requires_grad_(False)
    module.head.requires_grad_(True)
    fit(module, loader(item("b")), tmp_path / "2", ExposureLedger(tmp_path / "1" / "ledger.json"))
    ledger = read_ledger(tmp_path / "2" / "ledger.json")
    assert "head.weight" in ledger.exposed_tensors({"a": FORGET})
    assert "body.0.weight" not in ledger.exposed_tensors({"b": IMAGE})
    assert (ledger.steps, len(ledger.episodes)) == (2, 3)


# Histories ---------------------------------------------------------------------------------------------------------


def test_initialisation_is_made_not_believed(tmp_path):
    module = Module()
    module.body[0].weight.data.fill_(1000.0)
    fit(module, loader(item("a")), tmp_path, ExposureLedger("initialisation"))
    assert module.body[0].weight.abs().max() < 10


class Keeps(Module):
    """One optimiser for all fits: its moments know what it has seen."""

    def configure_optimizers(self):
        if not hasattr(self, "kept"):
            self.kept = torch.optim.Adam(self.parameters())
        return self.kept


class Teacher(Module):
    def __init__(self):
        super().__init__()
        self.teachers = [nn.Linear(4, 2)]


@pytest.mark.parametrize(
    ("module", "callback", "why"),
    [
        (Module, lambda: StochasticWeightAveraging(1e-2, swa_epoch_start=50), "list it behind ExposureLedger"),
        (Module, lambda: EMAWeightAveraging(update_starting_at_step=1000), "list it behind ExposureLedger"),
        (Module, lambda: ModelPruning("l1_unstructured", amount=0.5), "list it behind ExposureLedger"),
        (Keeps, pl.Callback, "used before"),
        (Teacher, pl.Callback, "teachers holds a Linear that the module does not know"),
    ],
)
def test_what_remembers_weights_from_before_a_fresh_start_is_refused(module, callback, why, tmp_path):
    module = module()
    fit(module, loader(item("a")), tmp_path / "before")
    with pytest.raises(MisconfigurationException, match=why):
        fit(module, loader(item("b")), tmp_path, callback(), ExposureLedger("initialisation"))
    assert not (tmp_path / "ledger.json").exists()


def test_an_optimiser_that_is_kept_but_unused_is_fine(tmp_path):
    fit(Keeps(), loader(item("a")), tmp_path, ExposureLedger("initialisation"))
    assert (tmp_path / "ledger.json").exists()


def test_averages_that_begin_with_the_fresh_start_are_fine(tmp_path):
    module = Module()
    module.body[0].weight.data.fill_(1000.0)
    fit(module, loader(item("a")), tmp_path, ExposureLedger("initialisation"), EMAWeightAveraging())
    assert module.body[0].weight.abs().max() < 10


@pytest.mark.filterwarnings("ignore:the history of these weights is unknown")
def test_unknown_history_is_exposed_to_everything(tmp_path):
    fit(Module(), loader(item("a")), tmp_path, ExposureLedger())
    assert "history is unknown" in read_ledger(tmp_path / "ledger.json").why_exposed({"never seen": FORGET})


def test_a_ledger_of_other_weights_is_refused(tmp_path):
    fit(Module(), loader(item("a")), tmp_path, ExposureLedger("initialisation"))
    with pytest.raises(MisconfigurationException, match="belongs to other weights than the module holds"):
        fit(Module(), loader(item("a")), tmp_path / "2", ExposureLedger(tmp_path / "ledger.json"))


def test_a_resumed_run_goes_on_with_the_ledger(tmp_path):
    data = loader(item("a", Role.FORGET), item("b"))
    fit(Module(), data, tmp_path, ExposureLedger("initialisation"), each_step(tmp_path / "c"))
    fit(Module(), loader(item("x"), item("d")), tmp_path / "2", ExposureLedger("initialisation"), max_steps=3,
        ckpt_path=tmp_path / "c" / "step=2.ckpt")  # fmt: skip
    levels = read_ledger(tmp_path / "2" / "ledger.json").exposure.levels
    assert levels["a"] == FORGET
    assert {"a", "b"} < set(levels)


@pytest.mark.filterwarnings("ignore:the history of these weights is unknown")
def test_a_checkpoint_without_a_ledger_counts_as_exposed_to_everything(tmp_path):
    fit(Module(), loader(item("a")), tmp_path, each_step(tmp_path / "c"))
    fit(Module(), loader(item("a")), tmp_path / "2", ExposureLedger("initialisation"), max_steps=2,
        ckpt_path=tmp_path / "c" / "step=1.ckpt")  # fmt: skip
    assert read_ledger(tmp_path / "2" / "ledger.json").exposure.unknown


@pytest.mark.filterwarnings("ignore:the history of these weights is unknown")
def test_weights_that_something_else_replaced_have_an_unknown_history(tmp_path):
    class Load(pl.Callback):
        def on_fit_start(self, trainer, module):
            for p in module.parameters():
                p.data.fill_(1.0)

    fit(Module(), loader(item("a")), tmp_path, ExposureLedger("initialisation"), Load())
    assert read_ledger(tmp_path / "ledger.json").exposure.unknown


@pytest.mark.filterwarnings("ignore:the history of these weights is unknown")
def test_operators(tmp_path):
    """Retrain starts from nothing, or from its anchor's ledger; fine-tuning keeps what it found."""
    fit(Module(), loader(item("a")), tmp_path / "1", ExposureLedger(), Retrain())
    assert read_ledger(tmp_path / "1" / "unlearned" / "weights.safetensors").exposure.levels == {"a": FOREGROUND}

    trained = Module()
    fit(trained, loader(item("z")), tmp_path / "2", ExposureLedger("initialisation"))
    anchor = save_weights(trained, tmp_path / "2" / "weights.safetensors")
    fit(Module(), loader(item("a")), tmp_path / "3", Retrain(anchor=anchor), ExposureLedger())
    assert set(read_ledger(tmp_path / "3" / "ledger.json").exposure.levels) == {"a", "z"}

    load_weights(trained, anchor)
    fit(trained, loader(item("a")), tmp_path / "4", ExposureLedger(tmp_path / "2" / "ledger.json"), FineTune())
    assert set(read_ledger(tmp_path / "4" / "ledger.json").exposure.levels) == {"a", "z"}

    save_weights(trained, tmp_path / "bare" / "weights.safetensors")
    fit(Module(), loader(item("a")), tmp_path / "5", Retrain(anchor=tmp_path / "bare" / "weights.safetensors"),
        ExposureLedger())  # fmt: skip
    assert read_ledger(tmp_path / "5" / "ledger.json").exposure.unknown

    fit(trained, loader(item("a"), item("b"), item("c")), tmp_path / "6", ExposureLedger("unexposed"),
        GradientClipping(steps=1), max_steps=2)  # fmt: skip
    assert read_ledger(tmp_path / "6" / "ledger.json").exposure.unknown  # the noisy phase replaced the weights


# Files -------------------------------------------------------------------------------------------------------------


def test_tampering_is_found(tmp_path):
    module = Module()
    fit(module, loader(item("a", Role.FORGET)), tmp_path, ExposureLedger("initialisation"))
    path = save_weights(module, tmp_path / "weights.safetensors")
    content = json.loads((tmp_path / "ledger.json").read_text())
    content["groups"][0]["exposure"]["FORGET"] = []
    (tmp_path / "ledger.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="edited after it was written"):
        read_ledger(path)
    content["schema"] = "erode-ledger/0"
    with pytest.raises(ValueError, match="no ledger of schema"):
        Ledger.parse(content)


def test_nothing_is_overwritten(tmp_path):
    fit(Module(), loader(item("a")), tmp_path, ExposureLedger("initialisation"))
    with pytest.raises(MisconfigurationException, match="already holds a ledger"):
        fit(Module(), loader(item("a")), tmp_path, ExposureLedger("initialisation"))


def test_it_changes_nothing(tmp_path):
    digests = []
    for callbacks in ([], [ExposureLedger("unexposed")]):
        pl.seed_everything(0, verbose=False)
        module = Module()
        fit(module, loader(item("a"), item("b")), tmp_path / str(len(callbacks)), *callbacks)
        digests.append(weights_digest(module))
    assert digests[0] == digests[1]


def test_every_field_that_holds_labels_is_known():
    """A new label in the batch contract must not slip past the reader as an image-only batch."""
    assert {"mask", "coarse", "role", "prior", "artefact", "label", "flag"} | {"counted"} == set(FIELDS)
