"""What cannot work is refused in words, before anything is trained."""

import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from cli_runs import SHORT, USUAL
from lightning.fabric.utilities.exceptions import MisconfigurationException
from PIL import Image

from erode.cli import console, main
from erode.weights import save_weights


@pytest.mark.parametrize(
    ("argument", "name", "near"),
    [
        ("--model.num_clases=3", "num_clases", "num_classes"),
        ("--data.fine_fractoin=.3", "fine_fractoin", "fine_fraction"),
        ("--trainer.max_stepz=3", "max_stepz", "--trainer.max_steps"),
        ("--trainer.callbacks+=SCRUB", "SCRUB", "Scrub"),
        ("--data=SyntheticDermoskopy", "SyntheticDermoskopy", "SyntheticDermoscopy"),
        ("--config=absent.yaml", "absent.yaml", None),
    ],
)
def test_what_it_does_not_know_it_names_and_what_is_near(argument, name, near, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["fit", *USUAL, argument])
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert name in said
    assert len(said.splitlines()) < 20  # all options of a Trainer would push it off the screen
    assert said.endswith(f"\ndid you mean {near}?\n") if near else "did you mean" not in said
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("arguments", "near"),
    [
        (["veryfy"], "verify"),
        (["unlern"], "unlearn"),
        (["compare", "--methods=[coarse,retan_view]"], "retain_view"),
        (["plan", "--modle=SegmentationModule"], "--model"),
        (["verify", "--wieghts=a"], "--weights"),
    ],
)
def test_other_verbs_name_what_is_near_too(arguments, near, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert capsys.readouterr().err.endswith(f"did you mean {near}?\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--trainer.callbacks+=FineTune"], "give --init_from WEIGHTS"),
        (["--init_from=WEIGHTS"], r"exactly one unlearning operator, found none; add one, e\.g\. --trainer\.callbacks"),
        (
            ["--init_from=WEIGHTS", "--trainer.callbacks+=FineTune", "--trainer.callbacks+=Retrain"],
            "exactly one unlearning operator, found FineTune, Retrain; keep one",
        ),
    ],
)
def test_unlearning_needs_weights_and_one_operator(arguments, message, weights):
    with pytest.raises(MisconfigurationException, match=message):
        main(["unlearn", *USUAL, *(argument.replace("WEIGHTS", weights) for argument in arguments)])
    assert not list(Path("runs").rglob("*.*"))  # nothing half-written


def test_weights_of_another_architecture_are_refused(weights, tmp_path):
    other = save_weights(torch.nn.Linear(2, 2), tmp_path / "other.safetensors")
    for wrong in (other, weights):
        classes = ["--model.num_classes=2", "--model.class_names=[a,b]"] if wrong == weights else []
        with pytest.raises(ValueError, match=r"weights of another architecture.*use the model configuration"):
            main(["unlearn", *USUAL, *classes, f"--init_from={wrong}", "--trainer.callbacks+=FineTune"])
    with pytest.raises(FileNotFoundError, match=r"no weights at gone\.ckpt"):
        main(["test", *USUAL, "--init_from=gone.ckpt"])


def test_classes_that_do_not_fit_the_data_are_told_before_the_first_step():
    with pytest.raises(ValueError, match=r"the data have 3 classes .* the model 2; set num_classes=3"):
        main(["fit", *USUAL, "--model.num_classes=2", "--model.class_names=[a,b]"])


def test_bad_pictures_are_named_before_training(pictures, tmp_path):
    for kind in ("images", "masks"):
        (tmp_path / kind).mkdir()
        for path in (pictures / kind).iterdir():
            (tmp_path / kind / path.name).write_bytes(path.read_bytes())
    (tmp_path / "images" / "scan 3.png").write_bytes(b"")
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "masks" / "scan 4.png")
    with pytest.raises(ValueError, match=r"2 problems(.|\n)*scan 3\.png is empty(.|\n)*scan 4\.png has shape"):
        main(["fit", "--data=ImageFolderDataModule", f"--data.root={tmp_path}", "--model=SegmentationModule", *SHORT])
    assert not list(Path("runs").rglob("weights.safetensors"))


def test_fractions_without_two_sides_are_refused_before_training():
    for fraction in (0, 1, 0.999):
        with pytest.raises(ValueError, match="fine_fraction = "):
            main(["fit", *USUAL, f"--data.fine_fraction={fraction}"])
    assert not list(Path("runs").iterdir())  # the next run has the first number


def test_without_a_step_a_fit_says_so():
    with pytest.warns(UserWarning, match="no training step was taken"):
        main(["fit", *USUAL, "--trainer.max_steps=0"])


@pytest.mark.parametrize("verb", ["validate", "test", "predict"])
def test_a_network_that_nobody_trained_is_not_tested_in_silence(verb, weights):
    with pytest.warns(UserWarning, match=f"erode {verb} was given neither --init_from WEIGHTS nor --ckpt_path"):
        main([verb, *USUAL, "--trainer.fast_dev_run=true"])
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*was given neither --init_from")
        main([verb, *USUAL, "--trainer.fast_dev_run=true", f"--init_from={weights}"])


@pytest.mark.skipif(os.name == "nt", reason="Windows knows no such signal")
def test_a_run_that_is_terminated_does_not_pass_for_one_that_ended(tmp_path):
    """A script that goes on after it, or a queue, must not take it for success."""
    arguments = [*USUAL, "--trainer.max_steps=100000", f"--trainer.default_root_dir={tmp_path / 'run'}"]
    command = [sys.executable, "-m", "erode", "fit", *arguments]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as run:
        for _ in range(1200):
            if (tmp_path / "run" / "metrics.csv").exists():
                break
            time.sleep(0.1)
        run.send_signal(signal.SIGTERM)
        _, said = run.communicate(timeout=60)
    assert run.returncode == 128 + signal.SIGTERM
    assert "erode: terminated" in said


def test_what_we_warn_of_is_shown_without_our_code(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["erode", "validate", *USUAL, "--trainer.fast_dev_run=true"])
    with warnings.catch_warnings():  # puts back how they are shown
        warnings.simplefilter("always")
        console()
    said = capsys.readouterr().err
    lines = [line for line in said.splitlines() if "neither --init_from" in line]
    assert len(lines) == 1
    assert lines[0].startswith("erode: warning: erode validate was given neither --init_from WEIGHTS")
    assert "rank_zero_warn(" not in said
