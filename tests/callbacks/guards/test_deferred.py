"""Answers that come at once or late, and always before the run goes on for good (late ones: test_cuda.py)."""

import pytest
import torch

from erode.callbacks.guards.deferred import DeferredCheck


def test_on_the_cpu_the_refusal_comes_at_once():
    check = DeferredCheck(lambda: KeyError("no"))
    check.ask(torch.tensor(False))
    check.poll()
    check.settle()
    with pytest.raises(KeyError, match="no"):
        check.ask(torch.tensor(True))


class Arrival:
    """An event of a device that arrives when told."""

    def __init__(self):
        self.there = False

    def query(self):
        return self.there

    def synchronize(self):
        self.there = True


@pytest.mark.parametrize("read", ["poll", "settle"])
def test_a_late_refusal_stays_one(read):
    """Whoever catches it must not be able to save what came of the refused batch."""
    check = DeferredCheck(lambda: KeyError("no"))
    check._answer, check._arrived = torch.tensor(True), Arrival()
    check.poll()  # not there yet
    check._arrived.there = read == "poll"
    for later in (getattr(check, read), check.poll, check.settle, lambda: check.ask(torch.tensor(False))):
        with pytest.raises(KeyError):
            later()
