"""The classifier learns shortcuts as ERM does, loses them as its objectives promise, on one process or two."""

import csv
import itertools
from importlib.resources import files
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from classifier_runs import DISTRIBUTED, OBJECTIVES, classifier, shortcut_items, trainer
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import ModelCheckpoint
from sklearn.metrics import roc_auc_score
from torch import nn
from torch.utils.data import DataLoader

from erode.callbacks import Blockwise, GradientClipping, ModelClipping, OutputPerturbation, Retrain
from erode.cli import main
from erode.datamodules import SyntheticDermoscopy
from erode.lightning_modules import ImageClassifier
from erode.lightning_modules.training_set import read_training_set
from erode.objectives import ERM, GroupDRO, JustTrainTwice

torch.set_num_threads(1)

SMALL = {"size": 32, "train_images": 12, "val_images": 4, "test_images": 8, "batch_size": 4}


def loader(items=None, batch_size=20, **options):
    return DataLoader(shortcut_items() if items is None else items, batch_size, **options)


def metrics_of(objective, folder):
    """Metrics on images of which half are of the minority, after training on 5 % of them."""
    module, run = classifier(objective), trainer(folder, max_steps=150)
    run.fit(module, loader())
    [values] = run.test(module, loader(shortcut_items(400, minority=0.25, seed=1)), verbose=False)
    return {key.removeprefix("test/"): value for key, value in values.items()}


def test_objectives_lift_the_worst_group(tmp_path):
    """The artefact is the stronger cue in training: ERM fails where it misleads, the others fail less."""
    plain = metrics_of(ERM(), tmp_path)
    assert plain["accuracy_worst"] < 0.6
    for objective in (GroupDRO(step_size=0.1), JustTrainTwice(first_steps=8, upweight=20.0)):
        robust = metrics_of(objective, tmp_path)
        assert robust["accuracy_worst"] > plain["accuracy_worst"] + 0.2, objective
        assert robust["auroc_robust"] > plain["auroc_robust"], objective


def test_values_are_those_of_scikit_learn(tmp_path):
    items = shortcut_items(60, minority=0.25)
    module, run = classifier(), trainer(tmp_path)
    [values] = run.test(module, loader(items), verbose=False)
    scores = torch.cat([batch["probability"][:, 1] for batch in run.predict(module, loader(items))])
    labels, flags = (torch.stack([item[key] for item in items]) for key in ("label", "flag"))
    away = labels != flags
    assert values["test/auroc"] == pytest.approx(roc_auc_score(labels, scores), abs=1e-6)
    assert values["test/auroc_robust"] == pytest.approx(roc_auc_score(labels[away], scores[away]), abs=1e-6)
    accuracy = {
        (y, s): ((scores > 0.5) == y)[(labels == y) & (flags == s)].float().mean() for y in (0, 1) for s in (0, 1)
    }
    assert values["test/accuracy_worst"] == pytest.approx(min(accuracy.values()).item(), abs=1e-6)
    assert values["test/accuracy_y1_s0"] == pytest.approx(accuracy[1, 0].item(), abs=1e-6)


# Two stages ------------------------------------------------------------------------------------------------------


class Weights(pl.Callback):
    def __init__(self):
        self.after, self.rates = [], []

    def on_train_batch_start(self, trainer, module, batch, index):
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    def on_train_batch_end(self, trainer, module, outputs, batch, index):
        self.after.append(module.network[1].weight.detach().clone())


def test_the_error_set_is_what_a_short_erm_gets_wrong_and_the_second_stage_starts_afresh(tmp_path):
    short = classifier()
    trainer(tmp_path, max_steps=8).fit(short, loader())
    items = shortcut_items()
    with torch.no_grad():
        wrong = {item["id"] for item in items if short(item["image"][None]).argmax() != item["label"]}
    assert 0 < len(wrong) < len(items)

    module, start, seen = classifier(JustTrainTwice(8)), classifier(), Weights()
    trainer(tmp_path, max_steps=20, callbacks=[seen]).fit(module, loader())
    assert module.objective.error_set == wrong
    first_of_second = seen.after[8] - start.network[1].weight
    assert first_of_second.norm() < (seen.after[7] - start.network[1].weight).norm()
    # each stage has a cosine of its own, over its own steps
    assert seen.rates[0] == seen.rates[8] == 0.5
    assert seen.rates[7] < 0.05
    assert seen.rates[19] < 0.02


def test_a_second_run_knows_nothing_of_the_first_one_s_errors(tmp_path):
    """Its error set may name images that are to be forgotten, and so would the weights of its start."""
    module = classifier(JustTrainTwice(8))
    trainer(tmp_path, max_steps=20).fit(module, loader())
    first = module.objective.error_set
    items = [item for item in shortcut_items(seed=3) if item["id"] not in first]
    trainer(tmp_path, max_steps=20, callbacks=[Retrain(folder=tmp_path / "out")]).fit(module, loader(items))
    assert not module.objective.error_set & first
    with pytest.raises(InterruptedError):
        trainer(tmp_path, max_steps=20, callbacks=[StopAfter(3)]).fit(module, loader())
    module.network[1].weight.data.fill_(100.0)
    trainer(tmp_path, max_steps=9).fit(module, loader())  # one step of the second stage, from its own start
    assert module.network[1].weight.min() > 50


class StopAfter(pl.Callback):
    def __init__(self, steps):
        self.steps = steps

    def on_train_batch_end(self, trainer, module, outputs, batch, index):
        if trainer.global_step == self.steps:
            raise InterruptedError


@pytest.mark.parametrize("operator", [GradientClipping, ModelClipping, Blockwise])
def test_weights_from_before_the_noise_do_not_come_back_for_a_second_stage(operator, tmp_path):
    noisy = operator(steps=3, folder=tmp_path / "out")
    with pytest.raises(MisconfigurationException, match="keeps the weights that training starts from"):
        trainer(tmp_path, max_steps=20, callbacks=[noisy]).fit(classifier(JustTrainTwice(8)), loader())
    first = OutputPerturbation(sigma=100.0, epsilon=None, folder=tmp_path / "out", shrink=False)
    module = classifier(JustTrainTwice(8), rate=1e-6)
    trainer(tmp_path, max_steps=20, callbacks=[first]).fit(module, loader())
    assert module.network[1].weight.norm() > 10  # what comes back has the noise


@pytest.mark.parametrize(("name", "epoch"), [("jtt", 4), ("jtt_dro", 11)])
def test_a_run_that_was_cut_short_goes_on_in_its_stage(name, epoch, tmp_path):
    """A first stage of eight steps, cut there and in the second; each step sees all images."""
    data, saving = loader(batch_size=200), ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1)
    whole, other = classifier(OBJECTIVES[name]()), classifier(OBJECTIVES[name](), seed=9)
    trainer(tmp_path, max_steps=20, enable_checkpointing=True, callbacks=[saving]).fit(whole, data)
    trainer(tmp_path, max_steps=20).fit(other, data, ckpt_path=tmp_path / f"epoch={epoch}.ckpt", weights_only=True)
    assert other.objective.error_set == whole.objective.error_set
    for one, two in zip(whole.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one, two)


# Several processes -----------------------------------------------------------------------------------------------


def test_two_processes_train_as_one(tmp_path, as_script):
    as_script(Path(__file__).with_name("classifier_runs.py"), tmp_path)
    for name in DISTRIBUTED:
        alone, together = (torch.load(tmp_path / f"{name}-{n}.ckpt", weights_only=True) for n in (1, 2))
        for key in alone["state_dict"]:
            torch.testing.assert_close(together["state_dict"][key], alone["state_dict"][key], rtol=1e-4, atol=1e-6)
        one, two = (saved["objective"]["progress"] for saved in (alone, together))
        assert one.get("error_set") == two.get("error_set")
        if "q" in one:
            torch.testing.assert_close(two["q"], one["q"])


# Data, networks and refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", ["classifier_resnet", "classifier_group_dro"])
def test_as_people_run_it(config, tmp_path):
    usual = ["--config", str(files("erode.configs") / "model" / f"{config}.yaml")]
    usual += ["--data=SyntheticDermoscopy", *(f"--data.init_args.{key}={value}" for key, value in SMALL.items())]
    usual += ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false", "--trainer.devices=1"]
    main(["fit", *usual, "--trainer.max_steps=2", "--trainer.default_root_dir=run"])
    main(["predict", *usual, "--init_from=run/weights.safetensors", "--trainer.default_root_dir=predicted"])
    rows = list(csv.DictReader(Path("predicted/predictions/predictions.csv").read_text().splitlines()))
    assert len(rows) == SMALL["test_images"]
    assert sum(float(rows[0][f"probability_{k}"]) for k in range(3)) == pytest.approx(1, abs=1e-5)


def test_predictions_are_of_the_images_and_not_of_what_a_transform_makes_of_them(tmp_path):
    data = SyntheticDermoscopy(
        **SMALL, flips=False, validate_data=False, transform=lambda item: {**item, "image": item["image"] * 0}
    )
    run = trainer(tmp_path, max_steps=1, limit_val_batches=0)
    run.fit(ImageClassifier(num_classes=3), datamodule=data)
    train = read_training_set(run, 3, classify=lambda image: (image.flatten(1).sum(1) > 0).long())
    assert train.predicted.tolist() == [1] * SMALL["train_images"]


def test_every_view_of_the_data_teaches_it_the_same(tmp_path):
    """Image labels are retained: coarse, fine and retain view serve one classifier."""
    weights = []
    for view in ("coarse", "fine", "retain"):
        pl.seed_everything(3, verbose=False)
        module = ImageClassifier(num_classes=3)
        trainer(tmp_path, max_steps=2).fit(module, datamodule=SyntheticDermoscopy(view=view, **SMALL))
        weights.append(torch.cat([p.detach().flatten() for p in module.parameters()]))
    assert all(torch.equal(one, two) for one, two in itertools.pairwise(weights))


def test_the_default_network_has_29_thousand_parameters_and_no_running_statistics():
    network = ImageClassifier(num_classes=3).network
    assert sum(p.numel() for p in network.parameters()) == pytest.approx(29_000, rel=0.02)
    assert not list(network.buffers())


def test_what_cannot_be_trained_is_refused(tmp_path):
    with pytest.raises(ValueError, match="class_names"):
        ImageClassifier(num_classes=3, class_names=["a", "b"])
    with pytest.raises(ValueError, match="positive_class"):
        ImageClassifier(num_classes=3, positive_class=0)
    with pytest.raises(MisconfigurationException, match="no second stage"):
        trainer(tmp_path, max_steps=8).fit(classifier(JustTrainTwice(8)), loader())
    with pytest.raises(MisconfigurationException, match="one DataLoader"):
        trainer(tmp_path).fit(classifier(GroupDRO()), {"retain": loader(), "forget": loader()})
    with pytest.raises(ValueError, match="flag of every training image"):
        trainer(tmp_path).fit(classifier(GroupDRO()), loader(shortcut_items(flags=False)))
    with pytest.raises(ValueError, match="set num_classes=3"):
        trainer(tmp_path).fit(classifier(), datamodule=SyntheticDermoscopy(**SMALL))
    wrong = ImageClassifier(nn.Sequential(nn.Flatten(), nn.Linear(4, 3)), num_classes=2)
    with pytest.raises(ValueError, match="one logit per class"):
        trainer(tmp_path).fit(wrong, loader())


@pytest.mark.parametrize(
    "changed",
    [
        {"positive_class": 1},
        {"lr_scheduler": lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 1)},
        {"objective": GroupDRO(step_size=0.5)},
    ],
    ids=lambda changed: "".join(changed),
)
def test_a_record_tells_other_classifiers_apart(changed):
    plain = ImageClassifier(num_classes=3).describe()
    assert ImageClassifier(num_classes=3, **changed).describe() != plain
    assert ImageClassifier(num_classes=3, positive_class=2).describe() == plain
