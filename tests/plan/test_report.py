"""What people see of a plan."""

import json

import pytest
from plans import candidates, floor

from erode.callbacks import Retrain
from erode.plan import Candidate, plan, plan_figure, print_plan, write_plan


def test_tables_picture_and_json_say_the_same(tmp_path, capsys):
    made = plan(candidates(), d=52_000, epsilons=[1.0, 8.0], delta=1e-7, start=3.0, notes=["mind the gap"])
    print_plan(made)
    shown = capsys.readouterr().out
    assert "52,000 exposed parameters" in shown
    assert "mind the gap" in shown
    written = json.loads((write_plan(made, tmp_path) / "plan.json").read_text())
    for target, found in zip(written["targets"], made.targets, strict=True):
        ratios = {line["operator"]: line["ratio"] for line in target["mechanisms"]}
        assert ratios == {line.operator: line.ratio for line in found.outlooks}
        assert [line["operator"] for line in target["ranking"]] == [r.candidate.operator for r in found.ranking]
    assert (tmp_path / "plan.png").read_bytes().startswith(b"\x89PNG")
    axis = plan_figure(made).axes[0]
    assert (axis.get_xscale(), axis.get_yscale()) == ("log", "log")
    curves = {line.get_label(): line for line in axis.lines if "T =" in str(line.get_label())}
    assert len(curves) == 3
    x, y = curves["output (retrained, T = 1)"].get_data()
    nearest = abs(x - 8.0).argmin()
    assert y[nearest] == pytest.approx(floor(x[nearest], 1e-7, "retrained", 52_000), rel=1e-6)


def test_nothing_to_draw_where_nothing_is_noisy(tmp_path):
    made = plan([Candidate(operator="retrain", card=Retrain.card)], d=10, epsilons=[1.0], delta=1e-7)
    write_plan(made, tmp_path)
    assert not (tmp_path / "plan.png").exists()
