"""Membership inference: AUC against scikit-learn, intervals against what they promise."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import roc_auc_score, roc_curve

from erode.metrics import MembershipInference

ATOMS = st.lists(st.tuples(st.booleans(), st.lists(st.integers(-3, 3), min_size=0, max_size=4)), min_size=1, max_size=9)


def fill(metric, images, **numbers):
    """``images`` holds (member, atoms) pairs; they are padded to one length and given two at a time."""
    longest = max(1, *(len(atoms) for _, atoms in images))
    for start in range(0, len(images), 2):
        part = images[start : start + 2]
        scores, mask = torch.zeros(len(part), longest), torch.zeros(len(part), longest, dtype=torch.bool)
        for row, (_, atoms) in enumerate(part):
            scores[row, : len(atoms)], mask[row, : len(atoms)] = torch.as_tensor(atoms, dtype=torch.float32), True
        chosen = slice(start, start + len(part))
        given = {name: value[chosen] for name, value in numbers.items()}
        member = torch.tensor([member for member, _ in part])
        metric.update(scores, mask, member, **{"image": torch.arange(start, start + len(part)), **given})
    return metric


def auc(images):
    """By scikit-learn: over atoms, over image means."""
    with_atoms = [(member, torch.tensor(atoms, dtype=torch.float64)) for member, atoms in images if atoms]
    if len({member for member, _ in with_atoms}) < 2:
        return math.nan, math.nan
    labels = [member for member, atoms in with_atoms for _ in atoms]
    means = [atoms.mean() for _, atoms in with_atoms]
    return (
        roc_auc_score(labels, torch.cat([atoms for _, atoms in with_atoms])),
        roc_auc_score([member for member, _ in with_atoms], means),
    )


@given(ATOMS)
@settings(deadline=None, max_examples=60)
def test_equals_sklearn_per_atom_and_per_image(images):
    metric = fill(MembershipInference(bootstrap=5), images)
    found = metric.compute()
    per_atom, per_image = auc(images)
    assert float(found["auc_atom"]) == pytest.approx(per_atom, abs=1e-12, nan_ok=True)
    assert float(found["auc_image"]) == pytest.approx(per_image, abs=1e-9, nan_ok=True)
    if math.isnan(per_atom):
        with pytest.raises(ValueError, match="one side has none"):
            metric.result()


def images(effect, generator, members=30, others=24, atoms=40, shared=1.0):
    """Atoms that share a random effect of their image, beside noise of their own; members are shifted."""
    drawn = []
    for index in range(members + others):
        mean = shared * torch.randn((), generator=generator) + (effect if index < members else 0.0)
        drawn.append((index < members, mean + torch.randn(atoms, generator=generator)))
    return drawn


@pytest.mark.parametrize("fpr", [0.01, 0.05])
@pytest.mark.parametrize("steps", [2, 1000])
def test_the_true_positive_rate_is_that_of_sklearns_curve(fpr, steps):
    """With many ties and with hardly any; 240 and 3,600 non-members, so a rate of 1 % allows for 2 and 36."""
    generator = torch.Generator().manual_seed(7)
    drawn = images(1.0, generator, members=150, others=240, atoms=15)
    drawn = [(member, (atoms * steps).round() / steps) for member, atoms in drawn]
    metric = fill(MembershipInference(fpr=fpr, bootstrap=2), drawn)
    member = torch.tensor([member for member, _ in drawn])
    atoms = torch.stack([atoms for _, atoms in drawn])
    levels = {
        "atom": (member.repeat_interleave(15), atoms.flatten()), "image": (member, atoms.double().mean(1)),
    }  # fmt: skip
    for level, (labels, scores) in levels.items():
        false, true, _ = roc_curve(labels, scores, drop_intermediate=False)
        expected = true[false <= fpr].max()
        assert 0 < expected < 1
        assert float(metric.compute()[f"tpr_{level}"]) == pytest.approx(expected, abs=1e-12)


TRIALS = 100


@pytest.mark.parametrize("effect", [0.0, 0.8])
def test_intervals_hold_the_truth_as_often_as_they_say_although_atoms_are_dependent(effect):
    """And intervals that take atoms for independent do not, by far."""
    generator = torch.Generator().manual_seed(1)
    truth = {"atom": stats.norm.cdf(effect / 2), "image": stats.norm.cdf(effect / math.sqrt(2 * (1 + 1 / 12)))}
    hits, naive = dict.fromkeys(truth, 0), 0
    for _ in range(TRIALS):
        drawn = images(effect, generator, atoms=12)
        result = fill(MembershipInference(bootstrap=100), drawn).result()
        for level in truth:
            low, high = getattr(result, level).auc_interval
            hits[level] += int(low <= truth[level] <= high)
        pretended = MembershipInference(bootstrap=30)
        scores = torch.cat([atoms for _, atoms in drawn])[:, None]
        member = torch.tensor([member for member, _ in drawn]).repeat_interleave(12)
        pretended.update(scores, torch.ones_like(scores, dtype=torch.bool), member, image=torch.arange(len(scores)))
        low, high = pretended.result().atom.auc_interval
        naive += low <= truth["atom"] <= high
    tolerated = stats.binom.ppf(0.001, TRIALS, 0.95)
    assert min(hits.values()) >= tolerated, hits
    assert naive < 0.75 * TRIALS


def test_rates_of_images_at_the_threshold_have_exact_binomial_intervals():
    """Independent images: the intervals for the rates of this threshold hold them at least as often as they say."""
    generator = torch.Generator().manual_seed(2)
    hits = alarms = 0
    for _ in range(TRIALS):
        drawn = images(1.0, generator, atoms=1)
        attack = fill(MembershipInference(fpr=0.1, bootstrap=1), drawn).result().image
        true, false = (stats.norm.sf(attack.threshold, loc=mean, scale=math.sqrt(2)) for mean in (1.0, 0.0))
        hits += attack.tpr_interval[0] <= true <= attack.tpr_interval[1]
        assert attack.fpr <= 0.1
        alarms += attack.fpr_interval[0] <= false <= attack.fpr_interval[1]
    assert min(hits, alarms) >= stats.binom.ppf(0.001, TRIALS, 0.95)


@pytest.mark.parametrize("truth", [0.05, 0.95])
def test_rates_of_atoms_near_their_ends_hold_the_truth_as_often_as_they_say(truth):
    """Twenty images a side, of which all atoms are found or none: a third of the draws finds all, or none."""
    generator = torch.Generator().manual_seed(10)
    held = ends = 0
    for _ in range(TRIALS):
        found = torch.rand(20, generator=generator) < truth
        others = [(False, 1 + torch.rand(3, generator=generator)) for _ in range(20)]
        members = [(True, 3 * one + torch.rand(3, generator=generator)) for one in found]
        attack = fill(MembershipInference(bootstrap=60), members + others).result().atom
        assert attack.tpr == pytest.approx(found.double().mean().item())
        low, high = attack.tpr_interval
        held += low <= truth <= high
        ends += attack.tpr in (0.0, 1.0)
    assert held >= stats.binom.ppf(0.001, TRIALS, 0.95)
    assert TRIALS - ends < stats.binom.ppf(0.001, TRIALS, 0.95)  # intervals of no width there would be too few


def test_one_image_a_side_says_nothing_of_its_atoms():
    scores = torch.arange(25.0)
    attack = fill(MembershipInference(bootstrap=20), [(True, scores), (False, scores - 1)]).result().atom
    assert attack.tpr == 0.04
    assert attack.tpr_interval == attack.auc_interval == (0.0, 1.0)


def test_members_that_score_lower_are_told_apart_too():
    generator = torch.Generator().manual_seed(3)
    attack = fill(MembershipInference(bootstrap=100), images(-2.0, generator)).result().image
    assert attack.auc_interval[1] < 0.5
    assert not attack.chance_lies_inside


def test_images_of_one_patient_are_not_independent():
    """Five copies of each image under the patient's number: the interval is that of the images alone."""
    generator = torch.Generator().manual_seed(4)
    single = images(0.5, generator)
    copies = [image for image in single for _ in range(5)]
    patients = torch.arange(len(single)).repeat_interleave(5)
    alone = fill(MembershipInference(bootstrap=400), single).result()
    together = fill(MembershipInference(bootstrap=400), copies, cluster=patients).result()
    pretended = fill(MembershipInference(bootstrap=400), copies).result()
    width = [result.image.auc_interval[1] - result.image.auc_interval[0] for result in (alone, together, pretended)]
    assert width[1] == pytest.approx(width[0], rel=1e-9)
    assert width[2] < 0.6 * width[0]
    assert together.image.fpr_interval is None  # no exact binomial for dependent samples
    assert alone.image.fpr_interval is not None


def test_replicates_of_two_metrics_are_of_the_same_images():
    generator = torch.Generator().manual_seed(5)
    drawn = images(0.5, generator)
    one, other = (
        fill(MembershipInference(bootstrap=50), [(m, scale * atoms) for m, atoms in drawn]).result().atom.replicates
        for scale in (1.0, 2.0)  # an increasing map changes no AUC
    )
    assert torch.equal(one, other)


def pair_of_attacks(generator, effect=1.5):
    """On the same images: a score N(0, 1), members shifted, and the same score with as much noise again."""
    drawn = images(effect, generator, atoms=1)
    noisier = [(member, atoms + math.sqrt(2) * torch.randn(1, generator=generator)) for member, atoms in drawn]
    return tuple(fill(MembershipInference(bootstrap=100), scores).result().image for scores in (drawn, noisier))


def test_the_difference_of_two_attacks_is_as_certain_as_it_says():
    """The truth by hand: AUCs of normal scores, of variance 2 and 4 on either side."""
    generator = torch.Generator().manual_seed(8)
    truth = stats.norm.cdf(1.5 / 2) - stats.norm.cdf(1.5 / math.sqrt(8))
    held = shorter = 0
    for _ in range(TRIALS):
        one, other = pair_of_attacks(generator)
        value, (low, high) = one.minus(other)
        assert value == pytest.approx(one.auc - other.auc)
        held += low <= truth <= high
        ends = [attack.auc_interval for attack in (one, other)]
        shorter += high - low < ends[0][1] - ends[0][0] + ends[1][1] - ends[1][0]
    assert held >= stats.binom.ppf(0.001, TRIALS, 0.95)
    assert shorter == TRIALS  # than if each were known apart: the images are the same


def test_the_difference_of_two_attacks_by_hand():
    one, other = pair_of_attacks(torch.Generator().manual_seed(9))
    paired = (one.replicates - other.replicates).numpy()
    half = stats.t.ppf(0.95, df=23) * paired.std(ddof=1) * math.sqrt(24 / 23)  # 24 non-members are the fewer
    value, (low, high) = one.minus(other, confidence=0.9)
    assert (low, high) == (pytest.approx(value - half), pytest.approx(value + half))
    back, (reverse_low, reverse_high) = other.minus(one, confidence=0.9)
    assert (back, reverse_low, reverse_high) == (-value, pytest.approx(-high), pytest.approx(-low))


def test_resamples_that_never_vary_leave_what_each_attack_says_alone():
    """Perfect against chance: every resample differs by ½, which does not make the difference certain."""
    sides = [(True, [3.0])] * 10 + [(False, [0.0])] * 10
    perfect = fill(MembershipInference(bootstrap=20), sides).result().image
    chance = fill(MembershipInference(bootstrap=20), [(member, [1.0]) for member, _ in sides]).result().image
    value, (low, high) = perfect.minus(chance)
    assert value == 0.5
    assert (low, high) == (
        perfect.auc_interval[0] - chance.auc_interval[1], perfect.auc_interval[1] - chance.auc_interval[0],
    )  # fmt: skip
    assert low < 0.5 < high
    assert perfect.minus(perfect)[0] == 0


def test_the_curve_belongs_to_the_area():
    metric = fill(MembershipInference(bootstrap=2), images(0.5, torch.Generator().manual_seed(6)))
    for level in ("atom", "image"):
        false, true = metric.curve(level)
        assert float(torch.trapezoid(true, false)) == pytest.approx(float(metric.compute()[f"auc_{level}"]), abs=1e-12)


def test_nothing_seen_is_no_number():
    metric = MembershipInference()
    assert all(value.isnan() for value in metric.compute().values())
    with pytest.raises(ValueError, match="one side has none"):
        metric.curve("atom")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scores": torch.zeros(2, 3, dtype=torch.long)}, "scores must be float"),
        ({"atoms": torch.ones(2, 4, dtype=torch.bool)}, r"both \[B, \*spatial\]"),
        ({"member": torch.ones(2)}, r"member \(bool\)"),
        ({"image": torch.arange(3)}, r"must be \[2\]"),
        ({"scores": torch.full((2, 3), math.nan)}, "NaN"),
    ],
)
def test_what_does_not_fit_is_refused(change, message):
    fits = {
        "scores": torch.zeros(2, 3), "atoms": torch.ones(2, 3, dtype=torch.bool),
        "member": torch.tensor([True, False]), "image": torch.arange(2),
    }  # fmt: skip
    with pytest.raises(ValueError, match=message):
        MembershipInference().update(**{**fits, **change})


def test_an_image_given_twice_is_refused():
    metric = fill(MembershipInference(), [(True, [1.0]), (False, [0.0])], image=torch.tensor([4, 4]))
    with pytest.raises(ValueError, match="given twice"):
        metric.compute()


@pytest.mark.parametrize("wrong", [{"fpr": 0.0}, {"bootstrap": 0}, {"confidence": 1.0}])
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match="between 0 and 1"):
        MembershipInference(**wrong)
