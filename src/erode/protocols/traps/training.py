"""One baseline with one seed: trained, if it trains, and evaluated like the rows of a comparison."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.loggers import CSVLogger

from ...callbacks import GradientReversal
from ...comparison import Experiment, evaluated, row_trainer, weights_of
from ...lightning_modules import ImageClassifier
from ...rows import stored
from ...weights import load_weights, save_weights
from .baselines import BASELINES, BaselineName


class BaselineRows:
    """Rows of baselines in the folder of an experiment, with its data, length of training and part.

    Args:
        experiment: whose rows stand beside them, and whose weights some of them test.
        classifier: makes a fresh image classifier.
        artefacts: names of the flags that gradient reversal hides.
    """

    def __init__(
        self, experiment: Experiment, classifier: Callable[[], ImageClassifier], artefacts: Sequence[str]
    ) -> None:
        self.experiment = experiment
        self.classifier = classifier
        self.artefacts = list(artefacts)

    def row(self, name: BaselineName, seed: int) -> dict[str, Any]:
        """What one baseline gave with one seed, computed if it was not before."""
        return stored(self.experiment.out / "rows" / f"{name}-seed{seed}.json", lambda: self._run(name, seed))

    def _run(self, name: BaselineName, seed: int) -> dict[str, Any]:
        baseline, experiment = BASELINES[name], self.experiment
        print(f"seed {seed}: {baseline.title}", flush=True)
        started = time.monotonic()
        seed_everything(seed, verbose=False)
        module: LightningModule = self.classifier() if baseline.classifier else experiment.model()
        experiment.data.serve(baseline.view)
        if baseline.trained is None:
            weights = weights_of(experiment.out, name, seed)
            # What a run that was cut short left behind: no row, no run.
            shutil.rmtree(weights.parent, ignore_errors=True)
            callbacks = [GradientReversal(self.artefacts)] if baseline.reversal else baseline.training()
            self._trainer(name, seed, callbacks).fit(module, datamodule=experiment.data)
            save_weights(module, weights)
        else:
            load_weights(module, weights_of(experiment.out, baseline.trained, seed))
        seconds = time.monotonic() - started
        segmenter = None
        if baseline.segmenter is not None:
            segmenter = experiment.model()
            load_weights(segmenter, weights_of(experiment.out, baseline.segmenter, seed))
        trainer = self._trainer(name, seed, baseline.testing(segmenter))
        return {
            "method": name,
            "title": baseline.title,
            "seed": seed,
            "metrics": evaluated(trainer, module, experiment.data, experiment.evaluate_on),
            "seconds": round(seconds, 1),
            "device": trainer.strategy.root_device.type,
        }

    def _trainer(self, name: str, seed: int, callbacks: Sequence[Callback]) -> Trainer:
        experiment = self.experiment
        logger = CSVLogger(experiment.out / "logs", name=f"{name}-seed{seed}")
        return row_trainer(
            experiment.data,
            experiment.steps,
            experiment.out,
            experiment.accelerator,
            callbacks=list(callbacks),
            logger=logger,
        )
