import math

import pytest
import torch
from sklearn.metrics import mutual_info_score
from torch.nn.functional import avg_pool2d

from erode.batch import UNKNOWN_ARTEFACT
from erode.metrics import GlobalSpuriousInformation, pixelwise_information, table_information
from erode.metrics.counts import count_cells, fuse


def blobs(images, side, share, generator, width=9):
    """Random connected shapes: a Gaussian field, smoothed, above its quantile. Neighbours depend."""
    noise = torch.randn(images, 1, side + width - 1, side + width - 1, generator=generator)
    field = avg_pool2d(noise, width, stride=1)[:, 0]
    return field > torch.erfinv(torch.tensor(1 - 2 * share)) * math.sqrt(2) / width


def population(pred_given):
    """1000 pixels, P(Y=1)=.3, P(S=1|Y=0)=.5, P(S=1|Y=1)=0, fired on at the given rates (Y=1, clean, S)."""
    lesion, clean, artefact = 300, 350, 350
    pred, mask, s = [], [], []
    for size, y, flag, rate in zip((lesion, clean, artefact), (1, 0, 0), (0, 0, 1), pred_given, strict=True):
        pred += [1] * round(size * rate) + [0] * (size - round(size * rate))
        mask += [y] * size
        s += [flag] * size
    return torch.tensor([pred]), torch.tensor([mask]), torch.tensor([s], dtype=torch.uint8)


def score(pred, mask, artefact, **options):
    metric = GlobalSpuriousInformation(num_classes=options.pop("num_classes", 2), **options)
    metric.update(pred, mask, artefact)
    return metric.result()


@pytest.mark.parametrize(
    ("rates", "nats"),
    [
        ((1, 0.2, 0.2), 0.0957),  # theory §7.3, the reference
        ((1, 0.0, 0.4), 0.2752),  # the same P(Z=1|Y=0) = .2, all of it on the artefact
        ((0, 0.0, 0.0), 0.0),  # empty
        ((1, 0.0, 0.0), 0.0),  # perfect
        ((0, 0.0, 1.0), 0.0),  # only on the artefact: not monotone
        ((0.5, 0.0, 0.5), 0.224),  # half the lesion, half the artefact
        ((1, 1.0, 1.0), 0.162),  # everywhere
    ],
)
def test_known_values_per_pixel(rates, nats):
    pred, mask, artefact = population(rates)
    assert float(score(pred, mask, artefact).value) / 1000 == pytest.approx(nats, abs=0.0005)
    if nats == 0:
        assert score(pred, mask, artefact).value == 0


def test_hand_computed_table_of_two_classes():
    """Class 1 on 4 pixels, S and Y one fair bit in common: 4 ln 2. Class 2 on 2 pixels, Y constant: 0."""
    pred = torch.tensor([[1, 1, 1, 1, 2, 2, 0, 0]])
    mask = torch.tensor([[1, 1, 0, 0, 2, 2, 0, 0]])
    artefact = torch.tensor([[0, 0, 1, 1, 0, 1, 1, 0]])
    result = score(pred, mask, artefact, num_classes=3)
    torch.testing.assert_close(result.per_class, torch.tensor([4 * math.log(2), 0]).double())
    assert result.argmax_class == 1


def test_images_of_several_sizes_batches_and_padding():
    generator = torch.Generator().manual_seed(0)
    maps = [[torch.randint(2, (3, side, side), generator=generator) for _ in range(3)] for side in (4, 6)]
    metric = GlobalSpuriousInformation(num_classes=2, bootstrap=10)
    for pred, mask, artefact in maps:
        metric.update(pred, mask, artefact, counted=torch.tensor([True, True, False]))
    kept = [torch.cat([batch[i][:2].flatten() for batch in maps]) for i in range(3)]
    selected = kept[0] == 1
    table = count_cells(fuse((kept[2][selected][None], 2), (kept[1][selected][None], 2)), 4).view(2, 2)
    assert float(metric.compute()) == pytest.approx(float(table_information(table)) / 4)


def test_pixels_and_images_without_annotation_are_left_out():
    pred, mask, artefact = population((1, 0.2, 0.4))
    unknown = torch.cat([artefact, torch.full_like(artefact, UNKNOWN_ARTEFACT)])
    alone = score(pred, mask, artefact).value
    assert score(pred.repeat(2, 1), mask.repeat(2, 1), unknown).value == alone
    wider = [torch.cat([values, torch.ones_like(values)], dim=1) for values in (pred, mask)]
    assert score(*wider, torch.cat([artefact, unknown[1:]], dim=1)).value == alone
    assert math.isnan(score(pred, mask, unknown[1:]).value)


def test_types_beyond_the_last_are_merged():
    pred, mask, artefact = population((1, 0.2, 0.4))
    types = artefact * torch.randint(1, 5, artefact.shape, dtype=torch.uint8)
    assert score(pred, mask, types).value == score(pred, mask, artefact > 0).value
    told = (1 + mask).to(torch.uint8)  # an artefact everywhere, whose type tells the truth
    assert score(pred, mask, told).value == 0
    assert score(pred, mask, told, num_artefact_values=3).value > 0


@pytest.mark.parametrize("images", [100, 500, 2000])
def test_interval_of_independent_blobs_contains_zero(images):
    """At the nominal 95 %, fewer than 16 of 20 have probability 3e-4."""
    generator = torch.Generator().manual_seed(images)
    covered = 0
    for _ in range(20):
        pred, mask, artefact = (blobs(images, 16, share, generator) for share in (0.3, 0.3, 0.2))
        result = score(pred.long(), mask.long(), artefact, bootstrap=120)
        assert result.value > 0  # the plug-in is biased: the percentile interval would exclude 0
        assert result.interval is not None
        covered += result.interval[0] == 0
    assert covered >= 16


def test_interval_and_null_tell_dependence():
    generator = torch.Generator().manual_seed(0)
    mask, artefact = blobs(150, 16, 0.3, generator), blobs(150, 16, 0.2, generator)
    artefact &= ~mask
    pred = mask | (artefact & (torch.rand(150, 1, 1, generator=generator) < 0.5))
    result = score(pred.long(), mask.long(), artefact, bootstrap=300, permutations=40)
    assert result.interval is not None
    assert result.null is not None
    assert 0 < result.interval[0] < float(result.value) < result.interval[1]
    assert result.p_value == 1 / 41
    assert float(result.null[0]) < 0.5 * float(result.value)


def test_interval_covers_a_known_information():
    """The artefact copies the mask in 30 % of the images; the truth is measured on 15,000 of them."""
    generator = torch.Generator().manual_seed(1)

    def draw(images):
        mask = blobs(images, 12, 0.4, generator)
        copied = torch.rand(images, 1, 1, generator=generator) < 0.3
        artefact = torch.where(copied, mask, blobs(images, 12, 0.4, generator))
        return torch.ones_like(mask).long(), mask.long(), artefact

    truth = float(score(*draw(15000)).value)
    covered = 0
    for _ in range(60):
        interval = score(*draw(120), bootstrap=200).interval
        assert interval is not None
        covered += interval[0] <= truth <= interval[1]
    assert covered / 60 >= 0.85


def test_pixelwise_plug_in_bias_is_removed():
    """Per pixel the plug-in is |Λ|/2N too high (reference: +7.9 predicted at 64², N = 260; here 24², .96)."""
    generator = torch.Generator().manual_seed(0)
    images, side = 300, 24
    s, y = (torch.rand(images, side, side, generator=generator) < share for share in (0.4, 0.5))
    z = torch.ones_like(y).long()
    tables = count_cells(fuse((s, 2), (y, 2)), 4, by="pixel").view(-1, 2, 2)
    plug_in = float(table_information(tables).sum()) / images
    assert plug_in == pytest.approx(side**2 / (2 * images), rel=0.2)
    result = score(z, y.long(), s, estimator="pixelwise", permutations=30)
    assert abs(float(result.value)) < 0.15 * plug_in
    assert result.p_value is not None
    assert result.p_value > 0.05
    assert float(score(z, y.long(), s).value) < 0.05 * plug_in  # pooled


def test_pixelwise_is_the_sum_over_positions_of_sklearns_information():
    """Each position by itself, from lists of values; three classes, two artefacts, annotations with gaps."""
    generator = torch.Generator().manual_seed(3)
    images, pixels, classes, values = 60, 7, 3, 2
    z, y = (torch.randint(classes, (images, pixels), generator=generator) for _ in range(2))
    s = torch.randint(values + 1, (images, pixels), generator=generator)  # 0 = not annotated
    y[:, :3] = torch.where(torch.rand(images, 3, generator=generator) < 0.5, s[:, :3].clamp(min=1) - 1, y[:, :3])
    z[:, 6] = 0  # nothing predicted here
    expected = torch.zeros(classes - 1, dtype=torch.float64)
    for at in range(pixels):
        annotated = s[:, at] > 0
        for k in range(1, classes):
            chosen = annotated & (z[:, at] == k)
            artefact, truth = s[chosen, at].tolist(), y[chosen, at].tolist()
            if chosen.any():
                filled = len({*zip(artefact, truth, strict=True)}), len({*artefact}), len({*truth})
                information = len(truth) * mutual_info_score(artefact, truth)
                expected[k - 1] += (information - (filled[0] - filled[1] - filled[2] + 1) / 2) / int(annotated.sum())
    codes = fuse((z, classes), (s, values + 1), (y, classes))
    found = pixelwise_information(codes, classes, values)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)
    assert float(expected.max()) > 0.1  # by hand: half of the labels of three positions repeat the artefact


def test_pixelwise_finds_what_is_there():
    """Y copies S at every pixel: H(Y) nats each."""
    generator = torch.Generator().manual_seed(0)
    y = torch.rand(200, 6, 6, generator=generator) < 0.3
    result = score(torch.ones_like(y).long(), y.long(), y, estimator="pixelwise", permutations=20)
    entropy = -0.3 * math.log(0.3) - 0.7 * math.log(0.7)
    assert float(result.value) == pytest.approx(36 * entropy, rel=0.03)
    assert result.p_value == 1 / 21


def test_result_does_not_depend_on_the_order_of_images():
    generator = torch.Generator().manual_seed(0)
    maps = [torch.randint(3, (20, 5, 5), generator=generator) for _ in range(2)]
    maps.append(torch.randint(2, (20, 5, 5), generator=generator))
    order = torch.randperm(20, generator=generator)
    options = {"num_classes": 3, "bootstrap": 50, "permutations": 20}
    one, other = score(*maps, **options), score(*(values[order] for values in maps), **options)
    assert one.interval == other.interval
    assert one.p_value == other.p_value
    assert one.null is not None
    assert torch.equal(one.null, other.null)


@pytest.mark.parametrize("step", ["update", "forward"])
def test_shuffled_maps_have_one_shape(step):
    """As many pixels are not enough: an artefact in a corner of 2×8 lies elsewhere in 4×4."""
    metric = GlobalSpuriousInformation(num_classes=2, permutations=2)
    square, wide = (torch.ones(3, *shape, dtype=torch.long) for shape in ((4, 4), (2, 8)))
    metric(square, square, square)

    def finish():
        getattr(metric, step)(wide, wide, wide)  # forward looks at each batch by itself
        metric.compute()

    with pytest.raises(ValueError, match="images of one size, got 4×4 and 2×8 pixels"):
        finish()


def test_compute_and_forward_leave_no_stale_result():
    pred, mask, artefact = population((1, 0.2, 0.4))
    metric = GlobalSpuriousInformation(num_classes=2)
    metric(pred, mask, artefact)
    metric(torch.zeros_like(pred), mask, artefact)
    half = metric.result().value
    assert half == metric.compute() == score(pred, mask, artefact).value / 2
    metric.reset()
    metric.update(pred, mask, artefact)
    assert metric.result().value == 2 * half


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"num_classes": 1}, "num_classes >= 2"),
        ({"num_classes": 2, "estimator": "pixelwise"}, "permutations"),
        ({"num_classes": 2, "estimator": "pixelwise", "permutations": 9, "bootstrap": 9}, "pooled"),
        ({"num_classes": 2, "estimator": "plugin"}, "plugin"),
        ({"num_classes": 2, "confidence": 1.0}, "confidence"),
    ],
)
def test_settings_that_do_not_go_together(options, says):
    with pytest.raises(ValueError, match=says):
        GlobalSpuriousInformation(**options)


def test_permutations_refuse_images_of_several_sizes():
    metric = GlobalSpuriousInformation(num_classes=2, permutations=2)
    metric.update(*torch.zeros(3, 1, 4, dtype=torch.long))
    with pytest.raises(ValueError, match="4 and 5 pixels"):
        metric.update(*torch.zeros(3, 1, 5, dtype=torch.long))


def test_intervals_resample_patients():
    """Three copies of each image as one cluster tell as much as the images alone; as images of their own, they lie."""
    generator = torch.Generator().manual_seed(3)
    maps = [torch.randint(2, (12, 6, 6), generator=generator) for _ in range(3)]
    alone, numbered, copied, clustered = (GlobalSpuriousInformation(2, bootstrap=200) for _ in range(4))
    alone.update(*maps)
    numbered.update(*maps, cluster=torch.arange(12).flip(0) + 2**62)
    order = torch.randperm(36, generator=generator)  # in batches that do not keep clusters together
    copies, cluster = [x.repeat(3, 1, 1)[order] for x in maps], torch.arange(12).repeat(3)[order]
    copied.update(*copies)
    for half in (slice(18), slice(18, None)):
        clustered.update(*(x[half] for x in copies), cluster=cluster[half])
    expected = alone.result()
    assert numbered.result().interval == expected.interval
    assert float(clustered.result().value) == pytest.approx(float(expected.value), abs=1e-12)
    assert clustered.result().interval == pytest.approx(expected.interval, abs=1e-12)
    width = expected.interval[1] - expected.interval[0]
    low, high = copied.result().interval
    assert high - low < 0.7 * width


def test_patients_with_more_images_count_for_more():
    """The estimate is a mean over images; one patient with all of them says nothing of the spread."""
    pred, mask, artefact = (x.repeat(5, 1) for x in population((1, 0.2, 0.4)))
    metric = GlobalSpuriousInformation(2, bootstrap=50)
    metric.update(pred, mask, artefact, cluster=torch.zeros(5, dtype=torch.int64))
    assert all(math.isnan(end) for end in metric.result().interval)
    metric.update(pred, mask, artefact)  # five more, each alone
    low, high = metric.result().interval
    assert low == pytest.approx(float(metric.result().value)) == pytest.approx(high)  # all images are the same
    with pytest.raises(ValueError, match="cluster must be integers"):
        metric.update(pred, mask, artefact, cluster=torch.full((5,), -2))
