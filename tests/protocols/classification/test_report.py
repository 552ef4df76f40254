"""Tables say what the rows hold: means over seeds, intervals over images, and no images that were counted twice."""

import pytest
import torch
from scipy.stats import binomtest

from erode.metrics.resampling import share_interval
from erode.protocols.classification.report import curve_figure, curve_table, subgroup_tables


def row(arm, fraction, seed, auroc, recalled, robust=None, kept=None):
    return {
        "arm": arm, "title": arm.title(), "fraction": fraction, "images": int(100 * fraction), "seed": seed,
        "pseudo": None if kept is None else {"predicted": 90, "kept": kept},
        "metrics": {"auroc": auroc, "balanced_accuracy": 0.5, "auroc_robust": robust},
        "subgroups": {
            "all": {"recall": [recalled, 20], "specificity": [15, 30]},
            "rare": {"recall": [0, 0], "specificity": [1, 2]},
        },
        "seconds": 1.0,
    }  # fmt: skip


ROWS = [
    row("masks", 1.0, 0, 0.9, 20),
    row("masks", 0.1, 0, 0.6, 10),
    row("masks", 0.1, 1, 0.8, 13),
    row("semi", 0.1, 0, 0.7, 10, kept=40),
    row("semi", 0.1, 1, 0.7, 10, kept=50),
]


def test_the_curve_goes_from_few_images_to_all():
    head, _, *lines = curve_table(ROWS).splitlines()
    assert "robust" not in head  # no flags, no column
    assert [line.split(" | ")[0] for line in lines] == ["| 10 (10%)", "| 10 (10%)", "| 100 (100%)"]
    assert "0.700 ± 0.141" in lines[0]
    assert lines[1].endswith("| 45 of 90 |")
    assert "| 0.900 |" in lines[2]


def test_intervals_count_each_test_image_once():
    few, every = subgroup_tables(ROWS)
    expected = binomtest(12, 20).proportion_ci(method="exact")  # (10 + 13) / 2, rounded to even
    assert f"| all | 20 | 0.57 [{expected.low:.2f}, {expected.high:.2f}], 0.50 ± 0.00 |" in few
    assert "1.00 [0.83, 1.00], 0.50 |" in every
    assert "| rare | 0 | –, 0.50 ± 0.00 |" in few  # nobody to recall, and it says so


def test_intervals_resample_patients_who_have_several_images():
    """Four patients of five images: each seed's hits by patient, their mean resampled, and a line that says so."""
    rows = [row("masks", 1.0, seed, 0.9, recalled) for seed, recalled in ((0, 14), (1, 10))]
    for one, hits in zip(rows, ([5, 4, 0, 5], [5, 0, 0, 5]), strict=True):
        one["subgroups"]["all"] |= {
            "recall_clusters": [[hit, 5] for hit in hits],
            "specificity_clusters": [[7, 10], [8, 20]],
        }
        one["subgroups"]["rare"] |= {"recall_clusters": [], "specificity_clusters": [[1, 2]]}
    table, note = subgroup_tables(rows)
    low, high = share_interval(torch.tensor([[5, 5], [2, 5], [0, 5], [5, 5]]))
    assert f"| all | 20 | 0.60 [{low:.2f}, {high:.2f}], 0.50 ± 0.00 |" in table
    assert note == "Patients have several images, so intervals resample patients."
    assert all("resample" not in table for table in subgroup_tables(ROWS))


@pytest.mark.parametrize(("robust", "panels"), [(None, 2), (0.4, 3)])
def test_the_figure_has_a_panel_per_known_measure(robust, panels):
    figure = curve_figure([row("masks", f, s, 0.6, 10, robust) for f in (0.1, 1.0) for s in (0, 1)])
    assert len(figure.axes) == panels
    for axis in figure.axes:
        assert axis.get_xlabel() == "labelled training images"
        assert axis.get_ylabel().endswith("(test part)")
        assert [tick.get_text() for tick in axis.get_xticklabels()] == ["10", "100"]
