"""Training batches are mirrored, evaluation batches never."""

import lightning.pytorch as pl
import torch

from erode.datamodules import SyntheticDermoscopy
from erode.lightning_modules import SegmentationModule


class Watch(pl.Callback):
    def __init__(self):
        self.seen = {"train": {}, "val": {}}

    def on_train_batch_start(self, trainer, module, batch, index):
        self._note("train", batch)

    def on_validation_batch_start(self, trainer, module, batch, index, loader=0):
        self._note("val", batch)

    def _note(self, part, batch):
        for name, image in zip(batch["id"], batch["image"], strict=True):
            self.seen[part].setdefault(name, []).append(image)


def test_flips_reach_training_batches_alone(tmp_path):
    pl.seed_everything(0, verbose=False)
    for flips in (True, False):
        data = SyntheticDermoscopy(size=32, train_images=8, val_images=4, test_images=2, batch_size=4, flips=flips)
        watch = Watch()
        pl.Trainer(
            accelerator="cpu", devices=1, max_epochs=4, logger=False, enable_checkpointing=False, callbacks=[watch],
            enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path,
        ).fit(SegmentationModule(num_classes=3), datamodule=data)  # fmt: skip
        moved = {}
        for part, seen in watch.seen.items():
            dataset = data.dataset(part)
            stored = {item["id"]: item["image"] for item in map(dataset.__getitem__, range(len(dataset)))}
            assert seen.keys() <= stored.keys()
            moved[part] = any(not torch.equal(image, stored[name]) for name in seen for image in seen[name])
        assert moved == {"train": flips, "val": False}
