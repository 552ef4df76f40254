"""Unlearning operators and monitors as Lightning callbacks: one per file."""

from .fine_tune import FineTune
from .gallery import PredictionGallery
from .neg_grad import NegGradSeg
from .operator import UnlearningOperator
from .prediction_writer import PredictionWriter
from .retrain import Retrain
from .spurious_monitor import SpuriousInformationMonitor

__all__ = [
    "FineTune",
    "NegGradSeg",
    "PredictionGallery",
    "PredictionWriter",
    "Retrain",
    "SpuriousInformationMonitor",
    "UnlearningOperator",
]
