"""What a run would refuse is not planned, as far as the configuration tells."""

from pathlib import Path

import pytest
from jsonargparse import Namespace
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from plan_runs import CONFIGS, DATA, HEAD, MODEL, USUAL, unlearn
from torch import nn

from erode.cli import main
from erode.plan.candidates import Setting

SWA = ["--trainer.callbacks+=StochasticWeightAveraging", "--trainer.callbacks.swa_lrs=0.1"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([*MODEL, *unlearn("residual_certificate")], "ResidualCertificate certifies strongly convex heads only"),
        ([*MODEL, *unlearn("newton_step")], "NewtonStep certifies strongly convex heads only"),
        ([*HEAD, *unlearn("residual_certificate"), "--trainer.callbacks.ridge=1e-3"], "minimises with ridge = 0.0001"),
        ([*HEAD, *unlearn("newton_step"), "--trainer.callbacks.samples=500"], "samples = 500, the data have 600"),
        ([*HEAD, *unlearn("output_perturbation")], "PixelHead is fitted to its tolerance before the first step"),
        ([*HEAD, *unlearn("retrain")], "PixelHead is fitted to its tolerance before the first step"),
        (["--config", str(CONFIGS / "model" / "quantised_unet.yaml"), *unlearn("cns")], "optimises manually"),
        ([*MODEL, *unlearn("cns"), "--trainer.precision=16"], "precision 16-mixed skips steps silently"),
        ([*HEAD, *unlearn("residual_certificate"), "--trainer.precision=bf16-true"], "bf16-true rounds the noise away"),
        ([*MODEL, *unlearn("gradient_clipping"), "--trainer.max_steps=9"], "needs 10 optimiser steps"),
        ([*MODEL, *unlearn("blockwise"), "--trainer.max_steps=139"], "needs 140 optimiser steps"),
        ([*MODEL, *unlearn("output_perturbation"), *SWA], "StochasticWeightAveraging replaces weights"),
        ([*MODEL, *unlearn("retrain"), *SWA], "StochasticWeightAveraging copies the weights from before"),
        ([*MODEL, *unlearn("fine_tune"), "--trainer.callbacks+=EMAWeightAveraging"], "comes after FineTune"),
        ([*MODEL, *unlearn("fine_tune"), "--trainer.callbacks+=LearningRateFinder"], "takes trial steps"),
    ],
)  # fmt: skip
def test_an_operator_whose_run_would_be_refused_is_not_planned(arguments, message):
    with pytest.raises(MisconfigurationException, match=message):
        main(["plan", *DATA, *arguments])
    assert not Path("runs").exists()


def test_what_the_trainer_could_not_certify_is_planned_for_no_operator(planned):
    made, shown = planned(*USUAL, "--epsilon", "1", "--trainer.precision=16-mixed")
    ranking = made["targets"][0]["ranking"]
    refused = {line["operator"] for line in ranking if "16-mixed skips steps silently" in line["why"]}
    assert refused == {"OutputPerturbation", "CNS", "GradientClipping", "ModelClipping", "Blockwise"}
    assert (ranking[0]["operator"], made["targets"][0]["mechanisms"]) == ("Retrain", [])
    assert "use 32-true or bf16-mixed (likewise Blockwise, CNS, " in " ".join(shown.split())


def test_certified_steps_for_which_there_is_no_room_are_not_planned(planned):
    made, _ = planned(*USUAL, "--epsilon", "1", "--trainer.max_steps=2")
    why = {line["operator"]: line["why"] for line in made["targets"][0]["ranking"]}
    assert "needs 10 optimiser steps, this run takes 2" in why["GradientClipping"]
    assert "needs 140 optimiser steps" in why["Blockwise"]
    assert {line["operator"] for line in made["targets"][0]["mechanisms"]} == {"OutputPerturbation", "CNS"}


def test_noise_that_rounding_would_take_is_refused_where_there_are_weights_to_tell(planned, weights):
    tiny = [*USUAL, *unlearn("gradient_clipping"), "--trainer.callbacks.radius=1e-9"]
    planned(*tiny)
    with pytest.raises(MisconfigurationException, match="round"):
        main(["plan", *tiny, f"--init_from={weights[1]}"])


@pytest.mark.parametrize("given", [None, 16, "bf16", 32, "64", "64-true", "bf16-mixed"])
def test_short_names_of_precisions_mean_what_they_mean_to_the_trainer(given):
    arguments = Namespace(precision=given, accelerator="cpu", max_steps=None, callbacks=None)
    trainer = Trainer(precision=given, accelerator="cpu", logger=False, enable_checkpointing=False)
    assert Setting.of(nn.Identity(), None, arguments).precision == trainer.precision
