"""SS-AE: its losses and networks against formulas written out, and what its training may touch."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from cnd._compat import make_torchvision_importable
from cnd.decoders.ss_ae.decoder import SsAeDecoder
from cnd.decoders.ss_ae.features import KERNEL, ORIENTATIONS, PERIOD, GaborEnergy, Vgg, gabor_kernels, load_features
from cnd.decoders.ss_ae.losses import fmri_loss, image_loss, perceptual_loss, total_variation
from cnd.decoders.ss_ae.model import ImageDecoder, ImageEncoder, reconstruct
from cnd.decoders.ss_ae.settings import SsAeDecoderConfig, SsAeEncoderConfig
from cnd.decoders.ss_ae.start import small_maps, start_from_ridge
from cnd.decoders.ss_ae.step import FolderOf, fitting_rows, held_out_correlation, material_of
from cnd.decoders.ss_ae.training import Material, Plan, decoder_groups, decoder_losses, encoder_losses, fit, shifted
from cnd.errors import UserError
from cnd.experiment import load_experiment, override
from cnd.protocols import FmriSplit, TrainingSet
from cnd.workflow.plan import all_folds

SHAPE, N_VOXELS = (3, 16, 16), 12
SMALL = SsAeDecoderConfig(channels=(8, 8, 4), batch_size=6, image_batch=5, fmri_batch=4)
SMOKE = load_experiment(Path(__file__).resolve().parents[2] / "experiments" / "smoke.yaml")


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


def images(n: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).random((n, *SHAPE)).astype(np.float32))


# ---------------------------------------------------------------- losses


def test_loss_of_fmri_is_squared_error_and_cosine_distance() -> None:
    a, b = numbers(5, N_VOXELS), numbers(5, N_VOXELS, seed=1)
    p, m = a.double().numpy(), b.double().numpy()
    cosines = [p[i] @ m[i] / (np.linalg.norm(p[i]) * np.linalg.norm(m[i])) for i in range(5)]
    expected = np.mean((p - m) ** 2) + 0.3 * np.mean([1 - c for c in cosines])
    assert fmri_loss(a, b, 0.3).item() == pytest.approx(expected, rel=1e-6)
    assert fmri_loss(a, a, 0.3).item() == pytest.approx(0, abs=1e-6)


def test_perceptual_loss_is_the_angle_between_channels_at_each_position() -> None:
    predicted, wanted = (
        [numbers(2, 4, 3, 3), numbers(2, 5, 2, 2)],
        [numbers(2, 4, 3, 3, seed=1), numbers(2, 5, 2, 2, seed=1)],
    )
    by_map = []
    for p, w in zip(predicted, wanted, strict=True):
        places = [(i, y, x) for i in range(2) for y in range(p.shape[2]) for x in range(p.shape[3])]
        found = []
        for i, y, x in places:
            a, b = p[i, :, y, x].double().numpy(), w[i, :, y, x].double().numpy()
            found.append(1 - a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))
        by_map.append(np.mean(found))
    assert perceptual_loss(predicted, wanted).item() == pytest.approx(np.mean(by_map), rel=1e-5)


def test_total_variation_is_a_power_of_the_gradient() -> None:
    pictures = images(2)
    x, found = pictures.double().numpy(), []
    for i, c in np.ndindex(2, SHAPE[0]):
        for row in range(1, SHAPE[1]):
            for column in range(1, SHAPE[2]):
                across = x[i, c, row, column] - x[i, c, row, column - 1]
                down = x[i, c, row, column] - x[i, c, row - 1, column]
                found.append(math.hypot(across, down) ** 2.5)
    assert total_variation(pictures).item() == pytest.approx(np.mean(found), rel=1e-5)
    flat = torch.full((1, *SHAPE), 0.4, requires_grad=True)
    total_variation(flat).backward()  # type: ignore[no-untyped-call]
    assert flat.grad is not None and not flat.grad.any()


def test_loss_of_images_is_the_weighted_sum_and_no_gradient_reaches_what_is_wanted() -> None:
    predicted, wanted = images(3).requires_grad_(), images(3, seed=1).requires_grad_()
    features = GaborEnergy(SHAPE)
    config = SsAeDecoderConfig(pixel=2, perceptual=3, total_variation=0.5)
    expected = 2 * (predicted - wanted).abs().mean() + 0.5 * total_variation(predicted)
    expected = expected + 3 * perceptual_loss(features(predicted), features(wanted))
    loss = image_loss(config, features, predicted, wanted.detach())
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    loss.backward()  # type: ignore[no-untyped-call]
    assert predicted.grad is not None and predicted.grad.isfinite().all() and predicted.grad.any()


# ---------------------------------------------------------------- features and networks


def test_gabor_energy_is_that_of_filters_written_out() -> None:
    kernels = gabor_kernels()[:, 0].double().numpy()
    assert np.allclose(kernels.sum((1, 2)), 0, atol=1e-6) and np.allclose(np.square(kernels).sum((1, 2)), 1)
    axis, width = np.arange(KERNEL) - KERNEL // 2, KERNEL / 4
    y, x = np.meshgrid(axis, axis, indexing="ij")
    for o in range(ORIENTATIONS):
        angle = math.pi * o / ORIENTATIONS
        envelope = np.exp(-(x**2 + y**2) / (2 * width**2))
        odd = np.sin(2 * math.pi * (math.cos(angle) * x + math.sin(angle) * y) / PERIOD) * envelope
        assert np.allclose(kernels[ORIENTATIONS + o], odd / np.linalg.norm(odd), atol=1e-6)
    picture = images(1)
    first, second = GaborEnergy(SHAPE)(picture)
    assert first.shape == (1, 4, 8, 8) and second.shape == (1, 4, 4, 4)
    padded = np.pad(picture[0].double().numpy().mean(0), KERNEL // 2, mode="edge")
    answers = np.zeros((2, ORIENTATIONS, 2, 2))  # at the four pixels of one place
    for (phase, o), row, column in ((at, r, c) for at in np.ndindex(2, ORIENTATIONS) for r in (4, 5) for c in (6, 7)):
        patch = padded[row : row + KERNEL, column : column + KERNEL]
        answers[phase, o, row - 4, column - 6] = (patch * kernels[phase * ORIENTATIONS + o]).sum()
    expected = np.sqrt(np.square(answers).sum(0) + 1e-6).mean((1, 2))
    assert first[0, :, 2, 3].numpy() == pytest.approx(expected, rel=1e-4)


def test_features_of_a_vgg_file_are_torchvisions(tmp_path: Path) -> None:
    make_torchvision_importable()
    from torchvision.models.vgg import make_layers
    from torchvision.transforms.functional import normalize

    torch.manual_seed(0)
    theirs = make_layers([4, "M", 6, 6, "M", 8, "M"])
    weights = {f"features.{key}": value for key, value in theirs.state_dict().items()}
    torch.save(weights | {"classifier.0.weight": torch.zeros(2, 2)}, tmp_path / "vgg.pth")
    ours, pictures = load_features(tmp_path / "vgg.pth", SHAPE), images(2)
    x, expected = normalize(pictures, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]), []
    for layer in theirs:
        x = layer(x)
        if isinstance(layer, torch.nn.MaxPool2d):
            expected.append(x)
    found = ours(pictures)
    assert len(found) == 3 and all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert not any(p.requires_grad for p in ours.parameters())
    assert len(ours(images(1)[:, :1])) == 3  # grey images stand for colours


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    for name, content in {
        "batch_norm": {"features.0.weight": torch.ones(4)},
        "other": {"conv1.weight": torch.ones(4)},
    }.items():
        torch.save(content, tmp_path / f"{name}.pth")
        with pytest.raises(UserError, match=r"no weights of a VGG.*take those of vgg16"):
            Vgg(tmp_path / f"{name}.pth")
    with pytest.raises(UserError, match=r"cannot be read \(decoder.perceptual_weights\)"):
        Vgg(tmp_path / "absent.pth")


def test_a_voxel_weighs_positions_and_channels_separately() -> None:
    encoder = ImageEncoder(SsAeEncoderConfig(width=2, grid=4), GaborEnergy(SHAPE), SHAPE, N_VOXELS).eval()
    pictures = images(3)
    seen = [F.avg_pool2d(pictures, 2), *GaborEnergy(SHAPE)(pictures)]
    x = torch.cat([scale(maps) for scale, maps in zip(encoder.scales, seen, strict=True)], 1).flatten(2)
    expected = torch.einsum("nkp,vp,vk->nv", x, encoder.space, encoder.channel) + encoder.bias
    assert torch.allclose(encoder(pictures), expected, atol=1e-6)


def test_the_decoder_doubles_up_to_the_size_of_the_stimuli() -> None:
    decoder = ImageDecoder(SMALL, N_VOXELS, SHAPE)
    assert decoder.start == (8, 4, 4)
    found = reconstruct(decoder, numbers(3, N_VOXELS).numpy(), batch=2)
    assert found.shape == (3, *SHAPE) and found.dtype == np.uint8
    assert ImageDecoder(SMALL, N_VOXELS, (1, 28, 28)).start == (8, 7, 7)
    with pytest.raises(UserError, match=r"channels: 2 doublings do not lead to images of 18x16"):
        ImageDecoder(SMALL, N_VOXELS, (3, 18, 16))


def test_images_are_shifted_by_whole_pixels_each_by_its_own() -> None:
    pictures = images(20)
    moved, padded = shifted(pictures, 1, torch.Generator().manual_seed(0)), F.pad(pictures, [1] * 4, mode="replicate")
    found = set()
    for one, around in zip(moved, padded, strict=True):
        at = [(y, x) for y in range(3) for x in range(3) if torch.equal(one, around[:, y : y + 16, x : x + 16])]
        assert len(at) == 1
        found |= set(at)
    assert len(found) > 4
    assert shifted(pictures, 0, torch.Generator()) is pictures


# ---------------------------------------------------------------- training


def pairs(n: int = 60) -> TrainingSet:
    """Voxels that respond linearly to coarse images: both directions can be learned."""
    colours = torch.rand(n, 3, 2, 2, generator=torch.Generator().manual_seed(0))
    coarse = F.interpolate(colours, SHAPE[1:], mode="bilinear")
    pictures = (coarse * 255).round().to(torch.uint8).numpy()
    fmri = colours.flatten(1).numpy() @ np.random.default_rng(0).standard_normal((12, N_VOXELS))
    fmri = ((fmri - fmri.mean(0)) / fmri.std(0)).astype(np.float32)
    items = FmriSplit(fmri, pictures, np.arange(n) % 12, [f"item {i}" for i in range(n)])
    return TrainingSet(items, np.arange(0, n, 6))


def trained_encoder(train: TrainingSet, steps: int) -> ImageEncoder:
    torch.manual_seed(0)
    config = SsAeEncoderConfig(width=4, grid=4, max_steps=steps, batch_size=16, lr=1e-2, max_shift=0)
    encoder = ImageEncoder(config, load_features(None, SHAPE), SHAPE, N_VOXELS)
    losses = encoder_losses(config, encoder, train.items, train.fitting)
    fit(Plan("encoder", steps, 16, 1, {}, 0), encoder, [dict(params=list(encoder.parameters()), lr=config.lr)], losses)
    return encoder


def test_both_networks_learn_and_the_encoder_stays_as_it_was() -> None:
    train = pairs()
    encoder = trained_encoder(train, 60)
    assert held_out_correlation(encoder, train).values["held_out_correlation"] > 0.5
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    encoder.zero_grad(set_to_none=True)  # of its own training
    config = SMALL.model_copy(update={"lr": 1e-2, "voxel_lr": 1e-2})
    torch.manual_seed(1)
    decoder = ImageDecoder(config, N_VOXELS, SHAPE)
    losses = decoder_losses(config, 0.1, decoder, encoder, material_of(train, None, []))
    fitted = fit(Plan("decoder", 40, 6, 1, {}, 0), decoder, decoder_groups(config, decoder), losses)
    for name, tensor in encoder.state_dict().items():
        assert torch.equal(tensor, before[name]), name  # running means of its batch norms, too
    assert all(p.grad is None and not p.requires_grad for p in encoder.parameters())
    table: dict[str, list[float]] = {}
    for row in fitted.history:
        table.setdefault(row["name"], []).append(row["value"])
    assert table.keys() == {"pairs", "image_cycle", "fmri_cycle", "loss"}
    gained = {name: np.mean(values[:5]) - np.mean(values[-5:]) for name, values in table.items()}
    assert min(gained["pairs"], gained["image_cycle"], gained["loss"]) > 0, gained


def test_the_start_is_a_ridge_regression_of_small_maps_with_an_intercept() -> None:
    from sklearn.linear_model import RidgeCV

    train, features = pairs(), load_features(None, SHAPE)
    decoder, config = ImageDecoder(SMALL, N_VOXELS, SHAPE), SMALL.model_copy(update={"channels": (40, 8, 4)})
    start_from_ridge(decoder, features, train.items, train.fitting)
    pictures = torch.from_numpy(train.items.images[train.fitting]).float() / 255
    maps = small_maps(pictures, features, (4, 4))
    assert torch.allclose(maps[:, 1, 2, 3], pictures[:, 0, 8:10, 14:16].mean((1, 2)), atol=1e-6)  # a quarter of a place
    targets = maps[:, : SMALL.channels[0]].flatten(1).double().numpy()
    targets = (targets - targets.mean(0)) / targets.std(0)
    patterns = decoder.standardised(torch.from_numpy(train.items.fmri[train.fitting]))
    model = RidgeCV(np.logspace(1, 6, 11), alpha_per_target=True).fit(patterns.double().numpy(), targets)
    with torch.no_grad():
        found = decoder.read(patterns).double().numpy()
    assert np.allclose(found, model.predict(patterns.double().numpy()), atol=1e-4)
    wide = ImageDecoder(config, N_VOXELS, SHAPE)
    before = wide.read.weight.detach().clone()
    start_from_ridge(wide, features, train.items, train.fitting)
    known = maps.shape[1] * 16  # more channels than there are maps: the others keep their random weights
    assert torch.equal(wide.read.weight[known:], before[known:]) and not torch.equal(wide.read.weight, before)


@pytest.mark.parametrize("cycle", ["pairs", "image_cycle", "fmri_cycle"])
def test_each_loss_of_the_decoder_is_what_it_says(cycle: str) -> None:
    train, rng = pairs(), torch.Generator()
    encoder, decoder = trained_encoder(train, 2), ImageDecoder(SMALL, N_VOXELS, SHAPE)
    config = SMALL.model_copy(update={"image_cycle": 0.5, "fmri_cycle": 2.0})
    one = Material(
        train.items, train.fitting[:1], np.zeros((0, *SHAPE), np.uint8), torch.from_numpy(train.items.fmri[3:4])
    )
    found = decoder_losses(config, 0.3, decoder, encoder, one)(rng.manual_seed(0))  # drawn from one item: always that
    row, features = train.fitting[0], load_features(None, SHAPE)
    picture = torch.from_numpy(train.items.images[row])[None].float() / 255
    measured, other = (torch.from_numpy(train.items.fmri[i : i + 1]) for i in (row, 3))
    expected = {
        "pairs": image_loss(config, features, decoder(measured), picture),
        "image_cycle": 0.5 * image_loss(config, features, decoder(encoder(picture)), picture),
        "fmri_cycle": 2.0 * fmri_loss(encoder(decoder(other)), other, 0.3),
    }
    assert found[cycle].item() == pytest.approx(expected[cycle].item(), rel=1e-5)
    found[cycle].backward()  # type: ignore[no-untyped-call]
    assert decoder.read.weight.grad is not None and decoder.read.weight.grad.any()


def test_held_out_items_take_no_part() -> None:
    train = pairs()
    encoder, decoder = trained_encoder(train, 2), ImageDecoder(SMALL, N_VOXELS, SHAPE)

    def losses(train: TrainingSet) -> list[float]:
        drawing = decoder_losses(SMALL, 0.1, decoder, encoder, material_of(train, None, []))
        rng = torch.Generator().manual_seed(0)
        return [value.item() for _ in range(8) for value in drawing(rng).values()]

    items = train.items
    changed, fmri = np.array(items.images), items.fmri.copy()
    changed[train.held], fmri[train.held] = 255 - changed[train.held], 100
    edited = FmriSplit(fmri, changed, items.category, items.stimulus)
    assert losses(train) == losses(TrainingSet(edited, train.held))


def test_more_images_and_patterns_join(tmp_path: Path) -> None:
    from PIL import Image

    train = pairs()
    for name, size in {"a.png": (40, 30), "b.png": (16, 16)}.items():
        Image.fromarray(np.full((*size, 3), 200, np.uint8)).save(tmp_path / name)
    material = material_of(train, FolderOf(path=tmp_path), [np.full((7, N_VOXELS), 3.0)])
    assert material.more_images.shape == (2, *SHAPE) and (np.asarray(material.more_images) == 200).all()
    assert material.unlabelled.shape == (len(train.fitting) + 7, N_VOXELS) and (material.unlabelled[-7:] == 3).all()
    grey = FmriSplit(train.items.fmri, train.items.images[:, :1], train.items.category, train.items.stimulus)
    found = material_of(TrainingSet(grey, train.held), FolderOf(path=tmp_path), []).more_images
    assert found.shape == (2, 1, 16, 16)
    with pytest.raises(UserError, match=r"data.unlabelled: a pool has 5 voxels and the subject 12"):
        material_of(train, None, [np.zeros((7, 5))])
    with pytest.raises(UserError, match=r"2 training items leave fewer than 2"):
        fitting_rows(TrainingSet(train.items.take(np.arange(2)), np.array([1])))


# ---------------------------------------------------------------- settings and steps


def settings(**edits: Any) -> Any:
    changed = {f"decoder.{name.replace('__', '.')}": value for name, value in edits.items()}
    return override(SMOKE, {"decoder.kind": "ss_ae"} | changed, "test")


def needs(**edits: Any) -> set[str]:
    (fold,) = all_folds(settings(**edits))
    return {name for name, step in fold.own["ss_ae_decoder"].needs.items() if step is not None}


def test_only_the_transductive_switch_lets_the_test_set_in_and_it_is_told() -> None:
    assert needs() == {"training", "trained", "validation_score"}
    assert needs(decoding__transductive=True) == {*needs(), "data"}
    assert needs(decoding__pools=True) == {*needs(), "pools"}
    assert needs(decoding__curve_items=0) == {"training", "trained"}
    told = settings(decoding__transductive=True).warnings()
    assert any(line.startswith("Transductive: ") for line in told)
    assert not any(line.startswith("Transductive: ") for line in settings().warnings())


def test_the_encoder_is_shared_by_rows_that_differ_in_the_decoder() -> None:
    def key(**edits: Any) -> str:
        (fold,) = all_folds(settings(**edits))
        return fold.own["ss_ae_encoder"].key

    assert key() == key(decoding__lr=0.1) != key(encoding__lr=0.1)


def test_what_is_not_there_is_told_before_anything_runs(tmp_path: Path) -> None:
    decoder = SsAeDecoder(perceptual_weights=tmp_path / "vgg.pth", decoding={"images": tmp_path / "none"})
    first, second = decoder.missing()
    assert "vgg.pth: no such file (decoder.perceptual_weights)" in first
    assert "no folder with PNG or JPEG files (decoder.decoding.images)" in second
