import inspect
import math
import runpy
from pathlib import Path

import pytest
import torch
from torchmetrics import Metric

from erode import metrics

SCRIPT = Path(__file__).with_name("ddp.py")
MADE = runpy.run_path(str(SCRIPT))["make_metrics"]()
"""What each process evaluates, by name: a metric and the entries that it takes."""


@pytest.fixture(scope="module")
def evaluations(tmp_path_factory, scripts):
    folder = tmp_path_factory.mktemp("ddp")
    scripts(*((SCRIPT, rank, 2, folder / "store", folder / "out.pt") for rank in range(2)))
    return torch.load(folder / "out.pt", weights_only=True)


def same(one, other):
    if isinstance(one, torch.Tensor):
        return torch.equal(one.nan_to_num(nan=-7), other.nan_to_num(nan=-7))
    if isinstance(one, tuple):
        return all(same(*pair) for pair in zip(one, other, strict=True))
    return one == other or (isinstance(one, float) and math.isnan(one) and math.isnan(other))


def subclasses(kind):
    return {kind}.union(*map(subclasses, kind.__subclasses__()))


def test_every_metric_is_evaluated_by_two_processes(evaluations):
    ours = {kind for kind in subclasses(Metric) if kind.__module__.startswith("erode.metrics.")}
    public = {kind for kind in ours if not inspect.isabstract(kind)}
    exported = {getattr(metrics, name) for name in metrics.__all__}
    assert public == {kind for kind in exported if isinstance(kind, type) and issubclass(kind, Metric)}
    assert {type(metric) for metric, _ in MADE.values()} == public
    for evaluated in (*evaluations["together"].values(), *evaluations["alone"].values()):
        assert evaluated.keys() == MADE.keys()


@pytest.mark.parametrize(("share", "reference"), [("dealt", "all"), ("one has all", "all"), ("no images", "none")])
@pytest.mark.parametrize("metric", MADE)
def test_two_processes_equal_one_to_the_last_digit(evaluations, metric, share, reference):
    """Also where the second, or either, has seen no image."""
    together, alone = evaluations["together"][share][metric], evaluations["alone"][reference][metric]
    assert together.keys() == alone.keys()
    for name in alone:
        assert same(together[name], alone[name]), (name, together[name], alone[name])
