"""The trained decoder in the ecosystem's own form: a diffusers pipeline, from fMRI to images.

    pipe = CndPipeline.from_pretrained("exported/god_s1")
    images = pipe(fmri, generator=torch.Generator().manual_seed(0)).images  # PIL images

A folder holds ``vae``, ``unet`` and ``scheduler`` of the generator, and ``condition``: all that stands before the UNet,
with the class embeddings it attends to and the resolved experiment in its ``config.json``. Weights are safetensors.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from pydantic import ValidationError
from safetensors import SafetensorError
from torch import Tensor, nn

from cnd import registry
from cnd.checkpoint_files import MALFORMED
from cnd.errors import UserError
from cnd.generators.latent_diffusion import LatentDiffusion
from cnd.generators.sampling import draw
from cnd.generators.vq_diffusion import VqLatentDiffusion
from cnd.protocols import Condition, Generator, SamplingConfig

# importable since the lines above; diffusers looks for ModelMixin here when it loads FmriCondition
from diffusers import ConfigMixin, DiffusionPipeline, ImagePipelineOutput, ModelMixin, VQModel  # isort: skip
from diffusers.configuration_utils import register_to_config  # isort: skip
from PIL import Image  # isort: skip


class FmriCondition(ModelMixin, ConfigMixin):  # type: ignore[misc]
    """From fMRI to the condition of the UNet, with everything it needs among its weights.

    Args:
        experiment: the resolved settings, as JSON values.
        n_voxels: of the patterns it takes.
        n_classes, class_width: of the concept bank, without the null class.
        time_embedding_width: of the generator, where the pooled vector is added to the time embedding as it is.
    """

    null_class: Tensor

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self,
        experiment: dict[str, Any],
        n_voxels: int,
        n_classes: int,
        class_width: int,
        time_embedding_width: int | None = None,
    ) -> None:
        super().__init__()
        decoder: Any = registry.find("cnd.decoders", experiment["decoder"]["kind"])
        bank = torch.zeros(n_classes, class_width)
        self.module = decoder.model_validate(experiment["decoder"]).network(n_voxels, bank, time_embedding_width)
        self.register_buffer("null_class", torch.zeros(class_width))

    @classmethod
    def of(
        cls, experiment: dict[str, Any], n_voxels: int, weights: dict[str, Tensor], generator: Generator
    ) -> FmriCondition:
        """With the trained ``weights`` of the module."""
        self = cls(experiment, n_voxels, *generator.concept_bank.shape, generator.time_embedding_width)
        self.module.load_state_dict(self.module.state_dict() | {"bank": generator.concept_bank} | weights)
        self.null_class.copy_(generator.null_class)
        return self.eval()

    def forward(self, fmri: Float[Tensor, "b voxels"]) -> Condition:
        """The condition that patterns stand for."""
        condition: Condition = self.module(fmri)[0]
        return condition


class CndPipeline(DiffusionPipeline):  # type: ignore[misc]
    """``pipe(fmri).images``; ``save_pretrained`` and ``from_pretrained`` as every diffusers pipeline."""

    def __init__(self, vae: Any, unet: Any, scheduler: Any, condition: FmriCondition) -> None:
        super().__init__()
        # with torch_dtype diffusers converts parameters, but not these buffers; its own ``to`` warns for no reason
        nn.Module.to(condition, condition.dtype)
        self.register_modules(vae=vae, unet=unet, scheduler=scheduler, condition=condition)

    @classmethod
    def from_pretrained(cls, folder: str | Path, **options: Any) -> CndPipeline:
        """Load from a folder; never from the network.

        Raises:
            UserError: there is no pipeline in the folder, or a part of it is damaged.
        """
        if not (Path(folder) / "model_index.json").is_file():
            raise UserError(f"{folder}: expected the folder of an exported decoder, found no model_index.json in it")
        options = dict(low_cpu_mem_usage=False, use_safetensors=True) | options
        try:
            return super().from_pretrained(str(folder), **options)
        except (OSError, *MALFORMED) as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"{folder}: cannot load the decoder ({reason}); export it again") from error

    @property
    def experiment(self) -> dict[str, Any]:
        """The settings of the run that this decoder comes from."""
        return dict(self.condition.config.experiment)

    @property
    def latent_diffusion(self) -> LatentDiffusion:
        """The generator, on the pipeline's device."""
        kind = VqLatentDiffusion if isinstance(self.vae, VQModel) else LatentDiffusion
        table = torch.cat([self.condition.module.bank, self.condition.null_class[None]])
        return kind(self.vae, self.unet, self.scheduler, table).to(self.device)

    @torch.no_grad()
    def __call__(
        self,
        fmri: Float[np.ndarray, "n voxels"] | Float[Tensor, "n voxels"],
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        samples_per_item: int = 1,
        generator: torch.Generator | None = None,
        latents: Float[Tensor, "n samples c h w"] | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
    ) -> Any:
        """Reconstruct what was seen.

        Args:
            fmri: patterns z-scored as the training set's were, one row an item; a single pattern may be a vector.
            num_inference_steps, guidance_scale: of DDIM; None: as in the experiment.
            generator: draws the starting noise; None: PyTorch's global one.
            latents: starting noise in its place, e.g. that of a sweep: :meth:`cnd.protocols.Noise.latents`.
            output_type: "pil", or "np" for float32 [n * samples, height, width, channels] in 0..1.

        Returns:
            ``.images``, item by item with all its samples; a tuple of them without ``return_dict``.

        Raises:
            UserError: the patterns have another number of voxels or hold NaN; noise or settings do not fit.
        """
        patterns, config = self._patterns(fmri), self._sampling(num_inference_steps, guidance_scale)
        diffusion = self.latent_diffusion
        if latents is None:
            shape = (len(patterns), samples_per_item, *diffusion.latent_shape)
            latents = torch.randn(shape, generator=generator, device=generator.device if generator else None)
        n_samples = latents.shape[1] if latents.ndim > 1 else 0
        if n_samples < 1 or latents.shape != (len(patterns), n_samples, *diffusion.latent_shape):
            expected = ", ".join(map(str, (len(patterns), "samples", *diffusion.latent_shape)))
            raise UserError(f"latents: expected the shape [{expected}], found {list(latents.shape)}")
        condition = self.condition(patterns.to(self.device, self.dtype))
        with self.progress_bar(total=latents.shape[0] * latents.shape[1]) as bar:
            drawn = draw(config, diffusion, condition, latents.to(self.dtype), lambda _, n, __: bar.update(n - bar.n))
        images = drawn.transpose(0, 1, 3, 4, 2)
        found = _as_output(images.reshape(-1, *images.shape[2:]), output_type)
        return ImagePipelineOutput(images=found) if return_dict else (found,)

    def _patterns(self, fmri: Any) -> Float[Tensor, "n voxels"]:
        patterns = torch.atleast_2d(torch.as_tensor(fmri, dtype=torch.float32))
        expected = self.condition.config.n_voxels
        if patterns.ndim != 2 or patterns.shape[1] != expected or not len(patterns):
            raise UserError(f"fmri: expected patterns of {expected} voxels, found the shape {list(patterns.shape)}")
        if not patterns.isfinite().all():
            raise UserError("fmri: expected finite numbers, found NaN or infinity; set such voxels to 0, their mean")
        return patterns

    def _sampling(self, steps: int | None, guidance: float | None) -> SamplingConfig:
        """The experiment's settings with what is given in their place."""
        given = {"steps": steps, "guidance": guidance}
        settings = self.experiment["sampling"] | {key: value for key, value in given.items() if value is not None}
        try:
            return SamplingConfig.model_validate(settings)
        except ValidationError as error:
            first = error.errors()[0]
            raise UserError(f"{first['loc'][0]} of the sampling: {first['msg']}, found {first['input']}") from error


def _as_output(images: np.ndarray, output_type: str) -> Any:
    """uint8 [n, height, width, channels] as diffusers returns images."""
    if output_type == "np":
        return images.astype(np.float32) / 255
    if output_type != "pil":
        raise ValueError(f"output_type must be 'pil' or 'np', not '{output_type}'")
    return [Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image) for image in images]


def write_pipeline(
    experiment: dict[str, Any], n_voxels: int, weights: dict[str, Tensor], generator: Any, output: Path
) -> None:
    """Write a trained decoder as a folder of :class:`CndPipeline`.

    Args:
        experiment: the resolved settings, as JSON values.
        weights: of the module that ``network`` of the decoder builds.
        generator: with whatever of it was trained.

    Raises:
        UserError: ``output`` is in use or cannot be written.
    """
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UserError(f"{output}: exists already; remove it or name another folder")
    condition = FmriCondition.of(experiment, n_voxels, weights, generator)
    pipeline = CndPipeline(generator.vae, generator.unet, generator.scheduler, condition)
    try:
        pipeline.save_pretrained(output)
    except (OSError, SafetensorError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"{output}: cannot be written ({reason}); name another folder") from error
