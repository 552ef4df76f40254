"""The specificity ladder (Saab et al. 2022): what labels say of the artefact, from image label to exact mask."""

from .experiment import ladder

__all__ = ["ladder"]
