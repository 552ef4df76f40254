"""Each command, run as a user runs it: on pictures in folders and on the embedded data, in one process and two."""

import csv
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from cli_runs import CONFIGS, ERODE, SHORT, USUAL, erode, finish, metrics, read, start
from PIL import Image

from erode.cli import main
from erode.lightning_modules import SegmentationModule
from erode.masks import ForgetSplit
from erode.weights import load_weights, weights_digest


def test_from_pictures_in_folders_to_a_report(pictures, tmp_path, capsys):
    """The README's way on files: fit, then in a shell unlearn, test, predict, report."""
    (tmp_path / "mine.yaml").write_text(
        yaml.safe_dump(
            {
                "data": {
                    "class_path": "ImageFolderDataModule",
                    "init_args": {
                        "root": str(pictures), "fine_fraction": 0.25, "batch_size": 3,
                        "coarsening": {"class_path": "erode.masks.DiskDilation", "init_args": {"half_width": 3}},
                    },
                },
                "model": {"class_path": "SegmentationModule", "init_args": {"bootstrap": 20}},
            }
        )
    )  # fmt: skip
    usual = ["--config", "mine.yaml", *SHORT]
    main(["fit", *usual])
    out = capsys.readouterr().out
    assert "run folder: runs/fit-0" in out
    assert "weights: runs/fit-0/weights.safetensors" in out
    assert {path.name for path in (tmp_path / "runs" / "fit-0").iterdir()} == {
        "checkpoints", "config.yaml", "metrics.csv", "split.json", "weights.safetensors",
    }  # fmt: skip

    start_from = ["--init_from", "runs/fit-0/weights.safetensors"]
    monitors = [
        "--trainer.callbacks+=SpuriousInformationMonitor", "--trainer.callbacks.num_classes=2",
        "--trainer.callbacks+=PredictionGallery",
    ]  # fmt: skip
    epoch = "--trainer.max_steps=4"  # monitors act on validation
    erode("unlearn", *usual, epoch, *start_from, "--trainer.callbacks+=Retrain", *monitors, cwd=tmp_path)
    run = tmp_path / "runs" / "unlearn-0"
    record = read(run / "unlearned" / "unlearning.json")
    assert (record["operator"], record["guarantee"], record["completed"]) == ("Retrain", "exact", True)
    before, after = SegmentationModule(), SegmentationModule()
    load_weights(before, tmp_path / "runs" / "fit-0" / "weights.safetensors")
    load_weights(after, run / "unlearned" / "weights.safetensors")
    assert weights_digest(before) not in str(record)  # its hash would let anyone test a guess
    assert record["released_weights"] == weights_digest(after)
    split = ForgetSplit.load(run / "unlearned" / "split.json")
    assert split.digest == record["split"] == ForgetSplit.load(tmp_path / "runs" / "fit-0" / "split.json").digest
    assert (len(split.fine), len(split.coarse)) == (3, 9)

    start_from = ["--init_from", "runs/unlearn-0/unlearned/weights.safetensors"]
    running = [
        start(ERODE, "test", *usual, *start_from, cwd=tmp_path),
        start(sys.executable, "-m", "erode", "predict", *usual, *start_from, cwd=tmp_path),
        start(ERODE, "report", "runs/unlearn-0", cwd=tmp_path),
    ]
    tested, _, reported = map(finish, running)
    assert "test/dice_lesion" in tested
    assert 0 <= float(metrics(tmp_path / "runs" / "test-0", "test/")["test/dice_lesion"]) <= 1
    predictions = tmp_path / "runs" / "predict-0" / "predictions"
    with (predictions / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 5
    for row in rows:
        classes = np.asarray(Image.open(predictions / row["file"]))
        assert classes.shape == (32, 32)
        assert (classes == 1).sum() == int(row["pixels_1"])

    assert reported.strip() == "runs/unlearn-0/report.html"
    page = (run / "report.html").read_text()
    assert "Exact: the released weights" in page
    assert page.count("data:image/png;base64,") >= 3  # curves, monitor, gallery


def test_from_the_embedded_data_through_every_operator(trained, weights, tmp_path):
    for name in ("fine_tune", "neg_grad", "retrain"):
        main(["unlearn", *USUAL, "--config", str(CONFIGS / "unlearn" / f"{name}.yaml"), f"--init_from={weights}"])
    records = [read(Path(f"runs/unlearn-{n}/unlearned/unlearning.json")) for n in range(3)]
    assert [record["operator"] for record in records] == ["FineTune", "NegGradSeg", "Retrain"]
    assert {record["split"] for record in records} == {read(trained / "split.json")["digest"]}
    assert records[0]["initial_weights"] == records[1]["initial_weights"]
    assert len({record["released_weights"] for record in records}) == 3


def test_every_approximate_operator_on_the_embedded_data(weights):
    """Six steps of a min-phase, one of a max-phase, five of a min-phase; settings are changed on the command line."""
    names = {"scrub": "Scrub", "scrub_r": "ScrubRewind", "neg_grad_plus": "NegGradPlus", "cf_k": "CFk", "eu_k": "EUk"}
    usual = ["unlearn", *USUAL, f"--init_from={weights}", "--trainer.max_steps=12"]
    for name in names:
        phases = ["--trainer.callbacks.min_phase=6"] if name.startswith("scrub") else []
        main([*usual, "--config", str(CONFIGS / "unlearn" / f"{name}.yaml"), *phases])
    records = [read(Path(f"runs/unlearn-{n}/unlearned/unlearning.json")) for n in range(len(names))]
    assert [record["operator"] for record in records] == list(names.values())
    assert {(record["guarantee"], record["completed"], record["steps"]) for record in records} == {
        ("approximate", True, 12)
    }
    assert len(records[1]["rewind"]["curve"]) == 3
    assert len(records[3]["trained_blocks"]) == 3


def test_a_certificate_is_verified_with_or_without_its_weights(weights, capsys):
    short = ["--trainer.max_steps=4", "--trainer.callbacks+=GradientClipping", "--trainer.callbacks.steps=2"]
    main(["unlearn", *USUAL, f"--init_from={weights}", *short, "--trainer.default_root_dir=run"])
    files = [f"run/unlearned/{name}" for name in ("certificate.json", "weights.safetensors")]
    capsys.readouterr()
    for arguments in (files, [files[0], "--weights", files[1]], files[:1]):
        main(["verify", *arguments])
        assert f"the weights of {files[1]} belong to it" in capsys.readouterr().out
    main(["verify", "run/unlearned"])
    said = capsys.readouterr().out
    assert f"the weights of {files[1]} belong to it" in said
    assert re.search(r"it rests on \d+ assumptions that no file can prove .* the split has the digest", said)
    main(["verify", "run/unlearned/unlearning.json"])
    assert "are those that GradientClipping released" in capsys.readouterr().out
    Path(files[1]).rename("elsewhere.safetensors")
    main(["verify", files[0]])
    assert "no weights given or beside it" in capsys.readouterr().out
    with pytest.raises(ValueError, match="there are no weights at"):
        main(["verify", "run/unlearned/unlearning.json"])
    with pytest.raises(ValueError, match="holds other weights"):
        main(["verify", "run/unlearned/unlearning.json", str(weights)])
    with pytest.raises(ValueError, match="these are other weights"):
        main(["verify", files[0], str(weights)])


def test_two_processes_do_what_one_does(weights, tmp_path):
    """Seven test images leave the second process one short: no image may count twice."""
    two, forked = ([f"--trainer.strategy={strategy}", "--trainer.devices=2"] for strategy in ("ddp", "ddp_fork"))
    module = [sys.executable, "-m", "erode"]
    start_from = f"--init_from={weights}"
    running = [
        start(*module, "fit", *USUAL, *forked, cwd=tmp_path),
        start(*module, "unlearn", *USUAL, *two, start_from, "--trainer.callbacks+=Retrain", cwd=tmp_path),
        start(*module, "test", *USUAL, *forked, start_from, cwd=tmp_path),
    ]
    main(["test", *USUAL, start_from, "--trainer.default_root_dir=alone"])
    printed = [finish(process) for process in running]
    assert printed[0].count("weights: ") == 1  # only the first process speaks
    assert all(path.is_dir() and path.name.endswith("-0") for path in (tmp_path / "runs").iterdir())
    assert read(tmp_path / "runs/unlearn-0/unlearned/unlearning.json")["completed"] is True
    one, both = metrics(tmp_path / "alone", "test/"), metrics(tmp_path / "runs" / "test-0", "test/")
    assert one == both
    assert len(one) >= 10
