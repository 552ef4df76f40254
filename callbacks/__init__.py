"""Unlearning operators and monitors as Lightning callbacks: one per file."""

from .background_normalisation import BackgroundNormalisation
from .bases.operator import UnlearningOperator
from .blockwise import Blockwise
from .cf_k import CFk
from .cns import CNS
from .eu_k import EUk
from .exposure_ledger import ExposureLedger
from .fine_tune import FineTune
from .gallery import PredictionGallery
from .gradient_clipping import GradientClipping
from .gradient_reversal import GradientReversal
from .model_clipping import ModelClipping
from .neg_grad import NegGradSeg
from .neg_grad_plus import NegGradPlus
from .newton_step import NewtonStep
from .noise_crop import NoiseCrop
from .noisy_learning import NoisyLearning
from .output_perturbation import OutputPerturbation
from .prediction_writer import PredictionWriter
from .projected_noisy_sgd import ProjectedNoisySGD
from .relearn_timer import RelearnTimer
from .residual_certificate import ResidualCertificate
from .retrain import Retrain
from .rewind import Rewind
from .scrub import Scrub
from .scrub_rewind import ScrubRewind
from .spurious_monitor import SpuriousInformationMonitor

__all__ = [
    "CNS",
    "BackgroundNormalisation",
    "Blockwise",
    "CFk",
    "EUk",
    "ExposureLedger",
    "FineTune",
    "GradientClipping",
    "GradientReversal",
    "ModelClipping",
    "NegGradPlus",
    "NegGradSeg",
    "NewtonStep",
    "NoiseCrop",
    "NoisyLearning",
    "OutputPerturbation",
    "PredictionGallery",
    "PredictionWriter",
    "ProjectedNoisySGD",
    "RelearnTimer",
    "ResidualCertificate",
    "Retrain",
    "Rewind",
    "Scrub",
    "ScrubRewind",
    "SpuriousInformationMonitor",
    "UnlearningOperator",
]
