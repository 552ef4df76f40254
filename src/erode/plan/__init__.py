"""``erode plan``: what a wished (ε, δ) leaves of trained weights, and what else would answer, before it is paid for."""

from .ranking import Candidate, Plan, plan
from .report import plan_figure, print_plan, write_plan

__all__ = ["Candidate", "Plan", "plan", "plan_figure", "print_plan", "write_plan"]
