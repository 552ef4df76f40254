"""The state of an optimiser that a phase has for itself."""

import copy

import pytest
import torch
from torch import nn

from erode.callbacks.bases.phase_state import PhaseState

torch.set_num_threads(1)

OPTIMIZERS = {
    "Adam": lambda p: torch.optim.Adam(p, lr=0.1),
    "AMSGrad": lambda p: torch.optim.Adam(p, lr=0.1, amsgrad=True),
    "SGD": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "plain SGD": lambda p: torch.optim.SGD(p, lr=0.1),
    "Adagrad": lambda p: torch.optim.Adagrad(p, lr=0.1),  # has a state before its first step
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=0.1),
}


def step(weights, optimizer, gradient):
    for own in weights:
        own.grad = torch.full_like(own, gradient)
    optimizer.step()
    return [own.detach().clone() for own in weights]


def two(name):
    weights = [nn.Parameter(torch.zeros(3)), nn.Parameter(torch.ones(2))]
    return weights, OPTIMIZERS[name](weights)


@pytest.fixture(params=OPTIMIZERS)
def name(request):
    return request.param


def moved(weights, optimizer, gradient):
    before = [own.detach().clone() for own in weights]
    return [after - old for after, old in zip(step(weights, optimizer, gradient), before, strict=True)]


def test_steps_outside_move_as_if_the_phase_had_not_been(name):
    weights, optimizer = two(name)
    others, plain = two(name)
    state = PhaseState()
    for large in (100.0, -300.0, None, 20.0):
        if large is None:
            state.end()
        else:
            state.enter(optimizer)
            step(weights, optimizer, large)
            state.leave()
        for got, expected in zip(moved(weights, optimizer, 0.5), moved(others, plain, 0.5), strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)  # added to weights of another size


def test_a_phase_moves_as_if_the_optimiser_had_simply_gone_on(name):
    """Each from the state that the other steps had reached when it began."""
    weights, optimizer = two(name)
    state = PhaseState()
    outside = [7.0]
    for _ in range(2):
        step(weights, optimizer, outside[-1])
        others, plain = two(name)
        for gradient in outside:
            step(others, plain, gradient)
        for gradient in (1.0, 2.0, -1.0):
            state.enter(optimizer)
            for got, expected in zip(moved(weights, optimizer, gradient), moved(others, plain, gradient), strict=True):
                torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
            state.leave()
        state.end()
        outside.append(-3.0)


def test_a_phase_goes_on_from_a_checkpoint(name):
    weights, optimizer = two(name)
    state = PhaseState()
    step(weights, optimizer, 3.0)
    state.enter(optimizer)
    step(weights, optimizer, 50.0)
    state.leave()
    kept = copy.deepcopy((state.state_dict(), optimizer.state_dict(), [own.detach() for own in weights]))

    resumed, other = two(name)
    again = PhaseState()
    again.load_state_dict(kept[0])
    other.load_state_dict(kept[1])
    with torch.no_grad():
        for own, value in zip(resumed, kept[2], strict=True):
            own.copy_(value)
    for which, gradient in (("phase", 20.0), ("phase", 5.0), ("others", 1.0)):
        for phase, run, own in ((state, optimizer, weights), (again, other, resumed)):
            if which == "phase":
                phase.enter(run)
            step(own, run, gradient)
            phase.leave()
        for got, expected in zip(resumed, weights, strict=True):
            assert torch.equal(got, expected)


def test_who_holds_the_dictionary_and_the_groups_holds_them_after_it():
    """Lightning's wrapper shares both with the optimiser, and a scheduler writes into the groups."""
    weights, optimizer = two("Adagrad")
    held, groups = optimizer.state, optimizer.param_groups
    state = PhaseState()
    state.enter(optimizer)
    optimizer.param_groups[0]["lr"] = 0.05
    step(weights, optimizer, 1.0)
    assert optimizer.state is held
    state.leave()
    assert optimizer.state is held
    assert optimizer.param_groups is groups
    assert groups[0]["lr"] == 0.05


def test_what_broke_off_within_a_phase_is_put_right_by_leaving():
    weights, optimizer = two("Adam")
    state = PhaseState()
    step(weights, optimizer, 1.0)
    before = copy.deepcopy(optimizer.state_dict()["state"])
    state.enter(optimizer)
    step(weights, optimizer, 100.0)
    state.leave()
    state.leave()
    assert str(optimizer.state_dict()["state"]) == str(before)
