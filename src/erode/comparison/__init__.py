"""``erode compare``: one experiment, every way of getting rid of a dilation artefact beside the others."""

from .experiment import Experiment, Row, settings_of, weights_of
from .methods import DEFAULT_METHODS, METHODS, Method, MethodName, Task
from .run import COLUMNS, check_order, compare
from .trainer import evaluated, row_trainer

__all__ = [
    "COLUMNS",
    "DEFAULT_METHODS",
    "METHODS",
    "Experiment",
    "Method",
    "MethodName",
    "Row",
    "Task",
    "check_order",
    "compare",
    "evaluated",
    "row_trainer",
    "settings_of",
    "weights_of",
]
