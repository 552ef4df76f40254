"""``erode plan``: what a wished (ε, δ) leaves of trained weights, and what else would answer, before it is paid for.

The mathematics and its tables stand here; `candidates` and `command` know the operators and the command line.
"""

from .outlook import Outlook, Regime, too_many_pixels
from .ranking import Candidate, Plan, plan
from .report import plan_figure, print_plan, write_plan

__all__ = [
    "Candidate",
    "Outlook",
    "Plan",
    "Regime",
    "plan",
    "plan_figure",
    "print_plan",
    "too_many_pixels",
    "write_plan",
]
