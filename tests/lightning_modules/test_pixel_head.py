"""The pixel head: the minimiser that another solver finds, features in the unit ball, an encoder that stays."""

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import nn
from torch.utils.data import DataLoader

from erode.accounting import residual_floor
from erode.batch import FIELDS, NO_PRIOR, Role
from erode.callbacks import GradientClipping
from erode.lightning_modules import PixelHead
from erode.lightning_modules.frozen_features import FrozenFeatures
from erode.ridge import HeadPixels, RidgeObjective, minimise
from erode.weights import load_weights, save_weights, weights_digest

SIZE, RIDGE = 8, 0.01


def item(index, unlabelled=0):
    """Three classes by brightness; the first rows may have no label, or a soft one."""
    image = torch.rand(3, SIZE, SIZE, generator=torch.Generator().manual_seed(index))
    label = 1 + index % 2
    mask = (image[0] > 0.5).long() * label
    role = torch.zeros(SIZE, SIZE, dtype=torch.uint8)
    role[:unlabelled] = Role.UNLABELLED
    prior = torch.full((SIZE, SIZE), NO_PRIOR)
    prior[: unlabelled // 2] = 0.25
    whole = {"label": torch.tensor(label), "flag": torch.tensor(index % 2), "counted": torch.tensor(True)}
    blank = {"artefact": torch.zeros(SIZE, SIZE, dtype=FIELDS["artefact"].dtype)}
    pixels = {"mask": mask, "coarse": mask.clone(), "role": role, "prior": prior}
    return {"image": image, **pixels, **blank, **whole, "id": f"case {index}"}


def loader(count=7, batch_size=3):
    items = [item(index, unlabelled=(0, 4, SIZE)[index % 3]) for index in range(count)]
    return DataLoader(items, batch_size=batch_size, shuffle=True, drop_last=True)


def head(**options):
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.BatchNorm2d(5), nn.Dropout(0.5), nn.ReLU())
    return PixelHead(encoder, 5, **{"num_classes": 3, "ridge": RIDGE, "bootstrap": 0, **options})


def trainer(folder, **options):
    return pl.Trainer(
        **{
            "accelerator": "cpu", "max_epochs": 2, "logger": False, "enable_checkpointing": False,
            "enable_progress_bar": False, "enable_model_summary": False, "default_root_dir": folder, **options,
        }
    )  # fmt: skip


def loss(flat, made, data):
    """The objective of theory §5 image by image, from the module's logits; value and gradient by autograd."""
    weights = torch.tensor(flat.reshape(3, 6), requires_grad=True)
    total = RIDGE / 2 * weights.square().sum()
    for entry in data:
        features = made.network.features(entry["image"][None])[0]
        log_p = torch.einsum("kd,dij->kij", weights, features).log_softmax(0)
        pixels = []
        for i in range(SIZE):
            for j in range(SIZE):
                q = torch.zeros(3, dtype=torch.float64)
                if entry["role"][i, j] == Role.RETAIN:
                    q[entry["mask"][i, j]] = 1
                elif entry["prior"][i, j] != NO_PRIOR:
                    q[0], q[entry["label"]] = 0.75, 0.25
                else:
                    continue
                pixels.append(-(q * log_p[:, i, j]).sum())
        if pixels:
            total = total + torch.stack(pixels).mean() / len(data)
    total.backward()
    return total.item(), weights.grad.numpy().ravel()


def test_fit_finds_the_minimiser_that_another_solver_finds(tmp_path):
    """All images count once, though the loader shuffles and drops the last; images without labels count as zeros."""
    made, data = head(), loader()
    fitted = trainer(tmp_path)
    fitted.fit(made, data)
    assert fitted.global_step == 0
    items = [data.dataset[index] for index in range(7)]
    value, gradient = loss(made.head.detach().numpy().ravel(), made, items)
    assert np.linalg.norm(gradient) < 1e-7  # features are held in single precision
    found = minimize(loss, np.zeros(18), args=(made, items), jac=True, method="L-BFGS-B", options={"maxiter": 60})
    assert value <= found.fun + 1e-12
    assert value == pytest.approx(found.fun, abs=1e-6)


@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1.0, 1e4, 1e30])
@pytest.mark.parametrize("spatial", [(8, 8), (4, 4, 4)])
def test_features_lie_in_the_unit_ball_whatever_the_encoder_gives(scale, spatial):
    kind = nn.Conv2d if len(spatial) == 2 else nn.Conv3d
    network = FrozenFeatures(kind(1, 6, 3, stride=2, padding=1), 6, 2)
    features = network.features(scale * torch.randn(2, 1, *spatial))
    assert features.shape == (2, 7, *spatial)  # brought to the image's size
    assert float(features.float().double().norm(dim=1).max()) <= 1
    assert network(torch.zeros(1, 1, *spatial)).shape == (1, 2, *spatial)


def test_gradient_and_hessian_are_derivatives_of_the_value():
    torch.manual_seed(0)
    features = torch.nn.functional.normalize(torch.randn(9, 2), dim=1) * 0.99
    atoms = HeadPixels(features, torch.rand(9, 3).softmax(1), torch.full((9,), 1 / 3), torch.full((3,), 3))
    objective = RidgeObjective([atoms], [3], RIDGE)
    weights, step = torch.randn(3, 2).double(), 1e-5
    moves = step * torch.eye(6).double().reshape(6, 3, 2)
    slopes = [(objective.value(weights + m) - objective.value(weights - m)) / (2 * step) for m in moves]
    assert objective.gradient(weights).flatten().tolist() == pytest.approx(slopes, abs=1e-7)
    bends = [(objective.gradient(weights + m) - objective.gradient(weights - m)).flatten() / (2 * step) for m in moves]
    assert torch.allclose(objective.hessian(weights), torch.stack(bends), atol=1e-7)
    assert float(torch.linalg.eigvalsh(objective.hessian(weights))[0]) >= RIDGE * (1 - 1e-12)


def test_newton_converges_from_far_away_and_with_a_small_ridge():
    torch.manual_seed(0)
    features = torch.nn.functional.normalize(torch.randn(40, 3), dim=1) * 0.99
    targets = nn.functional.one_hot((features[:, 0] > 0).long(), 2).float()  # separable: only the ridge holds it
    objective = RidgeObjective([HeadPixels(features, targets, torch.ones(40), torch.ones(40).long())], [40], 1e-7)
    for start in (torch.zeros(2, 3), 1e3 * torch.randn(2, 3)):
        assert minimise(objective, start.double(), 1e-10)[1] <= 1e-10


def test_batches_of_the_objective_are_fixed_and_cover_every_image(tmp_path):
    made, data = head(tolerance=None), loader()
    fitted = trainer(tmp_path, max_steps=1)
    fitted.fit(made, data)
    whole, cut = made.objective(), made.objective(batch_size=3)
    assert (whole.samples, cut.images) == (7, [4, 3])
    weights = made.head.detach()
    mean = sum(count * cut.batch_gradient(index, weights) for index, count in enumerate(cut.images)) / 7
    assert torch.allclose(mean, whole.gradient(weights), atol=1e-12)


def test_the_encoder_stays_as_it_is_and_the_head_trains_like_any_module(tmp_path):
    made = head(tolerance=None)
    before = weights_digest(made.network.encoder)
    fitted = trainer(tmp_path, max_steps=30, max_epochs=-1)
    start = made.head.detach().clone()
    fitted.fit(made, loader())
    assert weights_digest(made.network.encoder) == before
    assert not made.train().network.encoder[2].training
    assert not torch.equal(made.head, start)


def test_an_operator_for_any_network_works_on_it_too(tmp_path):
    made = head(tolerance=None)
    load_weights(made, save_weights(made, tmp_path / "anchor.safetensors"))
    made.network.encoder[1] = nn.Identity()  # GradientClipping would reset its running statistics
    anchor = save_weights(made, tmp_path / "anchor.safetensors")
    with torch.no_grad():
        made.head.add_(1.0)  # what training did
    operator = GradientClipping(steps=3, anchor=anchor, folder=tmp_path / "out")
    trainer(tmp_path, max_steps=4, max_epochs=-1, callbacks=[operator]).fit(made, loader())
    assert operator.released


def test_it_is_tested_as_every_module_is(tmp_path):
    made = head()
    fitted = trainer(tmp_path)
    fitted.fit(made, loader())
    found = fitted.test(made, loader(), verbose=False)[0]
    assert {"test/dice_lesion", "test/leakage", "test/s_global"} <= found.keys()
    checkpoint = tmp_path / "last.ckpt"
    fitted.save_checkpoint(checkpoint)
    again = head()
    load_weights(again, checkpoint)
    assert weights_digest(again) == weights_digest(made)


@pytest.mark.parametrize(
    ("options", "match"),
    [({"ridge": 0.0}, "ridge must be > 0"), ({"feature_norm": -1.0}, "feature_norm must be > 0")],
)
def test_arguments_out_of_range_are_refused(options, match):
    with pytest.raises(ValueError, match=match):
        head(**options)


def test_what_breaks_the_constants_is_refused():
    half, one = torch.tensor([[0.5, 0.5]]), torch.tensor([1])
    with pytest.raises(ValueError, match="norm 2, above 1"):
        RidgeObjective([HeadPixels(torch.tensor([[2.0]]), half, torch.ones(1), one)], [1], 0.1)
    for targets in (half * 1.1, torch.tensor([[1.5, -0.5]]), half * torch.nan):
        with pytest.raises(ValueError, match="targets must be probabilities"):
            RidgeObjective([HeadPixels(torch.tensor([[1.0]]), targets, torch.ones(1), one)], [1], 0.1)
    for weight in (torch.tensor([1.1]), torch.tensor([-0.1]), torch.tensor([torch.nan]), torch.tensor([torch.inf])):
        with pytest.raises(ValueError, match=r"must be >= 0 and sum to at most 1.*; give each pixel 1 over the number"):
            RidgeObjective([HeadPixels(torch.tensor([[1.0]]), half, weight, one)], [1], 0.1)
    with pytest.raises(ValueError, match="gives features"):
        PixelHead(nn.Conv2d(3, 4, 1), 5)(torch.zeros(1, 3, 4, 4))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_image_is_a_mean_of_its_pixels_whatever_its_neighbours_are(dtype):
    """Too much weight on one image hides behind too little on others if only all are added up."""
    counts = torch.tensor([3, 0, 70_000, 1])
    weight = (1 / counts.clamp(min=1).to(dtype)).repeat_interleave(counts)
    size = len(weight)
    features, targets = torch.full((size, 2), 0.7), torch.tensor([0.25, 0.75]).expand(size, 2)
    RidgeObjective([HeadPixels(features, targets, weight, counts)], [4], 0.1)
    RidgeObjective([HeadPixels(features, targets, 0.5 * weight, counts)], [5], 0.1)  # less is no harm
    with pytest.raises(ValueError, match=r"sum to at most 1, .* an image has 1\.4,"):
        RidgeObjective(
            [HeadPixels(features, targets, torch.cat([0.2 * weight[:-1], 1.4 * weight[-1:]]), counts)], [4], 0.1
        )
    for pixels in (counts[1:], torch.tensor([4, -1, 70_000, 1])):
        with pytest.raises(ValueError, match="must say how many of the 70004 pixels each image has"):
            RidgeObjective([HeadPixels(features, targets, weight, pixels)], [4], 0.1)
    with pytest.raises(ValueError, match=r"images = \[3\] says .* those of \[4\]"):
        RidgeObjective([HeadPixels(features, targets, weight, counts)], [3], 0.1)


@pytest.mark.skipif(np.finfo(np.longdouble).eps >= np.finfo(float).eps, reason="nothing wider than double to compare")
@pytest.mark.parametrize("noisy", [False, True])
@pytest.mark.parametrize("ridge", [1.0, 1e-2, 1e-4, 1e-6])
def test_rounding_of_the_gradient_is_small_against_the_least_tolerance(ridge, noisy):
    """The residual certificate rests on the true norm, and double precision measures another one."""
    generator = torch.Generator().manual_seed(0)
    size, images = 60_000, 20
    features = torch.nn.functional.normalize(torch.randn(size, 9, generator=generator), dim=1) * 0.99
    scores = features[:, :3] + noisy * torch.randn(size, 3, generator=generator)
    targets = nn.functional.one_hot(scores.argmax(1), 3).float()
    weight = torch.full((size,), images / size, dtype=torch.float64)
    objective = RidgeObjective(
        [HeadPixels(features, targets, weight, torch.full((images,), size // images))], [images], ridge
    )
    floor = residual_floor(ridge=ridge)
    weights, norm, _ = minimise(objective, torch.zeros(3, 9).double(), floor)
    assert norm <= floor
    wide = [t.double().numpy().astype(np.longdouble) for t in (features, targets, weight, weights)]
    phi, q, share, w = wide
    p = np.exp(phi @ w.T)
    p /= p.sum(1, keepdims=True)
    exact = ((p - q) * share[:, None]).T @ phi / images + np.longdouble(ridge) * w
    error = objective.gradient(weights).numpy() - exact
    assert 0 < np.linalg.norm(error.astype(float)) < floor / 100
