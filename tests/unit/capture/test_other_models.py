"""Models that see ahead, that padding changes, and whose MLPs are not read: read rightly or refused, and said so."""

import json
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as tf
from families import FAMILIES, VOCAB
from words import word_tokenizer

import nfinspect as nf
from nfinspect.capturing.generation import generate
from nfinspect.capturing.writing import Writing, writing
from nfinspect.cli import main
from nfinspect.experiments.attention import attention
from nfinspect.experiments.lens import logit_lens
from nfinspect.experiments.perplexity import Scorer
from nfinspect.models import Dependence, UnsupportedModel, dependence, in_memory

PROMPTS = ["w5 w6 w7 w8 w9", "w10 w11", "w12 w13 w14"]
SMALL = {"vocab_size": VOCAB, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "pad_token_id": 0}
ROWS = {**SMALL, "intermediate_size": 24, "max_position_embeddings": 64}


def random(config: Any) -> Any:
    torch.manual_seed(3)
    model = tf.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def bert(**settings: Any) -> Any:
    return random(tf.BertConfig(**ROWS, **settings))


def roberta() -> Any:
    return random(tf.RobertaConfig(**ROWS | {"pad_token_id": 1}))


def bart() -> Any:
    sizes = {"d_model": 16, "decoder_layers": 2, "decoder_attention_heads": 4, "decoder_ffn_dim": 24}
    return random(tf.BartConfig(**sizes, encoder_layers=2, vocab_size=VOCAB, max_position_embeddings=64))


class OwnExperts(torch.nn.Module):
    """Experts that transformers does not run, and whose neurons are not read."""

    def forward(self, hidden: torch.Tensor, chosen: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        return hidden


def moe() -> Any:
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24, "num_key_value_heads": 2}
    model = random(tf.Qwen3MoeConfig(**ROWS, **experts, mlp_only_layers=[0]))
    model.model.layers[1].mlp.experts = OwnExperts()
    return model


@pytest.mark.parametrize(
    ("make", "found"),
    [
        (FAMILIES["gpt2"], Dependence(causal=True, right=True, left=True)),
        (FAMILIES["mamba_bias"], Dependence(causal=True, right=True, left=False)),
        (bart, Dependence(causal=True, right=True, left=False)),
        (bert, Dependence(causal=False, right=False, left=False)),
        (roberta, Dependence(causal=False, right=False, left=False)),
    ],
)
def test_what_a_token_depends_on_is_found_out_by_running(make: Callable[[], Any], found: Dependence) -> None:
    assert dependence(make()) == found


def test_a_config_can_turn_a_family_round() -> None:
    assert dependence(bert(is_decoder=True)).causal


def alone(model: Any, module: str, ids: list[int]) -> np.ndarray:
    """The input of `module` in a plain pass over one prompt."""
    seen: list[torch.Tensor] = []
    handle = model.get_submodule(module).register_forward_pre_hook(lambda m, args: seen.append(args[0].detach()))
    with torch.no_grad():
        model(input_ids=torch.tensor([ids]))
    handle.remove()
    return seen[0].reshape(-1, seen[0].shape[-1]).numpy()


@pytest.mark.filterwarnings("ignore:found by structure")
def test_a_model_that_sees_ahead_is_read_without_padding_and_the_run_says_so(tmp_path: Path) -> None:
    model = bert()
    with pytest.warns(UserWarning, match="depend on the tokens after it"):
        run = nf.capture(model, word_tokenizer(), PROMPTS, store=tmp_path, run="bert")
    assert run.default_site == "mlp"
    ids = [[int(word[1:]) for word in prompt.split()] for prompt in PROMPTS]
    for layer in range(2):
        wanted = [alone(model, f"bert.encoder.layer.{layer}.output.dense", prompt) for prompt in ids]
        np.testing.assert_allclose(run.activations("mlp", layer), np.concatenate(wanted), rtol=0, atol=1e-5)
    assert "depend on the tokens after it" in run.health().notes[0]


@pytest.mark.parametrize("make", [bert, roberta])
def test_what_needs_a_next_token_is_refused_for_it(make: Callable[[], Any], tmp_path: Path) -> None:
    model, tokenizer = make(), word_tokenizer()
    loaded = in_memory(model, tokenizer)
    uses: list[Callable[[], object]] = [
        lambda: nf.capture(model, tokenizer, PROMPTS, store=tmp_path, generate=2),
        lambda: nf.SubtextAnalyzer(model, tokenizer).analyze("w5 w6"),
        lambda: logit_lens(loaded, "w5 w6"),
        lambda: attention(loaded, [[5, 6, 7]]),
        lambda: Scorer(loaded, np.arange(3, 40), 16, 8),
    ]
    for use in uses:
        with pytest.raises(
            UnsupportedModel, match="expected a causal language model for .* depend on the tokens after"
        ):
            use()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.filterwarnings("ignore:found by structure")
def test_where_left_padding_changes_values_prompts_of_unlike_lengths_do_not_write_together(tmp_path: Path) -> None:
    model = bart()
    together = nf.capture(model, word_tokenizer(), PROMPTS, store=tmp_path, run="all", generate=3, mode="live")
    for i, prompt in enumerate(PROMPTS):
        one = nf.capture(model, word_tokenizer(), [prompt], store=tmp_path, run=f"one{i}", generate=3, mode="live")
        rows = together.prompt_tokens(i)
        assert rows.token_id.tolist() == one.prompt_tokens(0).token_id.tolist()
        here = together.activations("mlp", 1)[rows.token_idx]
        np.testing.assert_allclose(here, one.activations("mlp", 1), rtol=0, atol=1e-5)


def test_where_generation_loses_the_mask_of_the_padding_each_length_is_written_apart(tmp_path: Path) -> None:
    model = FAMILIES["gpt2"]()
    prepare = model.prepare_inputs_for_generation

    @wraps(prepare)  # generate() looks at what it takes
    def without_mask(*args: Any, **kwargs: Any) -> dict[str, Any]:
        return {**prepare(*args, **kwargs), "attention_mask": None}

    model.prepare_inputs_for_generation = without_mask
    how: dict[str, Any] = {"new_tokens": 2, "pad_id": 0, "seed": 0, "temperature": 0.0}
    with pytest.raises(UnsupportedModel, match="pass its attention mask on.*--batch-size 1"):
        generate(model, [[5, 6, 7], [8]], prompt_indices=range(2), **how)
    assert writing(model) == Writing(together=False, stepwise=True)
    run = nf.capture(model, word_tokenizer(), PROMPTS, store=tmp_path, run="apart", generate=2)
    for i, prompt in enumerate(PROMPTS):
        ids = [int(word[1:]) for word in prompt.split()]
        written = run.prompt_tokens(i).token_id.tolist()
        assert [written] == generate(FAMILIES["gpt2"](), [ids], prompt_indices=[i], **how)


@pytest.mark.filterwarnings("ignore:found by structure")
def test_a_mixture_of_unknown_experts_says_loudly_that_its_mlps_are_not_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = "no MLP neurons in this run: the MLP of layers 1 of 'qwen3_moe' is a mixture of experts"
    with pytest.warns(UserWarning, match=said):
        run = nf.capture(moe(), word_tokenizer(), PROMPTS, store=tmp_path, run="moe")
    assert run.sites == ("resid",) and "--sites mlp --layers 0 reads" in run.notes[0]
    assert set(run.notes) < set(run.health().notes)  # that these are few tokens comes with it
    run.close()

    def output(*arguments: str) -> str:
        capsys.readouterr()
        assert main([*arguments, "moe", "--store", str(tmp_path)]) == 0
        return capsys.readouterr().out

    assert "NOTE no MLP neurons in this run" in output("health")
    assert set(run.notes) < set(json.loads(output("health", "--json"))["notes"])
    assert "no MLP neurons in this run" in output("info")
    assert json.loads(output("info", "--json"))["notes"] == list(run.notes)
    dense = nf.capture(moe(), word_tokenizer(), PROMPTS, store=tmp_path, run="dense", sites=("mlp",), layers=(0,))
    assert [layer.layer for layer in dense.layers] == [0] and dense.notes == ()


def test_a_recording_says_it_too(tmp_path: Path) -> None:
    model = moe()
    with (
        pytest.warns(UserWarning, match="no MLP neurons in this run"),
        nf.record(model, word_tokenizer(), store=tmp_path, run="r") as recording,
        torch.no_grad(),
    ):
        model(torch.tensor([[5, 6, 7]]))
    assert "mixture of experts" in recording.run.health().notes[0]
