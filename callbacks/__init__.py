"""Unlearning operators and monitors as Lightning callbacks: one per file."""

from .fine_tune import FineTune
from .neg_grad import NegGradSeg
from .operator import UnlearningOperator
from .retrain import Retrain

__all__ = ["FineTune", "NegGradSeg", "Retrain", "UnlearningOperator"]
