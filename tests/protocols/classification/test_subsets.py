"""Small data are nested, stratified and drawn by seed; subgroups are who they say they are."""

from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from erode.datamodules import SyntheticDermoscopy
from erode.protocols.classification.subsets import labelled_ids, lesion_sizes, nested_order, subgroups


def data(**options):
    return SyntheticDermoscopy(**{"size": 32, "train_images": 40, "val_images": 9, "test_images": 12, **options})


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=40), st.integers(0, 9))
def test_every_beginning_holds_each_stratum_in_proportion(strata, seed):
    ids = [f"i{n:02d}" for n in range(len(strata))]
    order = nested_order(ids, strata, seed)
    assert sorted(order) == ids
    stratum = dict(zip(ids, strata, strict=True))
    for length in range(len(ids) + 1):
        found = Counter(stratum[name] for name in order[:length])
        for name, size in Counter(strata).items():
            assert abs(found[name] - length * size / len(ids)) <= len(set(strata)) / 2 + 1e-9


def test_fractions_of_a_seed_are_nested_and_seeds_differ():
    source = data()
    drawn = {fraction: labelled_ids(source, fraction, 0) for fraction in (0.25, 0.5, 1.0)}
    assert [len(ids) for ids in drawn.values()] == [10, 20, 40]
    assert set(drawn[0.25]) < set(drawn[0.5]) < set(drawn[1.0])
    assert labelled_ids(source, 0.25, 0) == drawn[0.25] != labelled_ids(source, 0.25, 1)
    assert nested_order(["b", "a"], [0, 0], 3) == nested_order(["a", "b"], [0, 0], 3)  # whatever order they come in


def test_fractions_without_a_class_are_refused():
    with pytest.raises(ValueError, match="leave none of class 2; raise the fraction"):
        labelled_ids(data(prevalence=0.05), 0.05, 0)
    with pytest.raises(ValueError, match="between 0 and 1"):
        labelled_ids(data(), 0.0, 0)


def test_subgroups_follow_flags_and_sizes():
    source = data()
    cases, sizes = source.part("test"), lesion_sizes(source, "test")
    assert sizes.tolist() == [int((source.read(case).mask > 0).sum()) for case in cases]
    edges = torch.tensor([sizes.median() - 0.5, sizes.max()])
    members = subgroups(cases, sizes, edges)
    assert members["hair"].tolist() == [case.flags["hair"] == 1 for case in cases]
    assert bool((members["hair"] ^ members["no hair"]).all())
    assert "dark_corner" not in members  # nobody shows one
    together = sum(members[f"{size} lesions"].long() for size in ("small", "medium", "large"))
    assert together.tolist() == [1] * len(cases)
    assert int(members["large lesions"].sum()) == 0
    assert bool((sizes[members["small lesions"]] < edges[0]).all())
