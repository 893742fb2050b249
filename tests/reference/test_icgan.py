"""IC-GAN: generator and features against implementations written out, regressions against scikit-learn, bad files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from sklearn.linear_model import Ridge
from sklearn.model_selection import GroupKFold
from torch import Tensor
from torch.nn import functional as F

from cnd._compat import make_torchvision_importable
from cnd.decoders.icgan.checkpoints import load_generator, load_swav
from cnd.decoders.icgan.decoder import IcGanDecoder, of_length, regress_features, regress_others, with_statistics_of
from cnd.decoders.icgan.features import InstanceFeatures, SwavFeatures
from cnd.decoders.icgan.generator import InstanceGenerator, Layout, SpectralConv2d, SpectralLinear, layout_of
from cnd.decoders.icgan.inversion import as_tensor, descend, invert
from cnd.decoders.icgan.networks import Networks, Sources, embedded, load
from cnd.decoders.icgan.settings import InversionConfig
from cnd.errors import UserError
from cnd.experiment import load_experiment, override
from cnd.protocols import FmriSplit, Stimuli
from cnd.workflow.plan import all_folds

SMALL = Layout(n_features=10, embedding=6, chunk=3, channels=(16, 16, 8), attention=(0,), smallest=2)
GAMMA = torch.tensor(0.7, dtype=torch.float64)  # weight of attention
SMOKE = load_experiment(Path(__file__).resolve().parents[2] / "experiments" / "smoke.yaml")


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


def generator_of(layout: Layout, seed: int = 0) -> InstanceGenerator:
    """A float64 generator, every one of whose tensors is drawn."""
    network = InstanceGenerator(layout).double()
    for index, (name, tensor) in enumerate(network.state_dict().items()):
        drawn = numbers(*tensor.shape, seed=100 * seed + index) if tensor.ndim else GAMMA
        tensor.copy_(drawn.abs() + 0.5 if name.endswith("stored_var") else drawn)
    return network.eval()


# ---------------------------------------------------------------- the generator


def spectral(tensors: dict[str, Tensor], name: str) -> Tensor:
    """The weight over u^T W v with v along W^T u0 and u along W v."""
    weight = tensors[f"{name}.weight"]
    w, u0 = weight.reshape(len(weight), -1).numpy(), tensors[f"{name}.u0"][0].numpy()
    v = w.T @ u0 / np.linalg.norm(w.T @ u0)
    u = w @ v / np.linalg.norm(w @ v)
    return weight / float(u @ w @ v)


def written_out(tensors: dict[str, Tensor], noise: Tensor, features: Tensor, dense: Tensor | None) -> Tensor:
    """BigGAN's equations for the layout SMALL (Brock et al. 2019, app. B; Casanova et al. 2021, sec. 3)."""

    def convolved(x: Tensor, name: str) -> Tensor:
        kernel = spectral(tensors, name)
        return F.conv2d(x, kernel, tensors.get(f"{name}.bias"), padding=kernel.shape[-1] // 2)

    def normed(x: Tensor, name: str, gain: Tensor, bias: Tensor) -> Tensor:
        mean, var = (tensors[f"{name}.stored_{part}"].view(1, -1, 1, 1) for part in ("mean", "var"))
        return (x - mean) / torch.sqrt(var + 1e-5) * gain[..., None, None] + bias[..., None, None]

    def conditioned(x: Tensor, name: str, y: Tensor) -> Tensor:
        gain, bias = (y @ spectral(tensors, f"{name}.{part}").T for part in ("gain", "bias"))
        return normed(x, name, 1 + gain, bias)

    def doubled(x: Tensor) -> Tensor:
        return x.repeat_interleave(2, 2).repeat_interleave(2, 3)

    y = features @ spectral(tensors, "shared_feat").T + tensors["shared_feat.bias"]
    chunks = [noise[:, 3 * i : 3 * i + 3] for i in range(3)]
    first = chunks[0] @ spectral(tensors, "linear").T + tensors["linear.bias"] if dense is None else dense
    x = first.reshape(-1, 16, 2, 2)
    for index in range(2):
        condition = torch.cat([y, chunks[index + 1]], 1)
        at = f"blocks.{index}.0"
        h = convolved(doubled(conditioned(x, f"{at}.bn1", condition).relu()), f"{at}.conv1")
        h = convolved(conditioned(h, f"{at}.bn2", condition).relu(), f"{at}.conv2")
        x = h + convolved(doubled(x), f"{at}.conv_sc")
        if index == 0:
            x = x + GAMMA * attended(tensors, x)
    gain, bias = tensors["output_layer.0.gain"], tensors["output_layer.0.bias"]
    x = normed(x, "output_layer.0", gain[None], bias[None]).relu()
    return convolved(x, "output_layer.2").tanh()


def attended(tensors: dict[str, Tensor], x: Tensor) -> Tensor:
    """Self-attention of 16 channels on 4x4 positions, position by position."""
    kernels = {name: spectral(tensors, f"blocks.0.1.{name}")[:, :, 0, 0] for name in ("theta", "phi", "g", "o")}
    maps = {name: torch.einsum("kc,nchw->nkhw", kernels[name], x) for name in ("theta", "phi", "g")}
    found = torch.zeros_like(x)
    for n, row, column in np.ndindex(len(x), 4, 4):
        logits, values = [], []
        for down, right in np.ndindex(2, 2):  # windows of 2x2 pixels
            window = (n, slice(None), slice(2 * down, 2 * down + 2), slice(2 * right, 2 * right + 2))
            logits.append(maps["theta"][n, :, row, column] @ maps["phi"][window].amax((1, 2)))
            values.append(maps["g"][window].amax((1, 2)))
        weights = torch.stack(logits).softmax(0)
        found[n, :, row, column] = kernels["o"] @ (weights[:, None] * torch.stack(values)).sum(0)
    return found


@pytest.mark.parametrize("given", [False, True], ids=["dense vector of the noise", "dense vector given"])
def test_generator_is_biggan_with_instance_features(given: bool) -> None:
    network, noise, features = generator_of(SMALL), numbers(3, 9), numbers(3, 10, seed=1)
    dense = numbers(3, 64, seed=2) if given else None
    expected = written_out(dict(network.state_dict()), noise, features, dense)
    with torch.no_grad():
        found = network(noise, features, dense)
    assert found.shape == (3, *SMALL.image_shape) == (3, 3, 8, 8)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    assert expected.std() > 0.1


def test_dense_scale_is_the_spread_of_dense_vectors_under_normal_noise() -> None:
    network = generator_of(SMALL)
    with torch.no_grad():
        drawn = network.dense(numbers(20_000, 9)) - network.linear.bias
    assert network.dense_scale() == pytest.approx(float(drawn.square().mean().sqrt()), rel=0.02)


@pytest.mark.parametrize("layer", [SpectralLinear(7, 5), SpectralConv2d(3, 5, 3)], ids=["linear", "convolution"])
def test_weights_are_divided_by_their_largest_singular_value(layer: Any) -> None:
    layer.weight.data.copy_(numbers(*layer.weight.shape))
    before = layer.u0.clone()
    layer.eval().normalised()
    assert torch.equal(layer.u0, before)  # the same input gives the same output
    layer.train()
    for _ in range(200):
        layer.normalised()
    largest = torch.linalg.svdvals(layer.weight.flatten(1))[0]
    torch.testing.assert_close(layer.sv0[0], largest.detach(), rtol=1e-4, atol=0)
    torch.testing.assert_close(layer.normalised(), layer.weight / largest, rtol=1e-4, atol=1e-6)


# ---------------------------------------------------------------- published files


def published(ch: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the published generator for 256x256 pixels (its ``ch`` is 96), as its code makes them."""
    channels, embedding, chunk = [16, 16, 8, 8, 4, 2, 1], 512, 17
    shapes: dict[str, tuple[int, ...]] = {"shared.weight": (1000, 128)}

    def layer(name: str, *shape: int, bias: bool = True) -> None:
        shapes[f"{name}.weight"] = shape
        shapes[f"{name}.u0"], shapes[f"{name}.sv0"] = (1, shape[0]), (1,)
        if bias:
            shapes[f"{name}.bias"] = shape[:1]

    def statistics(name: str, n: int) -> None:
        shapes[f"{name}.stored_mean"] = shapes[f"{name}.stored_var"] = (n,)

    layer("shared_feat", embedding, 2048)
    layer("linear", channels[0] * ch * 16, chunk)
    for index in range(6):
        n_in, n_out = channels[index] * ch, channels[index + 1] * ch
        layer(f"blocks.{index}.0.conv1", n_out, n_in, 3, 3)
        layer(f"blocks.{index}.0.conv2", n_out, n_out, 3, 3)
        layer(f"blocks.{index}.0.conv_sc", n_out, n_in, 1, 1)
        for norm, n in (("bn1", n_in), ("bn2", n_out)):
            statistics(f"blocks.{index}.0.{norm}", n)
            layer(f"blocks.{index}.0.{norm}.gain", n, embedding + chunk, bias=False)
            layer(f"blocks.{index}.0.{norm}.bias", n, embedding + chunk, bias=False)
    shapes["blocks.3.1.gamma"] = ()
    for name, n_out, n_in in (("theta", ch // 2, 4 * ch), ("phi", ch // 2, 4 * ch), ("g", 2 * ch, 4 * ch)):
        layer(f"blocks.3.1.{name}", n_out, n_in, 1, 1, bias=False)
    layer("blocks.3.1.o", 4 * ch, 2 * ch, 1, 1, bias=False)
    statistics("output_layer.0", ch)
    shapes["output_layer.0.gain"] = shapes["output_layer.0.bias"] = (ch,)
    layer("output_layer.2", 3, ch, 3, 3)
    return shapes


def test_layout_of_the_published_generator() -> None:
    layout = layout_of({name: torch.empty(shape, device="meta") for name, shape in published(96).items()})
    channels = (1536, 1536, 768, 768, 384, 192, 96)
    assert layout == Layout(n_features=2048, embedding=512, chunk=17, channels=channels, attention=(3,))
    assert (layout.n_noise, layout.n_dense, layout.image_shape) == (119, 24_576, (3, 256, 256))


def drawn(shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    return {name: numbers(*shape).abs().float() if shape else torch.tensor(0.5) for name, shape in shapes.items()}


def test_published_layout_loads_and_generates(tmp_path: Path) -> None:
    tensors = drawn(published(2))
    torch.save(tensors, tmp_path / "plain.pth")
    # batch norms as modules of their own, as where several machines train
    names = {".stored_mean": ".bn.running_mean", ".stored_var": ".bn.running_var"}
    names |= {"output_layer.0.gain": "output_layer.0.bn.weight", "output_layer.0.bias": "output_layer.0.bn.bias"}
    other = {"module.blocks.0.0.bn1.bn.num_batches_tracked": torch.tensor(3)}
    for name, tensor in tensors.items():
        for plain, theirs in names.items():
            name = name.replace(plain, theirs)
        other[f"module.{name}"] = tensor
    save_file(other, tmp_path / "other.safetensors")
    plain, theirs = load_generator(tmp_path / "plain.pth"), load_generator(tmp_path / "other.safetensors")
    assert not any(p.requires_grad for p in plain.parameters()) and not plain.training
    noise, features = numbers(1, 119).float(), F.normalize(numbers(1, 2048).float())
    images = plain(noise, features)
    assert images.shape == (1, 3, 256, 256) and images.isfinite().all()
    assert torch.equal(images, theirs(noise, features))


def broken(edit: Callable[[dict[str, Tensor]], Any]) -> dict[str, Tensor]:
    tensors = {name: tensor.float() for name, tensor in generator_of(SMALL).state_dict().items()}
    edit(tensors)
    return tensors


@pytest.mark.parametrize(
    ("edit", "told"),
    [
        (lambda t: t.pop("linear.weight"), "no weights of an instance-conditioned BigGAN generator"),
        (lambda t: t.pop("blocks.1.0.conv2.u0"), "'blocks.1.0.conv2.u0' is missing"),
        (lambda t: t.update({"blocks.7.0.x": torch.zeros(1)}), "no weights of an instance-conditioned BigGAN"),
        (lambda t: t.update({"mapping.weight": torch.zeros(1)}), "'mapping.weight' is not part of an IC-GAN generator"),
        (lambda t: t.update({"linear.bias": torch.zeros(2)}), r"'linear.bias' has shape \[2\], expected \[64\]"),
        (lambda t: t["linear.bias"].fill_(np.nan), "linear.bias: expected finite numbers"),
        (lambda t: t.clear(), "holds no state dict"),
    ],
    ids=["no layer", "no vector", "no block", "another network", "shape", "NaN", "empty"],
)
def test_bad_generators_are_told_in_one_line(edit: Callable[..., Any], told: str, tmp_path: Path) -> None:
    path = tmp_path / "G_ema.pth"
    torch.save(broken(edit), path)
    with pytest.raises(UserError, match=told) as error:
        load_generator(path)
    assert str(path) in str(error.value) and "decoder.generator_weights" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("read", [load_generator, load_swav])
def test_files_of_something_else_are_told_in_one_line(read: Callable[[Path], Any], tmp_path: Path) -> None:
    for name, content in {"a.pth": b"no checkpoint", "b.safetensors": b"{}"}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=name) as error:
            read(tmp_path / name)
        assert "\n" not in str(error.value)
    with pytest.raises(UserError, match=r"c\.pth: cannot be read"):
        read(tmp_path / "c.pth")
    torch.save({"conv1.weight": torch.zeros(2, 2)}, tmp_path / "d.pth")
    with pytest.raises(UserError, match=r"d\.pth: no weights of"):
        read(tmp_path / "d.pth")


# ---------------------------------------------------------------- instance features


def test_features_are_those_of_a_resnet50_of_length_one() -> None:
    make_torchvision_importable()
    from torchvision.models import resnet50

    torch.manual_seed(0)
    theirs = resnet50().eval()
    seen: list[Tensor] = []
    theirs.avgpool.register_forward_hook(lambda module, given, pooled: seen.append(pooled.flatten(1)))
    images = torch.rand(1, 1, 40, 40) * 2 - 1
    enlarged = F.interpolate(images.expand(-1, 3, -1, -1) * 0.5 + 0.5, 224, mode="bicubic", align_corners=True)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    swav = {f"projection_head.{name}": torch.zeros(1) for name in "ab"} | dict(theirs.state_dict())
    ours = SwavFeatures.of(swav)
    with torch.no_grad():
        theirs((enlarged - mean[:, None, None]) / std[:, None, None])  # resizing keeps sums of weights: order is free
        found = ours(images)
    assert ours.n_features == 2048
    torch.testing.assert_close(found, seen[0] / seen[0].norm(), rtol=1e-3, atol=1e-5)


# ---------------------------------------------------------------- inversion


class Linear(InstanceFeatures):
    """Features that are a linear map of the pixels."""

    n_features = 10

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1) @ numbers(192, 10, seed=7) / 14


def small_networks() -> Networks:
    return Networks(generator_of(SMALL).requires_grad_(False), Linear(), None)


def test_inversion_comes_nearer_to_the_images() -> None:
    networks = small_networks()
    images = networks.generator(numbers(4, 9, seed=3), numbers(4, 10, seed=4))
    errors = []
    for noise_steps, dense_steps in ((0, 0), (40, 0), (40, 40)):
        config = InversionConfig(noise_steps=noise_steps, dense_steps=dense_steps, feature_loss=0)
        features, noise, dense = invert(networks, images, config)
        assert torch.equal(features, networks.features(images))
        assert torch.equal(dense, networks.generator.dense(noise)) is (dense_steps == 0)
        errors.append(float((networks.generator(noise, features, dense) - images).abs().mean()))
    assert errors[2] < errors[1] < errors[0]


def test_inversion_of_an_image_does_not_depend_on_its_batch() -> None:
    networks, images = small_networks(), numbers(3, 3, 8, 8).tanh()
    config = InversionConfig(noise_steps=3, dense_steps=3)
    together, alone = invert(networks, images, config), invert(networks, images[1:2], config)
    for found, expected in zip(together, alone, strict=True):
        torch.testing.assert_close(found[1:2], expected, rtol=1e-8, atol=1e-8)


def test_inversion_starts_from_the_encoder() -> None:
    encoder = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 9)).double()
    images = numbers(3, 3, 8, 8).tanh()
    noise = invert(small_networks()._replace(encoder=encoder), images, InversionConfig(noise_steps=0, dense_steps=1))[1]
    assert torch.equal(noise, encoder(images))


def test_descent_finds_a_minimum_and_names_a_loss_that_is_not_finite() -> None:
    wanted = numbers(2, 5)
    found = descend(torch.zeros(2, 5).double(), 2.0, lambda x: (x - wanted).square().sum(), 300, 0.1)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-3)
    with pytest.raises(FloatingPointError, match="inversion: the loss is nan at step 0"):
        descend(wanted, 1.0, lambda x: x.sum() * float("nan"), 2, 0.1)


# ---------------------------------------------------------------- regressions


def some_items(n: int = 24) -> tuple[FmriSplit, np.ndarray]:
    fmri = numbers(n, 8).numpy()
    noise = numbers(n, 5, seed=2).numpy() * [0.1, 1, 2, 4, 8]
    targets = fmri @ numbers(8, 5, seed=1).numpy() + noise
    images = np.zeros((n, 3, 2, 2), np.uint8)
    return FmriSplit(fmri.astype(np.float32), images, np.arange(n) // 4, [str(i) for i in range(n)]), targets


def held_out_predictions(items: FmriSplit, targets: np.ndarray, alpha: float) -> np.ndarray:
    found = np.empty_like(targets)
    for rows, held in GroupKFold(3).split(items.fmri, groups=items.category):
        found[held] = Ridge(alpha).fit(items.fmri[rows].astype(float), targets[rows]).predict(items.fmri[held])
    return found


def test_noise_and_dense_vectors_are_predicted_by_ridge() -> None:
    (items, targets), alphas = some_items(), (1.0, 10.0, 100.0)
    errors = np.stack([np.square(held_out_predictions(items, targets, a) - targets).mean(0) for a in alphas])
    asked = numbers(6, 8, seed=5).float().numpy()
    predict, best = regress_others(items, targets, alphas, 3), errors.argmin(0)
    for column, choice in enumerate(best):
        model = Ridge(alphas[choice]).fit(items.fmri.astype(float), targets[:, column])
        np.testing.assert_allclose(predict(asked)[:, column], model.predict(asked.astype(float)), rtol=1e-4, atol=1e-5)
    assert len(set(best)) > 1


def test_features_are_predicted_by_ridge_with_the_spread_of_the_training_images() -> None:
    items, targets = some_items()
    predict, alpha = regress_features(items, targets, (10.0,), 3)
    asked = numbers(6, 8, seed=5).float().numpy()
    plain = Ridge(10.0).fit(items.fmri.astype(float), targets).predict(asked.astype(float))
    spread = targets.std(0) / held_out_predictions(items, targets, 10.0).std(0)
    assert alpha == 10
    np.testing.assert_allclose(
        predict(asked), targets.mean(0) + (plain - targets.mean(0)) * spread, rtol=1e-4, atol=1e-4
    )


def test_transductive_features_have_the_statistics_of_the_training_images() -> None:
    predicted, known = numbers(7, 4).numpy() * 3 + 1, numbers(9, 4, seed=1).numpy()
    found = with_statistics_of(predicted, known)
    np.testing.assert_allclose(found.mean(0), known.mean(0), atol=1e-6)
    np.testing.assert_allclose(found.std(0), known.std(0), rtol=1e-5)
    for a, b in zip(found.T, predicted.T, strict=True):
        assert np.corrcoef(a, b)[0, 1] == pytest.approx(1)


def test_features_are_brought_to_a_length() -> None:
    predicted, known = numbers(7, 4).numpy(), 3 * F.normalize(numbers(9, 4, seed=1)).numpy()
    found = of_length(predicted, known, 1.5)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 4.5, rtol=1e-5)
    np.testing.assert_allclose(found / 4.5, predicted / np.linalg.norm(predicted, axis=1, keepdims=True), atol=1e-6)


# ---------------------------------------------------------------- the decoder


def test_inversion_is_shared_by_rows_whose_pairs_are_shuffled() -> None:
    def keys(**edits: Any) -> dict[str, str]:
        changed = {"decoder.kind": "icgan", **{name.replace("__", "."): value for name, value in edits.items()}}
        (fold,) = all_folds(override(SMOKE, changed, "test"))
        steps = {"icgan_inversion": fold.sample.needs["icgan_inversion"], "sample": fold.sample}
        return {name: step.key for name, step in steps.items() if step is not None}

    plain, shuffled = keys(), keys(split__shuffle_pairs=True)
    assert plain["icgan_inversion"] == shuffled["icgan_inversion"] and plain["sample"] != shuffled["sample"]
    assert keys(decoder__alphas=[1.0])["icgan_inversion"] == plain["icgan_inversion"]
    assert keys(decoder__inversion__dense_steps=2)["icgan_inversion"] != plain["icgan_inversion"]


def test_what_is_missing_is_told(tmp_path: Path) -> None:
    decoder, path = IcGanDecoder(), tmp_path / "G_ema_best0.pth"
    assert decoder.missing() == [] == decoder.missing_for(Stimuli(["a"], (3, 64, 64)), 1)
    (told,) = decoder.missing_for(Stimuli(["a"], (3, 256, 256)), 1)
    assert "3x64x64" in told and "3x256x256" in told and "G_ema_best0.pth" in told
    with pytest.raises(UserError, match="3x256x256"):
        load(Sources(), (3, 256, 256))
    absent, unset = IcGanDecoder(generator_weights=path).missing()
    assert str(path) in absent and "decoder.feature_weights is not set" in unset
    assert any("Transductive: " in line for line in IcGanDecoder(transductive=True).warnings())


def test_files_that_do_not_fit_are_told(tmp_path: Path) -> None:
    generator, features = tmp_path / "G.pth", tmp_path / "swav.pth"
    torch.save(broken(lambda t: None), generator)
    network = small_resnet50()
    torch.save(network, features)
    decoder = IcGanDecoder(generator_weights=generator, feature_weights=features)
    decoder.check()
    with pytest.raises(UserError, match=r"G\.pth: makes images of 3x8x8, the stimuli have 3x64x64"):
        load(decoder.sources, (3, 64, 64))
    with pytest.raises(UserError, match=r"G\.pth: takes 10 instance features, and .*swav\.pth gives 16"):
        load(decoder.sources, (3, 8, 8))


def small_resnet50() -> dict[str, Tensor]:
    """Weights of a narrow one."""
    from timm.models.resnet import Bottleneck, ResNet

    network = ResNet(Bottleneck, (3, 4, 6, 3), num_classes=0, channels=(4, 4, 4, 4))
    return {f"module.{name}": tensor for name, tensor in network.state_dict().items()}


@pytest.mark.parametrize("shape", sorted(embedded()))
def test_networks_that_ship_invert_images(shape: tuple[int, int, int]) -> None:
    """Half-way grey is farther from an image than what is generated from its inversion."""
    networks = load(Sources(), shape)
    assert networks.generator.layout.image_shape == shape and networks.encoder is not None
    images = as_tensor(stimuli(shape), "cpu")
    features, noise, dense = invert(networks, images, InversionConfig())
    made = networks.generator(noise, features, dense)
    assert (made - images).square().mean() < 0.5 * (images - images.mean((2, 3), keepdim=True)).square().mean()


def stimuli(shape: tuple[int, int, int]) -> np.ndarray:
    from cnd.data.digit_images import augmented_digits
    from cnd.data.simulation.stimuli import render

    rng = np.random.default_rng(5)
    return render(np.arange(0, 200, 25), rng) if shape[0] == 3 else augmented_digits(8, rng)[0]
