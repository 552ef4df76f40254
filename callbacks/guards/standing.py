"""Whether the weights of a run are still what the run made of them; what was refused once stays refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch import nn

from ...weights import weights_digest


class Standing:
    """How a run stands: not prepared yet, under way, at its end with certain weights, or refused.

    A file that is saved is resumed only from weights that are the run's own. Before they were prepared they are the
    original ones. After the end, or where the run broke off, anybody may change them, and those are not its own.

    Args:
        promises: whether what the run releases is exact or certified. Otherwise weights that somebody changed after
            the end count as its own, too.
    """

    def __init__(self, promises: bool) -> None:
        self._promises = promises
        self._refusal: Exception | None = None
        self._prepared = False
        self._over = False
        self._ended_with: str | None = None
        self._parameters: dict[str, nn.Parameter] = {}

    @contextmanager
    def checking(self) -> Iterator[None]:
        """Keep what is refused within: a look that comes later must not find the run in order again.

        Raises:
            Exception: what the checks within raise, or an earlier one did.
        """
        if self._refusal is not None:
            raise self._refusal
        try:
            yield
        except Exception as refusal:
            self._refusal = refusal
            raise

    def watch(self, module: nn.Module) -> None:
        """Note which parameters the optimisers were given."""
        self._parameters = dict(module.named_parameters())

    def prepared(self) -> None:
        """From here on the weights are the run's own."""
        self._prepared = True

    def end(self, module: nn.Module) -> None:
        """Note the weights that the run came to."""
        self._over = True
        if self._promises:
            self._ended_with = weights_digest(module)

    def break_off(self, module: nn.Module, look: Callable[[], None]) -> None:
        """Note the weights where the run broke off, unless a last look refuses them. Nothing is raised.

        Args:
            module: holds the weights.
            look: raises where something is wrong with them, which no step may have come to notice.
        """
        if self._over or not self._prepared:
            return
        self._over = True
        with suppress(Exception):  # what broke the run off is what is told
            with self.checking():
                look()
            self.end(module)

    def close(self) -> None:
        """The run is over: what the module holds from here on is somebody else's business."""
        self._over = True
        self._parameters = {}

    def digest(self, module: nn.Module, resumed_from: str | None) -> str | None:
        """Digest of the weights if they are the run's own; None = nothing may go on from them.

        Args:
            module: holds the weights.
            resumed_from: digest of the weights of the checkpoint that is resumed: they are the run's own before it
                goes on, too.
        """
        if not self._prepared and resumed_from is None:
            return None  # nor may they be looked at: lazy layers hold none
        now = weights_digest(module)
        if not self._prepared:
            return now if now == resumed_from else None
        return None if self._promises and self._over and now != self._ended_with else now

    def check_parameters(self, module: nn.Module) -> None:
        """Refuse other parameters than those that the optimiser was given: training went past them.

        Raises:
            MisconfigurationException: naming the first.
        """
        now = dict(module.named_parameters())
        strange = [name for name, own in self._parameters.items() if now.get(name) is not own]
        if strange or (self._parameters and now.keys() != self._parameters.keys()):
            raise MisconfigurationException(
                f"{(strange or ['a parameter'])[0]} was replaced since the run began, so what the module holds is not "
                "what was trained; let no callback or hook put other tensors into the module's place"
            )


def check_continuation(path: object, operator: str, changed: list[str], saved: str | None, held: str | None) -> None:
    """Refuse to go on from a checkpoint of another run, or from weights that are not the run's own.

    Args:
        path: of the checkpoint, for messages.
        operator: name of the callback, for messages.
        changed: what of the run's identity differs.
        saved: digest of the weights that may be gone on from; None = the file says of none that they may.
        held: digest of those that the module holds; None = that they are others is no matter.

    Raises:
        MisconfigurationException: with the reason and the remedy.
    """
    if changed:
        raise MisconfigurationException(
            f"{path} comes from a run with another {' and '.join(changed)}; "
            "resume with the settings and the split of the run that was cut short, or start anew"
        )
    if saved is None:
        raise MisconfigurationException(
            f"{path} cannot be resumed: it was saved before {operator} had prepared the weights, or after something "
            "else had changed them; resume an earlier checkpoint of the run, or start anew from the trained weights"
        )
    if held is not None and held != saved:
        raise MisconfigurationException(
            f"the module does not hold the weights that {path} was saved with: the file lacks "
            "some of them, or something else was loaded since; save and load all weights, or start anew"
        )
