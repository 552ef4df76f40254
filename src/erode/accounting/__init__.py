"""Privacy accounting: μ-GDP conversions, noisy iteration, contraction (theory §3, §4)."""

from .clipping import (
    Reference,
    gradient_clipping_sigma,
    gradient_shift,
    initial_distance,
    output_perturbation_sigma,
)
from .contraction import contraction_steps, model_clipping_delta, model_clipping_sigma
from .gdp import gdp_delta, gdp_epsilon, gdp_mu
from .iteration import NoisyIteration

__all__ = [
    "NoisyIteration",
    "Reference",
    "contraction_steps",
    "gdp_delta",
    "gdp_epsilon",
    "gdp_mu",
    "gradient_clipping_sigma",
    "gradient_shift",
    "initial_distance",
    "model_clipping_delta",
    "model_clipping_sigma",
    "output_perturbation_sigma",
]
