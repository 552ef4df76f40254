"""Configurations whose factories make everything anew: two modules of one configuration share no part."""

from __future__ import annotations

import functools
from typing import Any

from jsonargparse import ArgumentParser, Namespace


class FreshParser(ArgumentParser):
    """A parser whose factories build the parts that a configuration names at each call.

    For an argument such as ``model: Callable[[], SegmentationModule]`` jsonargparse builds network, loss or objective
    once, when it reads the configuration, and gives the same ones to every module. The second model of a comparison
    would then start from what the first has learnt, and neither from weights of its seed.

    Example:
        >>> from collections.abc import Callable
        >>> from erode.lightning_modules import ImageClassifier
        >>> parser = FreshParser(exit_on_error=False)
        >>> _ = parser.add_argument("--model", type=Callable[[], ImageClassifier])
        >>> network = {"class_path": "torch.nn.Linear", "init_args": {"in_features": 3, "out_features": 2}}
        >>> config = {"model": {"class_path": "ImageClassifier", "init_args": {"network": network}}}
        >>> make = parser.instantiate(parser.parse_object(config)).model
        >>> make().network is make().network
        False
    """

    def instantiate(self, namespace: Namespace, *args: Any, **kwargs: Any) -> Namespace:
        """What a configuration describes, with factories that share nothing between calls."""
        built: Namespace = super().instantiate(namespace, *args, **kwargs)
        for name, value in vars(built).items():
            if isinstance(value, functools.partial):
                built[name] = functools.partial(self._make, name, namespace[name])
        return built

    def _make(self, name: str, config: Any, *args: Any, **kwargs: Any) -> Any:
        alone = Namespace(**{name: config})  # type: ignore[no-untyped-call]
        return super().instantiate(alone)[name](*args, **kwargs)
