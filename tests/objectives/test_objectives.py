"""Objectives against what their papers say, written down a second time."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from erode.batch import UNKNOWN_FLAG
from erode.objectives import ERM, GroupDRO, JustTrainTwice, TrainingSet


def data_of(labels, flags, predicted=None, num_classes=2):
    as_tensor = lambda values: None if values is None else torch.tensor(values)  # noqa: E731
    names = [f"case {i}" for i in range(len(labels))]
    return TrainingSet(names, as_tensor(labels), as_tensor(flags), as_tensor(predicted), num_classes)


def batch_of(data, counted=None):
    counted = torch.ones(len(data.ids), dtype=torch.bool) if counted is None else torch.tensor(counted)
    return {"id": data.ids, "label": data.labels, "flag": data.flags, "counted": counted}


def test_erm_is_cross_entropy_and_copies_do_not_count():
    torch.manual_seed(0)
    data = data_of([0, 1, 1, 0], [0, 0, 1, 1])
    logits = torch.randn(4, 2)
    torch.testing.assert_close(ERM()(logits, batch_of(data)), F.cross_entropy(logits, data.labels))
    some = ERM()(logits, batch_of(data, [True, True, False, True]))
    torch.testing.assert_close(some, F.cross_entropy(logits[[0, 1, 3]], data.labels[[0, 1, 3]]))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.floats(0, 1), st.floats(0, 3))
def test_group_dro_is_the_algorithm_of_the_paper(seed, step_size, adjustment):
    """Algorithm 1 over whole batches, step by step in NumPy; groups that a batch lacks keep their weight."""
    rng = np.random.default_rng(seed)
    labels, flags = rng.integers(0, 3, 40), rng.integers(UNKNOWN_FLAG, 2, 40)
    flags[0] = 1
    objective = GroupDRO(step_size, adjustment)
    objective.begin(data_of(labels.tolist(), flags.tolist(), num_classes=3))
    sizes = {(y, s): int(((labels == y) & (flags == s)).sum()) for y in range(3) for s in (0, 1)}
    q = {group: float(size > 0) for group, size in sizes.items()}
    q = {group: weight / sum(q.values()) for group, weight in q.items()}
    for _ in range(3):
        rows = rng.choice(40, 8, replace=False)
        losses = rng.exponential(size=8)
        means = {}
        for y, s in q:
            here = (labels[rows] == y) & (flags[rows] == s)
            means[y, s] = losses[here].mean() if here.any() else None
        for group, mean in means.items():
            if mean is not None:
                q[group] *= math.exp(step_size * (mean + adjustment / math.sqrt(sizes[group])))
        q = {group: weight / sum(q.values()) for group, weight in q.items()}
        batch = {"label": torch.tensor(labels[rows]), "flag": torch.tensor(flags[rows])}
        loss = objective.reduce(torch.tensor(losses).float(), batch | {"counted": torch.ones(8, dtype=torch.bool)})
        assert loss.item() == pytest.approx(sum(q[g] * (m or 0) for g, m in means.items()), rel=1e-4, abs=1e-6)
    assert list(objective.weights().values()) == pytest.approx(list(q.values()), rel=1e-4)


def test_large_steps_make_group_dro_the_worst_group_and_no_steps_the_mean_of_groups():
    data = data_of([0, 0, 0, 1, 1], [0, 0, 1, 0, 1])
    losses = torch.tensor([1.0, 3.0, 0.5, 0.2, 2.5])
    for step_size, expected in ((1e3, 2.5), (0.0, (2 + 0.5 + 0.2 + 2.5) / 4)):
        objective = GroupDRO(step_size)
        objective.begin(data)
        assert objective.reduce(losses, batch_of(data)).item() == pytest.approx(expected)


def test_evaluation_leaves_the_weights_of_groups_alone():
    data = data_of([0, 1], [0, 1])
    objective = GroupDRO(step_size=1.0).eval()
    objective.begin(data)
    objective.reduce(torch.tensor([0.0, 9.0]), batch_of(data))
    assert set(objective.weights().values()) == {0.0, 0.5}


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 9))
def test_the_second_stage_is_the_mean_over_data_with_errors_repeated(seed, upweight):
    rng = np.random.default_rng(seed)
    labels, predicted = rng.integers(0, 2, 12), rng.integers(0, 2, 12)
    predicted[0] = 1 - labels[0]
    data = data_of(labels.tolist(), [UNKNOWN_FLAG] * 12, predicted.tolist())
    objective = JustTrainTwice(first_steps=1, upweight=upweight)
    objective.next_stage(data)
    losses = rng.exponential(size=12)
    repeated = np.repeat(losses, np.where(labels == predicted, 1, upweight))
    loss = objective.reduce(torch.tensor(losses).float(), batch_of(data))
    assert loss.item() == pytest.approx(repeated.mean(), rel=1e-5)


def test_stages_are_objectives_of_their_own():
    """JTT whose second stage is GroupDRO: the multiplied losses reach the groups."""
    data = data_of([0, 0, 1, 1], [0, 1, 0, 1], predicted=[0, 1, 1, 1])
    objective = JustTrainTwice(1, upweight=5.0, second=GroupDRO(step_size=0.0))
    assert objective.asks_for_groups
    objective.begin(data)
    assert objective.reduce(torch.ones(4), batch_of(data)).item() == 1
    objective.next_stage(data)
    assert objective.reduce(torch.ones(4), batch_of(data)).item() == pytest.approx(1)  # factors have mean 1
    assert objective.reduce(torch.tensor([0.0, 1, 0, 0]), batch_of(data)).item() == pytest.approx(5 / 2 / 4)


def test_progress_survives():
    data = data_of([0, 0, 1, 1], [0, 1, 0, 1], predicted=[1, 0, 1, 1])
    make = lambda: JustTrainTwice(1, second=GroupDRO(step_size=0.5))  # noqa: E731
    one, other = make(), make()
    for objective in (one, other):
        objective.begin(data)
    one.next_stage(data)
    one.reduce(torch.tensor([3.0, 1, 0, 0]), batch_of(data))
    other.resume(one.progress())
    assert other.error_set == {"case 0"}
    assert other.stage_end is None
    assert other.second.weights() == one.second.weights()
    assert torch.equal(other.factors(data.ids), one.factors(data.ids))


def test_settings_and_data_that_an_objective_cannot_use_are_refused():
    with pytest.raises(ValueError, match="flag of every training image"):
        GroupDRO().begin(data_of([0, 1], [UNKNOWN_FLAG] * 2))
    with pytest.raises(RuntimeError, match="begin"):
        GroupDRO().reduce(torch.ones(2), batch_of(data_of([0, 1], [0, 1])))
    with pytest.raises(ValueError, match="step_size"):
        GroupDRO(step_size=-1)
    with pytest.raises(ValueError, match="upweight"):
        JustTrainTwice(10, upweight=0.5)
    with pytest.raises(ValueError, match="one stage"):
        JustTrainTwice(10, second=JustTrainTwice(5))
    with pytest.warns(UserWarning, match="no training image is misclassified"):
        JustTrainTwice(10).next_stage(data_of([0, 1], [0, 1], predicted=[0, 1]))
