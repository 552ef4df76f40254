"""The attack of `erode measure`: images of one patient are one draw, as in `erode audit`."""

from dataclasses import replace

import torch
from lightning.pytorch import LightningModule
from torch.utils.data import DataLoader

from erode.audit.forget_atoms import ForgetAtoms, comparable_cases, log_likelihood, loss_attack
from erode.datamodules import SyntheticDermoscopy
from erode.metrics import MembershipInference

torch.set_num_threads(1)


class Patients(SyntheticDermoscopy):
    """Four images of each patient."""

    def cases(self):
        return [replace(case, group=f"{case.part}-{int(case.id[-5:]) // 4}") for case in super().cases()]


def small(kind):
    data = kind(size=32, train_images=24, val_images=16, test_images=4, batch_size=5, fine_fraction=0.25)
    data.setup("fit")
    return data


class Pixelwise(LightningModule):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = torch.nn.Conv2d(3, 3, 1)

    def forward(self, image):
        return self.layer(image)


def audited(data, network, bootstrap):
    """The same comparison with the clusters that `erode audit` gives its metric."""
    members, others = comparable_cases(data, "val", 0)
    metric = MembershipInference(bootstrap=bootstrap)
    for batch in DataLoader(ForgetAtoms([*members, *others], len(members), data), 8):
        scores = log_likelihood(network, batch["image"], batch["mask"])
        names = ("forget", "member", "index", "label", "cluster")
        metric.update(scores, *(batch[name] for name in names))
    return metric.result().image


def test_intervals_resample_patients_where_the_data_know_them():
    data, network = small(Patients), Pixelwise().eval()
    found = loss_attack(data, network, bootstrap=200)
    assert found == audited(data, network, 200)
    assert found.clusters < min(found.members, found.non_members)
    assert found.fpr_interval is None  # no exact binomial of dependent images
    alone = loss_attack(small(SyntheticDermoscopy), network, bootstrap=200)
    assert alone.fpr_interval is not None
    assert (alone.auc, alone.tpr) == (found.auc, found.tpr)
    assert alone.auc_interval != found.auc_interval
