"""Certified steps that a CUDA device is told at a stroke."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .draws import DeviceDraw

_MOST = 8
"""Recordings that are kept."""


class Replays:
    """Launches the same operations at each step: recorded as a CUDA graph, replayed wherever memory lies as it did.

    What a certified step adds to training is little work for a GPU, in dozens of launches, which take its host as long
    as a tenth of a small network's step. A recording works on fixed memory: weights and anchor never move, and the two
    pieces that are lent for a step are mostly where they were before. Where one is not, operations are launched one by
    one. Both ways do the same to the last bit.

    The seed of the noise is no part of a recording: each replay reads the generator's. What else the launches depend
    on, such as learning rate or clip norm, is.

    Example:
        >>> Replays().replayed
        0
    """

    def __init__(self) -> None:
        self.replayed = 0
        """Steps that were replayed."""
        self._graphs: dict[tuple[float, int, int], torch.cuda.CUDAGraph] = {}
        self._once: set[tuple[float, int, int]] = set()

    def launch(self, operations: Callable[[], None], draw: DeviceDraw, gradient: Tensor) -> None:
        """Do the operations.

        Args:
            operations: the same each time; nothing but launches, on ``gradient``, on what ``draw`` works in, and on
                memory that never moves.
            draw: the noise among them.
            gradient: all of it, in one piece.
        """
        place = draw.scale, draw.memory.data_ptr(), gradient.data_ptr()
        graph = self._graphs.get(place)
        if graph is None and place in self._once and len(self._graphs) < _MOST:
            graph = self._graphs[place] = _recorded(operations, draw.generator)
        if graph is not None:
            graph.replay()
            self.replayed += 1
            return
        self._once.add(place)
        operations()


def _recorded(operations: Callable[[], None], generator: torch.Generator) -> torch.cuda.CUDAGraph:
    """The operations, noted and not done."""
    graph, aside = torch.cuda.CUDAGraph(), torch.cuda.Stream(generator.device)  # type: ignore[no-untyped-call]
    here = torch.cuda.current_stream(generator.device)
    graph.register_generator_state(generator)
    aside.wait_stream(here)  # beginning writes where the replay before may still read its seed
    with torch.cuda.stream(aside):
        # Other threads, such as NCCL's or a loader's, may ask the device whatever they like meanwhile.
        graph.capture_begin(capture_error_mode="thread_local")
        try:
            operations()
        finally:
            graph.capture_end()
    here.wait_stream(aside)
    return graph
