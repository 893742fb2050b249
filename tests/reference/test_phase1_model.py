"""The masked autoencoder against plain formulas and against a decoder that restores the order first."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from cnd.decoders.cnd.phase1.model import (
    FmriEncoder,
    MaskedAutoencoder,
    n_kept,
    patch_mask,
    random_order,
    sincos_positions,
    to_patches,
)
from cnd.decoders.cnd.phase1.settings import EncoderConfig
from cnd.errors import UserError

TINY = EncoderConfig(patch_size=4, width=8, depth=2, heads=2, decoder_width=6, decoder_depth=1, decoder_heads=2)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def patterns(n: int, n_voxels: int, seed: int = 0) -> Tensor:
    return torch.randn(n, n_voxels, generator=generator(seed))


# ---------------------------------------------------------------- parts


@pytest.mark.parametrize("n_voxels", [1, 3, 5, 16, 31, 32, 33, 1200])
def test_patches_are_the_wrap_padded_pattern(n_voxels: int) -> None:
    fmri = patterns(2, n_voxels)
    n_patches = math.ceil(n_voxels / 16)
    expected = np.pad(fmri.numpy(), ((0, 0), (0, n_patches * 16 - n_voxels)), mode="wrap")
    np.testing.assert_array_equal(to_patches(fmri, 16).numpy(), expected.reshape(2, n_patches, 16))


def test_positions_follow_the_formula() -> None:
    positions = sincos_positions(7, 6)
    for p in range(7):
        angles = [p / 10000 ** (2 * j / 6) for j in range(3)]
        expected = [math.sin(a) for a in angles] + [math.cos(a) for a in angles]
        np.testing.assert_allclose(positions[p], expected, atol=1e-7)


@given(n_patches=st.integers(2, 400), mask_ratio=st.floats(0, 1, exclude_min=True, exclude_max=True))
def test_at_least_one_patch_is_kept_and_one_masked(n_patches: int, mask_ratio: float) -> None:
    kept = n_kept(n_patches, mask_ratio)
    assert 1 <= kept <= n_patches - 1
    assert abs(kept - (1 - mask_ratio) * n_patches) <= 1


def test_one_patch_cannot_be_masked_but_can_be_encoded() -> None:
    model = MaskedAutoencoder(TINY, 3)
    assert model.encoder(patterns(2, 3)).shape == (2, 2, 8)
    with pytest.raises(UserError, match=r"encoder\.patch_size"):
        model(patterns(2, 3), 0.75, generator())


def test_masks_are_uniform_and_each_pattern_has_its_own() -> None:
    mask = patch_mask(random_order(4000, 8, generator()), 0.75)
    assert mask.sum(dim=1).eq(6).all()
    # binomial standard error of a frequency: sqrt(0.75 * 0.25 / 4000) = 0.007
    assert (mask.float().mean(dim=0) - 0.75).abs().max() < 0.03
    assert len(mask.unique(dim=0)) == math.comb(8, 2)


# ---------------------------------------------------------------- encoder


def test_tokens_are_the_convolution_plus_positions() -> None:
    encoder = FmriEncoder(TINY, 20)
    encoder.blocks, encoder.norm = nn.Sequential(), nn.Identity()
    fmri, ids_keep = patterns(3, 20), torch.tensor([[4, 0], [1, 2], [3, 1]])
    convolved = encoder.patch_embed(fmri[:, None]).transpose(1, 2) + sincos_positions(5, 8)
    tokens = encoder(fmri, ids_keep)
    torch.testing.assert_close(tokens[:, :1], encoder.class_token.expand(3, -1, -1))
    for i, kept in enumerate(ids_keep):
        torch.testing.assert_close(tokens[i, 1:], convolved[i, kept])


def test_keeping_all_patches_is_no_mask() -> None:
    encoder, fmri = FmriEncoder(TINY, 18), patterns(3, 18)
    every = torch.arange(encoder.n_patches).expand(3, -1)
    torch.testing.assert_close(encoder(fmri), encoder(fmri, every))


def test_encoder_is_blind_to_the_voxels_of_masked_patches() -> None:
    encoder, fmri = FmriEncoder(TINY, 40), patterns(4, 40)
    order = random_order(4, 10, generator())
    ids_keep, hidden = order[:, :3], patch_mask(order, 0.7).repeat_interleave(4, dim=1)
    encoded = encoder(fmri, ids_keep)
    assert torch.equal(encoded, encoder(torch.where(hidden, fmri + 100, fmri), ids_keep))
    assert not torch.allclose(encoded, encoder(torch.where(hidden, fmri, fmri + 1), ids_keep))


def test_encoder_refuses_another_voxel_count() -> None:
    with pytest.raises(ValueError, match="19 voxels"):
        FmriEncoder(TINY, 18)(patterns(2, 19))


# ---------------------------------------------------------------- autoencoder


def restore_first_then_decode(model: MaskedAutoencoder, encoded: Tensor, order: Tensor) -> Tensor:
    """The decoder as it is usually written: every token is put in its place before the blocks."""
    decoder, n_patches = model.decoder, order.shape[1]
    embedded = decoder.embed(encoded)
    rows = []
    for tokens, shuffled in zip(embedded, order, strict=True):
        placed = [decoder.mask_token[0, 0]] * n_patches
        for token, patch in zip(tokens[1:], shuffled, strict=False):
            placed[int(patch)] = token
        rows.append(torch.cat([tokens[:1], torch.stack(placed) + sincos_positions(n_patches, embedded.shape[2])]))
    patches = decoder.head(decoder.norm(decoder.blocks(torch.stack(rows))))[:, 1:]
    return patches.flatten(1)[:, : model.encoder.n_voxels]


@pytest.mark.parametrize("n_voxels", [24, 30])
def test_decoder_predicts_every_patch_in_its_place(n_voxels: int) -> None:
    model, fmri = MaskedAutoencoder(TINY, n_voxels), patterns(5, n_voxels)
    nn.init.normal_(model.decoder.mask_token, generator=generator(1))
    order = random_order(5, model.encoder.n_patches, generator())
    encoded = model.encoder(fmri, order[:, : n_kept(order.shape[1], 0.6)])
    expected = restore_first_then_decode(model, encoded, order)
    torch.testing.assert_close(model.predict(fmri, order, 0.6), expected)


def test_forward_masks_as_asked_and_repeats_with_the_generator() -> None:
    model, fmri = MaskedAutoencoder(TINY, 38), patterns(6, 38)
    prediction, mask = model(fmri, 0.7, generator(3))
    again, same_mask = model(fmri, 0.7, generator(3))
    assert prediction.shape == (6, 38)
    assert mask.shape == (6, 10) and mask.dtype == torch.bool and mask.sum(dim=1).eq(7).all()
    assert torch.equal(prediction, again) and torch.equal(mask, same_mask)
    assert not torch.equal(mask, model(fmri, 0.7, generator(4))[1])
    # the mask says what was hidden: voxels under it do not change the prediction
    hidden = mask.repeat_interleave(4, dim=1)[:, :38]
    hidden[:, :2] = False  # these fill up the last patch, which may be visible
    assert torch.equal(prediction, model(torch.where(hidden, fmri - 9, fmri), 0.7, generator(3))[0])


def test_padded_voxels_are_cut_off() -> None:
    model, fmri = MaskedAutoencoder(TINY, 10), patterns(3, 10)
    order = random_order(3, 3, generator())

    def spoil_padding(module: nn.Module, inputs: tuple[Tensor], patches: Tensor) -> Tensor:
        last = nn.functional.pad(order == 2, (1, 0))  # the class token is no patch
        padded = last[:, :, None] & torch.tensor([False, False, True, True])
        assert padded.sum() == 6
        return torch.where(padded, torch.nan, patches)

    clean = model.predict(fmri, order, 0.5)
    with model.decoder.head.register_forward_hook(spoil_padding):
        assert torch.equal(model.predict(fmri, order, 0.5), clean)


# ---------------------------------------------------------------- weights and sizes


def test_seed_decides_the_weights_and_the_global_generator_is_left_alone() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, second, other = (MaskedAutoencoder(TINY, 20, seed=s) for s in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name])
    assert not torch.equal(first.decoder.head.weight, other.decoder.head.weight)
    assert not torch.equal(first.encoder.class_token, other.encoder.class_token)
    for name, tensor in FmriEncoder(TINY, 20, seed=1).state_dict().items():
        assert torch.equal(tensor, first.encoder.state_dict()[name])


def test_initial_weights_have_the_intended_spread() -> None:
    encoder = FmriEncoder(EncoderConfig(width=256, depth=1, heads=4), 64)
    fan_in_out = {"patch_embed.weight": 16 + 256, "blocks.0.attn.qkv.weight": 256 + 768, "blocks.0.mlp.fc1.weight": 512}
    for name, parameter in encoder.named_parameters():
        if name in fan_in_out:
            assert parameter.std().item() == pytest.approx(math.sqrt(2 / fan_in_out[name]), rel=0.05)
        elif name.endswith("bias"):
            assert not parameter.any()
        elif "norm" in name:
            assert parameter.eq(1).all()
    assert encoder.class_token.std().item() == pytest.approx(0.02, rel=0.2)


def test_weights_carry_over_to_another_voxel_count() -> None:
    source, target = MaskedAutoencoder(TINY, 30, seed=1), MaskedAutoencoder(TINY, 53, seed=2)
    target.load_state_dict(source.state_dict())  # strict
    fmri = patterns(2, 53)
    ids_keep = torch.tensor([[0, 3], [5, 6]])
    torch.testing.assert_close(target.encoder(fmri, ids_keep), source.encoder(fmri[:, :30], ids_keep))
    assert target.predict(fmri, random_order(2, 14, generator()), 0.75).shape == (2, 53)


def test_paper_size() -> None:
    with torch.device("meta"):
        model = MaskedAutoencoder(EncoderConfig(), 4643)
        fmri = torch.empty(2, 4643)
        prediction, mask = model(fmri, 0.75, generator())
        assert model.encoder(fmri).shape == (2, 292, 1024)
    assert prediction.shape == (2, 4643) and mask.shape == (2, 291)
    assert len(model.encoder.blocks) == 24 and len(model.decoder.blocks) == 8

    def parameters(width: int) -> int:  # of a block: qkv, projection, two MLP layers, two norms
        return 4 * (width * width + width) + 2 * (width * width + width) + 4 * width

    encoder = 24 * parameters(1024) + (16 * 1024 + 1024) + 1024 + 2 * 1024
    decoder = 8 * parameters(512) + (1024 * 512 + 512) + 512 + 2 * 512 + (512 * 16 + 16)
    assert sum(p.numel() for p in model.encoder.parameters()) == encoder
    assert sum(p.numel() for p in model.parameters()) == encoder + decoder
    names = set(model.state_dict())
    assert {"encoder.patch_embed.weight", "encoder.blocks.23.attn.qkv.bias", "decoder.mask_token"} <= names
    assert not any("positions" in name for name in names)
