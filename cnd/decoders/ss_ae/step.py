"""SS-AE as steps that are kept: the image encoder, and the decoder that is trained with it frozen."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cnd.data.images import ImageFiles
from cnd.data.pictures import images_in
from cnd.decoders.ss_ae.settings import SsAeDecoderConfig, SsAeEncoderConfig
from cnd.errors import UserError
from cnd.json_files import write_json
from cnd.keys import files_hash
from cnd.protocols import TrainingSet
from cnd.settings import Config, FileOf
from cnd.steps import Step

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    import torch

    from cnd.decoders.ss_ae.model import ImageDecoder, ImageEncoder
    from cnd.decoders.ss_ae.training import Material, Measured, TrainingState
    from cnd.protocols import Bench, FmriDataset, Given

WEIGHTS = "model.safetensors"
CORRELATION = "held_out_correlation"
N_LOOKS = 8
"""Times that the encoder is measured along its training; its last weights are kept."""


def encoder_step(encoder: SsAeEncoderConfig, weights: FileOf | None, given: Given) -> Step:
    """The step ``ss_ae_encoder``."""
    settings = {"encoder": encoder, "weights": weights, "seed": given.seed}
    return Step("ss_ae_encoder", train_encoder, settings, {"training": given.training})


def decoder_step(
    encoder: SsAeEncoderConfig, decoder: SsAeDecoderConfig, weights: FileOf | None, trained: Step, given: Given
) -> Step:
    """The step ``ss_ae_decoder``; ``trained`` gives the encoder."""
    settings: dict[str, Any] = {"encoder": encoder, "decoder": decoder, "weights": weights, "seed": given.seed}
    settings["images"] = FolderOf(path=decoder.images) if decoder.images else None
    needs: dict[str, Step | None] = {"training": given.training, "trained": trained}
    if decoder.pools:
        needs["pools"] = given.pools
    if decoder.transductive:
        needs["data"] = given.data
    if decoder.curve_items:
        needs["validation_score"] = given.validation_score
    return Step("ss_ae_decoder", train_decoder, settings, needs)


class FolderOf(Config):
    """A folder of images; what lies in it counts, not where it is."""

    path: Path

    def identity(self) -> Any:
        return files_hash(images_in(self.path)) if self.path.is_dir() else {"missing": str(self.path)}


def train_encoder(
    bench: Bench, folder: Path, encoder: SsAeEncoderConfig, weights: FileOf | None, seed: int, training: Step
) -> None:
    """Train the image encoder on pairs; write weights, history and facts.

    Raises:
        UserError: there are no images, or too few items.
    """
    import pandas as pd
    from safetensors.torch import save_file

    from cnd.decoders.ss_ae.training import Plan, encoder_losses, fit
    from cnd.decoders.training import HISTORY

    start = time.time()
    train: TrainingSet = bench.value(training)
    rows = fitting_rows(train)
    network = image_encoder(encoder, weights, train, seed).to(bench.device)
    settings = encoder.model_dump(mode="json") | {"shape": [*train.items.fmri.shape]}
    plan = Plan("encoder", encoder.max_steps, encoder.batch_size, N_LOOKS, settings, seed)
    groups = [dict(params=list(network.parameters()), lr=encoder.lr, weight_decay=encoder.weight_decay)]
    fitted = fit(
        plan, network, groups, encoder_losses(encoder, network, train.items, rows),
        lambda: held_out_correlation(network, train), resume=bench.scratch,
        report=lambda fraction, seen, metrics: bench.report("encoder", fraction, seen, metrics),
    )  # fmt: skip
    save_file({k: v.cpu().contiguous() for k, v in network.state_dict().items()}, folder / WEIGHTS)
    pd.DataFrame(fitted.history, columns=HISTORY).to_parquet(folder / "history.parquet")
    last = [row["value"] for row in fitted.history if row["name"] == CORRELATION][-1]
    facts = {"encoder_voxel_correlation": last}
    write_json(folder / "info.json", {"seconds": time.time() - start, "facts": facts})


def train_decoder(
    bench: Bench,
    folder: Path,
    encoder: SsAeEncoderConfig,
    decoder: SsAeDecoderConfig,
    weights: FileOf | None,
    seed: int,
    images: FolderOf | None,
    training: Step,
    trained: Step,
    pools: Step | None = None,
    data: Step | None = None,
    validation_score: Step | None = None,
) -> None:
    """Train the decoder with the encoder frozen; write weights, history, the curve of the validation score, facts.

    Args:
        images: more images for the image cycle.
        pools, data: where their unlabelled fMRI takes part; of ``data`` that of the test set.
        validation_score: where there is a curve.

    Raises:
        UserError: there are too few items, or what was added has another size or number of voxels.
    """
    import pandas as pd
    from safetensors.torch import load_file, save_file

    from cnd.decoders.ss_ae.start import start_from_ridge
    from cnd.decoders.ss_ae.training import Plan, decoder_groups, decoder_losses, fit
    from cnd.decoders.training import HISTORY

    start = time.time()
    train: TrainingSet = bench.value(training)
    rows, weights_of_encoder = fitting_rows(train), bench.value(trained) / WEIGHTS
    frozen = image_encoder(encoder, weights, train, seed=0)
    frozen.load_state_dict(load_file(weights_of_encoder))
    frozen.to(bench.device)
    network = image_decoder(decoder, train, seed).to(bench.device)
    if decoder.voxel_start == "ridge":
        start_from_ridge(network, frozen.features[0], train.items, rows)
    more = [] if pools is None else list(bench.value(pools))
    if data is not None:
        dataset: FmriDataset = bench.value(data)
        more.append(dataset.test.fmri)
    material = material_of(train, images, more)
    score = None if validation_score is None else bench.value(validation_score)
    measure = Checkpoints(network, frozen, decoder, train, score)
    settings = decoder.model_dump(mode="json") | {"shape": [*train.items.fmri.shape, len(material.unlabelled)]}
    plan = Plan("decoder", decoder.max_steps, decoder.batch_size, decoder.n_checkpoints, settings, seed)
    fitted = fit(
        plan, network, decoder_groups(decoder, network),
        decoder_losses(decoder, encoder.cosine, network, frozen, material), measure, resume=bench.scratch,
        report=lambda fraction, seen, metrics: bench.report("decoder", fraction, seen, metrics),
    )  # fmt: skip
    save_file({k: v.cpu().contiguous() for k, v in network.state_dict().items()}, folder / WEIGHTS)
    pd.DataFrame(fitted.history, columns=HISTORY).to_parquet(folder / "history.parquet")
    if fitted.curve:
        _curve(fitted, train, measure.rows).to_parquet(folder / "curve.parquet")
    counts = {"trainable": _count(network), "frozen": _count(frozen)}
    facts = {"n_unlabelled_fmri": len(material.unlabelled), "n_more_images": len(material.more_images)}
    info = {"seconds": time.time() - start, "seconds_scoring": measure.seconds, "chosen_step": fitted.chosen_step}
    info |= {"steps": fitted.step, "samples_seen": fitted.step * plan.samples, "n_left_out": len(train.held)}
    write_json(folder / "info.json", info | counts | {"facts": facts})


# ---------------------------------------------------------------- networks and material


def fitting_rows(train: TrainingSet) -> np.ndarray:
    """Positions of the items that are learned from.

    Raises:
        UserError: there are no images, or fewer than two items.
    """
    if not train.items.images.size:
        raise UserError("decoder.kind = ss_ae: the data has labels and no images, which it learns from; add images")
    if len(train.fitting) < 2:
        n = len(train.items)
        raise UserError(f"decoder.kind = ss_ae: {n} training items leave fewer than 2 to learn from; add items")
    return train.fitting


def image_encoder(config: SsAeEncoderConfig, weights: FileOf | None, train: TrainingSet, seed: int) -> ImageEncoder:
    """The encoder with fresh weights, the same for a seed on any device."""
    import torch

    from cnd.decoders.ss_ae.features import load_features
    from cnd.decoders.ss_ae.model import ImageEncoder

    shape = image_shape(train)
    features = load_features(None if weights is None else weights.path, shape)
    torch.manual_seed(seed)
    return ImageEncoder(config, features, shape, train.items.fmri.shape[1])


def image_decoder(config: SsAeDecoderConfig, train: TrainingSet, seed: int) -> ImageDecoder:
    """The decoder with fresh weights."""
    import torch

    from cnd.decoders.ss_ae.model import ImageDecoder

    torch.manual_seed(seed)
    return ImageDecoder(config, train.items.fmri.shape[1], image_shape(train))


def image_shape(train: TrainingSet) -> tuple[int, int, int]:
    """Channels, height and width of the stimuli."""
    channels, height, width = train.items.images.shape[1:]
    return channels, height, width


def material_of(train: TrainingSet, images: FolderOf | None, more_fmri: list[np.ndarray]) -> Material:
    """What the decoder learns from; held-out items take no part, neither their images nor their fMRI.

    Raises:
        UserError: unlabelled fMRI has another number of voxels.
    """
    import numpy as np
    import torch

    from cnd.decoders.ss_ae.training import Material

    rows, n_voxels = fitting_rows(train), train.items.fmri.shape[1]
    for patterns in more_fmri:
        if patterns.shape[1] != n_voxels:
            raise UserError(
                f"data.unlabelled: a pool has {patterns.shape[1]} voxels and the subject {n_voxels}; the cycle of fMRI "
                "needs the subject's own voxels, so set decoder.decoding.pools = false"
            )
    unlabelled = torch.from_numpy(np.concatenate([train.items.fmri[rows], *more_fmri]).astype(np.float32))
    return Material(train.items, rows, _more_images(images, image_shape(train)), unlabelled)


def _more_images(folder: FolderOf | None, shape: tuple[int, int, int]) -> np.ndarray:
    """uint8 [m, c, h, w]: cropped to the central square, resized, grey where the stimuli are."""
    import numpy as np

    if folder is None:
        return np.zeros((0, *shape), np.uint8)
    channels, height, width = shape
    if height != width:
        raise UserError(f"decoder.decoding.images: the stimuli are {width}x{height}, not square; leave the folder out")
    found = np.concatenate(list(ImageFiles(images_in(folder.path), height).batches()))
    return found if channels == 3 else found.mean(1, keepdims=True).round().astype(np.uint8)


def _count(network: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


# ---------------------------------------------------------------- what is measured along a training


def held_patterns(train: TrainingSet) -> np.ndarray:
    """fMRI of all training items, measured as test items are, where the data has that, so that scores compare."""
    items = train.items
    return items.fmri if items.repeated is None else items.repeated


def held_out_correlation(encoder: ImageEncoder, train: TrainingSet) -> Measured:
    """Correlation of predicted and measured responses over held-out items, mean over voxels."""
    import numpy as np
    import torch

    from cnd.decoders.ss_ae.model import unit_range
    from cnd.decoders.ss_ae.training import Measured

    device = encoder.bias.device
    with torch.no_grad():
        parts = [
            encoder(unit_range(train.items.images, rows, device)) for rows in np.array_split(train.held, 8) if len(rows)
        ]
    p, m = torch.cat(parts).cpu().numpy(), held_patterns(train)[train.held]
    p, m = p - p.mean(0), m - m.mean(0)
    norm = np.linalg.norm(p, axis=0) * np.linalg.norm(m, axis=0)
    return Measured({CORRELATION: float(np.mean((p * m).sum(0) / np.maximum(norm, 1e-12)))}, [])


class Checkpoints:
    """Called at a checkpoint of the decoder, it measures the network as it stands.

    Attributes:
        rows: positions of the items of the curve, evenly spaced among those held out.
        seconds: spent so far.
    """

    def __init__(
        self,
        network: ImageDecoder,
        encoder: ImageEncoder,
        config: SsAeDecoderConfig,
        train: TrainingSet,
        score: Callable[[np.ndarray, np.ndarray], np.ndarray] | None,
    ) -> None:
        import numpy as np

        self.network, self.features, self.config = network, encoder.features[0], config
        self.train, self.score, self.seconds = train, score, 0.0
        n = min(config.curve_items, len(train.held))
        self.rows = train.held[np.unique(np.linspace(0, len(train.held) - 1, n).astype(int))]

    def __call__(self) -> Measured:
        from cnd.decoders.ss_ae.model import reconstruct
        from cnd.decoders.ss_ae.training import Measured

        began = time.monotonic()
        loss = self._loss()
        values, items = {"validation_loss": loss}, []
        if self.score is not None and len(self.rows):
            images = reconstruct(self.network, held_patterns(self.train)[self.rows])
            items = [float(value) for value in self.score(images[:, None], self.rows)]
            values["validation_score"] = sum(items) / len(items)
        self.seconds += time.monotonic() - began
        return Measured(values, items, -loss if self.config.checkpoint == "validation" else None)

    def _loss(self) -> float:
        """The image loss of all held-out items."""
        import torch

        from cnd.decoders.ss_ae.losses import image_loss
        from cnd.decoders.ss_ae.model import unit_range

        patterns, device, total = (
            torch.from_numpy(held_patterns(self.train)),
            next(self.network.parameters()).device,
            0.0,
        )
        with torch.no_grad():
            for rows in torch.from_numpy(self.train.held).split(50):
                wanted = unit_range(self.train.items.images, rows.numpy(), device)
                predicted = self.network(patterns[rows].to(device))
                total += image_loss(self.config, self.features, predicted, wanted).item() * len(rows)
        return total / len(self.train.held)


def _curve(fitted: TrainingState, train: TrainingSet, rows: np.ndarray) -> pd.DataFrame:
    """The score of each item at each checkpoint: samples_seen, item (its position), category, stimulus, value."""
    import pandas as pd

    names = dict(item=rows, category=train.items.category[rows], stimulus=[train.items.stimulus[i] for i in rows])
    parts = [pd.DataFrame(names | dict(samples_seen=seen, value=values)) for seen, values in fitted.curve]
    return pd.concat(parts, ignore_index=True)
