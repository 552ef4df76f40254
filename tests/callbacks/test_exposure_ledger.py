"""The ledger never says less than what reached the weights: checked by changing what it calls unexposed."""

import json

import lightning.pytorch as pl
import pytest
import torch
from ledger_runs import Module, batch_of, each_step, fit, item, loader
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelPruning, StochasticWeightAveraging
from torch import nn
from torch.utils.data import DataLoader

from erode.batch import Role
from erode.callbacks import ExposureLedger, FineTune, GradientClipping, Retrain
from erode.datamodules import SyntheticDermoscopy
from erode.masks import View
from erode.requests import ForgetRequest
from erode.requests.ledger import CHECKPOINT_KEY, Ledger, Level, read_ledger
from erode.weights import load_weights, save_weights, weights_digest

FORGET, FOREGROUND, OUTSIDE, IMAGE = Level.FORGET, Level.FOREGROUND, Level.OUTSIDE, Level.IMAGE


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


def test_a_run_counts_the_second_batch_of_a_pair(tmp_path):
    class Pairs(Module):
        def training_step(self, batch, index):
            return super().training_step(batch, index) + super().training_step(batch["second"], index)

    pairs = [(item("kept"), item("secret", seed=1))]
    data = DataLoader(pairs, collate_fn=lambda ab: {**batch_of(ab[0][0]), "second": batch_of(ab[0][1])})
    fit(Pairs(), data, tmp_path, ExposureLedger("initialisation"))
    assert read_ledger(tmp_path / "ledger.json").images == {"kept", "secret"}


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


@pytest.mark.parametrize("history", ["a file", "unexposed"])
@pytest.mark.parametrize(
    ("module", "callback", "why"),
    [
        (Keeps, pl.Callback, "used before"),
        (Teacher, pl.Callback, "teachers holds a Linear that the module does not know"),
        (Module, EMAWeightAveraging, "list it behind ExposureLedger"),
    ],
)
def test_a_history_of_weights_says_nothing_of_what_else_remembers(history, module, callback, why, tmp_path):
    """Weights from before the forget set, and with them moments, a teacher or an average from after it."""
    module = module()
    if isinstance(module, Teacher):
        teachers, module.teachers = module.teachers, []
    fit(module, loader(item("a")), tmp_path / "1", ExposureLedger("initialisation"))
    clean = save_weights(module, tmp_path / "1" / "weights.safetensors")
    if isinstance(module, Teacher):
        module.teachers = teachers
    fit(module, loader(item("secret", Role.FORGET)), tmp_path / "2")
    load_weights(module, clean)
    given = tmp_path / "1" / "ledger.json" if history == "a file" else history
    with pytest.raises(MisconfigurationException, match=why):
        fit(module, loader(item("b")), tmp_path / "3", callback(), ExposureLedger(given))
    assert not (tmp_path / "3" / "ledger.json").exists()


def test_training_goes_on_from_a_ledger_with_an_optimiser_of_its_own(tmp_path):
    fit(module := Module(), loader(item("a")), tmp_path / "1", ExposureLedger("initialisation"))
    ledger = ExposureLedger(tmp_path / "1" / "ledger.json")
    fit(module, loader(item("b")), tmp_path / "2", ledger, EMAWeightAveraging())
    assert read_ledger(tmp_path / "2" / "ledger.json").images == {"a", "b"}


@pytest.mark.parametrize("history", ["initialisation", "unexposed"])
def test_a_resumed_run_keeps_the_moments_of_its_checkpoint(history, tmp_path):
    fit(Keeps(), loader(item("a"), item("b")), tmp_path / "1", ExposureLedger(history), each_step(tmp_path / "c"))
    fit(module := Keeps(), loader(item("c")), tmp_path / "2", ExposureLedger(history), max_steps=3,
        ckpt_path=tmp_path / "c" / "step=2.ckpt")  # fmt: skip
    assert read_ledger(tmp_path / "2" / "ledger.json").images == {"a", "b", "c"}
    assert all(state["step"] == 3 for state in module.kept.state.values())


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
def test_operators_hand_down_what_their_start_was_exposed_to(tmp_path):
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
