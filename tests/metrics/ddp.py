"""One process of a distributed evaluation: ``ddp.py RANK WORLD STORE OUT``; rank 0 writes OUT."""

import sys
from datetime import timedelta

import torch
import torch.distributed as dist

from erode.metrics import (
    BoxTightness,
    ForegroundOutcome,
    GlobalSpuriousInformation,
    ImageAUROC,
    RobustAUROC,
    SegmentationDice,
    SpuriousLeakage,
)

IMAGES, BATCH = 11, 2


def make_metrics(**kwargs):
    """Each metric, under the names of the batch entries that it takes."""
    spurious = ("pred", "mask", "artefact")
    return {
        "pooled": (GlobalSpuriousInformation(3, **kwargs), spurious),
        "interval": (GlobalSpuriousInformation(3, bootstrap=25, permutations=9, **kwargs), spurious),
        "pixelwise": (
            GlobalSpuriousInformation(3, estimator="pixelwise", permutations=9, **kwargs),
            spurious,
        ),
        "leakage": (SpuriousLeakage(3, **kwargs), spurious),
        "tightness": (BoxTightness(**kwargs), ("mask", "coarse")),
        "dice": (SegmentationDice(3, **kwargs), ("pred", "mask")),
        "outcome": (ForegroundOutcome(3, **kwargs), ("pred", "mask")),
        "auroc": (ImageAUROC(**kwargs), ("scores", "labels")),
        "robust": (RobustAUROC(**kwargs), ("scores", "labels", "flags")),
    }


def make_data():
    generator = torch.Generator().manual_seed(0)
    maps = {name: torch.randint(3, (IMAGES, 7, 5), generator=generator) for name in ("pred", "mask", "coarse")}
    maps["mask"][3] = maps["pred"][3] = 0
    artefact = torch.randint(3, (IMAGES, 7, 5), generator=generator, dtype=torch.uint8)
    artefact[:2, 0], artefact[2] = 255, 255
    images = {"scores": torch.rand(IMAGES, generator=generator).mul(8).round() / 8}
    images["labels"], images["flags"] = torch.arange(IMAGES) % 2, torch.arange(IMAGES) % 3 - 1
    return maps | {"artefact": artefact} | images


def evaluate(indices, counted, **kwargs):
    data, values = make_data(), {}
    for name, (metric, keys) in make_metrics(**kwargs).items():
        for part, real in zip(indices.split(BATCH), counted.split(BATCH), strict=True):
            metric.update(*(data[key][part] for key in keys), counted=real)
        value = metric.compute()
        values[name] = dict(value) if isinstance(value, dict) else {"value": value}
        if isinstance(metric, GlobalSpuriousInformation):
            values[name] |= vars(metric.result())
    return values


def main(rank, world, store, out):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{store}", rank=rank, world_size=world, timeout=timedelta(seconds=60))
    # As DistributedSampler deals them: every world-th image, the first ones again where they run out.
    dealt = torch.arange(-(-IMAGES // world) * world)[rank::world]
    together = evaluate(dealt % IMAGES, dealt < IMAGES)
    if rank == 0:
        everything = torch.arange(IMAGES)
        alone = evaluate(everything, everything >= 0, distributed_available_fn=lambda: False)
        torch.save({"together": together, "alone": alone}, out)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4])
