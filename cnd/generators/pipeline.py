"""The trained decoder in the ecosystem's own form: a diffusers pipeline, from fMRI to images.

    pipe = CndPipeline.from_pretrained("exported/god_s1")
    images = pipe(fmri, generator=torch.Generator().manual_seed(0)).images  # PIL images

A folder holds ``vae``, ``unet`` and ``scheduler`` of the generator, and ``condition``: all that stands before the UNet,
with the class embeddings it attends to and the resolved experiment in its ``config.json``; and
``normalisation.safetensors``: how the training patterns were z-scored, where the data set tells. Weights are
safetensors.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch import Tensor, nn

from cnd import registry
from cnd.checkpoint_files import MALFORMED
from cnd.errors import UserError
from cnd.generators.latent_diffusion import LatentDiffusion
from cnd.generators.vq_diffusion import VqLatentDiffusion
from cnd.protocols import Condition, Generator, Normalisation, SamplingConfig

# importable since the lines above; diffusers looks for ModelMixin here when it loads FmriCondition
from diffusers import ConfigMixin, DDIMScheduler, DiffusionPipeline, ImagePipelineOutput, ModelMixin, VQModel  # isort: skip
from diffusers.configuration_utils import register_to_config  # isort: skip
from diffusers.image_processor import VaeImageProcessor  # isort: skip
from diffusers.utils.torch_utils import randn_tensor  # isort: skip

NORMALISATION = "normalisation.safetensors"
OUTPUTS = ("pil", "np", "pt", "latent")
FAR = (
    0.5,
    0.2,
    4.0,
)  # mean beyond, and standard deviation below or above: far from z-scored, averages of trials are not


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

    model_cpu_offload_seq = "condition->unet->vae"
    _callback_tensor_inputs = ("latents",)

    def __init__(self, vae: Any, unet: Any, scheduler: Any, condition: FmriCondition) -> None:
        super().__init__()
        self.normalisation: Normalisation | None = None
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
            pipeline: CndPipeline = super().from_pretrained(str(folder), **options)
            pipeline.normalisation = read_normalisation(Path(folder))
            return pipeline
        except (OSError, *MALFORMED) as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"{folder}: cannot load the decoder ({reason}); export it again") from error

    def save_pretrained(self, folder: str | Path, **options: Any) -> None:
        """Write all of it to a folder."""
        super().save_pretrained(str(folder), **options)
        if self.normalisation is not None:
            write_normalisation(self.normalisation, Path(folder))

    @property
    def experiment(self) -> dict[str, Any]:
        """The settings of the run that this decoder comes from."""
        return dict(self.condition.config.experiment)

    @property
    def latent_diffusion(self) -> LatentDiffusion:
        """The generator, where the pipeline computes."""
        kind, device = VqLatentDiffusion if isinstance(self.vae, VQModel) else LatentDiffusion, self._execution_device
        table = torch.cat([self.condition.module.bank, self.condition.null_class[None]]).to(device)
        # whatever sampler is set, the schedule is that of the training
        own = isinstance(self.scheduler, DDIMScheduler)
        schedule = self.scheduler if own else DDIMScheduler.from_config(self.scheduler.config)
        found = kind(self.vae, self.unet, schedule, table)
        found.alphas_cumprod = found.alphas_cumprod.to(
            device
        )  # its modules move by themselves where they are offloaded
        return found

    @torch.no_grad()
    def __call__(
        self,
        fmri: Any,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        num_images_per_prompt: int = 1,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callable[[Any, int, Any, dict[str, Any]], dict[str, Any]] | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = _callback_tensor_inputs,
        normalise: bool = False,
        run: Any = None,
    ) -> Any:
        """Reconstruct what was seen. Arguments that diffusers has too mean what they mean there.

        Any scheduler of noise prediction may stand in ``pipe.scheduler``
        (``DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)``). With the exported one, images are those of
        a sweep from the same starting noise, bit for bit on the same machine.

        Args:
            fmri: patterns [n, voxels], one row an item: an array, a tensor, a data frame or lists; a single pattern may
                be a vector. Z-scored as the training set's were, unless ``normalise``.
            num_inference_steps, guidance_scale: None: as in the experiment.
            num_images_per_prompt: reconstructions of each item.
            generator: draws the starting noise, and what noise the scheduler asks for; a list has one for each image.
                None: PyTorch's global one.
            latents: starting noise [n * num_images_per_prompt, c, h, w], or that of a sweep [n, samples, c, h, w]
                (:meth:`cnd.protocols.Noise.latents`), whose number of samples then counts.
            output_type: "pil"; "np", float32 [images, height, width, channels]; "pt", float32 [images, channels,
                height, width], both in 0..1, of 8 bits as the images of a sweep; "latent" [images, c, h, w], of unit
                variance, not decoded.
            callback_on_step_end: called after each step with the pipeline, the number of the step, its time-step and
                the tensors named in ``callback_on_step_end_tensor_inputs``; may give other ``latents``.
            normalise: ``fmri`` is raw: z-score it as the training patterns were (``pipe.normalisation``).
            run: [n] names of the runs of raw patterns, where runs were normalised by themselves.

        Returns:
            ``.images``, item by item with all its samples; a tuple of them without ``return_dict``.

        Raises:
            UserError: the patterns have another number of voxels or hold NaN; noise, generators, scheduler or settings
                do not fit; there is no normalisation in the export.
        """
        if output_type not in OUTPUTS:
            raise UserError(f"output_type: expected one of {', '.join(OUTPUTS)}, found '{output_type}'")
        if unknown := [name for name in callback_on_step_end_tensor_inputs if name not in self._callback_tensor_inputs]:
            raise UserError(f"callback_on_step_end_tensor_inputs: expected 'latents', found '{unknown[0]}'")
        patterns = self._patterns(fmri, normalise, run)
        config = self._sampling(num_inference_steps, guidance_scale)
        _of_noise_prediction(self.scheduler)
        device, diffusion = self._execution_device, self.latent_diffusion
        start = self._start(len(patterns), num_images_per_prompt, generator, latents, diffusion.latent_shape)
        condition = self.condition(patterns.to(device, self.dtype))
        parts = []  # as many images at once as in a sweep, which rounds alike then
        item = torch.arange(len(patterns)).repeat_interleave(len(start) // len(patterns))
        for rows in torch.arange(len(start)).split(config.batch_size):
            parts.append((rows, Condition(condition.context[item[rows]], condition.pooled[item[rows]])))

        def predict(noisy: Tensor, timestep: Tensor) -> Tensor:
            return torch.cat([diffusion.guided_noise(noisy[rows], timestep, c, config.guidance) for rows, c in parts])

        def end_of_step(index: int, timestep: Tensor, now: Tensor) -> Tensor:
            if callback_on_step_end is None:
                return now
            given = {name: now for name in callback_on_step_end_tensor_inputs}
            changed: Tensor = (callback_on_step_end(self, index, timestep, given) or {}).get("latents", now)
            return changed

        z = self._denoise(diffusion, config.steps, start.to(device, self.dtype), predict, end_of_step, generator)
        found = z if output_type == "latent" else _as_output([diffusion.decode(z[r]) for r, _ in parts], output_type)
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=found) if return_dict else (found,)

    def _denoise(
        self,
        diffusion: LatentDiffusion,
        steps: int,
        latents: Float[Tensor, "images c h w"],
        predict: Callable[[Tensor, Tensor], Tensor],
        end_of_step: Callable[[int, Tensor, Tensor], Tensor],
        generator: torch.Generator | list[torch.Generator] | None,
    ) -> Float[Tensor, "images c h w"]:
        """From noise to clean latents: by DDIM as our trainings' scores do, or by the scheduler's own steps."""
        scheduler: Any = None if isinstance(self.scheduler, DDIMScheduler) else self.scheduler
        if scheduler is None:
            timesteps: Any = diffusion.timesteps(steps)
        else:
            scheduler.set_timesteps(steps, device=latents.device)
            timesteps, latents = scheduler.timesteps, latents * scheduler.init_noise_sigma
            takes = inspect.signature(scheduler.step).parameters
            extra = {"generator": generator} if "generator" in takes else {}
        for index, timestep in enumerate(self.progress_bar(timesteps)):
            if scheduler is None:
                before = timesteps[index + 1] if index + 1 < len(timesteps) else None
                latents = diffusion.denoised(latents, predict(latents, timestep), timestep, before)
            else:
                predicted = predict(scheduler.scale_model_input(latents, timestep), timestep)
                latents = scheduler.step(predicted, timestep, latents, **extra, return_dict=False)[0]
            latents = end_of_step(index, timestep, latents)
        return latents

    def _start(
        self,
        n: int,
        n_samples: int,
        generator: torch.Generator | list[torch.Generator] | None,
        latents: Tensor | None,
        shape: tuple[int, ...],
    ) -> Float[Tensor, "images c h w"]:
        """Starting noise of n items, float32 unless it was given."""
        if latents is not None:
            of_a_sweep = latents.ndim == len(shape) + 2
            n_samples = latents.shape[1] if of_a_sweep else n_samples
            expected = (n, n_samples, *shape) if of_a_sweep else (n * n_samples, *shape)
            if n_samples < 1 or tuple(latents.shape) != expected:
                raise UserError(f"latents: expected the shape {list(expected)}, found {list(latents.shape)}")
            return latents.flatten(0, 1) if of_a_sweep else latents
        if n_samples < 1:
            raise UserError(f"num_images_per_prompt: expected a number above 0, found {n_samples}")
        if isinstance(generator, list) and len(generator) != n * n_samples:
            raise UserError(f"generator: expected one or {n * n_samples}, one for each image, found {len(generator)}")
        try:
            noise: Tensor = randn_tensor((n * n_samples, *shape), generator, self._execution_device, torch.float32)
        except ValueError as error:
            raise UserError(f"generator: {error}") from error
        return noise

    def _patterns(self, fmri: Any, normalise: bool, run: Any) -> Float[Tensor, "n voxels"]:
        try:
            raw = fmri.detach().cpu().numpy() if isinstance(fmri, Tensor) else fmri
            values = np.atleast_2d(np.asarray(raw, dtype=np.float64))
        except (TypeError, ValueError) as error:
            raise UserError(f"fmri: expected numbers [n, voxels], found something else ({error})") from error
        expected = self.condition.config.n_voxels
        if values.ndim != 2 or values.shape[1] != expected or not len(values):
            raise UserError(f"fmri: expected patterns of {expected} voxels, found the shape {list(values.shape)}")
        if not np.isfinite(values).all():
            raise UserError("fmri: expected finite numbers, found NaN or infinity; set such voxels to 0, their mean")
        if normalise:
            if self.normalisation is None:
                raise UserError(
                    f"normalise: the export has no {NORMALISATION} (an earlier version wrote it, or its data set came "
                    "z-scored); z-score the patterns as the training set's were"
                )
            if run is None and self.normalisation.rule != "training":
                told = "the training patterns were normalised run by run; without run= those of all runs stand in"
                warnings.warn(f"normalise: {told}", stacklevel=4)
            values = self.normalisation.apply(values, run)
        mean, spread = float(values.mean()), float(values.std())
        if abs(mean) > FAR[0] or not FAR[1] <= spread <= FAR[2]:
            remedy = "scale them as the training patterns were" + ("" if normalise else ", or pass normalise=True")
            warnings.warn(
                f"fmri: far from z-scored: mean {mean:.3g}, standard deviation {spread:.3g} over all; {remedy}",
                stacklevel=4,
            )
        return torch.from_numpy(values.astype(np.float32))

    def _sampling(self, steps: int | None, guidance: float | None) -> SamplingConfig:
        """The experiment's settings with what is given in their place."""
        given = {"steps": steps, "guidance": guidance}
        settings = self.experiment["sampling"] | {key: value for key, value in given.items() if value is not None}
        try:
            return SamplingConfig.model_validate(settings)
        except ValidationError as error:
            first = error.errors()[0]
            raise UserError(f"{first['loc'][0]} of the sampling: {first['msg']}, found {first['input']}") from error


def _of_noise_prediction(scheduler: Any) -> None:
    """Raise a UserError unless the scheduler takes what our generators predict."""
    predicted = scheduler.config.get("prediction_type", "epsilon")
    if not hasattr(scheduler, "alphas_cumprod") or predicted != "epsilon":
        raise UserError(
            f"scheduler: expected one that takes predicted noise, found {type(scheduler).__name__} ({predicted}); "
            "take e.g. DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)"
        )


def _as_output(parts: list[np.ndarray], output_type: str) -> Any:
    """uint8 [n, channels, height, width] as diffusers returns images."""
    images = torch.from_numpy(np.concatenate(parts)).float() / 255
    return VaeImageProcessor(do_normalize=False).postprocess(images, output_type)


def write_normalisation(normalisation: Normalisation, folder: Path) -> None:
    """Beside the pipeline in its folder."""
    tensors = {"mean": normalisation.mean, "std": normalisation.std}
    save_file(
        {k: np.ascontiguousarray(v) for k, v in tensors.items()}, folder / NORMALISATION, {"rule": normalisation.rule}
    )


def read_normalisation(folder: Path) -> Normalisation | None:
    """What :func:`write_normalisation` wrote, if it did."""
    if not (folder / NORMALISATION).is_file():
        return None
    with safe_open(folder / NORMALISATION, "np") as file:
        return Normalisation(file.get_tensor("mean"), file.get_tensor("std"), file.metadata()["rule"])


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
