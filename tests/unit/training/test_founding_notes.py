"""The founding notes' snippets, as they stand there apart from the import line."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import nfinspect as nf

IMPORTS = """
from dataclasses import dataclass
from typing import Dict, List
import torch
from nfinspect import NeuralFiringAnalyzer, SubtextAnalyzer
"""

SETUP = """
# Initialize analyzer
analyzer = NeuralFiringAnalyzer(
    threshold_missing=0.01,  # Below this is considered missing
    threshold_weak=0.1       # Below this is considered weak
)
"""

ONE_LAYER = """
# Analyze a single activation tensor
analysis = analyzer.analyze_activation_tensor(
    activation_tensor,  # numpy array of activations
    layer_name="transformer_layer_1"
)
"""

NETWORKS = """
# For PyTorch models
report = analyzer.analyze_pytorch_model(model, input_data)

# For simulated analysis
report = analyzer.analyze_simulated_llm_activations(
    num_layers=12,
    hidden_size=768,
    sequence_length=512,
    simulate_issues=True
)
"""

DRAWN = """
# Generate visualization of firing patterns
analyzer.visualize_firing_patterns(report, save_path="firing_analysis.png")
"""

MONITORING = """
# Monitor neural firing during training
def monitor_firing_during_training(model, validation_data):
    analyzer = NeuralFiringAnalyzer()
    
    with torch.no_grad():
        report = analyzer.analyze_pytorch_model(model, validation_data)
    
    if report.overall_health_score < 0.6:
        print("Warning: Poor neural firing detected!")
        return report.recommendations
    
    return None

# Set up alerts for firing issues
def check_firing_health(report):
    alerts = []
    
    if report.missing_firing_percentage > 50:
        alerts.append("Critical: High missing firing rate")
    
    if report.problematic_layers > report.total_layers * 0.3:
        alerts.append("Warning: Many problematic layers")
    
    return alerts

# Integrate with training pipeline
class FiringMonitor:
    def __init__(self):
        self.analyzer = NeuralFiringAnalyzer()
        self.history = []
    
    def check_epoch(self, model, data, epoch):
        report = self.analyzer.analyze_pytorch_model(model, data)
        self.history.append({
            'epoch': epoch,
            'health_score': report.overall_health_score,
            'missing_percentage': report.missing_firing_percentage
        })
        
        # Detect degradation
        if len(self.history) > 2:
            if self.history[-1]['health_score'] < self.history[-2]['health_score'] * 0.9:
                return "Warning: Neural firing degradation detected"
        
        return None
"""  # noqa: W293

SHORT_TEXT = """
analyzer = SubtextAnalyzer()
result = analyzer.analyze_expression_evaluation("Your text here")

# Neural firing analysis is automatically included
neural_analysis = result['neural_firing_analysis']
print(f"Neural health score: {neural_analysis['neural_health_score']}")
"""

TEXT = """
analyzer = SubtextAnalyzer()

# Analyze neural firing for text processing
text = "Complex neural networks require careful monitoring of activation patterns."
result = analyzer.analyze_expression_evaluation(text)

neural_analysis = result['neural_firing_analysis']
print(f"Neural processing health: {neural_analysis['neural_health_score']:.2f}")
print(f"Interpretation: {neural_analysis['interpretation']}")
"""

PIPELINE = """
# 1. Initialize analyzers
neural_analyzer = NeuralFiringAnalyzer()
text_analyzer = SubtextAnalyzer()

# 2. Analyze neural network health
print("=== Neural Network Analysis ===")
network_report = neural_analyzer.analyze_simulated_llm_activations(
    num_layers=12,
    simulate_issues=True
)

print(f"Network Health Score: {network_report.overall_health_score:.2f}")
print(f"Problematic Layers: {network_report.problematic_layers}/{network_report.total_layers}")

# 3. Analyze text processing capability
print("\\n=== Text Processing Analysis ===")
test_text = "Neural networks may experience firing issues that affect language processing."
text_result = text_analyzer.analyze_expression_evaluation(test_text)

if 'neural_firing_analysis' in text_result:
    nfa = text_result['neural_firing_analysis']
    print(f"Text Processing Health: {nfa['neural_health_score']:.2f}")
    print(f"Firing Rate: {nfa['overall_firing_rate']:.2f}")

# 4. Generate recommendations
print("\\n=== Recommendations ===")
for i, rec in enumerate(network_report.recommendations, 1):
    print(f"{i}. {rec}")

# 5. Visualize results (if matplotlib available)
try:
    neural_analyzer.visualize_firing_patterns(network_report)
except Exception as e:
    print(f"Visualization not available: {e}")
"""


def run(code: str, names: dict[str, Any]) -> dict[str, Any]:
    exec(IMPORTS + code, names)
    return names


def test_the_analyzer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    given = {
        "activation_tensor": np.random.default_rng(0).normal(size=(2, 50, 30)),
        "model": nn.Sequential(nn.Linear(6, 20), nn.ReLU(), nn.Linear(20, 4)),
        "input_data": torch.randn(64, 6),
    }
    names = run(SETUP + ONE_LAYER + NETWORKS + DRAWN, given)
    analysis, report = names["analysis"], names["report"]
    assert (analysis.layer_name, analysis.dead_neurons, analysis.issues) == ("transformer_layer_1", 0, [])
    assert analysis.activation_rate == pytest.approx(0.5, abs=0.03) and analysis.firing_pattern == "normal"
    assert report.total_layers == 12 and len(report.layer_analyses) == 12 and report.problematic_layers > 0
    assert 0 < report.missing_firing_percentage < 100 and report.recommendations and report.summary
    assert (tmp_path / "firing_analysis.png").read_bytes().startswith(b"\x89PNG")


def test_watching_a_training(capsys: pytest.CaptureFixture[str]) -> None:
    names = run(MONITORING, {})
    torch.manual_seed(0)
    model, data = nn.Sequential(nn.Linear(6, 40), nn.ReLU()), 3 * torch.randn(200, 6)
    monitor = names["FiringMonitor"]()
    assert names["monitor_firing_during_training"](model, data) is None
    assert [monitor.check_epoch(model, data, epoch) for epoch in (1, 2)] == [None, None]
    with torch.no_grad():
        model[0].bias[:30] = -1e4
    assert monitor.check_epoch(model, data, 3) == "Warning: Neural firing degradation detected"
    assert monitor.history[-1]["missing_percentage"] == 75.0
    assert names["monitor_firing_during_training"](model, data)
    assert "Poor neural firing" in capsys.readouterr().out
    report = nf.NeuralFiringAnalyzer().analyze_pytorch_model(model, data)
    theirs, ours = names["check_firing_health"](report), nf.check_firing_health(report)
    assert theirs == ["Critical: High missing firing rate", "Warning: Many problematic layers"]
    assert [alert.split(":")[0] for alert in ours] == ["Critical", "Warning"]


def test_texts(capsys: pytest.CaptureFixture[str]) -> None:
    for snippet in (SHORT_TEXT, TEXT):
        names = run(snippet, {})
        analysis, said = names["neural_analysis"], capsys.readouterr().out
        score = analysis["neural_health_score"]
        assert 0 < score <= 1 and names["result"]["simulated"] is False
        assert said in (
            f"Neural health score: {score}\n",
            f"Neural processing health: {score:.2f}\nInterpretation: {analysis['interpretation']}\n",
        )


def test_the_whole_pipeline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    names = run(PIPELINE, {})
    said, report = capsys.readouterr().out, names["network_report"]
    assert f"Network Health Score: {report.overall_health_score:.2f}" in said
    assert f"Problematic Layers: {report.problematic_layers}/12" in said
    assert f"Firing Rate: {names['nfa']['overall_firing_rate']:.2f}" in said
    assert f"1. {report.recommendations[0]}" in said and "not available" not in said
    assert (tmp_path / "firing_patterns.png").exists()


def test_the_fields_that_the_notes_name() -> None:
    report = nf.NeuralFiringAnalyzer().analyze_simulated_llm_activations(3, 100, 200)
    assert isinstance(report, nf.NetworkFiringReport)
    assert isinstance(report.layer_analyses[0], nf.NeuralLayerAnalysis)
    layer = {
        "layer_name": str,
        "activation_rate": float,
        "firing_pattern": str,
        "missing_neurons": int,
        "weak_neurons": int,
        "dead_neurons": int,
        "activation_distribution": dict,
        "issues": list,
    }
    network = {
        "total_layers": int,
        "problematic_layers": int,
        "missing_firing_percentage": float,
        "overall_health_score": float,
        "layer_analyses": list,
        "recommendations": list,
        "summary": str,
    }
    for one, fields in ((report.layer_analyses[0], layer), (report, network)):
        for name, kind in fields.items():
            assert isinstance(getattr(one, name), kind), name
