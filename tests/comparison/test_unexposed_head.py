"""The encoder under a head sees the fine images alone."""

import lightning.pytorch as pl
import torch

from erode.comparison.unexposed_head import unexposed_head
from erode.datamodules import SyntheticDermoscopy
from erode.masks import DiskDilation, View
from erode.weights import weights_digest

torch.set_num_threads(1)


def test_other_coarse_masks_give_the_same_encoder_bit_for_bit(tmp_path):
    digests = set()
    for width in (2, 8):
        data = SyntheticDermoscopy(coarsening=DiskDilation(half_width=width), size=32, train_images=20, batch_size=4)
        pl.seed_everything(0, verbose=False)
        head = unexposed_head(tmp_path / str(width), data, steps=3, accelerator="cpu")
        assert data.view is View.COARSE  # as before
        assert not head.head.any()
        digests.add(weights_digest(head))
        again = unexposed_head(tmp_path / str(width), data, steps=3, accelerator="cpu")  # read, not trained again
        assert (weights_digest(again), again.network.feature_norm) == (weights_digest(head), head.network.feature_norm)
    assert len(digests) == 1
