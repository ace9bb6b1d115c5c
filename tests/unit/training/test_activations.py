"""When the activation modules of torch fire, and those for which that is not defined."""

import pytest
import torch
from networks import monitor
from torch import Tensor, nn

import nfinspect as nf
from nfinspect.training.errors import NoLayers


def rate_of(activation: nn.Module, values: Tensor) -> float | None:
    """The activation rate that the analyzer finds for an activation of these values."""
    report = nf.NeuralFiringAnalyzer().analyze_pytorch_model(nn.Sequential(nn.Identity(), activation), values)
    return report.layer_analyses[0].activation_rate


@pytest.mark.parametrize(
    "activation, expected",
    [
        (nn.ReLU(), 5),
        (nn.Tanhshrink(), 5),
        (nn.Hardshrink(0.5), 4),
        (nn.Softshrink(1.5), 3),
        (nn.Threshold(0.0, 0.0), 5),
        (nn.Threshold(2.5, 0.0), 2),
    ],
)
def test_they_fire_where_they_are_positive(activation: nn.Module, expected: int) -> None:
    """Five of ten values are positive, 0.1 and from 1 to 4."""
    values = torch.tensor([[-4.0, -3.0, -2.0, -1.0, 0.0, 0.1, 1.0, 2.0, 3.0, 4.0]])
    assert rate_of(activation, values) == expected / 10


@pytest.mark.parametrize("dim", [-1, 1])
def test_a_glu_fires_where_its_gate_is_positive(dim: int) -> None:
    torch.manual_seed(0)
    values = torch.randn(6, 8) if dim == -1 else torch.randn(6, 8, 5)
    gate = values.chunk(2, dim)[1]
    model: nn.Module = nn.GLU(dim)
    if dim == 1:  # after a convolution the channels are the neurons
        convolution = nn.Conv1d(8, 8, 1, bias=False)
        nn.init.dirac_(convolution.weight)
        model = nn.Sequential(convolution, model)
    layer = nf.NeuralFiringAnalyzer().analyze_pytorch_model(model, values).layer_analyses[0]
    assert layer.activation_rate == pytest.approx(float((gate > 0).double().mean())) and layer.neurons == 4


UNDEFINED = [
    (nn.LogSigmoid(), "never positive"),
    (nn.Softmax(-1), "shares of one sum"),
    (nn.LogSoftmax(-1), "never positive"),
    (nn.Threshold(0.1, 20.0), "positive ones do not mean firing"),
    (nn.Threshold(-1.0, 0.0), "positive ones do not mean firing"),
]


@pytest.mark.parametrize("activation, why", UNDEFINED)
def test_where_firing_is_not_defined_it_is_said(activation: nn.Module, why: str) -> None:
    model = nn.Sequential(nn.Linear(4, 4), activation)
    for layers in (None, ["1"]):
        with pytest.raises(NoLayers, match=why):
            monitor(model=model, layers=layers).start()
    beside = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), activation)
    report = nf.NeuralFiringAnalyzer().analyze_pytorch_model(beside, torch.randn(5, 4))
    assert [layer.layer_name for layer in report.layer_analyses] == ["1"]
