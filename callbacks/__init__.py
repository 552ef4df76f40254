"""Unlearning operators and monitors as Lightning callbacks: one per file."""

from .exposure_ledger import ExposureLedger
from .fine_tune import FineTune
from .gallery import PredictionGallery
from .gradient_clipping import GradientClipping
from .model_clipping import ModelClipping
from .neg_grad import NegGradSeg
from .operator import UnlearningOperator
from .output_perturbation import OutputPerturbation
from .prediction_writer import PredictionWriter
from .relearn_timer import RelearnTimer
from .retrain import Retrain
from .rewind import Rewind
from .spurious_monitor import SpuriousInformationMonitor

__all__ = [
    "ExposureLedger",
    "FineTune",
    "GradientClipping",
    "ModelClipping",
    "NegGradSeg",
    "OutputPerturbation",
    "PredictionGallery",
    "PredictionWriter",
    "RelearnTimer",
    "Retrain",
    "Rewind",
    "SpuriousInformationMonitor",
    "UnlearningOperator",
]
