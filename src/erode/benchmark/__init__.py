"""``erode benchmark``: a grid of comparisons from one file, into one file of results, with tables and figures."""

from .run import benchmark

__all__ = ["benchmark"]
