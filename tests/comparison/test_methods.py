"""Rows of a comparison: every operator has one, and those on other weights or another module do what they say."""

import contextlib
import dataclasses
import io
import json

import pytest
import torch

from erode import callbacks
from erode.callbacks import UnlearningOperator
from erode.comparison import METHODS, Experiment, Task
from erode.datamodules import SyntheticDermoscopy
from erode.lightning_modules import QuantisedSegmentationModule, SegmentationModule
from erode.losses import RoleLoss
from erode.weights import read_state

torch.set_num_threads(1)


def data():
    return SyntheticDermoscopy(size=32, train_images=24, val_images=6, test_images=8, batch_size=4, fine_fraction=0.25)


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    return Experiment(data(), out=tmp_path_factory.mktemp("rows") / "out", steps=4, accelerator="cpu")


def row(experiment, name):
    with contextlib.redirect_stdout(io.StringIO()):
        return experiment.row(name, seed=0)


def record(experiment, name):
    return json.loads((experiment.weights(name, 0).parent / "unlearning.json").read_text())


def test_every_operator_has_a_row(tmp_path):
    task = Task(tmp_path / "row", data(), steps=4, model=SegmentationModule, start=tmp_path / "start")
    with_row = {type(method.operator(task)) for method in METHODS.values() if method.operator is not None}
    exported = {getattr(callbacks, name) for name in callbacks.__all__}
    assert with_row == {kind for kind in exported if issubclass(kind, UnlearningOperator)} - {UnlearningOperator}


def test_rows_know_the_labels_that_their_operator_asks_for(tmp_path):
    """The length of an epoch follows from them."""
    task = Task(tmp_path / "row", data(), steps=4, model=SegmentationModule, start=tmp_path / "start")
    for method in METHODS.values():
        if method.operator is not None:
            assert method.view is method.operator(task).view, method.title


def test_only_certified_rows_are_told_epsilon(tmp_path):
    """A grid over ε computes all others once."""
    task = Task(tmp_path / "row", data(), steps=4, model=SegmentationModule, start=tmp_path / "start")
    for method in METHODS.values():
        operator = None if method.operator is None else method.operator(task)
        assert method.certified == (operator is not None and operator.card.guarantee == "certified"), method.title


def test_rows_start_from_weights_that_fit_them():
    for method in METHODS.values():
        if method.start is not None:
            assert METHODS[method.start].operator is None
            assert (METHODS[method.start].module is None) == (method.module is None)


def test_rewinding_returns_to_what_the_retain_view_taught(experiment):
    staged, rewound = row(experiment, "staged"), row(experiment, "rewind")
    assert staged["steps"] == 4
    assert rewound["unlearning"] == {"guarantee": "exact", "epsilon": 0.0, "delta": 0.0, "gradient_evaluations": 2}
    found = record(experiment, "rewind")
    folder = experiment.weights("staged", 0).parent
    assert found["checkpoint"] == str(folder / "first" / "weights.safetensors")
    assert found["restored_weights"] == found["checkpoint_weights"]
    assert "it saw FORGET of" in found["passed_over"][0]["why"]  # the weights that the row ended with


def test_heads_share_an_encoder_that_never_saw_a_label(experiment):
    assert row(experiment, "pixel_head")["unlearning"] is None
    encoder = read_state(experiment.weights("pixel_head", 0).parent / "encoder.safetensors")
    evaluations = {}
    for name in ("residual_certificate", "newton_step", "projected_noisy_sgd"):
        promise = row(experiment, name)["unlearning"]
        evaluations[name] = promise.pop("gradient_evaluations")
        assert promise == {"guarantee": "certified", "epsilon": 1.0, "delta": 1e-7}
        state = read_state(experiment.weights(name, 0))
        assert all(torch.equal(state[f"network.encoder.{key}"], value) for key, value in encoder.items())
    assert evaluations["newton_step"] == 2 * 24 / 4  # a gradient and a Hessian over all images, in batches of 4
    assert evaluations["projected_noisy_sgd"] == 100 * 24 / 4
    assert evaluations["residual_certificate"] is None  # it depends on the trained head


@pytest.mark.parametrize(("constants", "guarantee"), [({}, "approximate"), ({"bound": 100.0, "kappa": 99.0}, "exact")])
def test_quantised_training_forgets_only_within_its_budget(constants, guarantee, tmp_path, monkeypatch):
    """One image of nine is asked for: more than a usual budget, less than that of weights that never move."""
    few = SyntheticDermoscopy(size=32, train_images=9, val_images=6, test_images=8, batch_size=4, fine_fraction=0.89)
    made = dataclasses.replace(
        METHODS["pcmu"], module=lambda task: QuantisedSegmentationModule.of(task.model(), **constants)
    )
    monkeypatch.setitem(METHODS, "pcmu", made)
    experiment = Experiment(few, out=tmp_path / "out", steps=20, accelerator="cpu")
    found = row(experiment, "pcmu")
    (file,) = experiment.out.glob("logs/pcmu-seed0/*/removal.json")
    removal = json.loads(file.read_text())
    assert removal["samples"] == 9  # the last batch is one image
    assert (removal["removals_withstood"] >= 1) == (guarantee == "exact")
    assert found["steps"] == removal["steps"] == 2
    assert found["unlearning"] == {
        "guarantee": guarantee, "epsilon": None, "delta": None, "gradient_evaluations": 2 * 3,
    }  # fmt: skip


def test_quantised_training_has_the_network_loss_and_optimiser_of_the_comparison():
    module = SegmentationModule(num_classes=3, class_names=["a", "b", "c"], positive_class=1, loss=RoleLoss(dice=0.5))
    made = QuantisedSegmentationModule.of(module)
    assert made.network is module.network
    described = made.describe()
    assert {key: described[key] for key in module.describe()} == module.describe()
    assert {**module.hparams, **made.hparams} == dict(made.hparams)
