"""Configurations compose, print and start another run."""

import subprocess
from pathlib import Path

import pytest
import yaml
from cli_runs import CONFIGS, USUAL

from erode import __version__
from erode.cli import main


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
