"""An encoder that is pretrained for a head looks at images alone."""

import lightning.pytorch as pl
import torch

from erode.datamodules import SyntheticDermoscopy
from erode.label_free_head import label_free_head
from erode.masks import DiskDilation
from erode.weights import weights_digest

torch.set_num_threads(1)


def test_other_masks_give_the_same_encoder_bit_for_bit(tmp_path):
    digests = set()
    for width in (2, 8):
        data = SyntheticDermoscopy(
            coarsening=DiskDilation(half_width=width), size=32, train_images=12, split_seed=width, batch_size=4
        )
        pl.seed_everything(0, verbose=False)
        head = label_free_head(tmp_path / str(width), data, steps=3, accelerator="cpu")
        assert not head.head.any()
        digests.add(weights_digest(head))
        again = label_free_head(tmp_path / str(width), data, steps=3, accelerator="cpu")  # read, not pretrained again
        assert (weights_digest(again), again.network.feature_norm) == (weights_digest(head), head.network.feature_norm)
    assert len(digests) == 1
