"""The numbers of a row against scikit-learn, with thresholds that the test part cannot move."""

from dataclasses import replace

import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from erode.datamodules import SyntheticDermoscopy
from erode.lightning_modules import ImageClassifier, SegmentationModule
from erode.metrics import DecisionRule
from erode.protocols.classification.decisions import Judge
from erode.protocols.classification.scores import PROBABILITY, score_images

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def data():
    return SyntheticDermoscopy(size=32, train_images=8, val_images=20, test_images=30, batch_size=8)


@pytest.fixture(scope="module", params=[SegmentationModule, ImageClassifier])
def views(request, data):
    torch.manual_seed(0)
    module = request.param(num_classes=3, class_names=data.class_names)
    return [score_images(module, data, part, CPU) for part in ("val", "test")]


def test_scores_come_in_the_order_of_the_cases(data, views):
    for part, view in zip(("val", "test"), views, strict=True):
        assert view.evidence.labels.tolist() == [case.label for case in data.part(part)]
        assert view.scores[PROBABILITY].sum(1).tolist() == pytest.approx([1.0] * len(view.evidence.labels))


def test_metrics_are_those_of_scikit_learn(data, views):
    validation, test = views
    rule = DecisionRule.fit(validation.evidence)
    found = Judge(data, 2).judge(rule, validation, test)
    labels = test.evidence.labels
    truth = (labels == 2).numpy()
    metrics = found["metrics"]
    assert metrics["auroc"] == pytest.approx(roc_auc_score(truth, test.scores[PROBABILITY][:, 2]))
    called = rule.present(test.evidence, 2).numpy()
    assert metrics["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(truth, called))
    classes = balanced_accuracy_score(labels, rule.decide(test.evidence))
    assert metrics["balanced_accuracy_classes"] == pytest.approx(classes)
    assert found["subgroups"]["all"]["recall"] == [int((called & truth).sum()), int(truth.sum())]
    flags = torch.tensor([case.flags["any"] for case in data.part("test")])
    apart = ((labels == 2) != (flags == 1)).numpy()
    assert metrics["auroc_robust"] == pytest.approx(roc_auc_score(truth[apart], test.scores[PROBABILITY][apart, 2]))
    for name in test.scores.keys() - {PROBABILITY}:
        assert metrics[f"auroc_{name}"] == pytest.approx(roc_auc_score(truth, test.scores[name][:, 2]))
        inside = test.scores[name][apart, 2]
        assert metrics[f"auroc_{name}_robust"] == pytest.approx(roc_auc_score(truth[apart], inside))
    pairs = [(truth & (flags == a).numpy()) | (~truth & (flags == b).numpy()) for a in (0, 1) for b in (0, 1)]
    by_pair = [roc_auc_score(truth[pair], test.scores[PROBABILITY][pair, 2]) for pair in pairs]
    assert metrics["auroc_worst"] == pytest.approx(min(by_pair))


def test_patients_with_several_images_are_counted_one_by_one(data, views):
    class Patients(SyntheticDermoscopy):
        def cases(self):
            return [replace(case, group=f"{case.part}-{int(case.id[-5:]) // 3}") for case in super().cases()]

    validation, test = views
    rule = DecisionRule.fit(validation.evidence)
    alone = Judge(data, 2).judge(rule, validation, test)
    patients = Patients(size=32, train_images=8, val_images=20, test_images=30, batch_size=8)
    found = Judge(patients, 2).judge(rule, validation, test)
    assert found["metrics"] == alone["metrics"]
    assert not any("clusters" in key for counts in alone["subgroups"].values() for key in counts)
    images = test.evidence.labels.view(10, 3) == 2
    counts = found["subgroups"]["all"]
    assert sorted(trials for _, trials in counts["recall_clusters"]) == sorted(n for n in images.sum(1).tolist() if n)
    for name, both in alone["subgroups"].items():
        for rate in ("recall", "specificity"):
            by_patient = found["subgroups"][name][f"{rate}_clusters"]
            assert [sum(column) for column in zip(*by_patient, strict=True)] == (both[rate] if by_patient else [])


def test_only_a_segmentation_has_sizes_to_normalise(views):
    _, test = views
    pixelwise = test.evidence.thresholds is not None
    assert (test.scores.keys() == {PROBABILITY, "foreground", "component"}) == pixelwise
    assert (test.dice is not None) == pixelwise


def test_data_of_one_label_are_refused_before_training():
    healthy = SyntheticDermoscopy(size=32, train_images=4, val_images=4, test_images=4, prevalence=0.0)
    with pytest.raises(ValueError, match="4 of 4 images of the val part show 'benign lesion'"):
        Judge(healthy, 2)


def test_other_logits_are_refused(data):
    with pytest.raises(ValueError, match="set num_classes of the model"):
        score_images(SegmentationModule(num_classes=2), data, "val", CPU)
