"""Concept-aware conditioning (CnD, sec. 3.3): fMRI tokens gather concepts, then condition a frozen UNet twice.

fmri [b, v] -> E -> tokens [b, n, width]                 (the patches', and the class token's in layout cnd)
     -> token mapper   -> [b, context_tokens, bank width]      (before or after the concept layers)
     -> concept layers, eq. 6, `depth` times                  (DC-LDM has none)
     -> context [b, context_tokens, bank width]  to the UNet's cross-attention
     -> pooled  [b, bank or time width]          added to the UNet's time embedding
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from cnd.decoders.cnd.phase2.settings import Phase2Config
from cnd.protocols import Condition, Generator

IDENTITY_GAIN = 0.1  # of a concept layer's value path at the start: each layer begins as a small, aligned step
COSINE_SCALE, LARGEST_SCALE = 10.0, 100.0  # of cosines before the softmax: at the start, and at most


class ConceptLayer(nn.Module):
    """Cross-attention from fMRI tokens to the frozen concept bank, eq. 6, pre-norm, residual, with an MLP.

    Args:
        cosine: queries and keys have unit length and each head learns a scale; W_Q and W_K start as the identity. A
            layer then starts by retrieving the concepts most like each token, a step of a Hopfield network
            (Ramsauer et al. 2021).
    """

    def __init__(self, width: int, bank_width: int, heads: int, cosine: bool = False):
        super().__init__()
        self.log_scale = nn.Parameter(torch.full((heads, 1, 1), math.log(COSINE_SCALE))) if cosine else None
        self.heads = heads
        self.norm_query, self.norm_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query = nn.Linear(width, width, bias=False)  # W_Q
        self.key = nn.Linear(bank_width, width, bias=False)  # W_K
        self.value = nn.Linear(bank_width, width, bias=False)  # W_V
        self.output = nn.Linear(width, width)
        narrow = nn.Linear(4 * width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), narrow)
        if cosine:
            nn.init.eye_(self.query.weight)
            nn.init.eye_(self.key.weight)
        nn.init.eye_(self.value.weight)
        nn.init.eye_(self.output.weight)
        self.output.weight.data.mul_(IDENTITY_GAIN)
        nn.init.zeros_(self.output.bias)
        nn.init.zeros_(narrow.weight)
        nn.init.zeros_(narrow.bias)

    def forward(
        self, tokens: Float[Tensor, "b t width"], bank: Float[Tensor, "concepts bank_width"]
    ) -> tuple[Float[Tensor, "b t width"], Float[Tensor, "b concepts"]]:
        """Updated tokens, and the attention over the concepts averaged over heads and tokens."""
        attention = self.attention(tokens, bank)
        return self.update(tokens, self.gather(attention, bank)), attention.mean((1, 2))

    def attention(
        self, tokens: Float[Tensor, "b t width"], bank: Float[Tensor, "concepts bank_width"]
    ) -> Float[Tensor, "b heads t concepts"]:
        """softmax(Q K^T / sqrt(d)) of eq. 6, or of the scaled cosines; rows sum to one."""
        query = self.query(self.norm_query(tokens)).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # [b, heads, t, d]
        key = self.key(bank).view(len(bank), self.heads, -1).permute(1, 2, 0)  # [heads, d, concepts]
        if self.log_scale is None:
            logits = query @ key * query.shape[-1] ** -0.5
        else:
            logits = F.normalize(query, dim=-1) @ F.normalize(key, dim=1)
            logits = logits * self.log_scale.exp().clamp_max(LARGEST_SCALE)
        return logits.softmax(-1)

    def gather(
        self, attention: Float[Tensor, "b heads t concepts"], bank: Float[Tensor, "concepts bank_width"]
    ) -> Float[Tensor, "b t width"]:
        """What the tokens take from the bank: the values weighted by attention, and the output projection."""
        value = self.value(bank).view(len(bank), self.heads, -1).transpose(0, 1)  # [heads, concepts, d]
        gathered: Tensor = self.output((attention @ value).transpose(1, 2).flatten(2))
        return gathered

    def update(self, tokens: Float[Tensor, "b t width"], gathered: Tensor) -> Float[Tensor, "b t width"]:
        """The residual connection and the MLP."""
        tokens = tokens + gathered
        updated: Tensor = tokens + self.mlp(self.norm_mlp(tokens))
        return updated


class FlattenMapper(nn.Module):
    """Each token keeps a few channels; all of them together give every output token by one linear map.

    The map starts at zero: every pattern has the same output, and nothing of the noise in fMRI has to be unlearned.
    """

    def __init__(self, n_tokens: int, width: int, n_out: int, width_out: int, channels: int):
        super().__init__()
        self.shape = (n_out, width_out)
        self.narrow = nn.Linear(width, channels)
        self.mix = nn.Linear(n_tokens * channels, n_out * width_out)
        nn.init.zeros_(self.mix.weight)
        nn.init.normal_(self.mix.bias)  # output tokens of unit variance, as what follows expects

    def forward(self, tokens: Float[Tensor, "b n width"]) -> Float[Tensor, "b n_out width_out"]:
        mixed: Tensor = self.mix(self.narrow(tokens).flatten(1))
        return mixed.unflatten(1, self.shape)


class ConvMapper(nn.Module):
    """1x1 convolutions over the token axis and one linear shared by all tokens (MinD-Vis's mapper)."""

    def __init__(self, n_tokens: int, width: int, n_out: int, width_out: int):
        super().__init__()
        middle = max(1, n_tokens // 2)  # below n_out where a pattern has few tokens
        self.convolutions = nn.Sequential(nn.Conv1d(n_tokens, middle, 1), nn.Conv1d(middle, n_out, 1))
        self.project = nn.Linear(width, width_out)

    def forward(self, tokens: Float[Tensor, "b n width"]) -> Float[Tensor, "b n_out width_out"]:
        projected: Tensor = self.project(self.convolutions(tokens))
        return projected


class BankHead(nn.Module):
    """Layer norm and a linear that starts by mapping unit-variance features onto the statistics of the bank."""

    def __init__(self, width: int, bank: Float[Tensor, "concepts bank_width"]):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.linear = nn.Linear(width, bank.shape[1])
        with torch.no_grad():
            # Random orthogonal where the widths differ, identity where they agree.
            if width == bank.shape[1]:
                nn.init.eye_(self.linear.weight)
            else:
                nn.init.orthogonal_(self.linear.weight)
            self.linear.weight.mul_(bank.std(0)[:, None])
            self.linear.bias.copy_(bank.mean(0))

    def forward(self, features: Tensor) -> Tensor:
        projected: Tensor = self.linear(self.norm(features))
        return projected


class TimeHead(nn.Module):
    """Layer norm and a linear into the time embedding; it starts at zero, which leaves the UNet as it was trained."""

    def __init__(self, width: int, width_out: int):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.linear = nn.Linear(width, width_out)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, features: Tensor) -> Tensor:
        projected: Tensor = self.linear(self.norm(features))
        return projected


class ConditionModule(nn.Module):
    """All that stands before the UNet: fMRI encoder, token mapper, concept layers and the two projections.

    With ``projections: bank`` both are heads that begin with the statistics of the bank, and the pooled vector is
    projected from the mean token. With ``conv`` they are DC-LDM's (Chen et al. 2023): the context is what the token
    mapper gives, and the pooled vector comes from it by convolutions over the tokens, to half of them and to one, and
    a linear (``time_embed_condtion`` of its ``openaimodel.py``).
    """

    bank: Tensor

    def __init__(
        self,
        config: Phase2Config,
        encoder: nn.Module,
        n_tokens: int,
        width: int,
        bank: Float[Tensor, "concepts bank_width"],
        time_embedding_width: int | None = None,
    ):
        """
        Args:
            encoder: maps fmri [b, voxels] to tokens [b, n_tokens, width], as ``FmriEncoder`` with its ``n_tokens``.
            time_embedding_width: of the generator, where the pooled vector is added to the time embedding as it is;
                None where it takes the place of a class embedding.
        """
        super().__init__()
        self.encoder = encoder
        self.register_buffer("bank", bank.clone(), persistent=False)  # Emb(c), frozen
        bank_width = bank.shape[1]
        self.map_first = config.mapper_position == "before"
        self.cosine = config.concept_attention == "cosine"
        if config.token_mapper == "flatten":
            mapper: nn.Module = FlattenMapper(n_tokens, width, config.context_tokens, bank_width, config.mapper_width)
        else:
            mapper = ConvMapper(n_tokens, width, config.context_tokens, bank_width)
        self.mapper = mapper
        layer_width = bank_width if self.map_first else width
        if layer_width % config.concept_heads:
            raise ValueError(f"phase2.concept_heads = {config.concept_heads} must divide the width {layer_width}")
        self.concept_layers = nn.ModuleList(
            ConceptLayer(layer_width, bank_width, config.concept_heads, self.cosine)
            for _ in range(config.concept_depth)
        )
        self.by_convolution = config.projections == "conv"
        self.context_head = nn.Identity() if self.by_convolution else BankHead(bank_width, bank)
        # the time-step projection
        if self.by_convolution:
            width_out = time_embedding_width or bank_width
            self.pooled_head: nn.Module = ConvMapper(config.context_tokens, bank_width, 1, width_out)
        elif time_embedding_width is None:
            self.pooled_head = BankHead(bank_width, bank)
        else:
            self.pooled_head = TimeHead(bank_width, time_embedding_width)

    def forward(self, fmri: Float[Tensor, "b voxels"]) -> tuple[Condition, Float[Tensor, "b concepts"] | None]:
        """The condition, and the attention over the concept bank averaged over layers; None where there is no layer."""
        tokens = self.tokens(fmri)
        attentions = []
        for layer in self.concept_layers:
            tokens, attention = layer(tokens, self.concepts)
            attentions.append(attention)
        return self.condition(tokens), torch.stack(attentions).mean(0) if attentions else None

    @property
    def concepts(self) -> Float[Tensor, "concepts bank_width"]:
        """What the concept layers read: the bank; for cosines each of its components has mean 0 and variance 1.

        A vector that all concepts share would make all cosines alike. Tokens are mapped back by the heads, which start
        with the mean and the variance of the bank.
        """
        return (self.bank - self.bank.mean(0)) / self.bank.std(0) if self.cosine else self.bank

    def tokens(self, fmri: Float[Tensor, "b voxels"]) -> Float[Tensor, "b t layer_width"]:
        """What enters the concept layers."""
        tokens: Tensor = self.encoder(fmri)
        return self.mapper(tokens) if self.map_first else tokens

    def condition(self, tokens: Float[Tensor, "b t layer_width"]) -> Condition:
        """What the UNet is given of the tokens that leave the concept layers."""
        if not self.map_first:
            tokens = self.mapper(tokens)
        pooled = self.pooled_head(tokens).squeeze(1) if self.by_convolution else self.pooled_head(tokens.mean(1))
        return Condition(self.context_head(tokens), pooled)


def count_parameters(*modules: nn.Module | Generator) -> dict[str, int]:
    """Numbers of trainable and frozen parameters."""
    parameters = [p for module in modules for p in module.parameters()]
    trainable = sum(p.numel() for p in parameters if p.requires_grad)
    return {"trainable": trainable, "frozen": sum(p.numel() for p in parameters) - trainable}


def denoising_loss(
    predicted: Tensor, noise: Tensor, alphas_cumprod: Tensor, timesteps: Tensor, weighting: str
) -> Tensor:
    """Eq. 2: mean over items of the mean squared error; ``min_snr`` weights it by min(SNR, 5) / SNR."""
    error = F.mse_loss(predicted, noise, reduction="none").flatten(1).mean(1)
    if weighting == "min_snr":  # Hang et al. 2023, noise prediction
        snr = alphas_cumprod[timesteps] / (1 - alphas_cumprod[timesteps])
        error = error * snr.clamp_max(5.0) / snr
    return error.mean()
