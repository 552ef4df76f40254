"""One process of a distributed evaluation: ``ddp.py RANK WORLD STORE OUT``; rank 0 writes OUT."""

import sys
from contextlib import suppress
from datetime import timedelta

import torch
import torch.distributed as dist

from erode.metrics import (
    BoxTightness,
    CoarseContent,
    Completeness,
    ForegroundOutcome,
    GlobalSpuriousInformation,
    GroupAccuracy,
    GroupDice,
    GroupForegroundOutcome,
    GroupIoU,
    ImageAUROC,
    LinearProbe,
    MembershipInference,
    ProbabilityDistance,
    RadialDice,
    RobustAUROC,
    SegmentationDice,
    SliceCounts,
    SpuriousLeakage,
    ZeroRetrainForgetting,
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
        "content": (CoarseContent(bootstrap=25, **kwargs), ("picture", "mask", "coarse", "artefact")),
        "dice": (SegmentationDice(3, **kwargs), ("pred", "mask")),
        "outcome": (ForegroundOutcome(3, **kwargs), ("pred", "mask")),
        "auroc": (ImageAUROC(**kwargs), ("scores", "labels")),
        "membership": (
            MembershipInference(bootstrap=25, **kwargs),
            ("pixel_scores", "atoms", "member", "image", "stratum", "cluster"),
        ),
        "robust": (RobustAUROC(**kwargs), ("scores", "labels", "flags")),
        "completeness": (Completeness(3, **kwargs), ("pred", "mask", "forget")),
        "distance": (ProbabilityDistance(**kwargs), ("probs", "reference", "forget")),
        "zrf": (ZeroRetrainForgetting(**kwargs), ("probs", "reference", "forget")),
        "probe": (LinearProbe(**kwargs), ("features", "flags")),
        "slices": (SliceCounts(3, **kwargs), spurious),
        "group_accuracy": (GroupAccuracy(3, **kwargs), ("guesses", "labels", "flags")),
        "group_dice": (GroupDice(3, **kwargs), ("pred", "mask", "labels", "flags")),
        "group_outcome": (GroupForegroundOutcome(3, **kwargs), ("pred", "mask", "labels", "flags")),
        "clustered_interval": (GlobalSpuriousInformation(3, bootstrap=25, **kwargs), spurious),
        "clustered_content": (CoarseContent(bootstrap=25, **kwargs), ("picture", "mask", "coarse", "artefact")),
        "clustered_probe": (LinearProbe(**kwargs), ("features", "flags")),
        "group_iou": (GroupIoU(3, [1, 0], **kwargs), ("pred", "mask", "labels", "flags")),
        "radial": (RadialDice(rings=3, width=1.5, **kwargs), ("pred", "mask")),
    }


def make_data():
    generator = torch.Generator().manual_seed(0)
    maps = {name: torch.randint(3, (IMAGES, 7, 5), generator=generator) for name in ("pred", "mask", "coarse")}
    maps["mask"][3] = maps["pred"][3] = 0
    artefact = torch.randint(3, (IMAGES, 7, 5), generator=generator, dtype=torch.uint8)
    artefact[:2, 0], artefact[2] = 255, 255
    images = {"scores": torch.rand(IMAGES, generator=generator).mul(8).round() / 8}
    images["labels"], images["flags"] = torch.arange(IMAGES) % 2, torch.arange(IMAGES) % 3 - 1
    maps["forget"] = torch.rand(IMAGES, 7, 5, generator=generator) < 0.4
    for name in ("probs", "reference"):
        maps[name] = torch.randn(IMAGES, 3, 7, 5, generator=generator).softmax(1)
    images["guesses"] = torch.randint(2, (IMAGES,), generator=generator)
    images["picture"] = 50 + torch.randn(IMAGES, 2, 7, 5, generator=generator)
    images["features"] = torch.randn(IMAGES, 4, generator=generator)
    atoms = {"pixel_scores": torch.randn(IMAGES, 7, 5, generator=generator), "atoms": maps["mask"] > 0}
    numbers = {"member": torch.arange(IMAGES) % 3 > 0, "image": torch.arange(IMAGES).flip(0)}
    numbers |= {"stratum": torch.arange(IMAGES) % 2, "cluster": torch.arange(IMAGES) // 2}
    return maps | {"artefact": artefact} | images | atoms | numbers


def evaluate(indices, counted, **kwargs):
    data, values = make_data(), {}
    for name, (metric, keys) in make_metrics(**kwargs).items():
        for start in range(0, len(indices), BATCH):
            part, real = indices[start : start + BATCH], counted[start : start + BATCH]
            clusters = {"cluster": data["cluster"][part]} if name.startswith("clustered_") else {}
            metric.update(*(data[key][part] for key in keys), counted=real, **clusters)
        value = metric.compute()
        values[name] = dict(value) if isinstance(value, dict) else {"value": value}
        if isinstance(metric, GlobalSpuriousInformation | CoarseContent):
            values[name] |= vars(metric.result())
        if isinstance(metric, MembershipInference):
            with suppress(ValueError):  # without images there is none
                result = metric.result()
                values[name] |= {
                    f"{level}_{k}": v for level in ("atom", "image") for k, v in vars(vars(result)[level]).items()
                }
    return values


def main(rank, world, store, out):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{store}", rank=rank, world_size=world, timeout=timedelta(seconds=60))
    # As DistributedSampler deals them: every world-th image, the first ones again where they run out.
    dealt = torch.arange(-(-IMAGES // world) * world)[rank::world]
    everything, nothing = torch.arange(IMAGES), torch.arange(0)
    shares = {"dealt": dealt, "one has all": everything if rank == 0 else nothing, "no images": nothing}
    together = {name: evaluate(share % IMAGES, share < IMAGES) for name, share in shares.items()}
    if rank == 0:
        alone = {n: evaluate(x, x >= 0, distributed_available_fn=lambda: False)
                 for n, x in (("all", everything), ("none", nothing))}  # fmt: skip
        torch.save({"together": together, "alone": alone}, out)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4])
