"""Promoted and suppressed tokens, and the logit lens."""

import json
import math

import numpy as np
import pytest
import torch
from families import FAMILIES, VOCAB, gpt2, llama
from words import word_tokenizer

from nfinspect.experiments.lens import lens_logits, logit_lens
from nfinspect.experiments.logits import neuron_logits
from nfinspect.experiments.output_weights import output_effects
from nfinspect.models import UnknownSite, find_sites, in_memory
from nfinspect_store.errors import RequestError

PROMPT = "w5 w6 w7 w8 w9"
IDS = [5, 6, 7, 8, 9]


def test_a_planted_neuron_promotes_and_suppresses_what_it_writes() -> None:
    model = gpt2()
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    with torch.no_grad():
        model.lm_head.weight.mul_(0.01)
        model.transformer.ln_f.weight.fill_(1)
        written = torch.randn(16)
        written -= written.mean()
        model.lm_head.weight[40] = written
        model.lm_head.weight[41] = -2 * written
        model.transformer.h[1].mlp.c_proj.weight[7] = written + 3  # a shift that the LayerNorm takes off
    found = neuron_logits(in_memory(model, word_tokenizer()), "L1/N7", top=3)
    assert (found.promoted[0].token_id, found.promoted[0].token) == (40, "w40")
    assert (found.suppressed[0].token_id, found.suppressed[0].token) == (41, "w41")
    square = float(written @ written)
    assert found.promoted[0].effect == pytest.approx(square * (1 + 1 / VOCAB), rel=0.05)
    assert found.suppressed[0].effect == pytest.approx(-2 * found.promoted[0].effect, rel=0.05)


@pytest.mark.parametrize(("family", "address"), [("llama", "L2/N3"), ("mamba", "L0/N31"), ("gpt2", "resid:L1/N4")])
def test_tokens_are_the_ends_of_the_effects(family: str, address: str) -> None:
    loaded = in_memory(FAMILIES[family](), word_tokenizer())
    found = neuron_logits(loaded, address, top=4)
    site = find_sites(loaded.model, [found.site], [found.layer])[0]
    effects = output_effects(loaded, site, [found.neuron])[0]
    assert [e.effect for e in found.promoted] == sorted(effects.tolist(), reverse=True)[:4]
    assert [e.effect for e in found.suppressed] == sorted(effects.tolist())[:4]
    assert all(effects[e.token_id] == np.float32(e.effect) for e in (*found.promoted, *found.suppressed))
    assert found.address == address.rpartition(":")[2]
    assert found.vocabulary == VOCAB and found.std == pytest.approx(effects.std(ddof=1))


def test_rows_of_the_head_without_a_token_have_no_text() -> None:
    model = llama()
    model.resize_token_embeddings(VOCAB + 5, mean_resizing=False)
    found = neuron_logits(in_memory(model, word_tokenizer()), "L0/N0", top=VOCAB + 5)
    texts = {e.token_id: e.token for e in found.promoted}
    assert [texts[VOCAB + i] for i in range(5)] == [None] * 5
    assert texts[50] == "w50"


def test_wrong_requests() -> None:
    loaded = in_memory(gpt2(), word_tokenizer())
    with pytest.raises(RequestError, match="L5/N123"):
        neuron_logits(loaded, "neuron 5")
    with pytest.raises(RequestError, match="neurons 0-63"):
        neuron_logits(loaded, "L0/N64")
    with pytest.raises(UnknownSite, match="mixer"):
        neuron_logits(loaded, "mixer:L0/N0")
    with pytest.raises(RequestError, match="--top"):
        neuron_logits(loaded, "L0/N0", top=0)
    with pytest.raises(RequestError, match="one token or more, 64 at most, the model's context; found 65"):
        logit_lens(loaded, "w5 " * 65)
    with pytest.raises(RequestError, match="found 0"):
        logit_lens(loaded, "")


@pytest.mark.parametrize("family", FAMILIES)
def test_the_last_layer_of_the_lens_is_the_models_output(family: str) -> None:
    model = FAMILIES[family]()
    found = lens_logits(in_memory(model, word_tokenizer()), IDS)
    with torch.no_grad():
        expected = model(torch.tensor([IDS]), use_cache=False).logits[0, -1]
    torch.testing.assert_close(found[-1], expected, rtol=0, atol=1e-5)
    assert found.shape == (len(find_sites(model, ["resid"])), VOCAB)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize(
    ("family", "norm"), [("gpt2", "transformer.ln_f"), ("gemma2", "model.norm"), ("mamba", "backbone.norm_f")]
)
def test_each_layer_is_its_output_through_the_final_norm_and_the_head(family: str, norm: str) -> None:
    model = FAMILIES[family]()
    outputs: list[torch.Tensor] = []
    for site in find_sites(model, ["resid"]):
        block = model.get_submodule(site.module)
        block.register_forward_hook(lambda m, a, out: outputs.append(out[0] if isinstance(out, tuple) else out))
    with torch.no_grad():
        model(torch.tensor([IDS]), use_cache=False)
        kept = list(outputs)
        found = lens_logits(in_memory(model, word_tokenizer()), IDS)
        for layer, hidden in enumerate(kept):
            expected = model.lm_head(model.get_submodule(norm)(hidden))[0, -1]
            if cap := getattr(model.config, "final_logit_softcapping", None):
                expected = cap * torch.tanh(expected / cap)
            torch.testing.assert_close(found[layer], expected, rtol=0, atol=1e-5)


def test_layers_in_groups_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = in_memory(llama(), word_tokenizer())
    whole = lens_logits(loaded, IDS)
    monkeypatch.setattr("nfinspect.experiments.lens.LOGIT_BYTES", 1)
    torch.testing.assert_close(lens_logits(loaded, IDS), whole, rtol=0, atol=1e-5)


def test_ranks_probabilities_and_entropy() -> None:
    loaded = in_memory(gpt2(), word_tokenizer())
    found = logit_lens(loaded, PROMPT, top=VOCAB)
    scores = lens_logits(loaded, IDS).double()
    answer = int(scores[-1].argmax())
    assert (found.answer.token_id, found.tokens, len(found.layers)) == (answer, 5, 3)
    assert found.layers[-1].answer_rank == 1
    for layer, row in zip(found.layers, torch.softmax(scores, dim=-1).numpy(), strict=True):
        assert layer.entropy == pytest.approx(-(row * np.log(row)).sum())
        assert layer.answer_log_prob == pytest.approx(math.log(row[answer]))
        assert layer.answer_rank == 1 + (row > row[answer]).sum()
        assert [t.probability for t in layer.top] == pytest.approx(sorted(row.tolist(), reverse=True))
        assert sum(t.probability for t in layer.top) == pytest.approx(1)


@pytest.mark.parametrize("family", ["gpt2", "gemma2", "mamba"])
def test_after_every_token_stands_what_the_prompt_up_to_it_would_get(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = in_memory(FAMILIES[family](), word_tokenizer())
    monkeypatch.setattr("nfinspect.experiments.lens.LOGIT_BYTES", 1)  # a layer at a time
    found = logit_lens(loaded, PROMPT, positions=True)
    assert found.prompt_tokens == ("w5", " w6", " w7", " w8", " w9")
    for place in range(len(IDS)):
        until = logit_lens(loaded, " ".join(PROMPT.split()[: place + 1]), top=1)
        for layer, alone in zip(found.layers, until.layers, strict=True):
            assert layer.positions[place].token_id == alone.top[0].token_id
            assert layer.positions[place].probability == pytest.approx(alone.top[0].probability, rel=1e-4)


def test_a_model_that_knows_nothing_has_the_entropy_of_its_vocabulary() -> None:
    model = llama()
    torch.nn.init.zeros_(model.lm_head.weight)
    found = logit_lens(in_memory(model, word_tokenizer()), PROMPT)
    assert found.layers[0].entropy == pytest.approx(math.log(VOCAB))
    assert [layer.answer_rank for layer in found.layers] == [1, 1, 1]
    found = logit_lens(in_memory(model, word_tokenizer()), PROMPT, positions=True)
    assert {token.token_id for layer in found.layers for token in layer.positions} == {0}, "ties go to the smaller id"


def test_json_has_the_fields_of_the_contract() -> None:
    loaded = in_memory(gpt2(), word_tokenizer())
    document = json.loads(json.dumps(neuron_logits(loaded, "L0/N0").to_json(), allow_nan=False))
    for end in ("promoted", "suppressed"):
        assert len(document[end]) == 10
        assert set(document[end][0]) == {"token_id", "token", "effect"}
    document = json.loads(json.dumps(logit_lens(loaded, PROMPT).to_json(), allow_nan=False))
    assert set(document) == {"model", "prompt", "tokens", "answer", "layers", "notes"}
    assert set(document["layers"][0]) == {"layer", "entropy", "answer_rank", "answer_log_prob", "top"}
    assert set(document["layers"][0]["top"][0]) == set(document["answer"]) == {"token_id", "token", "probability"}
    document = json.loads(json.dumps(logit_lens(loaded, PROMPT, positions=True).to_json(), allow_nan=False))
    assert document["prompt_tokens"] == ["w5", " w6", " w7", " w8", " w9"]
    assert all(len(layer["positions"]) == 5 for layer in document["layers"])
    assert set(document["layers"][0]["positions"][0]) == {"token_id", "token", "probability"}
