"""Packaged configurations are what the README tells people to type: each parses, composes and says what it is."""

import importlib
from importlib.resources import files
from pathlib import Path

import pytest
import yaml

from erode.callbacks import UnlearningOperator
from erode.cli import main
from erode.datamodules import MaskDataModule

CONFIGS = Path(str(files("erode.configs")))


def named(folder):
    return sorted(path.stem for path in (CONFIGS / folder).glob("*.yaml"))


def config(folder, name):
    return ["--config", str(CONFIGS / folder / f"{name}.yaml")]


def resolve(class_path):
    module, _, name = class_path.rpartition(".")
    return getattr(importlib.import_module(module), name)


@pytest.fixture
def printed(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["erode"])

    def run(*arguments):
        with pytest.raises(SystemExit) as stop:
            main([*arguments, "--print_config"])
        output = capsys.readouterr()
        assert stop.value.code == 0, output.err
        return yaml.safe_load(output.out)

    return run


def test_there_are_some_of_every_kind():
    assert {path.name for path in CONFIGS.iterdir() if path.is_dir() and path.name != "__pycache__"} == {
        "benchmark", "data", "debias", "experiment", "model", "pretrain", "unlearn",
    }  # fmt: skip
    assert {"fine_tune", "neg_grad", "retrain"} <= set(named("unlearn"))


@pytest.mark.parametrize("data", named("data"))
@pytest.mark.parametrize("model", named("model"))
def test_data_and_model_compose(data, model, printed):
    whole = printed("fit", *config("data", data), *config("model", model))
    assert issubclass(resolve(whole["data"]["class_path"]), MaskDataModule)
    assert whole["model"]["init_args"]["num_classes"] == len(whole["model"]["init_args"]["class_names"])


@pytest.mark.parametrize("name", named("unlearn"))
def test_operators_are_appended(name, printed):
    usual = [*config("data", "synthetic"), *config("model", "unet"), "--trainer.callbacks+=PredictionGallery"]
    gallery, operator = printed("unlearn", *usual, *config("unlearn", name))["trainer"]["callbacks"]
    assert gallery["class_path"].endswith("PredictionGallery")
    assert issubclass(resolve(operator["class_path"]), UnlearningOperator)


@pytest.mark.parametrize("name", named("debias"))
def test_debiasing_callbacks_are_appended(name, printed):
    verb = "fit" if name == "gradient_reversal" else "test"
    usual = [*config("data", "isic_trap"), *config("model", "unet"), "--trainer.callbacks+=PredictionGallery"]
    gallery, callback = printed(verb, *usual, *config("debias", name))["trainer"]["callbacks"]
    assert gallery["class_path"].endswith("PredictionGallery")
    assert callback["class_path"].split(".")[-1] in {"BackgroundNormalisation", "GradientReversal", "NoiseCrop"}


@pytest.mark.parametrize("name", named("pretrain"))
def test_pretraining_serves_images_alone_and_keeps_a_ledger(name, printed):
    whole = printed("fit", *config("pretrain", name))
    assert whole["data"]["class_path"].endswith("ImagesOnly")
    assert whole["trainer"]["callbacks"][0]["class_path"].endswith("ExposureLedger")


@pytest.mark.parametrize("name", named("experiment"))
def test_experiments_parse(name, printed):
    whole = printed("compare", *config("experiment", name))
    assert whole["steps"] > 0
    assert printed("compare", *config("experiment", name), "--steps=3", "--data.fine_fraction=0.5")["steps"] == 3


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.yaml")), ids=lambda path: path.stem)
def test_each_says_what_it_is_in_its_first_line(path):
    assert path.read_text().startswith("# ")
