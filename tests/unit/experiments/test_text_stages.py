"""One text, stage by stage: each stage is what a capture of the same text says, the predictions are the model's own."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from families import FAMILIES, gpt2, llama, mamba
from words import word_tokenizer

import nfinspect as nf
from nfinspect.analysis.classes import HealthOptions
from nfinspect.experiments.lens import logit_lens
from nfinspect.experiments.text_report import Stage, TextFiring
from nfinspect.experiments.text_simulation import simulated_stages
from nfinspect.experiments.text_stages import text_stages
from nfinspect.models import CannotTokenize, NonFiniteActivations, UnknownToken, body, in_memory
from nfinspect_store.errors import NfinspectError, RequestError

TEXT = "w5 w6 w7 w8 w9 w10 w6 w5"
STAGES = ("tokenization", "embedding", "attention", "processing", "output")
IDS = [5, 6, 7, 8, 9, 10, 6, 5]


def stage(found: TextFiring, name: str) -> Stage:
    return next(one for one in found.stages if one.name == name)


@pytest.mark.parametrize(
    ("family", "skip_first"),
    [("gpt2", False), ("gpt2", True), ("llama", True), ("mamba", False), ("opt", False), ("bloom", False)],
)
def test_every_site_has_the_health_of_a_capture(family: str, skip_first: bool, tmp_path: Path) -> None:
    model = FAMILIES[family]()
    found = text_stages(in_memory(model, word_tokenizer()), TEXT, HealthOptions(skip_first=skip_first))
    assert [one.name for one in found.stages] == list(STAGES)
    sites = ["mixer", "resid"] if family == "mamba" else ["attn", "mlp", "resid"]
    run = nf.capture(model, word_tokenizer(), [TEXT], store=tmp_path, sites=sites)
    mine = {report.site: report for one in found.stages for report in one.reports}
    assert set(mine) == {*sites, "embedding", "output"}
    for site in sites:
        expected = run.health(site, skip_first=skip_first)
        assert mine[site].overall_health_score == pytest.approx(expected.overall_health_score, abs=1e-12)
        for a, b in zip(mine[site].layer_analyses, expected.layer_analyses, strict=True):
            assert (a.layer_name, a.dead_neurons, a.weak_neurons) == (b.layer_name, b.dead_neurons, b.weak_neurons)
            assert a.activation_rate == pytest.approx(b.activation_rate, abs=1e-12)
    run.close()


def test_ends_are_what_enters_the_first_block_and_the_head() -> None:
    model = llama()
    found = text_stages(in_memory(model, word_tokenizer()), TEXT)
    with torch.no_grad():
        states = body(model)(input_ids=torch.tensor([IDS]), output_hidden_states=True)
    for name, values in (("embedding", states.hidden_states[0][0]), ("output", states.last_hidden_state[0])):
        (layer,) = stage(found, name).reports[0].layer_analyses
        spread = layer.activation_distribution
        assert spread is not None
        assert spread.mean == pytest.approx(float(values.double().mean()), rel=1e-5)
        assert (spread.min, spread.max) == pytest.approx((float(values.min()), float(values.max())), rel=1e-5)
        scale = values.abs().mean()
        rate = float((values.abs() >= 0.1 * scale).double().mean())
        assert layer.activation_rate == pytest.approx(rate, abs=1 / values.numel())


@pytest.mark.parametrize("family", ["gpt2", "mamba", "gemma2"])
def test_predictions_are_those_of_the_model(family: str) -> None:
    model = FAMILIES[family]()
    found = text_stages(in_memory(model, word_tokenizer()), TEXT, top=3)
    with torch.no_grad():
        log_probs = torch.log_softmax(model(torch.tensor([IDS])).logits[0].double(), -1)
    assert [token.token_id for token in found.tokens] == IDS
    assert found.tokens[0].surprisal is None
    expected = [-float(log_probs[i - 1, IDS[i]]) for i in range(1, len(IDS))]
    assert [token.surprisal for token in found.tokens[1:]] == pytest.approx(expected, abs=1e-5)
    assert found.mean_surprisal == pytest.approx(sum(expected) / len(expected), abs=1e-5)
    assert found.next_tokens is not None
    last = log_probs[-1]
    assert found.next_tokens.entropy == pytest.approx(-float((last.exp() * last).sum()), abs=1e-6)
    assert [token_id for token_id, *_ in found.next_tokens.top] == last.topk(3).indices.tolist()
    assert found.next_tokens.top[0][2] == pytest.approx(math.exp(float(last.max())), abs=1e-6)


def test_overall_figures_are_means_of_the_stages_and_the_sentence_says_so() -> None:
    found = text_stages(in_memory(gpt2("relu"), word_tokenizer()), TEXT)
    scores = [one.health_score for one in found.stages if one.reports]
    assert len(scores) == 4
    assert found.neural_health_score == pytest.approx(sum(scores) / 4)
    rates = [one.firing_rate for one in found.stages if one.reports]
    assert found.overall_firing_rate == pytest.approx(sum(rates) / 4)
    assert f"{found.neural_health_score:.2f} = mean of embedding" in found.interpretation
    deep = stage(found, "processing")
    assert deep.health_score == pytest.approx(sum(report.overall_health_score for report in deep.reports) / 2)
    assert any("8 tokens" in note and "38 %" in note for note in found.notes)  # 3 / 8
    assert stage(found, "tokenization").firing_rate is None


def test_a_mlp_made_dead_is_seen_in_its_stage_alone() -> None:
    model = gpt2("relu")
    before = text_stages(in_memory(model, word_tokenizer()), TEXT)
    with torch.no_grad():
        model.transformer.h[2].mlp.c_fc.weight.zero_()
        model.transformer.h[2].mlp.c_fc.bias.fill_(-1)
    found = text_stages(in_memory(model, word_tokenizer()), TEXT)
    mlp = stage(found, "processing").reports[0]
    assert mlp.layer_analyses[2].dead_neurons == mlp.layer_analyses[2].neurons
    assert any(issue.startswith("mlp L2, dead: 64 of 64") for issue in stage(found, "processing").issues)
    assert stage(found, "embedding") == stage(before, "embedding")
    assert stage(found, "attention").firing_rate == stage(before, "attention").firing_rate
    assert found.neural_health_score < before.neural_health_score


def test_mamba_has_its_mixer_in_place_of_attention_and_is_told_apart() -> None:
    found = text_stages(in_memory(mamba(), word_tokenizer()), TEXT)
    assert stage(found, "attention").sites == ("mixer",) and "mixer" in stage(found, "attention").what
    assert stage(found, "processing").sites == ("resid",)


def test_a_simulation_says_so_and_is_the_same_for_the_same_text() -> None:
    found = simulated_stages(TEXT)
    document = found.to_json()
    assert document["simulated"] is True and document["model"] == "simulated" and document["next_token"] is None
    analysis = document["neural_firing_analysis"]
    assert isinstance(analysis, dict)
    assert analysis["simulated"] is True and analysis["notes"][0].startswith("simulated")
    assert "not of a model" in analysis["interpretation"]
    assert [one["stage"] for one in analysis["processing_stages"]] == list(STAGES)
    assert simulated_stages(TEXT).to_json() == document
    assert simulated_stages(TEXT + " w1").neural_health_score != found.neural_health_score
    layers = stage(found, "processing").reports[0].layer_analyses
    assert layers[0].health_score > layers[-1].health_score


@pytest.mark.parametrize(
    ("text", "kind", "expected"),
    [
        ("", RequestError, "one token"),
        ("w1 " * 65, RequestError, "(at most 64 tokens|64 at most), the model's context"),
        ("w1 \ud800", CannotTokenize, "half a surrogate pair"),
        ("w3 other", UnknownToken, "from 0 to 100, .* found 101 in .*: the ids come from another model's tokenizer"),
    ],
)
@pytest.mark.parametrize("read", [text_stages, logit_lens])
def test_texts_that_cannot_be_read_are_refused(
    read: Callable[..., object], text: str, kind: type[NfinspectError], expected: str
) -> None:
    tokenizer = word_tokenizer()
    tokenizer.add_tokens(["other"])
    with pytest.raises(kind, match=expected):
        read(in_memory(gpt2(), tokenizer), text)


def test_a_single_token_has_no_surprisal_and_cannot_lose_its_first() -> None:
    loaded = in_memory(gpt2(), word_tokenizer())
    found = text_stages(loaded, "w5")
    assert (len(found.tokens), found.mean_surprisal) == (1, None)
    with pytest.raises(RequestError, match="position 0"):
        text_stages(loaded, "w5", HealthOptions(skip_first=True))
    with pytest.raises(RequestError, match="1 to 4,096 words"):
        simulated_stages(" ")


def test_values_that_are_not_finite_are_an_error_that_names_the_layer() -> None:
    model = gpt2()
    with torch.no_grad():
        model.transformer.h[1].mlp.c_fc.weight[0, 0] = float("nan")
    with pytest.raises(NonFiniteActivations, match="layer 1"):
        text_stages(in_memory(model, word_tokenizer()), TEXT)


def test_the_model_is_left_as_it_was() -> None:
    model = gpt2().train()
    analyzer = nf.SubtextAnalyzer(model, word_tokenizer())
    found = analyzer.analyze(TEXT)
    assert model.training and found.to_json() == nf.SubtextAnalyzer(gpt2(), word_tokenizer()).analyze(TEXT).to_json()
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    for arguments in ((gpt2(),), (None, word_tokenizer()), ("gpt2", word_tokenizer())):
        with pytest.raises(RequestError, match="tokenizer"):
            nf.SubtextAnalyzer(*arguments)
    with pytest.raises(RequestError, match="both"):
        nf.SubtextAnalyzer("gpt2", simulated=True)
