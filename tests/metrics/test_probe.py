"""The linear probe against scikit-learn."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from torch import nn

from erode.metrics import LinearProbe, pooled_features, ridge_logistic


def planted(images, dimensions, strength, seed):
    """Normal features of which the first is shifted where the flag is set."""
    generator = torch.Generator().manual_seed(seed)
    flags = torch.arange(images) % 2
    features = torch.randn(images, dimensions, generator=generator, dtype=torch.float64)
    features[:, 0] += strength * flags
    return features, flags


def probe(features, flags, **kwargs):
    metric = LinearProbe(**kwargs)
    metric.update(features, flags)
    return float(metric.compute())


@pytest.mark.parametrize("penalty", [0.1, 1.0, 30.0])
def test_the_fit_is_scikit_learns(penalty):
    features, flags = planted(80, 6, 1.0, seed=0)
    weights, intercept = ridge_logistic(features.numpy(), flags.double().numpy(), penalty)
    theirs = LogisticRegression(C=1 / penalty, tol=1e-10, max_iter=10_000).fit(features.numpy(), flags.numpy())
    np.testing.assert_allclose(weights, theirs.coef_[0], atol=1e-5)
    assert intercept == pytest.approx(theirs.intercept_[0], abs=1e-5)


def test_auroc_is_scikit_learns_on_the_same_halves():
    features, flags = planted(101, 5, 1.0, seed=1)
    metric = LinearProbe(seed=3)
    metric.update(features, flags)
    rows = torch.cat([flags[:, None].double(), features], 1)
    order = np.lexsort(rows.numpy().T[::-1])
    train, test = (half.numpy() for half in metric._halves(rows[order]))
    assert len(train) + len(test) == 101
    scale = train[:, 1:].mean(0), train[:, 1:].std(0)
    fit = LogisticRegression(C=1, tol=1e-10).fit((train[:, 1:] - scale[0]) / scale[1], train[:, 0])
    scores = fit.decision_function((test[:, 1:] - scale[0]) / scale[1])
    assert float(metric.compute()) == pytest.approx(roc_auc_score(test[:, 0], scores), abs=1e-12)


def test_it_finds_what_is_there_and_nothing_where_nothing_is():
    """Shift 2 of a normal feature: the best AUROC is Φ(2/√2) = .921. Testing on the training half would show > ½."""
    assert probe(*planted(1000, 5, 2.0, seed=2)) == pytest.approx(0.921, abs=0.04)
    nulls = [probe(*planted(60, 40, 0.0, seed=seed), seed=seed) for seed in range(40)]
    assert np.mean(nulls) == pytest.approx(0.5, abs=3 * np.std(nulls) / 40**0.5)


def test_order_of_images_does_not_matter_but_seed_does():
    features, flags = planted(50, 4, 0.5, seed=4)
    order = torch.randperm(50, generator=torch.Generator().manual_seed(0))
    assert probe(features, flags) == probe(features[order], flags[order])
    assert len({probe(features, flags, seed=seed) for seed in range(5)}) > 1


def test_unknown_flags_and_constant_features_are_left_out():
    features, flags = planted(40, 3, 1.0, seed=5)
    more = torch.cat([features, torch.full((2, 3), 99.0)]), torch.cat([flags, torch.tensor([-1, -1])])
    assert probe(*more) == probe(features, flags)
    assert probe(torch.cat([features, torch.ones(40, 1)], 1), flags) == pytest.approx(probe(features, flags))


def patients(count, images, dimensions, seed):
    """Features and flags of patients, unrelated; images of one patient are nearly copies."""
    generator = torch.Generator().manual_seed(seed)
    flags = (torch.randperm(count, generator=generator) % 2).repeat_interleave(images)
    centres = torch.randn(count, dimensions, generator=generator, dtype=torch.float64).repeat_interleave(images, 0)
    noise = torch.randn(count * images, dimensions, generator=generator, dtype=torch.float64)
    return centres + 0.2 * noise, flags, torch.arange(count).repeat_interleave(images)


def test_patients_stay_in_one_half():
    """Features that say nothing of the flag: the probe knows patients by heart, and finds ½ if it may not."""
    found = {True: [], False: []}
    for seed in range(30):
        features, flags, cluster = patients(20, 4, 24, seed)
        for told in found:
            metric = LinearProbe()
            metric.update(features, flags, cluster=cluster if told else None)
            found[told].append(float(metric.compute()))
    assert np.mean(found[False]) > 0.95
    assert np.mean(found[True]) == pytest.approx(0.5, abs=3 * np.std(found[True]) / 30**0.5)


def test_halves_share_no_cluster_and_have_the_flags_in_equal_shares():
    flags = torch.tensor([0, 0, 1, 1, 0, 1] * 4)  # clusters of one flag, of the other, and of both
    clusters = torch.arange(12).repeat_interleave(2)
    train, test = LinearProbe()._halves(torch.stack([flags.double(), clusters.double()], 1), clusters)
    assert not {*train[:, 1].tolist()} & {*test[:, 1].tolist()}
    assert len(train) == len(test) == 12
    assert train[:, 0].sum() == test[:, 0].sum() == 6


def test_clusters_of_one_image_change_nothing_whatever_their_numbers():
    features, flags = planted(51, 4, 0.5, seed=6)
    numbers = torch.randperm(51, generator=torch.Generator().manual_seed(1)) + 2**60
    metric = LinearProbe()
    metric.update(features, flags, cluster=numbers)
    assert float(metric.compute()) == probe(features, flags)
    with pytest.raises(ValueError, match=r"cluster must be integers \[51\]"):
        metric.update(features, flags, cluster=numbers[:50])


def test_too_few_images_give_no_value():
    assert np.isnan(probe(torch.rand(3, 2), torch.tensor([0, 0, 0])))
    assert np.isnan(probe(torch.rand(2, 2), torch.tensor([0, 1])))


def test_hook_collects_spatial_means_and_goes_away():
    network = nn.Sequential(nn.Conv2d(1, 3, 1), nn.Flatten(), nn.Linear(48, 2))
    image = torch.randn(4, 1, 4, 4)
    with torch.no_grad(), pooled_features(network, "0") as features:
        network(image)
    torch.testing.assert_close(features[0], network[0](image).mean((2, 3)))
    network(image)
    assert len(features) == 1


def test_wrong_layers_are_named():
    network = nn.Sequential(nn.Conv2d(1, 3, 1))
    with pytest.raises(ValueError, match="has no layer 'bottleneck'; it has 0"), pooled_features(network, "bottleneck"):
        pass
    with pytest.raises(ValueError, match="penalty must be positive"):
        LinearProbe(penalty=0)
    with pytest.raises(ValueError, match="diverged"):
        probe(torch.full((2, 2), torch.nan), torch.tensor([0, 1]))
