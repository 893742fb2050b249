"""What concept layers do when parts of them are replaced: against weights edited by hand, formulas and numbers."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cnd.decoders.cnd.phase2 import concepts
from cnd.decoders.cnd.phase2.interventions import ConceptInterventions
from cnd.decoders.cnd.phase2.model import ConceptLayer, ConditionModule
from cnd.decoders.cnd.phase2.settings import Phase2Config
from cnd.decoders.cnd.phase2.targets import ClassTargets, Wanted, attention_loss
from cnd.decoders.cnd.phase2.training import forward_loss
from cnd.experiment import load_experiment, override
from cnd.protocols import Condition
from cnd.workflow.interventions import agreement
from cnd.workflow.plan import all_folds

ROOT = Path(__file__).resolve().parents[2]

BANK = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 2.0]])
TOKENS = torch.tensor([[[3.0, -1.0]], [[-2.0, 2.0]]])


def plain_layer() -> ConceptLayer:
    """One head, all projections the identity, and an MLP that adds nothing; norms have no say in what is gathered."""
    layer = ConceptLayer(width=2, bank_width=2, heads=1)
    for linear in (layer.query, layer.key, layer.value, layer.output):
        nn.init.eye_(linear.weight)
    return layer


def module(**settings: Any) -> ConditionModule:
    """With weights that are far from the start, so that every part matters."""
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Linear(7, 5 * 8), nn.Unflatten(1, (5, 8)))
    config = Phase2Config(**{"context_tokens": 3, "concept_heads": 2, "concept_depth": 2} | settings)
    made = ConditionModule(config, encoder, 5, 8, torch.randn(11, 8))
    for parameter in [*made.concept_layers.parameters(), made.mapper.mix.weight]:
        nn.init.normal_(parameter, std=0.5)
    return made.eval()


def test_cosine_attention_is_eq_6_of_unit_vectors():
    """Against torch's scaled dot-product attention; at the start a token that is a concept attends to it most."""
    torch.manual_seed(0)
    bank = torch.randn(40, 32)
    at_start = ConceptLayer(32, 32, 2, cosine=True).attention(bank[None], bank).mean(1)[0]
    assert torch.equal(at_start.argmax(-1), torch.arange(40))
    layer, bank = ConceptLayer(8, 8, 2, cosine=True), torch.randn(40, 8)
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    nn.init.constant_(layer.log_scale, math.log(3))
    tokens = torch.randn(3, 5, 8)
    query, key = layer.query(layer.norm_query(tokens)), layer.key(bank)
    query, key = (nn.functional.normalize(x.unflatten(-1, (2, 4)).transpose(-2, -3), dim=-1) for x in (query, key))
    one_hot = torch.eye(40).expand(3, 2, -1, -1)
    expected = nn.functional.scaled_dot_product_attention(query, key.expand(3, -1, -1, -1), one_hot, scale=3.0)
    torch.testing.assert_close(layer.attention(tokens, bank), expected)


def test_cosine_attention_reads_the_bank_without_what_all_concepts_share():
    assert torch.equal(module().concepts, module().bank)
    concepts_ = module(concept_attention="cosine").concepts
    torch.testing.assert_close(concepts_.mean(0), torch.zeros(8), atol=1e-6, rtol=0)
    torch.testing.assert_close(concepts_.std(0), torch.ones(8))


def fmri() -> Tensor:
    return torch.randn(6, 7, generator=torch.Generator().manual_seed(1))


# ---------------------------------------------------------------- one layer, by hand


def test_even_attention_adds_the_mean_of_the_values():
    found = concepts.even(plain_layer(), TOKENS, BANK)
    torch.testing.assert_close(found, TOKENS + torch.tensor([0.0, 1.0]))


def test_the_top_concept_alone_adds_its_value():
    """Layer norm makes (1, -1) and (-1, 1) of the tokens: their dot products with the bank are largest at 0 and 2."""
    found = concepts.top(plain_layer(), TOKENS, BANK)
    torch.testing.assert_close(found, TOKENS + torch.tensor([[[1.0, 0.0]], [[-1.0, 2.0]]]))


def test_without_attention_and_without_the_layer_nothing_is_added():
    layer = plain_layer()
    assert torch.equal(concepts.none(layer, TOKENS, BANK), TOKENS)
    nn.init.constant_(layer.mlp[2].bias, 1.0)
    assert torch.equal(concepts.none(layer, TOKENS, BANK), TOKENS + 1)
    assert torch.equal(concepts.skip(layer, TOKENS, BANK), TOKENS)


# ---------------------------------------------------------------- the whole module, against edited weights


def edit_even(layer: ConceptLayer) -> None:
    nn.init.zeros_(layer.query.weight)


def edit_top(layer: ConceptLayer) -> None:
    layer.query.weight.data.mul_(1e6)


def edit_none(layer: ConceptLayer) -> None:
    nn.init.zeros_(layer.output.weight)
    nn.init.zeros_(layer.output.bias)


@pytest.mark.parametrize("position", ["before", "after"])
@pytest.mark.parametrize(
    ("name", "edit"), [("even attention", edit_even), ("top concept only", edit_top), ("no attention", edit_none)]
)
def test_a_variant_is_the_module_with_edited_weights(position: str, name: str, edit: Callable[[ConceptLayer], None]):
    trained = module(mapper_position=position)
    before = {key: tensor.clone() for key, tensor in trained.state_dict().items()}
    found = concepts.condition_with(trained, fmri(), concepts.PASSES[name])
    normal = trained(fmri())[0]
    assert all(torch.equal(tensor, before[key]) for key, tensor in trained.state_dict().items())
    for layer in trained.concept_layers:
        edit(layer)
    for ours, edited, as_trained in zip(found, trained(fmri())[0], normal, strict=True):
        torch.testing.assert_close(ours, edited)
        assert (ours - as_trained).abs().max() > 1e-3


def test_without_its_layers_the_module_is_encoder_mapper_and_heads():
    trained = module()
    found = concepts.condition_with(trained, fmri(), concepts.skip)
    tokens = trained.mapper(trained.encoder(fmri()))
    assert torch.equal(found.context, trained.context_head(tokens))
    assert torch.equal(found.pooled, trained.pooled_head(tokens.mean(1)))


def test_every_variant_has_a_sentence():
    assert ConceptInterventions.if_equal.keys() == concepts.PASSES.keys()


# ---------------------------------------------------------------- entropy


def test_entropy_is_1_for_even_attention_and_0_for_one_concept():
    trained = module()
    assert 0.01 < concepts.attention_entropy(trained, fmri()) < 0.99
    for layer in trained.concept_layers:
        edit_top(layer)
    assert concepts.attention_entropy(trained, fmri()) == pytest.approx(0, abs=1e-6)
    for layer in trained.concept_layers:
        edit_even(layer)
    assert concepts.attention_entropy(trained, fmri()) == pytest.approx(1)


def test_entropy_of_two_of_eleven_concepts():
    class Two(ConceptLayer):
        def attention(self, tokens: Tensor, bank: Tensor) -> Tensor:
            return torch.zeros(len(tokens), 2, tokens.shape[1], len(bank)).index_fill(-1, torch.tensor([3, 7]), 0.5)

    trained = module()
    trained.concept_layers = nn.ModuleList([Two(8, 8, 2)])
    assert concepts.attention_entropy(trained, fmri()) == pytest.approx(math.log(2) / math.log(11))


# ---------------------------------------------------------------- share of the condition's variance


def test_the_share_is_0_where_attention_has_no_gain_or_is_even():
    trained = module()
    assert abs(concepts.bank_share(trained, fmri())) > 1e-3
    for layer in trained.concept_layers:
        edit_even(layer)  # every item gathers the same
    assert concepts.bank_share(trained, fmri()) == pytest.approx(0, abs=1e-6)
    trained = module()
    for layer in trained.concept_layers:
        edit_none(layer)
    assert concepts.bank_share(trained, fmri()) == 0


class Scripted(nn.Module):
    """Tokens x, one layer that adds ``gain`` times x, and nothing else: the share has a formula."""

    concepts = BANK

    def __init__(self, gain: float, residual: float = 1.0) -> None:
        super().__init__()
        layer = plain_layer()
        layer.gather = lambda attention, bank: gain * self.x  # type: ignore[method-assign]
        layer.update = lambda tokens, gathered: residual * tokens + gathered  # type: ignore[method-assign]
        self.concept_layers = nn.ModuleList([layer])

    def tokens(self, x: Tensor) -> Tensor:
        self.x = x[:, None]
        return self.x

    def condition(self, tokens: Tensor) -> Condition:
        return Condition(tokens, 2 * tokens.mean(1))

    def forward(self, x: Tensor) -> tuple[Condition, None]:
        tokens, _ = self.concept_layers[0](self.tokens(x), self.concepts)
        return self.condition(tokens), None


@pytest.mark.parametrize(
    ("gain", "residual", "share"),
    [(1.0, 1.0, 1 / 2), (0.25, 1.0, 0.2), (0.0, 1.0, 0.0), (3.0, 0.0, 1.0), (-0.5, 1.0, -1.0)],
)
def test_the_share_of_a_sum_is_that_of_its_part(gain: float, residual: float, share: float):
    """z = (residual + gain) x, and gain x of it was gathered: the share is gain / (residual + gain)."""
    x = torch.randn(9, 2, generator=torch.Generator().manual_seed(0))
    assert concepts.bank_share(Scripted(gain, residual), x) == pytest.approx(share, abs=1e-6)


def test_a_condition_that_does_not_vary_has_no_share():
    assert math.isnan(concepts.bank_share(module(), fmri()[:1].expand(4, -1)))


# ---------------------------------------------------------------- agreement with the classes


def test_agreement_by_hand():
    scores = np.array([[0.5, 0.3, 0.2], [0.6, 0.2, 0.2], [0.1, 0.8, 0.1], [0.2, 0.3, 0.5]])
    found = agreement(scores, np.array([0, 1, 1, 0]))
    assert found["top_is_class"] == 2 / 4
    assert found["top_is_class_chance"] == pytest.approx((2 * 2 + 1 * 2 + 1 * 0) / 16)
    # with less attention than the class: both; none and one tie; both; none
    assert found["class_rank"] == pytest.approx((2 + 0.5 + 2 + 0) / 4 / 2)


def test_even_attention_agrees_by_chance():
    found = agreement(np.full((5, 4), 0.25), np.arange(5) % 4)
    assert found["class_rank"] == 0.5


# ---------------------------------------------------------------- a loss on attention


def test_the_loss_on_attention_is_the_cross_entropy_of_the_mean_weights():
    attention = torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.2, 0.7]])
    assert attention_loss(attention, torch.tensor([1, 2])).item() == pytest.approx(-math.log(0.25 * 0.7) / 2)
    assert math.isfinite(attention_loss(torch.tensor([[1.0, 0.0]]), torch.tensor([1])).item())


def test_the_loss_on_attention_teaches_the_layers_their_classes_and_is_off_by_default():
    trained = module(concept_attention="cosine").train()
    generator = SimpleNamespace(device=torch.device("cpu"), alphas_cumprod=torch.linspace(0.99, 0.01, 1000))
    generator.add_noise = lambda clean, noise, t: clean
    generator.predict_noise = lambda noisy, t, condition: 0 * condition.pooled.sum() + noisy
    x, classes = fmri(), torch.tensor([3, 7, 0, 10, 3, 5])
    z, t = torch.zeros(6, 1, 2, 2), torch.zeros(6, dtype=torch.long)
    config = Phase2Config(attention_loss=2.0)
    assert config.uses_labels and not Phase2Config().uses_labels

    def loss(config: Phase2Config, wanted: Wanted) -> Tensor:
        return forward_loss(config, trained, generator, x, z, torch.zeros_like(z), t, wanted)

    assert loss(Phase2Config(), ClassTargets().wanted(torch.arange(6))).item() == 0
    optimizer = torch.optim.AdamW(trained.parameters(), lr=1e-2)
    expected = 2 * attention_loss(trained(x)[1], classes).item()
    assert loss(config, Wanted(None, classes)).item() == pytest.approx(expected, rel=1e-5)
    for _ in range(200):
        optimizer.zero_grad()
        loss(config, Wanted(None, classes)).backward()
        optimizer.step()
    assert trained(x)[1].argmax(1).tolist() == classes.tolist()


def test_with_a_loss_on_attention_phase_2_asks_for_the_labels_and_the_report_says_so():
    smoke = load_experiment(ROOT / "experiments" / "smoke.yaml")
    aimed = override(smoke, {"phase2.attention_loss": 0.01}, "test")
    plain, labelled = (all_folds(e)[0].own["phase2"] for e in (smoke, aimed))
    assert "classes" in labelled.needs and "classes" not in plain.needs and plain.key != labelled.key
    assert any(line.startswith("Labels: ") for line in aimed.warnings())
    assert not any(line.startswith("Labels: ") for line in smoke.warnings())
