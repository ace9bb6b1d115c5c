"""Weights are numbers that the model computes with, in whatever way they are stored: never packed codes."""

from collections.abc import Callable

import pytest
import torch
from families import llama
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D
from words import word_tokenizer

from nfinspect.experiments.output_weights import output_weights
from nfinspect.experiments.projection_weights import projection_weight
from nfinspect.experiments.weight_cosines import weight_cosines
from nfinspect.models import UnsupportedModel, find_sites, in_memory

WIDE, HIGH = 37, 11


class Packed(nn.Module):
    """Codes of a byte with a scale per row, as formats of 8 bits have them."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None, *, rounds_input: bool = False) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.scale = nn.Parameter(weight.abs().amax(1, keepdim=True) / 127)
        self.weight = nn.Parameter((weight / self.scale).round().to(torch.int8), requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias)
        self._rounds_input = rounds_input

    @property
    def exact(self) -> Tensor:
        return (self.weight.float() * self.scale).detach()

    def forward(self, values: Tensor) -> Tensor:
        if self._rounds_input:
            step = values.abs().amax(-1, keepdim=True).clamp(min=1e-9) / 127
            values = (values / step).round() * step
        return nn.functional.linear(values, self.exact, self.bias)


class Float8(nn.Linear):
    """A subclass of Linear whose weight is of a floating type and yet no number without its scale."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__(weight.shape[1], weight.shape[0], bias=False)
        self.scale = nn.Parameter(weight.abs().max() / 448)
        self.weight = nn.Parameter((weight / self.scale).to(torch.float8_e4m3fn), requires_grad=False)

    @property
    def exact(self) -> Tensor:
        return (self.weight.float() * self.scale).detach()

    def forward(self, values: Tensor) -> Tensor:
        return values @ self.exact.T


def drawn(seed: int = 0) -> Tensor:
    return torch.randn(HIGH, WIDE, generator=torch.Generator().manual_seed(seed))


def test_plain_weights_are_read_as_they_are() -> None:
    linear, conv = nn.Linear(WIDE, HIGH), Conv1D(HIGH, WIDE)
    assert projection_weight(linear, "p").data_ptr() == linear.weight.data_ptr()
    assert torch.equal(projection_weight(conv, "p"), conv.weight.T)
    half = nn.Linear(WIDE, HIGH).bfloat16()
    assert projection_weight(half, "p").dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("make", "tolerance"),
    [
        (lambda: Packed(drawn()), 1e-6),
        (lambda: Packed(drawn(), 100 * torch.randn(HIGH)), 1e-5),
        (lambda: Packed(drawn(), rounds_input=True), 1e-5),  # a unit vector is not rounded
        (lambda: Float8(drawn()), 1e-6),
    ],
    ids=["codes", "codes with a large bias", "codes and rounded inputs", "float8"],
)
def test_quantised_weights_are_what_the_module_computes_with(make: Callable[[], nn.Module], tolerance: float) -> None:
    module = make()
    seen: list[object] = []
    module.register_forward_pre_hook(lambda *given: seen.append(given))
    found = projection_weight(module, "p")
    assert found.shape == (HIGH, WIDE) and found.dtype == torch.float32
    torch.testing.assert_close(found, module.exact, rtol=0, atol=tolerance * float(module.exact.abs().max()))
    assert not seen  # no hook of anybody's is run


def test_more_rows_than_go_through_at_a_time_are_all_measured() -> None:
    wide = torch.randn(3, 1200, generator=torch.Generator().manual_seed(1))
    module = Packed(wide)
    torch.testing.assert_close(projection_weight(module, "p"), module.exact, rtol=0, atol=1e-5)


class Bent(Packed):
    def forward(self, values: Tensor) -> Tensor:
        return super().forward(values).relu()


class Codes(Packed):
    def forward(self, values: Tensor) -> Tensor:
        raise RuntimeError("expected int8 values")


@pytest.mark.parametrize(
    ("module", "said"),
    [
        (Bent(drawn()), "not a product of its input"),
        (Codes(drawn()), "does not take float values"),
        (nn.LayerNorm(WIDE), "expected a projection"),
        (nn.Linear(WIDE, HIGH, device="meta"), "offloaded"),
    ],
    ids=["bent", "codes", "a norm", "offloaded"],
)
def test_what_is_no_projection_is_refused(module: nn.Module, said: str) -> None:
    with pytest.raises(UnsupportedModel, match=said) as error:
        projection_weight(module, "h.0.proj")
    assert "h.0.proj" in str(error.value) and "\n" not in str(error.value)


def test_what_weighs_neurons_uses_the_weights_that_the_model_computes_with() -> None:
    """With codes of 8 bits in place of the weights of every MLP: as for a model with the rounded weights themselves."""
    packed, plain = llama(), llama()
    for mine, other in zip(packed.model.layers, plain.model.layers, strict=True):
        for name in ("gate_proj", "up_proj", "down_proj"):
            module = Packed(getattr(mine.mlp, name).weight.detach())
            setattr(mine.mlp, name, module)
            getattr(other.mlp, name).weight.data.copy_(module.exact)
    found, expected = (in_memory(model, word_tokenizer()) for model in (packed, plain))
    site = find_sites(packed)[1]
    torch.testing.assert_close(
        output_weights(found, site, [3, 0]), output_weights(expected, site, [3, 0]), rtol=0, atol=1e-6
    )
    one, other = (weight_cosines(loaded, "mlp", (1, 3), [0, 2]) for loaded in (found, expected))
    for mine, plainly in zip(
        (one.gate, one.inputs, one.outputs), (other.gate, other.inputs, other.outputs), strict=True
    ):
        for a, b in zip(mine or (), plainly or (), strict=True):
            assert abs(a - b).max() <= 2e-6
    assert one.gate is not None and one.inputs is not None
