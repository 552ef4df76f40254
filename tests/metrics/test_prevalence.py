"""Re-weighting against scikit-learn's weights, and against sub-samples that have the rates for real."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from erode.metrics import balanced_subset, mann_whitney_auroc, prevalence_sweep, prevalence_weights
from erode.metrics import weighted_auroc as auroc
from erode.metrics import weighted_mean as mean


def images(seed, n=400):
    """A score that reads lesion and artefact; the artefact goes with the lesion."""
    generator = torch.Generator().manual_seed(seed)
    labels = (torch.rand(n, generator=generator) < 0.3).long()
    flags = (torch.rand(n, generator=generator) < 0.2 + 0.6 * labels).long()
    scores = (torch.randn(n, generator=generator) + labels + 2 * flags).mul(4).round() / 4  # ties
    return scores, labels, flags


@given(seed=st.integers(0, 999))
@settings(deadline=None, max_examples=20)
def test_weighted_auroc_is_scikit_learns(seed):
    scores, labels, _ = images(seed, n=60)
    weights = torch.rand(60, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    weights[:5] = 0
    expected = roc_auc_score(labels, scores, sample_weight=weights)
    assert float(auroc(scores, labels, weights)) == pytest.approx(expected, abs=1e-12)
    assert float(auroc(scores, labels, torch.ones(60))) == pytest.approx(
        float(mann_whitney_auroc(scores[labels == 1], scores[labels == 0]))
    )


@given(seed=st.integers(0, 999), rates=st.tuples(*[st.floats(0.01, 0.99)] * 3))
@settings(deadline=None, max_examples=20)
def test_weights_have_the_rates_asked_for(seed, rates):
    _, labels, flags = images(seed)
    weights = prevalence_weights(
        labels, flags, positive=rates[0], flag_given_positive=rates[1], flag_given_negative=rates[2]
    )
    positive, flagged = labels == 1, flags == 1
    assert float(weights.sum()) == pytest.approx(1)
    assert float(weights[positive].sum()) == pytest.approx(rates[0])
    assert float(weights[positive & flagged].sum() / weights[positive].sum()) == pytest.approx(rates[1])
    assert float(weights[~positive & flagged].sum() / weights[~positive].sum()) == pytest.approx(rates[2])


def test_without_rates_nothing_changes_and_unknown_flags_weigh_nothing():
    scores, labels, flags = images(0)
    flags[:50] = -1
    weights = prevalence_weights(labels, flags)
    assert torch.all(weights[:50] == 0)
    torch.testing.assert_close(weights[50:], torch.full((350,), 1 / 350, dtype=torch.float64))
    assert float(mean(scores, weights)) == pytest.approx(float(scores[50:].double().mean()))


def test_reweighted_is_resampled():
    """Half and half by weights equals the mean over many balanced sub-samples."""
    scores, labels, flags = images(1)
    weights = prevalence_weights(labels, flags, positive=0.5, flag_given_positive=0.5, flag_given_negative=0.5)
    draws = [balanced_subset(labels, flags, seed) for seed in range(300)]
    sampled = [float(mann_whitney_auroc(scores[i][labels[i] == 1], scores[i][labels[i] == 0])) for i in draws]
    error = 4 * np.std(sampled) / 300**0.5
    assert float(auroc(scores, labels, weights)) == pytest.approx(np.mean(sampled), abs=error)


def test_prevalence_never_moves_auroc_but_the_artefacts_company_does():
    scores, labels, flags = images(2)
    rates = [0.1, 0.5, 0.9]

    def curve(vary):
        return [p.value for p in prevalence_sweep(lambda w: auroc(scores, labels, w), labels, flags, vary, rates)]

    assert curve("positive") == pytest.approx([curve("positive")[0]] * 3)
    assert curve("flag_given_positive") == sorted(curve("flag_given_positive"))
    assert curve("flag_given_negative") == sorted(curve("flag_given_negative"), reverse=True)


def test_effective_images_is_all_of_them_at_the_rates_of_the_test_set():
    scores, labels, flags = images(3)
    here = float(labels.double().mean())
    points = prevalence_sweep(lambda w: mean(scores, w), labels, flags, "positive", [here, 0.99])
    assert points[0].effective_images == pytest.approx(400)
    assert points[1].effective_images < 200


def test_groups_without_images_are_refused_only_where_they_are_needed():
    labels, flags = torch.tensor([1, 1, 0]), torch.tensor([1, 0, 0])
    prevalence_weights(labels, flags, positive=0.2)
    with pytest.raises(ValueError, match=r"no image with y=0, s=1"):
        prevalence_weights(labels, flags, flag_given_negative=0.1)
    with pytest.raises(ValueError, match="no rate is called 'prevalence'"):
        prevalence_weights(labels, flags, prevalence=0.1)
    with pytest.raises(ValueError, match="is a probability"):
        prevalence_weights(labels, flags, positive=1.1)
