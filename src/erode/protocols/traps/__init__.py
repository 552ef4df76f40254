"""Trap sets (Bissoto et al. 2020): what closes the gap between coarse masks and fine ones where artefacts mislead."""

from .experiment import traps

__all__ = ["traps"]
