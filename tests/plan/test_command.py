"""`erode plan` as a user runs it: the configurations of a run, no training."""

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from lightning.fabric.utilities.exceptions import MisconfigurationException
from plan_runs import CONFIGS, DATA, HEAD, MODEL, USUAL, read, unlearn
from torch import nn

from erode.callbacks import GradientClipping, OutputPerturbation, ProjectedNoisySGD
from erode.callbacks.bases.blocks import blocks_of
from erode.cli import main
from erode.lightning_modules import PixelHead, SegmentationModule
from erode.mechanisms import NewtonMechanism, ResidualMechanism
from erode.operators import operator_kinds
from erode.plan.command import PlanCLI, measure
from erode.requests.ledger import FILE_NAME, Ledger
from erode.weights import save_weights

HEADS = {"NewtonStep", "ProjectedNoisySGD", "ResidualCertificate"}


def test_every_target_gets_its_outlooks_and_a_ranking_in_a_shell(tmp_path):
    command = [Path(sys.executable).parent / "erode", "plan", *USUAL, "--epsilon", "1", "3", "8", "--delta", "1e-7"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "120"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert "plan: runs/plan-0/plan.json, runs/plan-0/plan.png" in done.stdout
    assert "52,256 exposed parameters" in done.stdout
    assert "this is a re-initialisation" in " ".join(done.stdout.split())
    made = read(tmp_path / "runs" / "plan-0")
    assert [target["epsilon"] for target in made["targets"]] == [1.0, 3.0, 8.0]
    assert made["d"] == sum(parameter.numel() for parameter in SegmentationModule(num_classes=3).parameters())
    for target in made["targets"]:
        lines = {(line["operator"], line["constants"]["reference"]) for line in target["mechanisms"]}
        assert lines == {
            ("GradientClipping", "retrained"), ("GradientClipping", "anchor"), ("GradientClipping", "noise"),
            ("ModelClipping", "retrained"), ("ModelClipping", "noise"),
            ("OutputPerturbation", "retrained"), ("OutputPerturbation", "anchor"),
            ("Blockwise", "retrained"), ("Blockwise", "anchor"), ("Blockwise", "noise"),
            ("CNS", "retrained"), ("CNS", "noise"),
        }  # fmt: skip
        assert target["conclusion"].startswith("Retrain: no forget atom takes part")
        assert "OutputPerturbation needs the least noise" in target["conclusion"]
    assert not list(tmp_path.rglob("*.ckpt"))


def test_every_operator_is_ranked(planned):
    made, _ = planned(*USUAL, "--epsilon", "1")
    kinds = operator_kinds()
    ranking = made["targets"][0]["ranking"]
    assert {line["operator"] for line in ranking} == kinds.keys() >= {"QuantisedTraining", "Retrain"}
    assert ranking[0]["guarantee"] == "exact"
    for line in ranking:
        card = kinds[line["operator"]].card
        assert (line["guarantee"], line["paper"]) == (card.guarantee, card.paper)


def test_what_a_run_computes_beside_its_steps_is_shown(planned):
    """600 images in batches of 16; Blockwise gives each layer steps of its own."""
    made, shown = planned(*USUAL, "--epsilon", "1")
    lines = {line["operator"]: line for line in made["targets"][0]["ranking"]}
    assert lines["CNS"]["evaluations_beside_steps"] == [717, 717]
    assert lines["OutputPerturbation"]["evaluations_beside_steps"] == [0, 0]
    module = SegmentationModule(num_classes=3)
    steps = {name: lines[name]["noisy_evaluations"] for name in ("GradientClipping", "Blockwise")}
    assert steps["Blockwise"] == len(blocks_of(module)) * steps["GradientClipping"]
    first = next(line for line in made["targets"][0]["mechanisms"] if line["operator"] == "CNS")
    assert first["gradient_evaluations"] == 717
    assert "717 gradient evaluations of its own" in " ".join(shown.split())
    assert lines["NewtonStep"]["evaluations_beside_steps"] is None


@pytest.mark.parametrize(("data", "evaluations"), [(DATA, [[375, 750], [75, 75], [37.5, 37.5]]), ([], None)])
def test_the_passes_of_operators_for_heads_are_shown(planned, data, evaluations):
    made, shown = planned(*data, *HEAD, "--epsilon", "1")
    lines = {line["operator"]: line for line in made["targets"][0]["ranking"]}
    assert lines["ResidualCertificate"]["passes"] == [10, 20]
    if evaluations is None:
        assert lines["ResidualCertificate"]["evaluations_beside_steps"] is None
        assert "no data were configured" in made["notes"][-1]
        return
    names = ["ResidualCertificate", "NewtonStep", "ProjectedNoisySGD"]
    assert [lines[name]["evaluations_beside_steps"] for name in names] == evaluations
    assert "10 to 20" in shown


def not_at_hand(made):
    return {line["operator"]: line["not_at_hand"] for line in made["targets"][0]["ranking"] if line["not_at_hand"]}


def test_what_is_not_at_hand_is_shown_and_comes_after_what_can_run(planned):
    made, shown = planned(*USUAL, "--epsilon", "1")
    assert not_at_hand(made) == {
        "Rewind": ["checkpoints with ledgers"], "QuantisedTraining": ["quantised training"],
        **{name: ["unexposed encoder"] for name in HEADS},
    }  # fmt: skip
    names = [line["operator"] for line in made["targets"][0]["ranking"]]
    assert names.index("ModelClipping") < names.index("Rewind") < names.index("FineTune")
    assert "ledgers" in shown


@pytest.mark.parametrize("ledger", [False, True])
def test_ledgers_are_looked_for_where_rewinding_would(planned, weights, ledger):
    module, path = weights
    folder = Path("training")
    folder.mkdir()
    Path(path).rename(folder / "weights.safetensors")
    if ledger:
        Ledger.unexposed(module.state_dict(), "initialisation").save(folder / FILE_NAME)
    made, _ = planned(*USUAL, *unlearn("rewind"), "--trainer.callbacks.checkpoints=training")
    assert ("Rewind" in not_at_hand(made)) == (not ledger)
    assert ("Rewind" in [line["operator"] for line in made["targets"][0]["ranking"][:2]]) == ledger


@pytest.mark.parametrize("encoder", [False, True])
def test_a_head_is_certified_on_an_encoder_that_is_known(planned, tmp_path, encoder):
    """Without one it comes first all the same, as nothing else can run; the plan says what it waits for."""
    known = []
    if encoder:
        made = PlanCLI(HEAD).config_init.model
        file = save_weights(made.network.encoder.to_empty(device="cpu"), tmp_path / "encoder.safetensors")
        known = [f"--model.init_args.encoder_weights={file}"]
    made, _ = planned(*DATA, *HEAD, *known, "--epsilon", "1")
    assert {name for name in not_at_hand(made) if name in HEADS} == (set() if encoder else HEADS)
    waits = "" if encoder else "once there is what it needs (unexposed encoder), "
    assert made["targets"][0]["conclusion"].startswith(f"ResidualCertificate: {waits}the head survives")


def test_what_would_come_first_if_it_were_at_hand_is_the_first_remedy(planned):
    """Trained by an optimiser, a head can be retrained as well."""
    made, _ = planned(*DATA, *HEAD, "--model.init_args.tolerance=null", "--epsilon", "1")
    (target,) = made["targets"]
    assert target["conclusion"].startswith("Retrain: ")
    assert "(unexposed encoder): with it ResidualCertificate comes first; the head survives" in target["remedies"][0]
    assert not_at_hand(made)["OutputPerturbation"] == ["anchor"]  # the frozen encoder is no fresh draw


def test_quantised_training_is_at_hand_where_the_module_is_trained_by_it(planned):
    made, shown = planned(*DATA, "--config", str(CONFIGS / "model" / "quantised_unet.yaml"), "--epsilon", "1")
    ranking = made["targets"][0]["ranking"]
    assert [line["operator"] for line in ranking[:2]] == ["Retrain", "QuantisedTraining"]
    assert "for as many removals as its budget states" in ranking[1]["why"]
    assert {line["operator"] for line in ranking if "optimises manually" in line["why"]} >= {"CNS", "NewtonStep"}
    assert "none at a" in shown
    assert not any("fill the ball" in note for note in made["notes"])


def test_a_configured_operator_is_planned_with_its_own_constants(planned):
    own = ["--trainer.callbacks.radius=0.5", "--trainer.callbacks.steps=7", "--trainer.callbacks.reference=anchor"]
    made, _ = planned(*USUAL, *unlearn("gradient_clipping"), *own, "--trainer.callbacks.epsilon=2")
    first, *others = made["targets"][0]["mechanisms"]
    mechanism = GradientClipping(epsilon=2.0, radius=0.5, steps=7, reference="anchor").mechanism
    assert first["constants"] == mechanism.constants()
    assert (made["targets"][0]["epsilon"], made["delta"]) == (2.0, 1e-7)
    assert {line["constants"]["radius"] for line in others} == {0.5}
    assert "GradientClipping" not in {line["operator"] for line in others}


def test_on_a_whole_network_operators_for_heads_are_not_planned(planned):
    made, shown = planned(*USUAL, "--epsilon", "1")
    ranking = made["targets"][0]["ranking"]
    assert {line["operator"] for line in ranking[-3:]} == HEADS
    for line in ranking[-3:]:
        assert (line["noise_norm"], line["ratio"]) == (None, None)
        assert "cannot run here" in line["why"]
    assert ranking[-4]["guarantee"] == "approximate"
    assert "cannot run here: NewtonStep certifies strongly convex heads only" in shown


def test_a_head_is_planned_with_the_ridge_of_the_module_and_the_images_of_the_data(planned):
    made, _ = planned(*DATA, *HEAD, "--epsilon", "1")
    (target,) = made["targets"]
    lines = {line["operator"]: line for line in target["ranking"]}
    constants = {"reference": "minimiser", "ridge": 1e-4}
    expected = {
        "ResidualCertificate": ResidualMechanism.calibrated(1.0, 1e-7, tolerance=1e-9, **constants),
        "NewtonStep": NewtonMechanism.calibrated(1.0, 1e-7, samples=600, changed=600, residual=1e-9, **constants),
        "ProjectedNoisySGD": ProjectedNoisySGD(600, 600, 1.0, 1e-7, ridge=1e-4).mechanism,
    }
    assert made["d"] == 51
    longest = math.sqrt(2 * math.log(3) / 1e-4)
    for name, mechanism in expected.items():
        assert lines[name]["noise_norm"] == pytest.approx(mechanism.final_noise() * math.sqrt(51), rel=1e-6)
        assert lines[name]["ratio"] == pytest.approx(longest / lines[name]["noise_norm"])
    quiet_first = sorted(expected, key=lambda name: lines[name]["noise_norm"])
    assert [line["operator"] for line in target["ranking"] if line["operator"] in HEADS] == quiet_first
    assert lines["ResidualCertificate"]["regime"] == "survives"
    assert "all 600 images counted as changed" in lines["NewtonStep"]["why"]
    assert target["ranking"][0]["operator"] == "ResidualCertificate"
    assert "the head survives" in target["conclusion"]
    assert "not survive" not in target["conclusion"]
    assert (target["mechanisms"], target["remedies"]) == ([], [])


def test_without_data_only_what_needs_their_number_is_left_unplanned(planned):
    made, _ = planned(*HEAD, "--epsilon", "1")
    why = {line["operator"]: line["why"] for line in made["targets"][0]["ranking"]}
    assert "the head survives" in why["ResidualCertificate"]
    assert "samples, changed belong to the request" in why["NewtonStep"]


def test_a_head_that_is_at_hand_is_measured(planned, tmp_path):
    head = PixelHead(nn.Conv2d(3, 4, 1), 4, num_classes=2, ridge=1e-3)
    with torch.no_grad():
        head.head.fill_(0.5)
    path = save_weights(head, tmp_path / "trained.safetensors")
    encoder = ["--model.encoder=torch.nn.Conv2d"] + [
        f"--model.encoder.{key}={value}"
        for key, value in {"in_channels": 3, "out_channels": 4, "kernel_size": 1}.items()
    ]
    model = ["--model=PixelHead", *encoder, "--model.channels=4", "--model.num_classes=2", "--model.ridge=1e-3"]
    made, _ = planned(*model, "--epsilon", "1", f"--init_from={path}")
    first = made["targets"][0]["ranking"][0]
    assert first["ratio"] * first["noise_norm"] == pytest.approx(0.5 * math.sqrt(10))
    assert "at most" not in first["why"]


def test_a_sigma_that_was_typed_is_planned_at_the_epsilon_it_gives(planned):
    typed = ["--trainer.callbacks.epsilon=null", "--trainer.callbacks.sigma=0.01"]
    made, _ = planned(*USUAL, *unlearn("output_perturbation"), *typed)
    mechanism = OutputPerturbation(epsilon=None, sigma=0.01).mechanism
    assert made["targets"][0]["epsilon"] == pytest.approx(mechanism.epsilon(1e-7))
    assert made["targets"][0]["mechanisms"][0]["sigma"] == pytest.approx(0.01)


def test_trained_weights_are_measured_from_the_operators_anchor(planned, weights):
    module, path = weights
    zeros = "--trainer.callbacks.anchor=zeros"
    made, shown = planned(*USUAL, *unlearn("output_perturbation"), zeros, f"--init_from={path}")
    norm = torch.cat([parameter.detach().flatten() for parameter in module.parameters()]).norm().item()
    assert made["start"] == pytest.approx(norm, rel=1e-5)
    assert made["targets"][0]["mechanisms"][0]["kept_of_trained_distance"] == pytest.approx(1e-3 / norm, rel=1e-5)
    assert f"of the trained distance {norm:.3g} are kept" in " ".join(made["targets"][0]["remedies"])
    assert "trained weights" in shown


def test_only_what_is_exposed_counts(weights):
    module, path = weights
    name = next(name for name, _ in module.named_parameters())
    operator = OutputPerturbation(exposed=[name], anchor="zeros")
    found = measure(module, operator, path)
    parameter = module.get_parameter(name)
    assert found.d == parameter.numel()
    assert found.start == found.weights_norm == pytest.approx(parameter.norm().item())


def test_a_large_network_costs_no_memory_and_one_that_needs_values_is_made_all_the_same():
    """MONAI's SwinUNETR asks for values of tensors while it is made."""
    network = "--model.network=monai.networks.nets."
    large = ["--model=SegmentationModule", f"{network}UNet", "--model.network.channels=[4096,8192,8192]",
             "--model.network.strides=[2,2]"]  # fmt: skip
    large += [f"--model.network.{k}={v}" for k, v in {"spatial_dims": 2, "in_channels": 3, "out_channels": 2}.items()]
    cli = PlanCLI(large)
    assert sum(parameter.numel() for parameter in cli.config_init.model.parameters()) > 10**9
    assert {parameter.device.type for parameter in cli.config_init.model.parameters()} == {"meta"}
    swin = ["--model=SegmentationModule", f"{network}SwinUNETR", "--model.network.feature_size=12"]
    swin += [f"--model.network.{k}={v}" for k, v in {"spatial_dims": 2, "in_channels": 3, "out_channels": 2}.items()]
    assert {p.device.type for p in PlanCLI(swin).config_init.model.parameters()} == {"cpu"}


def test_the_saved_configuration_of_a_run_is_one_to_plan_from(planned, capsys):
    with pytest.raises(SystemExit):
        main(["unlearn", *USUAL, *unlearn("model_clipping"), "--print_config"])
    Path("config.yaml").write_text(capsys.readouterr().out)
    assert "ckpt_path" in yaml.safe_load(Path("config.yaml").read_text())
    made, _ = planned("--config=config.yaml")
    assert made["targets"][0]["mechanisms"][0]["operator"] == "ModelClipping"


def test_delta_is_held_against_the_pixels_of_the_data(planned):
    made, shown = planned(*USUAL, "--delta=1e-4", "--epsilon", "1")
    assert "delta = 0.0001 times 4,096 pixels per image is 0.41" in shown
    assert any("choose delta <= 2e-06" in note for note in made["notes"])


def test_data_that_are_not_here_are_no_obstacle(planned):
    data = ["--data=ISICDataModule", "--data.root=nowhere"]
    made, _ = planned(*data, *MODEL, "--epsilon", "1")
    assert "none could be read" in made["notes"][-1]


def test_nothing_is_overwritten(planned):
    planned(*USUAL, "--epsilon", "1")
    with pytest.raises(MisconfigurationException, match=r"plan already holds a plan.*give another --out"):
        main(["plan", *USUAL, "--out=plan"])


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ([*unlearn("retrain"), *unlearn("fine_tune")], MisconfigurationException, "Retrain, FineTune in one config"),
        (["--epsilon", "-1"], ValueError, "epsilon must be positive"),
        (["--delta=2"], ValueError, "delta must be a number strictly"),
        (["--init_from=gone.safetensors"], FileNotFoundError, "no weights at gone"),
    ],
)
def test_bad_wishes_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        main(["plan", *USUAL, *arguments])
    assert not Path("runs").exists()


def test_it_is_named_in_the_overview_and_explains_itself(capsys):
    for arguments, text in ((["--help"], "\n    plan  "), (["plan", "--help"], "--epsilon")):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code == 0
        assert text in capsys.readouterr().out
