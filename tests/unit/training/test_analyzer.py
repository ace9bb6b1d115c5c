"""The analyzer finds what was planted, in any module, and says what it cannot read."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from networks import Functional, hooks_of
from torch import nn

import nfinspect as nf
from nfinspect.analysis.array_health import array_health
from nfinspect.analysis.classes import BARE, HealthOptions
from nfinspect.analysis.planted import NetworkPlan, planted_network
from nfinspect.present.style import require_matplotlib
from nfinspect.training.errors import NoLayers, NonFiniteLayer, NotReadable, SilentLayer
from nfinspect_store.errors import NotInstalled, RequestError
from nfinspect_store.types import CLASSES, Layer


@pytest.mark.parametrize("activation", ["relu", "gelu", "tanh"])
def test_every_planted_fault_is_found_and_nothing_else(activation: str) -> None:
    """Ten seeds: precision and recall are 1.0 in every class that the activation can have."""
    found_classes = set()
    for seed in range(10):
        plan = NetworkPlan(layers=3, neurons=120, tokens=400, activation=activation, degradation=1.0, seed=seed)
        analyzer = nf.NeuralFiringAnalyzer(threshold_scale="layer")
        truth, found = [], []
        for planted in planted_network(plan):
            values = planted.values.reshape(20, 20, -1)
            analysis = analyzer.analyze_activation_tensor(values, "planted", activation)
            truth += planted.classes
            found += list(analysis.classes)
            for name in ("dead", "missing", "weak", "saturated", "sporadic"):
                assert getattr(analysis, f"{name}_neurons") == planted.classes.count(name)
        for name in CLASSES:
            here = np.array(truth) == name
            there = np.array(found) == name
            if here.any():
                found_classes.add(name)
                assert (here & there).sum() / there.sum() == 1.0  # precision
                assert (here & there).sum() / here.sum() == 1.0  # recall
    assert found_classes == set(CLASSES)


def test_arrays_and_tensors_of_any_leading_shape_are_the_same_layer() -> None:
    values = np.random.default_rng(0).normal(size=(4, 6, 10)).astype(np.float32)
    values[..., 3] = 0
    analyzer = nf.NeuralFiringAnalyzer(threshold_missing=0.01, threshold_weak=0.1)
    first = analyzer.analyze_activation_tensor(values, layer_name="transformer_layer_1")
    assert (first.layer_name, first.neurons, first.tokens, first.dead_neurons) == ("transformer_layer_1", 10, 24, 1)
    assert first.activation_rate == pytest.approx((values > 0).mean())
    assert first.activation_distribution["mean"] == pytest.approx(values.mean(), abs=1e-6)
    assert first.neurons_of("dead") == [3]
    for other in (
        torch.from_numpy(values),
        values.reshape(24, 10),
        values.astype(np.float64),
        torch.tensor(values).half(),
    ):
        again = analyzer.analyze_activation_tensor(other, "transformer_layer_1")
        assert again.classes.tolist() == first.classes.tolist()
        assert again.health_score == first.health_score


def test_thresholds_are_absolute_unless_asked() -> None:
    values = np.random.default_rng(1).uniform(0.02, 0.06, size=(50, 4))
    assert nf.NeuralFiringAnalyzer().analyze_activation_tensor(values).weak_neurons == 4
    coarse = nf.NeuralFiringAnalyzer(0.1, 0.2)
    assert coarse.analyze_activation_tensor(values, activation="gelu").dead_neurons == 4  # none reaches 0.1
    values[0] = 1
    assert nf.NeuralFiringAnalyzer(0.1, 0.2).analyze_activation_tensor(values).missing_neurons == 4
    values[0] = 0.05
    assert nf.NeuralFiringAnalyzer(threshold_scale="layer").analyze_activation_tensor(values).weak_neurons == 0


@pytest.mark.parametrize("scale", ["absolute", "layer"])
def test_what_is_small_and_never_zero_is_dead_only_where_the_activation_is_told(scale: Any) -> None:
    """A bare tensor, a module that a caller names, an array without a run: dead means 0 throughout."""
    values = np.random.default_rng(2).normal(size=(200, 5)).astype(np.float32)
    values[:, 1], values[:, 2] = 0, np.where(np.arange(200) % 2, 1e-4, -2e-4)
    analyzer = nf.NeuralFiringAnalyzer(threshold_scale=scale)
    bare = analyzer.analyze_activation_tensor(values)
    assert bare.classes.tolist() == ["normal", "dead", "missing", "normal", "normal"]
    assert analyzer.analyze_activation_tensor(values, activation="gelu").classes.tolist()[2] == "dead"
    assert analyzer.analyze_activation_tensor(values, activation="relu").classes.tolist()[2] == "missing"
    named = nn.Sequential(nn.Identity(), nn.GELU())
    report = analyzer.analyze_pytorch_model(named, torch.from_numpy(values), layers=["0"])
    assert report.layer_analyses[0].classes.tolist() == bare.classes.tolist()
    layer = Layer(0, BARE, 0, "m", 5, "", "positive")
    options = HealthOptions(threshold_scale=scale)
    assert array_health(layer, values, options=options).classes.tolist() == bare.classes.tolist()


@pytest.mark.parametrize(
    "bad",
    [
        np.zeros((0, 3)),
        np.float32(1),
        np.zeros((3, 0)),
        np.array(["a"]),
        np.zeros(3, complex),
        [[1.0, 2.0], [3.0]],
        np.ma.masked_array(np.ones((2, 2)), np.eye(2)),
        torch.ones(2, 2).to_sparse(),
        torch.ones(2, 2, device="meta"),
    ],
)
def test_what_is_no_activation_is_refused(bad: object) -> None:
    with pytest.raises(RequestError, match="expected activations"):
        nf.NeuralFiringAnalyzer().analyze_activation_tensor(bad)


def test_nan_is_an_error_that_names_the_layer() -> None:
    with pytest.raises(NonFiniteLayer, match="in mine"):
        nf.NeuralFiringAnalyzer().analyze_activation_tensor(np.array([[1, np.nan]]), "mine")
    with pytest.raises(NonFiniteLayer, match="overflows"):
        nf.NeuralFiringAnalyzer().analyze_activation_tensor(np.array([[1, 1e300]]))
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU())
    with torch.no_grad():
        model[2].weight[0, 0] = float("nan")
    with pytest.raises(NonFiniteLayer, match="in 3 "):
        nf.NeuralFiringAnalyzer().analyze_pytorch_model(model, torch.randn(5, 4))
    assert hooks_of(model) == 0


class Residual(nn.Module):
    """One ReLU used twice, as in many convolutional networks."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
        self.norm, self.relu = nn.BatchNorm2d(6), nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.relu(self.norm(self.conv1(x)))
        return self.relu(self.conv2(y) + x)  # type: ignore[no-any-return]


def layers_of(model: nn.Module, given: object, **options: object) -> list[tuple[str, int, int]]:
    report = nf.NeuralFiringAnalyzer().analyze_pytorch_model(model, given, **options)
    assert report.total_layers == len(report.layer_analyses)
    return [(x.layer_name, x.neurons, x.tokens) for x in report.layer_analyses]


def test_convolutions_have_channels_for_neurons_and_places_for_tokens() -> None:
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), Residual(), nn.Flatten(), nn.Linear(6 * 36, 5), nn.Tanh())
    assert layers_of(model, torch.randn(4, 3, 8, 8)) == [
        ("1", 6, 144),
        ("2.relu after 2.norm", 6, 144),
        ("2.relu after 2.conv2", 6, 144),
        ("5", 5, 4),
    ]


def test_a_dead_channel_is_one_dead_neuron() -> None:
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU())
    with torch.no_grad():
        model[0].weight[2], model[0].bias[2] = 0, -1
    report = nf.NeuralFiringAnalyzer().analyze_pytorch_model(model, torch.randn(4, 3, 8, 8))
    assert report.layer_analyses[0].neurons_of("dead") == [2]


def test_recurrent_networks_and_transformers() -> None:
    assert layers_of(nn.LSTM(5, 9, bidirectional=True), torch.randn(4, 7, 5)) == [("LSTM", 18, 28)]
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 24, batch_first=True), 2)
    assert layers_of(encoder, torch.randn(3, 5, 16)) == [("layers.0.linear1", 24, 15), ("layers.1.linear1", 24, 15)]


def test_padded_transformers_packed_sequences_and_classes_of_ones_own() -> None:
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 24, batch_first=True), 2)
    padding = torch.zeros(3, 5, dtype=torch.bool)
    padding[0, 3:] = True
    given = {"src": torch.randn(3, 5, 16), "src_key_padding_mask": padding}
    fast = torch.backends.mha.get_fastpath_enabled()
    assert [neurons for _, neurons, _ in layers_of(encoder, given)] == [24, 24]
    assert torch.backends.mha.get_fastpath_enabled() == fast
    packed = nn.utils.rnn.pack_padded_sequence(torch.randn(3, 9, 5), [9, 4, 2], batch_first=True)
    assert layers_of(nn.LSTM(5, 7, batch_first=True), packed) == [("LSTM", 7, 15)]

    class Own(nn.ReLU):
        pass

    assert layers_of(nn.Sequential(nn.Linear(4, 8), Own()), torch.randn(9, 4)) == [("1", 8, 9)]


def test_language_models_are_read_at_their_sites_without_padding() -> None:
    from families import FAMILIES

    ids = torch.tensor([[5, 6, 7, 8], [0, 0, 9, 10]])
    given = {"input_ids": ids, "attention_mask": (ids > 0).long()}
    report = nf.NeuralFiringAnalyzer().analyze_pytorch_model(FAMILIES["gpt2"](), given)
    assert [(x.site, x.layer, x.neurons, x.tokens) for x in report.layer_analyses] == [
        ("mlp", i, 64, 6) for i in range(3)
    ]


def test_layers_that_a_caller_names() -> None:
    model = Functional()
    with pytest.raises(NoLayers, match='layers={"fc1": "relu"}'):
        layers_of(model, torch.randn(9, 8))
    assert layers_of(model, torch.randn(9, 8), layers={"fc1": "relu"}) == [("fc1", 16, 9)]
    assert layers_of(model, torch.randn(9, 8), layers=["fc2"]) == [("fc2", 4, 9)]
    with pytest.raises(NoLayers, match="did you mean fc1"):
        layers_of(model, torch.randn(9, 8), layers=["fc11"])
    with pytest.raises(NoLayers, match="expected one of the activations"):
        layers_of(model, torch.randn(9, 8), layers={"fc1": "square"})


def test_a_model_is_left_as_it_was() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.BatchNorm1d(8), nn.ReLU())
    model[1].eval()
    buffers = {name: value.clone() for name, value in model.named_buffers()}
    state = torch.get_rng_state()
    nf.NeuralFiringAnalyzer().analyze_pytorch_model(
        model, torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    )
    assert torch.equal(state, torch.get_rng_state())
    assert [m.training for m in model] == [True, False, True, True] and hooks_of(model) == 0
    assert all(torch.equal(value, buffers[name]) for name, value in model.named_buffers())


def test_a_loader_adds_up_to_what_one_batch_gives() -> None:
    model, values = nn.Sequential(nn.Linear(4, 8), nn.ReLU()), torch.randn(30, 4)
    analyzer = nf.NeuralFiringAnalyzer()
    whole = analyzer.analyze_pytorch_model(model, values).layer_analyses[0]
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(values, torch.zeros(30)), batch_size=7)
    parts = analyzer.analyze_pytorch_model(model, loader).layer_analyses[0]
    assert parts.tokens == 30 and parts.classes.tolist() == whole.classes.tolist()
    assert parts.activation_rate == pytest.approx(whole.activation_rate)


def test_what_cannot_be_read_says_why() -> None:
    class Skips(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = nn.ReLU(), nn.ReLU()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.used(x)  # type: ignore[no-any-return]

    analyzer = nf.NeuralFiringAnalyzer()
    with pytest.raises(SilentLayer, match="unused"):
        analyzer.analyze_pytorch_model(Skips(), torch.randn(3, 4))
    with pytest.raises(NotReadable, match="torch.compile"):
        analyzer.analyze_pytorch_model(torch.compile(nn.Sequential(nn.ReLU())), torch.randn(3, 4))
    with pytest.raises(RequestError, match="expected input"):
        analyzer.analyze_pytorch_model(nn.Sequential(nn.ReLU()), None)


def test_simulated_activations_are_seeded_and_hold_faults_only_when_asked() -> None:
    analyzer = nf.NeuralFiringAnalyzer()
    options = {"num_layers": 4, "hidden_size": 200, "sequence_length": 300}
    healthy = analyzer.analyze_simulated_llm_activations(**options)
    assert healthy.overall_health_score == 1.0 and not healthy.problematic_layers and not healthy.recommendations
    faulty = analyzer.analyze_simulated_llm_activations(**options, simulate_issues=True, seed=3)
    assert faulty.overall_health_score < 0.95 and faulty.recommendations
    assert faulty.layer_analyses[-1].dead_neurons > faulty.layer_analyses[0].dead_neurons > 0
    again = analyzer.analyze_simulated_llm_activations(**options, simulate_issues=True, seed=3)
    assert again.to_json() == faulty.to_json()
    assert (
        analyzer.analyze_simulated_llm_activations(**options, simulate_issues=True, seed=4).to_json() != again.to_json()
    )


def test_the_score_is_the_sum_of_its_parts() -> None:
    report = nf.NeuralFiringAnalyzer().analyze_simulated_llm_activations(4, 200, 300, True, 1)
    parts = report.score_parts
    assert report.to_json()["parts"] == parts
    mean = np.mean([layer.health_score for layer in report.layer_analyses])
    rest = 0.05 * report.problematic_layers / 4
    fall = report.layer_analyses[0].health_score - report.layer_analyses[-1].health_score
    assert report.overall_health_score == pytest.approx(mean - rest - 0.05 * max(0.0, fall))


def test_alerts_of_a_dying_network() -> None:
    values = torch.zeros(3, 20, 10)
    values[..., 0] = 1 + torch.rand(3, 20)
    model = nn.Sequential(nn.ReLU())
    report = nf.NeuralFiringAnalyzer().analyze_pytorch_model(model, values)
    assert nf.check_firing_health(report) == list(report.alerts) == nf.check_firing_health(model, values)
    assert any(alert.startswith("Critical") for alert in report.alerts)
    assert any(alert.startswith("Warning") for alert in report.alerts)
    assert nf.check_firing_health(nn.Sequential(nn.ReLU()), 1 + torch.rand(3, 20, 10) * 3) == []


def test_the_figure_is_drawn_or_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    analyzer = nf.NeuralFiringAnalyzer()
    report = analyzer.analyze_simulated_llm_activations(3, 100, 200, True)
    path = analyzer.visualize_firing_patterns(report, save_path=str(tmp_path / "new" / "firing.png"))
    assert path.read_bytes().startswith(b"\x89PNG") and len(list(path.parent.iterdir())) == 1
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    with pytest.raises(NotInstalled, match=r"pip install 'nfinspect\[figures\]'") as refused:
        analyzer.visualize_firing_patterns(report, tmp_path / "other.png")
    assert not (tmp_path / "other.png").exists()
    with pytest.raises(NotInstalled) as of_reports:
        require_matplotlib()
    assert str(of_reports.value) == str(refused.value)  # one message, whatever is to be drawn


def test_the_title_of_the_figure_fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.figure import Figure

    drawn: list[Figure] = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: (drawn.append(self), save(self, *a, **k))[1])
    analyzer = nf.NeuralFiringAnalyzer()
    report = analyzer.analyze_simulated_llm_activations(8, 768, 200, True)
    assert len(report.summary) > 130
    analyzer.visualize_firing_patterns(report, tmp_path / "firing.png")
    said, box = drawn[0].get_suptitle(), drawn[0].texts[0].get_window_extent()
    assert report.summary.split(";")[1].strip() in said.replace("\n", " ")
    assert box.x0 >= 0 and box.x1 <= drawn[0].bbox.x1


def test_thresholds_that_cannot_be_are_refused() -> None:
    with pytest.raises(RequestError):
        nf.NeuralFiringAnalyzer(threshold_missing=0.5, threshold_weak=0.1)
    assert nf.NeuralFiringAnalyzer().options == HealthOptions(0.01, 0.1, "absolute", threshold_activation_rate=0.30)
