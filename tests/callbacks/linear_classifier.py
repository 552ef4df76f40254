"""A linear image classifier and sixteen images for it."""

import torch
from torch import nn
from torch.utils.data import Dataset

from erode.batch import FIELDS, NO_PRIOR
from erode.lightning_modules import ImageClassifier


class Items(Dataset):
    """Images for a linear classifier; some labels can be turned."""

    def __init__(self, size=16, turned=()):
        generator = torch.Generator().manual_seed(0)
        blank = {key: torch.zeros(4, 4, dtype=field.dtype) for key, field in FIELDS.items() if field.per_pixel}
        self.items = []
        for i in range(size):
            image = torch.randn(1, 4, 4, generator=generator)
            label = int(image.mean() > 0) ^ (i in turned)
            whole = {"label": torch.tensor(label), "flag": torch.tensor(i % 2), "counted": torch.tensor(True)}
            prior = {"prior": torch.full((4, 4), NO_PRIOR)}
            self.items.append({"image": image, **blank, **prior, **whole, "id": f"s{i}"})

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]


def classifier(objective=None):
    torch.manual_seed(0)
    return ImageClassifier(
        nn.Sequential(nn.Flatten(), nn.Linear(16, 2)), num_classes=2, objective=objective, lr_scheduler=None,
        optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1),
    )  # fmt: skip
