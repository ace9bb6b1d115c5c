"""What detectors do to the logits of their own triggers (methods §5)."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from families import VOCAB, gpt2, llama, mamba
from transformers import PreTrainedModel
from words import word_tokenizer

from nfinspect.analysis.ngram_layers import LayerNgrams
from nfinspect.analysis.ngrams import CoveredNgram, Detector, NgramAnalysis
from nfinspect.capturing.arrays import ArrayPrompt, array_info, write_run
from nfinspect.experiments.suppression import with_suppression
from nfinspect.models import find_sites, in_memory
from nfinspect_store.errors import RequestError
from nfinspect_store.types import Layer

GRAMS = {(0, 3): ((2, 7), (5, 9)), (0, 5): ((1, 4),), (1, 3): ((6, 9), (8, 9), (3, 0))}
"""(layer, neuron) -> the bigrams it covers."""


def analysis(model: PreTrainedModel, site: str) -> NgramAnalysis:
    neurons = find_sites(model, [site], [0])[0].neurons
    detectors = tuple(
        Detector(site, layer, neuron, 1, 10, 1.0, None, tuple(CoveredNgram(g, ("a", "b"), 5, 5, "ab") for g in grams))
        for (layer, neuron), grams in GRAMS.items()
    )
    layers = tuple(LayerNgrams(site, layer, neurons, neurons, 2, 2, 2, 2, 2, {}) for layer in (0, 1))
    return NgramAnalysis(2, site, 100, 10, None, detectors, layers)


def formula(model: PreTrainedModel, layer: int, neuron: int) -> np.ndarray:
    """(W_U · diag(γ_final) · w_out), the mean over the vocabulary removed, with each family's weights by name."""
    kind = model.config.model_type
    with torch.no_grad():
        unembedding = model.get_output_embeddings().weight.double()
        if kind == "gpt2":
            out = model.transformer.h[layer].mlp.c_proj.weight[neuron].double()
            out, gain = out - out.mean(), model.transformer.ln_f.weight
        elif kind == "llama":
            out, gain = model.model.layers[layer].mlp.down_proj.weight[:, neuron].double(), model.model.norm.weight
        else:
            out = model.backbone.layers[layer].mixer.out_proj.weight[:, neuron].double()
            gain = model.backbone.norm_f.weight
        effects = unembedding @ (gain.double() * out)
        return (effects - effects.mean()).numpy()


@pytest.mark.parametrize(("make", "site"), [(gpt2, "mlp"), (llama, "mlp"), (mamba, "mixer")])
def test_the_mean_effect_on_the_last_tokens_of_what_is_covered(make, site: str) -> None:  # type: ignore[no-untyped-def]
    model = make()
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "ln_f" in name or "norm" in name:  # gains of a trained model are not 1
            parameter.data.uniform_(0.5, 2)
    loaded = in_memory(model, word_tokenizer(), "tiny")
    found = with_suppression(analysis(model, site), loaded)
    assert found.suppression_model == "tiny"
    assert [(d.layer, d.neuron) for d in found.detectors] == list(GRAMS)
    for detector in found.detectors:
        effects = formula(model, detector.layer, detector.neuron)
        expected = np.mean([effects[gram[-1]] for gram in GRAMS[detector.layer, detector.neuron]])
        assert detector.suppression == pytest.approx(expected, rel=1e-4, abs=1e-7)


def test_without_detectors_there_is_nothing_to_do() -> None:
    model = gpt2()
    none = replace(analysis(model, "mlp"), detectors=())
    assert with_suppression(none, in_memory(model, word_tokenizer(), "tiny")).detectors == ()


def test_another_model_than_the_runs_is_refused() -> None:
    model = gpt2()
    loaded = in_memory(model, word_tokenizer(), "tiny")
    right = analysis(model, "mlp")
    deep = replace(right, detectors=(replace(right.detectors[0], layer=9),))
    wide = replace(right, layers=tuple(replace(layer, neurons=12) for layer in right.layers))
    wordy = (CoveredNgram((0, VOCAB), ("a", "b"), 5, 5, "ab"),)
    spoken = replace(right, detectors=(replace(right.detectors[0], ngrams=wordy),))
    for wrong in (deep, wide, spoken):
        with pytest.raises(RequestError, match="it is another model"):
            with_suppression(wrong, loaded)


def test_the_command_takes_the_runs_model_and_keeps_what_it_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from nfinspect.cli import main

    model, directory = gpt2(), tmp_path / "model"
    model.save_pretrained(directory)
    word_tokenizer().save_pretrained(directory)
    rows = np.random.default_rng(0).integers(0, 20, (40, 12)).tolist()
    width = find_sites(model)[0].neurons
    write_run(
        tmp_path / "tokens.duckdb",
        layers=[Layer(0, "mlp", 0, "h.0.mlp", width, "relu", "positive")],
        prompts=[ArrayPrompt("a", "text", row, [f" {i}" for i in row], 12) for row in rows],
        values=lambda p, _: (np.array(rows[p])[:, None] == np.arange(width)).astype(np.float32),
        info=replace(array_info("tokens", 0), model=str(directory)),
    )

    def called(*more: str) -> tuple[dict[int, float], str]:
        assert main(["ngrams", "tokens", "--store", str(tmp_path), "--json", *more]) == 0
        shown = capsys.readouterr()
        found = json.loads(shown.out)
        assert found["suppression_model"] == str(directory)
        return {d["neuron"]: d["suppression"] for d in found["detectors"]}, shown.err

    first, _ = called()
    assert list(first) == list(range(20))
    for neuron, value in first.items():
        assert value == pytest.approx(formula(model, 0, neuron)[neuron], rel=1e-4, abs=1e-7)
    (directory / "model.safetensors").unlink()  # what is kept needs no model
    second, said = called()
    assert second == first and "kept from" in said
    assert called("--model", str(directory))[0] == first
