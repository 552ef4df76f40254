"""No run overwrites another; loggers and checkpoints find their place."""

from pathlib import Path

import pytest
import torch
import yaml
from cli_runs import CONFIGS, DATA, SHORT, SMALL, USUAL, metrics, read
from lightning.fabric.utilities.exceptions import MisconfigurationException

from erode.cli import main
from erode.files import write_json
from erode.lightning_modules import SegmentationModule
from erode.weights import load_weights


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
