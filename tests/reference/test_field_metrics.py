"""The field's metrics against loops, SciPy, scikit-image, Pillow and hooks; and the traps that are known."""

from __future__ import annotations

import math
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.spatial.distance import correlation as correlation_distance
from scipy.stats import pearsonr
from torch import nn

from cnd.errors import UserError
from cnd.metrics import published
from cnd.metrics.__main__ import main
from cnd.metrics.features import networks
from cnd.metrics.features.comparison import (
    FeatureDistance,
    Retrieval,
    TwoWayIdentification,
    similarities,
    two_way,
    two_way_chance,
)  # fmt: skip
from cnd.metrics.features.sources import JudgeFeatures, PublishedFeatures
from cnd.metrics.pixels import PixelCorrelation, StructuralSimilarity, structural_similarity
from cnd.metrics.published import ALEXNET, CONVENTIONS
from cnd.metrics.resizing import for_network
from cnd.protocols import Truth

NOTHING = Truth([], np.zeros(0, int), [])


def pictures(n: int, side: int, seed: int = 0) -> np.ndarray:
    """Smooth colour images with some noise, uint8 [n, 3, side, side]."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (n, 3, 4, 4)).astype(np.uint8).repeat(side // 4, 2).repeat(side // 4, 3)
    return np.clip(coarse + rng.normal(0, 20, coarse.shape), 0, 255).astype(np.uint8)


# ---------------------------------------------------------------- pixels


def ssim_by_windows(a: np.ndarray, b: np.ndarray) -> float:
    """Wang et al. 2004, eq. 13, window by window."""
    x = np.arange(-5, 6)
    window = np.exp(-(x[:, None] ** 2 + x**2) / (2 * 1.5**2))
    window /= window.sum()
    values = []
    for i, j in np.ndindex(a.shape[0] - 10, a.shape[1] - 10):
        p, q = a[i : i + 11, j : j + 11], b[i : i + 11, j : j + 11]
        mu, nu = (window * p).sum(), (window * q).sum()
        s2, t2, st = (
            (window * (p - mu) ** 2).sum(),
            (window * (q - nu) ** 2).sum(),
            (window * (p - mu) * (q - nu)).sum(),
        )
        values.append((2 * mu * nu + 1e-4) * (2 * st + 9e-4) / ((mu**2 + nu**2 + 1e-4) * (s2 + t2 + 9e-4)))
    return float(np.mean(values))


def test_ssim_equals_its_definition_window_by_window() -> None:
    a, b = np.random.default_rng(0).random((2, 3, 20, 24))
    found = structural_similarity(a, b)
    np.testing.assert_allclose(found, [ssim_by_windows(p, q) for p, q in zip(a, b, strict=True)], rtol=1e-12)


@pytest.mark.parametrize("convention", [None, "mindeye2", "brain_diffuser"])
def test_ssim_equals_scikit_image(convention: str | None) -> None:
    metrics, color = pytest.importorskip("skimage.metrics"), pytest.importorskip("skimage.color")
    stimuli, images = pictures(2, 64), pictures(4, 64, 1).reshape(2, 2, 3, 64, 64)
    found = StructuralSimilarity(convention=convention).score(stimuli, images, NOTHING)
    for item, sample in np.ndindex(2, 2):
        pair = [_as_published(image, convention, (64, 64)) for image in (stimuli[item], images[item, sample])]
        grey = [color.rgb2gray(image.transpose(1, 2, 0)) for image in pair]
        expected = metrics.structural_similarity(
            *grey, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1.0
        )
        assert found[item, sample] == pytest.approx(expected, rel=1e-9)


def _as_published(image: np.ndarray, convention: str | None, side: tuple[int, int]) -> np.ndarray:
    """[3, height, width] from 0 to 1, by torchvision's transform or Pillow itself."""
    if convention == "mindeye2":
        from torchvision.transforms import InterpolationMode, Resize  # importable since networks is

        x = torch.from_numpy(image.astype(np.float32) / 255)
        for size in (256, 425):
            x = Resize((size, size), InterpolationMode.BILINEAR, antialias=True)(x)
        return x.double().numpy()
    if convention == "brain_diffuser" and image.shape[1:] != side:
        picture = Image.fromarray(image.transpose(1, 2, 0)).resize(side)  # bicubic is Pillow's default
        return np.asarray(picture).transpose(2, 0, 1) / 255
    return image / 255


@pytest.mark.parametrize("convention", ["mindeye2", "brain_diffuser"])
def test_pixcorr_follows_its_convention(convention: str) -> None:
    """Brain-Diffuser leaves the stimuli as they are, and brings reconstructions to their size."""
    stimuli, images = pictures(2, 80), pictures(2, 64, 1)[:, None]
    found = PixelCorrelation(convention=convention).score(stimuli, images, NOTHING)
    for item in range(2):
        a, b = (_as_published(x, convention, (80, 80)) for x in (stimuli[item], images[item, 0]))
        assert found[item, 0] == pytest.approx(pearsonr(a.ravel(), b.ravel())[0], rel=1e-6)


def test_a_convention_resizes_and_none_does_not() -> None:
    stimuli, images = pictures(1, 80), pictures(1, 64)[:, None]
    assert StructuralSimilarity(convention="mindeye2").name == "ssim_mindeye2"
    with pytest.raises(UserError, match=r"ssim needs images of one size; stimuli are 80x80.*convention"):
        StructuralSimilarity().score(stimuli, images, NOTHING)
    with pytest.raises(UserError, match="11x11 pixels or more, these are 8x8"):
        StructuralSimilarity().score(pictures(1, 8), pictures(1, 8)[:, None], NOTHING)


@pytest.mark.parametrize(
    "metric", [PixelCorrelation(convention="mindeye2"), StructuralSimilarity(), TwoWayIdentification()]
)
def test_without_stimuli_it_is_told_which_metric_to_leave_out(metric: StructuralSimilarity) -> None:
    with pytest.raises(UserError, match=f"{metric.name} compares with stimuli"):
        metric.score(np.empty((2, 0, 0, 0), np.uint8), np.zeros((2, 1, 3, 16, 16), np.uint8), NOTHING)


# ---------------------------------------------------------------- 2-way identification, distance, retrieval


class Pixels:
    """A judge whose features are the pixels."""

    name = "pixels"

    def features(self, images: np.ndarray) -> np.ndarray:
        return np.asarray(images).reshape(len(images), -1).astype(np.float32)


def told(n: int, category: np.ndarray | None = None) -> Truth:
    names = np.arange(n) if category is None else category
    return Truth([""] * n, names, [], judges={"pixels": Pixels()})  # type: ignore[dict-item]


@pytest.fixture(scope="module")
def noisy() -> tuple[np.ndarray, np.ndarray]:
    """12 stimuli, and 3 reconstructions of each, which are hardly like them."""
    rng = np.random.default_rng(3)
    stimuli = rng.integers(0, 256, (12, 1, 3, 3)).astype(np.uint8)
    noise = rng.integers(0, 256, (12, 3, 1, 3, 3))
    return stimuli, (0.3 * stimuli[:, None] + 0.7 * noise).astype(np.uint8)


def test_two_way_equals_a_loop(noisy: tuple[np.ndarray, np.ndarray]) -> None:
    stimuli, images = noisy
    found = TwoWayIdentification().score(stimuli, images, told(12))
    for item, sample in np.ndindex(12, 3):
        r = [pearsonr(images[item, sample].ravel(), s.ravel())[0] for s in stimuli]
        others = [j for j in range(12) if j != item]
        assert found[item, sample] == pytest.approx(np.mean([r[j] < r[item] for j in others]))
    assert 0.5 < found.mean() < 1


def test_two_way_by_category_equals_a_loop(noisy: tuple[np.ndarray, np.ndarray]) -> None:
    stimuli, images = noisy
    category = np.arange(12) // 3
    found = TwoWayIdentification(accept="category").score(stimuli, images, told(12, category))
    for item, sample in np.ndindex(12, 3):
        r = np.array([pearsonr(images[item, sample].ravel(), s.ravel())[0] for s in stimuli])
        best = r[category == category[item]].max()
        assert found[item, sample] == pytest.approx((r[category != category[item]] < best).mean())


def test_distance_equals_scipy(noisy: tuple[np.ndarray, np.ndarray]) -> None:
    stimuli, images = noisy
    found = FeatureDistance().score(stimuli, images, told(12))
    for item, sample in np.ndindex(12, 3):
        expected = correlation_distance(stimuli[item].ravel().astype(float), images[item, sample].ravel().astype(float))
        assert found[item, sample] == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_retrieval_equals_every_pool_counted(noisy: tuple[np.ndarray, np.ndarray], direction: str) -> None:
    stimuli, images = (part[:8] for part in noisy)
    found = Retrieval(direction=direction, pool=4).score(stimuli, images, told(8))
    for item, sample in np.ndindex(8, 3):
        s, r = (x.reshape(8, -1).astype(float) for x in (stimuli, images[:, sample]))
        query, pool = (r, s) if direction == "forward" else (s, r)
        cosine = pool @ query[item] / np.linalg.norm(pool, axis=1) / np.linalg.norm(query[item])
        others = [j for j in range(8) if j != item]
        drawn = [max(cosine[list(draw)]) < cosine[item] for draw in combinations(others, 3)]
        assert len(drawn) == math.comb(7, 3) and found[item, sample] == pytest.approx(np.mean(drawn))


def test_a_pool_larger_than_the_test_set_is_told(noisy: tuple[np.ndarray, np.ndarray]) -> None:
    with pytest.raises(UserError, match="retrieval_forward50_judge draws pools of 50, and there are 12 items"):
        Retrieval().score(*noisy, told(12))


@pytest.mark.parametrize("n", [2, 3, 18, 50])
def test_a_perfect_decoder_scores_one_at_any_number_of_items(n: int) -> None:
    """A public script divides the wins over 16 others by 17: 94.1 % at 18 items."""
    stimuli = pictures(n, 8, n)
    for metric in (TwoWayIdentification(), Retrieval(pool=n), Retrieval(pool=2, direction="backward")):
        assert (metric.score(stimuli, stimuli[:, None], told(n)) == 1).all()
    np.testing.assert_array_equal(FeatureDistance().score(stimuli, stimuli[:, None], told(n)), 0)


def test_ties_fail_even_where_a_stimulus_is_there_twice() -> None:
    stimuli = pictures(9, 8)
    stimuli[4] = stimuli[1]
    found = TwoWayIdentification().score(stimuli, stimuli[:, None], told(9))
    np.testing.assert_array_equal(found[:, 0], [7 / 8 if i in (1, 4) else 1 for i in range(9)])
    constant = np.full((9, 1, 3, 8, 8), 100, np.uint8)  # features without variance
    assert (TwoWayIdentification().score(stimuli, constant, told(9)) == 0).all()


def test_chance_with_several_right_answers_is_not_one_half() -> None:
    """Similarities that know nothing: 1/2 with one right stimulus, 4/5 with four."""
    similarity, n = np.random.default_rng(0).standard_normal((200, 50, 200)), 200
    one = two_way(similarity, np.eye(n, dtype=bool)).mean()
    category = np.arange(n) // 4
    four = two_way(similarity, category[:, None] == category).mean()
    assert one == pytest.approx(0.5, abs=0.01) and TwoWayIdentification().chance() == two_way_chance(1) == 0.5
    assert (
        four == pytest.approx(two_way_chance(4), abs=0.01) and TwoWayIdentification(accept="category").chance() is None
    )
    everything = two_way(similarity[:3, :2, :3], np.ones((3, 3), dtype=bool))
    assert np.isnan(everything).all()  # nothing is wrong


def test_similarity_is_the_same_in_blocks(
    monkeypatch: pytest.MonkeyPatch, noisy: tuple[np.ndarray, np.ndarray]
) -> None:
    whole = similarities(Pixels().features, *noisy, centre=True)
    monkeypatch.setattr("cnd.metrics.features.comparison.AT_ONCE", 5)
    np.testing.assert_array_equal(whole, similarities(Pixels().features, *noisy, centre=True))


def test_a_judge_that_is_not_there_is_told(noisy: tuple[np.ndarray, np.ndarray]) -> None:
    named = TwoWayIdentification(features=JudgeFeatures(judge="vit"))
    assert named.name == "two_way_judge/vit"
    with pytest.raises(UserError, match="no judge 'vit'; choose among pixels"):
        named.score(*noisy, told(12))
    with pytest.raises(UserError, match=r"evaluation\.classifiers names none"):
        TwoWayIdentification().score(*noisy, NOTHING)


# ---------------------------------------------------------------- published networks, with random weights


def alexnet_body() -> nn.Module:
    """AlexNet's convolutions, empty."""
    with torch.device("meta"):
        return networks.models.alexnet().features.to_empty(device="cpu")


@pytest.fixture(scope="module")
def random_alexnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its convolutions under the published names."""
    torch.manual_seed(0)
    tensors = {f"features.{k}": 0.05 * torch.randn_like(v) for k, v in alexnet_body().state_dict().items()}
    path = tmp_path_factory.mktemp("weights") / ALEXNET.file
    torch.save(tensors, path)
    return path


@pytest.fixture
def alexnet_file(random_alexnet: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Its hash is made the published one."""
    path, digits = random_alexnet, published.file_hash(random_alexnet)[:8]
    for name in ("alexnet2", "alexnet5"):
        fake = published.Weights(ALEXNET.file, ALEXNET.url, digits)
        for convention in CONVENTIONS.values():
            monkeypatch.setitem(convention.weights, name, fake)  # type: ignore[arg-type]
    return path


def hooked(network: nn.Module, layer: nn.Module, x: torch.Tensor) -> np.ndarray:
    """What a hook on a layer sees."""
    seen: list[torch.Tensor] = []
    handle = layer.register_forward_hook(lambda module, given, out: seen.append(out.detach().clone()))
    with torch.no_grad():
        network.eval()(x)
    handle.remove()
    return seen[0].flatten(1).numpy()


@pytest.mark.parametrize(("name", "layer"), [("alexnet2", 4), ("alexnet5", 11)])
def test_alexnet_equals_a_hook_and_survives_a_second_batch(
    alexnet_file: Path, monkeypatch: pytest.MonkeyPatch, name: str, layer: int
) -> None:
    images = pictures(3, 64)
    features = PublishedFeatures(network=name, convention="brain_diffuser", weights=alexnet_file)
    whole = features.extractor(NOTHING)(images)
    monkeypatch.setattr(networks, "BATCH", 2)
    np.testing.assert_allclose(features.extractor(NOTHING)(images), whole, rtol=1e-4, atol=1e-6)
    body = alexnet_body()
    tensors = torch.load(alexnet_file, weights_only=True)
    body.load_state_dict({k.removeprefix("features."): v for k, v in tensors.items()})
    from torchvision.transforms import functional as F  # importable since networks is

    def prepared(image: np.ndarray) -> torch.Tensor:
        picture = F.resize(Image.fromarray(image.transpose(1, 2, 0)), [224, 224])
        picture = torch.from_numpy((np.asarray(picture).transpose(2, 0, 1) / 255).astype(np.float32))
        return F.normalize(picture, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])

    expected = hooked(body, body[layer], torch.stack([prepared(image) for image in images]))
    np.testing.assert_allclose(whole, expected, rtol=1e-4, atol=1e-6 * expected.max())


def test_scores_by_published_features_are_by_item(alexnet_file: Path) -> None:
    stimuli = pictures(4, 64)
    found = TwoWayIdentification(features=PublishedFeatures(network="alexnet2", weights=alexnet_file))
    assert found.name == "two_way_alexnet2_mindeye2" and found.title == "2-way, AlexNet(2), MindEye2"
    assert (found.score(stimuli, stimuli[:, None], NOTHING) == 1).all() and "not computed" not in found.note


@pytest.mark.parametrize(
    ("build", "make"),
    [
        (networks.inception_v3, lambda m: m.inception_v3(transform_input=True, init_weights=False)),
        (networks.efficientnet_b1, lambda m: m.efficientnet_b1()),
        (networks.swav, lambda m: m.resnet50()),
    ],
    ids=["inception_v3", "efficientnet_b1", "swav"],
)
def test_pooled_features_equal_a_hook_on_the_pooling_layer(build: object, make: object) -> None:
    torch.manual_seed(0)
    with torch.device("meta"):
        network = make(networks.models).to_empty(device="cpu")  # type: ignore[operator]
    for name, tensor in network.state_dict().items():
        if tensor.is_floating_point():
            tensor.uniform_(0.5, 1) if "var" in name else tensor.uniform_(-0.1, 0.1)
    ours = build(network.state_dict())  # type: ignore[operator]
    x = torch.randn(1, 3, 80, 80)
    expected = hooked(network, network.avgpool, x)
    with torch.no_grad():
        np.testing.assert_allclose(ours.eval()(x).numpy(), expected, rtol=1e-4, atol=1e-6)


class ClipBlock(nn.Module):
    """A block as github.com/openai/CLIP names its parts."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(width, width // 64)
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mlp = nn.Sequential()
        self.mlp.add_module("c_fc", nn.Linear(width, 4 * width))
        self.mlp.add_module("c_proj", nn.Linear(4 * width, width))


def clip_forward(x: torch.Tensor, t: dict[str, torch.Tensor], blocks: list[ClipBlock]) -> torch.Tensor:
    """The image side of CLIP, by its equations."""
    width = t["class_embedding"].shape[0]
    norm = lambda v, n: nn.functional.layer_norm(v, (width,), t[f"{n}.weight"], t[f"{n}.bias"])  # noqa: E731
    patches = nn.functional.conv2d(x, t["conv1.weight"], stride=t["conv1.weight"].shape[-1]).flatten(2).transpose(1, 2)
    v = torch.cat([t["class_embedding"].expand(len(x), 1, -1), patches], 1) + t["positional_embedding"]
    v = norm(v, "ln_pre").transpose(0, 1)  # [token, n, width]
    for block in blocks:
        y = block.ln_1(v)
        v = v + block.attn(y, y, y, need_weights=False)[0]
        h = block.mlp.c_fc(block.ln_2(v))
        v = v + block.mlp.c_proj(h * torch.sigmoid(1.702 * h))
    return norm(v[0], "ln_post") @ t["proj"]


def test_clip_equals_its_equations() -> None:
    torch.manual_seed(0)
    width, patch, side, out = 128, 8, 32, 48
    blocks = [ClipBlock(width) for _ in range(3)]
    t = {
        "class_embedding": torch.randn(width), "positional_embedding": torch.randn((side // patch) ** 2 + 1, width),
        "conv1.weight": 0.1 * torch.randn(width, 3, patch, patch), "proj": torch.randn(width, out),
        "ln_pre.weight": torch.rand(width), "ln_pre.bias": torch.randn(width),
        "ln_post.weight": torch.rand(width), "ln_post.bias": torch.randn(width),
    }  # fmt: skip
    inner = {f"transformer.resblocks.{i}.{k}": v for i, b in enumerate(blocks) for k, v in b.state_dict().items()}
    ours = networks.clip_vision({f"visual.{k}": v for k, v in (t | inner).items()} | {"logit_scale": torch.ones(())})
    x = torch.randn(3, 3, side, side)
    with torch.no_grad():
        np.testing.assert_allclose(ours.eval()(x), clip_forward(x, t, blocks), rtol=1e-3, atol=1e-4)


def test_sizes_are_those_of_the_conventions() -> None:
    images = pictures(1, 64)
    for convention, sizes in {"mindeye2": [256, 256, 342, 224, 255, 224], "brain_diffuser": [224] * 6}.items():
        for network, size in zip(published.TITLES, sizes, strict=True):
            assert for_network(images, convention, network).shape == (1, 3, size, size)  # type: ignore[arg-type]


# ---------------------------------------------------------------- weights that are missing, or others


def test_without_weights_nothing_is_computed_and_it_says_so(tmp_path: Path) -> None:
    metric = TwoWayIdentification(features=PublishedFeatures(network="swav", weights=tmp_path / "swav.tar"))
    found = metric.score(pictures(3, 16), pictures(3, 16)[:, None], NOTHING)
    assert found.shape == (3, 1) and np.isnan(found).all()
    assert metric.note.startswith("2-way, SwAV, MindEye2: not computed. ") and "swav_800ep_pretrain" in metric.note
    before = metric.identity()
    (tmp_path / "swav.tar").write_bytes(b"no checkpoint")
    assert metric.identity() != before  # so that the scores are made once it is there
    with pytest.raises(UserError, match=r"swav\.tar: "):
        metric.score(pictures(3, 16), pictures(3, 16)[:, None], NOTHING)


def test_another_file_under_the_published_name_is_not_used(tmp_path: Path) -> None:
    path = tmp_path / "alexnet-owt-7be5be79.pth"
    path.write_bytes(b"another network")
    metric = FeatureDistance(features=PublishedFeatures(network="alexnet5", weights=path))
    assert "is another file" in metric.note
    assert np.isnan(metric.score(pictures(3, 16), pictures(3, 16)[:, None], NOTHING)).all()


def test_weights_of_another_network_are_told(alexnet_file: Path) -> None:
    with pytest.raises(UserError, match="holds no weights of swav"):
        networks.load_extractor("swav", "mindeye2", alexnet_file)


def test_the_command_tells_what_to_get_and_checks_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["weights", "--folder", str(tmp_path)]) == 0
    lines = capsys.readouterr().out
    assert lines.count("missing") == 6 and "for EfficientNet-B1 (Brain-Diffuser)" in lines
    assert "for AlexNet(2), AlexNet(5)\n" in lines and "unknown: none is published" in lines
    (tmp_path / ALEXNET.file).write_bytes(b"another network")
    (tmp_path / published.SWAV.file).write_bytes(b"whatever")
    assert main(["weights", "--folder", str(tmp_path)]) == 1
    lines = capsys.readouterr().out
    assert "another file" in lines and "there; not checked" in lines
