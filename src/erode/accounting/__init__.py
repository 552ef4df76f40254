"""Privacy accounting: μ-GDP conversions, noisy iteration, contraction (theory §3, §4)."""

from .capacity import (
    curvature_excess_risk,
    deletion_capacity,
    newton_capacity_rate,
    privacy_capacity_rate,
    softmax_excess_risk,
)
from .clipping import (
    Reference,
    gradient_clipping_sigma,
    gradient_clipping_steps,
    gradient_shift,
    initial_distance,
    output_perturbation_sigma,
)
from .contraction import contraction_steps, model_clipping_delta, model_clipping_sigma
from .convex import (
    SOFTMAX_HESSIAN_LIPSCHITZ,
    SOFTMAX_LIPSCHITZ,
    SOFTMAX_SMOOTHNESS,
    ConvexReference,
    newton_distance,
    newton_gradient,
    newton_sigma,
    residual_distance,
    residual_floor,
    residual_sigma,
)
from .gdp import gdp_delta, gdp_epsilon, gdp_mu
from .iteration import NoisyIteration
from .pnsgd import pnsgd_distance, pnsgd_epochs, pnsgd_hidden, pnsgd_sigma
from .quantisation import GRID, quantiser_probabilities, removal_budget, smoothed_threshold
from .removal import RemovalBudgets
from .rounding import rounded_down, rounded_up

__all__ = [
    "GRID",
    "SOFTMAX_HESSIAN_LIPSCHITZ",
    "SOFTMAX_LIPSCHITZ",
    "SOFTMAX_SMOOTHNESS",
    "ConvexReference",
    "NoisyIteration",
    "Reference",
    "RemovalBudgets",
    "contraction_steps",
    "curvature_excess_risk",
    "deletion_capacity",
    "gdp_delta",
    "gdp_epsilon",
    "gdp_mu",
    "gradient_clipping_sigma",
    "gradient_clipping_steps",
    "gradient_shift",
    "initial_distance",
    "model_clipping_delta",
    "model_clipping_sigma",
    "newton_capacity_rate",
    "newton_distance",
    "newton_gradient",
    "newton_sigma",
    "output_perturbation_sigma",
    "pnsgd_distance",
    "pnsgd_epochs",
    "pnsgd_hidden",
    "pnsgd_sigma",
    "privacy_capacity_rate",
    "quantiser_probabilities",
    "removal_budget",
    "residual_distance",
    "residual_floor",
    "residual_sigma",
    "rounded_down",
    "rounded_up",
    "smoothed_threshold",
    "softmax_excess_risk",
]
