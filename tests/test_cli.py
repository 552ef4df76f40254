"""Each command, run as a user runs it: on pictures in folders and on the embedded data, in one process and two."""

import csv
import json
import os
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from lightning.fabric.utilities.exceptions import MisconfigurationException
from PIL import Image

from erode import __version__
from erode.cli import main
from erode.files import write_json
from erode.lightning_modules import SegmentationModule
from erode.masks import ForgetSplit
from erode.weights import load_weights, save_weights, weights_digest

CONFIGS = files("erode.configs")
ERODE = str(Path(sys.executable).parent / "erode")
DATA = ["--config", str(CONFIGS / "data" / "synthetic.yaml")]
MODEL = ["--config", str(CONFIGS / "model" / "unet.yaml")]
SMALL = [
    "--data.size=32", "--data.train_images=24", "--data.val_images=8", "--data.test_images=7", "--data.batch_size=4",
    "--data.fine_fraction=0.25", "--model.bootstrap=20",
]  # fmt: skip
SHORT = [
    "--trainer.accelerator=cpu", "--trainer.devices=1", "--trainer.max_steps=2", "--trainer.log_every_n_steps=1",
    "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false", "--trainer.num_sanity_val_steps=0",
]  # fmt: skip
USUAL = [*DATA, *MODEL, *SMALL, *SHORT]


def start(*command, cwd):
    """Start a command in a shell's environment, with few threads."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "120"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=cwd, env=environment, **pipes)


def finish(process):
    """Wait for a command that is to succeed; returns what it printed."""
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    return out


def erode(*arguments, cwd):
    return finish(start(ERODE, *arguments, cwd=cwd))


def metrics(folder, prefix):
    """The last value of each metric in a run's table, as printed."""
    with (folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    return {name: row[name] for row in rows for name in row if name.startswith(prefix) and row[name]}


def read(path):
    return json.loads(path.read_text())


@pytest.fixture(scope="module", autouse=True)
def _no_command_line():
    """Lightning warns where a program's own arguments and those of main() differ."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["erode"])
        yield


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Twenty pictures of a bright square with a one-pixel frame of glare, and their fine masks."""
    root = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for kind in ("images", "masks"):
        (root / kind).mkdir()
    for number in range(20):
        mask = np.zeros((32, 32), np.uint8)
        row, column = rng.integers(6, 16, 2)
        mask[row : row + 9, column : column + 7] = 255
        image = np.clip(rng.normal(80, 20, (32, 32, 3)) + mask[..., None] / 3, 0, 255)
        Image.fromarray(image.astype(np.uint8)).save(root / "images" / f"scan {number}.png")
        Image.fromarray(mask).save(root / "masks" / f"scan {number}.png")
    return root


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a short training run."""
    folder = tmp_path_factory.mktemp("trained") / "fit"
    main(["fit", *USUAL, f"--trainer.default_root_dir={folder}"])
    return folder


@pytest.fixture(scope="module")
def weights(trained):
    return str(trained / "weights.safetensors")


# The whole way ---------------------------------------------------------------------------------------------------


def test_from_pictures_in_folders_to_a_report(pictures, tmp_path):
    """The README's way, in a shell, on files: fit, unlearn, test, predict, report."""
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
    out = erode("fit", *usual, cwd=tmp_path)
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
    assert record["initial_weights"] == weights_digest(before)
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
    assert len({record["initial_weights"] for record in records}) == 1
    assert len({record["released_weights"] for record in records}) == 3


def test_every_approximate_operator_on_the_embedded_data(weights):
    """One step of a max-phase, eleven of a min-phase; settings are changed on the command line."""
    names = {"scrub": "Scrub", "scrub_r": "ScrubRewind", "neg_grad_plus": "NegGradPlus", "cf_k": "CFk", "eu_k": "EUk"}
    usual = ["unlearn", *USUAL, f"--init_from={weights}", "--trainer.max_steps=12"]
    for name in names:
        phases = ["--trainer.callbacks.min_phase=11"] if name.startswith("scrub") else []
        main([*usual, "--config", str(CONFIGS / "unlearn" / f"{name}.yaml"), *phases])
    records = [read(Path(f"runs/unlearn-{n}/unlearned/unlearning.json")) for n in range(len(names))]
    assert [record["operator"] for record in records] == list(names.values())
    assert {(record["guarantee"], record["completed"], record["steps"]) for record in records} == {
        ("approximate", True, 12)
    }
    assert len(records[1]["rewind"]["curve"]) == 2
    assert len(records[3]["trained_blocks"]) == 3


def test_a_certificate_is_verified_with_or_without_its_weights(weights, capsys):
    short = ["--trainer.max_steps=4", "--trainer.callbacks+=GradientClipping", "--trainer.callbacks.steps=2"]
    main(["unlearn", *USUAL, f"--init_from={weights}", *short, "--trainer.default_root_dir=run"])
    files = [f"run/unlearned/{name}" for name in ("certificate.json", "weights.safetensors")]
    capsys.readouterr()
    main(["verify", files[0]])
    assert "weights not given" in capsys.readouterr().out
    for arguments in (files, [files[0], "--weights", files[1]]):
        main(["verify", *arguments])
        assert "weights belong to it" in capsys.readouterr().out
    with pytest.raises(ValueError, match="these are other weights"):
        main(["verify", files[0], str(weights)])


def test_two_processes_do_what_one_does(weights, tmp_path):
    """Seven test images leave the second process one short: no image may count twice."""
    two = ["--trainer.strategy=ddp", "--trainer.devices=2"]
    module = [sys.executable, "-m", "erode"]
    start_from = f"--init_from={weights}"
    running = [
        start(*module, "fit", *USUAL, *two, cwd=tmp_path),
        start(*module, "unlearn", *USUAL, *two, start_from, "--trainer.callbacks+=Retrain", cwd=tmp_path),
        start(*module, "test", *USUAL, *two, start_from, cwd=tmp_path),
    ]
    main(["test", *USUAL, start_from, "--trainer.default_root_dir=alone"])
    printed = [finish(process) for process in running]
    assert printed[0].count("weights: ") == 1  # only the first process speaks
    assert all(path.is_dir() and path.name.endswith("-0") for path in (tmp_path / "runs").iterdir())
    assert read(tmp_path / "runs/unlearn-0/unlearned/unlearning.json")["completed"] is True
    one, both = metrics(tmp_path / "alone", "test/"), metrics(tmp_path / "runs" / "test-0", "test/")
    assert one == both
    assert len(one) >= 10


# Composition -----------------------------------------------------------------------------------------------------


def printed_config(capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        main([*arguments, "--print_config"])
    assert stop.value.code == 0
    return yaml.safe_load(capsys.readouterr().out)


def test_configurations_compose_and_print(capsys):
    operators = [f"--config={CONFIGS / 'unlearn' / name}.yaml" for name in ("retrain", "fine_tune")]
    gallery = "--trainer.callbacks+=PredictionGallery"
    config = printed_config(capsys, "unlearn", *USUAL, *operators, gallery, "--seed_everything=3")
    assert [callback["class_path"].rpartition(".")[2] for callback in config["trainer"]["callbacks"]] == [
        "Retrain",
        "FineTune",
        "PredictionGallery",
    ]
    assert config["data"]["class_path"].endswith("SyntheticDermoscopy")
    assert config["data"]["init_args"]["size"] == 32
    assert config["data"]["init_args"]["coarsening"]["init_args"] == {"half_width": 8}
    assert config["model"]["init_args"]["class_names"] == ["background", "benign", "malignant"]
    assert config["seed_everything"] == 3
    assert not Path("runs").exists()


def test_a_printed_configuration_is_one_to_start_from(capsys, tmp_path):
    config = printed_config(capsys, "fit", *USUAL)
    (tmp_path / "again.yaml").write_text(yaml.safe_dump(config))
    assert printed_config(capsys, "fit", "--config", "again.yaml") == config


def test_help_version_and_completion(capsys):
    def says(*arguments):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code in (0, None)
        return capsys.readouterr().out

    assert says("--version").strip() == f"erode {__version__}"
    overview = says("--help")
    for verb in ("fit", "validate", "test", "predict", "unlearn", "compare", "report", "completion"):
        assert verb in overview
    assert "--init_from" in says("unlearn", "--help")
    assert "--steps" in says("compare", "--help")
    assert "--out" in says("report", "--help")
    script = says("completion", "bash")
    ask = 'COMP_WORDS=(erode unlearn --init); COMP_CWORD=2; _shtab_erode; echo "${COMPREPLY[@]}"'
    answer = subprocess.run(["bash", "-c", f"{script}\n{ask}"], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "--init_from"


# Errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argument", "name"),
    [
        ("--model.depth=3", "depth"),
        ("--trainer.max_stepz=3", "max_stepz"),
        ("--trainer.callbacks+=FineTuna", "FineTuna"),
        ("--data=SyntheticDermoskopy", "SyntheticDermoskopy"),
        ("--config=absent.yaml", "absent.yaml"),
    ],
)
def test_what_it_does_not_know_it_names(argument, name, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["fit", *USUAL, argument])
    assert stop.value.code == 2
    assert name in capsys.readouterr().err
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--trainer.callbacks+=FineTune"], "give --init_from WEIGHTS"),
        (["--init_from=WEIGHTS"], r"exactly one unlearning operator, found 0; add one, e\.g\. --trainer\.callbacks"),
        (
            ["--init_from=WEIGHTS", "--trainer.callbacks+=FineTune", "--trainer.callbacks+=Retrain"],
            "exactly one unlearning operator, found 2",
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


# Run folders and loggers -----------------------------------------------------------------------------------------


def test_no_run_overwrites_another(weights):
    for _ in range(2):
        main(["validate", *USUAL, f"--init_from={weights}"])
    assert {path.name for path in Path("runs").iterdir()} == {"validate-0", "validate-1"}
    before = {path: path.read_bytes() for path in Path("runs").rglob("*.*") if path.is_file()}
    with pytest.raises(MisconfigurationException, match=r"runs/validate-0 already holds a run .*another folder"):
        main(["validate", *USUAL, f"--init_from={weights}", "--trainer.default_root_dir=runs/validate-0"])
    assert {path: path.read_bytes() for path in Path("runs").rglob("*.*") if path.is_file()} == before


@pytest.mark.parametrize("verb", ["test", "predict"])
def test_a_command_returns_nothing_and_leaves_its_configuration(verb, weights):
    assert main([verb, *USUAL, f"--init_from={weights}"]) is None
    config = yaml.safe_load((Path("runs") / f"{verb}-0" / "config.yaml").read_text())
    assert config["init_from"] == weights


def test_the_users_own_writer_is_the_only_one(weights):
    writer = ["--trainer.callbacks+=PredictionWriter", "--trainer.callbacks.folder=mine"]
    main(["predict", *USUAL, f"--init_from={weights}", *writer])
    assert len(list(Path("mine").glob("*.png"))) == 7
    assert not Path("runs/predict-0/predictions").exists()


def test_weights_and_biases_gets_the_whole_configuration_offline(weights):
    wandb = pytest.importorskip("wandb")
    main(["test", *USUAL, f"--init_from={weights}", "--trainer.logger=WandbLogger", "--seed_everything=5"])
    assert wandb.config["data"]["init_args"]["size"] == 32
    assert wandb.config["trainer"]["max_steps"] == 2
    assert wandb.config["seed_everything"] == 5
    wandb.finish()
    run = Path("runs/test-0")
    assert list(run.glob("wandb/offline-run-*/*.wandb"))
    assert "test/dice_lesion" in metrics(run, "test/")  # the plain table is there all the same
    assert (run / "config.yaml").is_file()


def test_every_logger_leaves_one_run_folder(tmp_path):
    pytest.importorskip("tensorboard")
    main(["fit", *USUAL, "--trainer.logger=TensorBoardLogger", "--trainer.logger.save_dir=."])
    run = tmp_path / "runs" / "fit-0"
    assert {"config.yaml", "metrics.csv", "weights.safetensors", "split.json"} <= {p.name for p in run.iterdir()}
    assert list(run.rglob("events.out.tfevents.*"))


# Checkpoints and precision ---------------------------------------------------------------------------------------

SEGRESNET = [
    *DATA, "--config", str(CONFIGS / "model" / "segresnet.yaml"), *SMALL, *SHORT, "--model.network.init_filters=8",
]  # fmt: skip


def test_a_checkpoint_of_another_network_is_tested_and_resumed():
    main(["fit", *SEGRESNET, "--trainer.default_root_dir=first"])
    [checkpoint] = Path("first/checkpoints").glob("*.ckpt")
    assert "state_dict" in torch.load(checkpoint, weights_only=True)
    main(["test", *SEGRESNET, f"--ckpt_path={checkpoint}", "--trainer.default_root_dir=from_checkpoint"])
    main(["test", *SEGRESNET, "--init_from=first/weights.safetensors", "--trainer.default_root_dir=from_weights"])
    assert metrics(Path("from_checkpoint"), "test/") == metrics(Path("from_weights"), "test/")
    main(["fit", *SEGRESNET, f"--ckpt_path={checkpoint}", "--trainer.max_steps=4", "--trainer.default_root_dir=on"])
    [resumed] = Path("on/checkpoints").glob("*.ckpt")
    assert torch.load(resumed, weights_only=True)["global_step"] == 4


def test_bfloat16_trains_and_leaves_float32_weights(weights):
    main(
        ["unlearn", *USUAL, f"--init_from={weights}", "--trainer.callbacks+=Retrain", "--trainer.precision=bf16-mixed"]
    )
    released = SegmentationModule(num_classes=3)
    load_weights(released, "runs/unlearn-0/unlearned/weights.safetensors")
    assert {value.dtype for value in released.state_dict().values()} == {torch.float32}
    assert all(bool(value.isfinite().all()) for value in released.state_dict().values())


def test_a_comparison_on_the_command_line(capsys):
    main([
        "compare", "--data=SyntheticDermoscopy", *SMALL[:-1], "--methods=[coarse,fine_tune]", "--steps=2", "--out=here",
        "--accelerator=cpu",
    ])  # fmt: skip
    out = capsys.readouterr().out
    assert "report: here/report.html" in out
    assert [row["method"] for row in read(Path("here/comparison.json"))["rows"]] == ["coarse", "fine_tune"]


def test_a_report_on_nothing_says_what_to_give(tmp_path):
    with pytest.raises(FileNotFoundError, match="give the run folder"):
        main(["report", "runs/fit-9"])
    write_json(tmp_path / "empty" / "other.json", {})
    with pytest.raises(ValueError, match="holds nothing to report"):
        main(["report", str(tmp_path / "empty")])
