import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from torch import nn
from torch.utils.data import DataLoader

from erode.callbacks import BackgroundNormalisation, NoiseCrop
from erode.datamodules import SyntheticDermoscopy
from erode.lightning_modules import SegmentationModule
from erode.masks import View

OPTIONS = {
    "accelerator": "cpu",
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


class RedLesion(nn.Module):
    """Calls bright pixels lesion, and everything malignant where the image's mean is above a half: a shortcut."""

    def forward(self, image):
        lesion = 40.0 * (image.mean(1) - 0.5)
        background = image.mean((1, 2, 3)).view(-1, 1, 1) - 0.5
        return torch.stack([torch.zeros_like(lesion), lesion, lesion + 10 * background], 1)


class Seen(nn.Module):
    """Remembers what it saw."""

    def __init__(self):
        super().__init__()
        self.inner = RedLesion()
        self.weight = nn.Parameter(torch.zeros(()))
        self.images = []

    def forward(self, image):
        self.images.append(image.clone())
        return self.inner(image) + self.weight


def data(**options):
    return SyntheticDermoscopy(
        size=32, train_images=24, val_images=4, test_images=8, batch_size=5, validate_data=False, **options
    )


def module():
    return SegmentationModule(Seen(), num_classes=3, bootstrap=0)


def test_background_is_that_of_training_images_alone_and_always_the_same():
    callback = BackgroundNormalisation()
    source, model = data(), module()
    Trainer(**OPTIONS, callbacks=[callback]).test(model, datamodule=source, verbose=False)
    items = [source.dataset("train")[i] for i in range(24)]
    images = torch.stack([item["image"] for item in items]).double()
    outside = torch.stack([item["coarse"] == 0 for item in items]).double().unsqueeze(1)
    wanted = (images * outside).sum(0) / outside.sum(0)
    known = outside.sum(0)[0] > 0
    torch.testing.assert_close(callback.background[:, known], wanted[:, known].float())
    first, second = model.network.images[:2]
    foreground = RedLesion()(first).argmax(1) > 0
    assert foreground.any()
    assert not foreground.all()
    kept = foreground.unsqueeze(1).expand_as(first)
    assert torch.equal(second[kept], first[kept])
    shown = foreground.flatten(1).any(1)
    pasted = callback.background.expand_as(first)
    assert torch.equal(second[shown][~kept[shown]], pasted[shown][~kept[shown]])
    again = BackgroundNormalisation()
    other = data(transform=lambda item: {**item, "image": 1 - item["image"]})  # of training alone, and not of the mean
    other.serve(View.FINE)  # the view decides what labels say, not what the coarse mask is
    Trainer(**OPTIONS, callbacks=[again]).test(module(), datamodule=other, verbose=False)
    assert torch.equal(again.background, callback.background)


def test_noise_crop_shows_the_lesion_in_noise_and_answers_in_the_frame_of_the_image():
    source, model = data(), module()
    predicted = Trainer(**OPTIONS, callbacks=[NoiseCrop(margin=0.0)]).predict(model, datamodule=source)
    plain = Trainer(**OPTIONS).predict(module(), datamodule=source)
    assert "forward" not in vars(model)
    first, crop = model.network.images[:2]
    assert crop.shape == first.shape
    for before, after in zip(plain, predicted, strict=True):
        lesion, now = before["prediction"] > 0, after["prediction"] > 0
        for here, there in zip(lesion, now, strict=True):
            if not here.any():
                continue
            rows, columns = here.nonzero().T
            box = torch.zeros_like(here)
            side = max(int(rows.max() - rows.min()), int(columns.max() - columns.min())) + 3
            box[max(0, rows.min() - side) : rows.max() + side, max(0, columns.min() - side) : columns.max() + side] = 1
            assert not (there & ~box).any()
            assert (here & there).sum() > 0.5 * here.sum()  # noise around, but the lesion is found again
    again = Trainer(**OPTIONS, callbacks=[NoiseCrop(margin=0.0)]).predict(module(), datamodule=data())
    for one, other in zip(predicted, again, strict=True):
        assert torch.equal(one["probability"], other["probability"])


class Classifier(LightningModule):
    """Sees images, returns ``[B, K]``; batches are tuples."""

    def __init__(self):
        super().__init__()
        self.network = nn.Conv2d(1, 2, 1)
        self.seen = []

    def forward(self, image):
        self.seen.append((self.training, image.clone()))
        return self.network(image).mean((2, 3))

    def training_step(self, batch, batch_idx):
        return nn.functional.cross_entropy(self(batch[0]), batch[2])

    def test_step(self, batch, batch_idx):
        self(batch[0])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Tuples(LightningDataModule):
    """Ten images of one value each, the lesion a square."""

    def train_dataloader(self):
        mask = torch.zeros(1, 6, 6).long()
        mask[:, 2:4, 2:4] = 1
        items = [(torch.full((1, 6, 6), i / 10), mask, i % 2) for i in range(10)]
        return DataLoader(items, batch_size=4, shuffle=True, drop_last=True)

    test_dataloader = train_dataloader


def test_a_classifier_takes_given_masks_and_may_train_on_them():
    model = Classifier()
    callback = BackgroundNormalisation(mask_key=1, training=True, image_key=0, background_key=1)
    trainer = Trainer(**OPTIONS, max_epochs=1, callbacks=[callback])
    trainer.fit(model, datamodule=Tuples())
    trainer.test(model, datamodule=Tuples(), verbose=False)
    assert {training for training, _ in model.seen} == {True, False}
    for _, image in model.seen:
        assert image[:, :, 0, 0].flatten().tolist() == pytest.approx([0.45] * 4)  # all ten, though loaders drop two
        assert len(set(image[:, :, 2, 2].flatten().tolist())) == 4
    crop = Classifier()
    Trainer(**OPTIONS, callbacks=[NoiseCrop(mask_key=1, margin=0.0)]).test(crop, datamodule=Tuples(), verbose=False)
    _, image = crop.seen[0]
    assert (image.flatten(1).std(1) < 1e-6).all()  # the square fills the picture


class Square(nn.Module):
    """A segmentation that finds the square wherever images have two spatial axes of six."""

    def forward(self, image):
        mask, _ = Tuples().train_dataloader().dataset[0][1:]
        return 9.0 * nn.functional.one_hot(mask, 2).movedim(-1, 1).float().expand(len(image), -1, -1, -1)


def test_a_classifier_takes_the_masks_that_a_segmentation_predicts():
    given, predicted = Classifier(), Classifier()
    segmenter = Square().train()
    for model, callback in ((given, NoiseCrop(mask_key=1)), (predicted, NoiseCrop(segmenter=segmenter))):
        torch.manual_seed(0)
        Trainer(**OPTIONS, callbacks=[callback]).test(model, datamodule=Tuples(), verbose=False)
    assert len(given.seen) == len(predicted.seen) == 2
    for (_, one), (_, other) in zip(given.seen, predicted.seen, strict=True):
        assert torch.equal(one, other)
    assert not segmenter.training
    with pytest.raises(ValueError, match="give mask_key or segmenter"):
        NoiseCrop(mask_key=1, segmenter=segmenter)
    with pytest.raises(MisconfigurationException, match=r"Conv2d\(image\) returned .*no mask of the image"):
        Trainer(**OPTIONS, callbacks=[NoiseCrop(segmenter=nn.Conv2d(1, 2, 3))]).test(
            Classifier(), datamodule=Tuples(), verbose=False
        )


def test_what_cannot_work_is_refused():
    with pytest.raises(ValueError, match="set mask_key"):
        BackgroundNormalisation(training=True)
    with pytest.raises(ValueError, match="at least 0"):
        NoiseCrop(margin=-0.1)
    with pytest.raises(MisconfigurationException, match=r"which is no mask of the image .*; set mask_key"):
        Trainer(**OPTIONS, callbacks=[NoiseCrop()]).test(Classifier(), datamodule=Tuples(), verbose=False)
    with pytest.raises(MisconfigurationException, match="no DataModule"):
        Trainer(**OPTIONS, callbacks=[BackgroundNormalisation()]).test(
            Classifier(), Tuples().test_dataloader(), verbose=False
        )

    model, two = Classifier(), [NoiseCrop(mask_key=1), NoiseCrop(mask_key=1)]
    with pytest.raises(MisconfigurationException, match="one of these callbacks at a time"):
        Trainer(**OPTIONS, callbacks=two).test(model, datamodule=Tuples(), verbose=False)
    assert "forward" not in vars(model)

    class Past(Classifier):
        def test_step(self, batch, batch_idx):
            self.network(batch[0])

    model = Past()
    with pytest.raises(MisconfigurationException, match="did not call its forward, so NoiseCrop changed nothing"):
        Trainer(**OPTIONS, callbacks=[NoiseCrop(mask_key=1)]).test(model, datamodule=Tuples(), verbose=False)
    assert "forward" not in vars(model)
