"""What the model writes: its own greedy choice, or draws from its softmax that depend on seed and prompt alone."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families import FAMILIES, phi3
from rounding import assert_same_pass
from sampled import sampled
from scipy import stats
from test_padding import NAMES, plain
from transformers import GenerationConfig, PreTrainedModel
from words import word_tokenizer

import nfinspect as nf
from nfinspect.capturing.generation import generate

PROMPTS = [[5], [9, 8, 7, 6, 5], [11, 12, 13], [20, 21, 22, 23, 24, 25, 26, 27, 28]]
NEW = 6


def write(model: PreTrainedModel, prompts: Sequence[Sequence[int]] = PROMPTS, **options: Any) -> list[list[int]]:
    settings: dict[str, Any] = {
        "new_tokens": NEW, "prompt_indices": range(len(prompts)), "pad_id": 0, "seed": 0, "temperature": 0.0,
    }  # fmt: skip
    return generate(model, prompts, **{**settings, **options})


def own_greedy(model: PreTrainedModel, prompt: Sequence[int]) -> list[int]:
    """transformers' greedy decoding of one prompt alone."""
    written = model.generate(
        torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.long), max_new_tokens=NEW,
        do_sample=False, pad_token_id=0,
    )  # fmt: skip
    return written[0].tolist()


@pytest.mark.parametrize(
    "family",
    ["gpt2", "opt", "gpt_neox", "llama", "mistral", "gemma2", "phi3", "bloom", "falcon_alibi", "mamba", "mamba2"],
)
def test_greedy_is_the_models_own_in_any_batch(family: str) -> None:
    model = FAMILIES[family]()
    expected = [own_greedy(model, prompt) for prompt in PROMPTS]
    assert write(model) == expected
    assert write(model, read_last=True) == expected


def test_greedy_of_equal_lengths_where_left_padding_is_not_exact() -> None:
    model = FAMILIES["mamba_bias"]()
    prompts = [[5, 6, 7], [11, 12, 13]]
    assert write(model, prompts) == [own_greedy(model, prompt) for prompt in prompts]


# Sampling


@pytest.mark.parametrize("family", ["gpt2", "llama", "mamba"])
def test_a_prompts_continuation_depends_on_its_seed_and_index_alone(family: str) -> None:
    model = FAMILIES[family]()
    together = write(model, temperature=1.0, seed=4)
    alone = [write(model, [p], prompt_indices=[i], temperature=1.0, seed=4)[0] for i, p in enumerate(PROMPTS)]
    assert together == alone
    order = [2, 0, 3]
    some = write(model, [PROMPTS[i] for i in order], prompt_indices=order, temperature=1.0, seed=4)
    assert some == [together[i] for i in order]
    assert write(model, temperature=1.0, seed=5) != together
    same_text = write(model, [PROMPTS[1]] * 6, temperature=1.0, seed=4)
    assert len({tuple(s) for s in same_text}) == 6  # prompts with one text are still different prompts


@pytest.mark.parametrize("temperature", sampled([0.5, 2.0, 1.0], 2))
def test_draws_follow_the_softmax_at_the_temperature(temperature: float) -> None:
    """The first two tokens: the second ones after the commonest first one."""
    model = FAMILIES["gpt2"]()
    prompt = [9, 8, 7]
    with torch.no_grad():
        for parameter in model.transformer.ln_f.parameters():
            parameter.mul_(6.0)  # far from even, so that a wrong temperature shows
    model.generation_config.eos_token_id = None
    draws = []
    for seed in range(20):
        draws += write(model, [prompt] * 150, new_tokens=2, temperature=temperature, seed=seed)
    first = np.array([d[3] for d in draws])
    assert_drawn_from(first, model, prompt, temperature)
    commonest = int(np.bincount(first).argmax())
    assert_drawn_from(np.array([d[4] for d in draws if d[3] == commonest]), model, [*prompt, commonest], temperature)


def assert_drawn_from(tokens: np.ndarray, model: PreTrainedModel, prompt: list[int], temperature: float) -> None:
    with torch.no_grad():
        p = (model(torch.tensor([prompt])).logits[0, -1].double() / temperature).softmax(-1).numpy()
    order = np.argsort(-p)
    expected, counts = len(tokens) * p[order], np.bincount(tokens, minlength=len(p))[order]
    apart = int((expected >= 8).sum())  # the rest is one class
    f_exp = np.append(expected[:apart], expected[apart:].sum())
    f_obs = np.append(counts[:apart], counts[apart:].sum())
    assert apart >= 2
    assert stats.chisquare(f_obs, f_exp).pvalue > 1e-3


# The end of a sequence


def ends_of(model: PreTrainedModel, prompts: Sequence[list[int]] = PROMPTS) -> int:
    """A token that the model writes greedily after the second prompt, third of its new ones: made its end token."""
    model.generation_config.eos_token_id = None
    end = write(model, prompts)[1][len(prompts[1]) + 2]
    model.generation_config.eos_token_id = [end]
    return end


@pytest.mark.parametrize("read_last", [False, True])
@pytest.mark.parametrize("family", sampled(["gpt2", "llama", "mamba"], 2))
def test_an_end_token_is_kept_and_nothing_after_it(family: str, read_last: bool) -> None:
    model = FAMILIES[family]()
    free = write(model)
    end = ends_of(model)
    found = write(model, read_last=read_last)
    for prompt, one, long in zip(PROMPTS, found, write_without_end(model), strict=True):
        new = long[len(prompt) :]
        stop = new.index(end) + 1 if end in new else len(new)
        assert one == prompt + new[:stop]
        assert one == own_greedy(model, prompt)
    assert (
        len(found[1]) <= len(PROMPTS[1]) + 3 and len({len(s) - len(p) for s, p in zip(found, PROMPTS, strict=True)}) > 1
    )
    assert free != found


def write_without_end(model: PreTrainedModel) -> list[list[int]]:
    saved, model.generation_config.eos_token_id = model.generation_config.eos_token_id, None
    written = write(model)
    model.generation_config.eos_token_id = saved
    return written


def test_generation_stops_when_all_have_ended() -> None:
    """A batch that has ended costs no further step, but for the one in which live capture reads the last token."""
    model = FAMILIES["gpt2"]()
    ends_of(model)
    steps = []
    with_hook = model.transformer.register_forward_hook(lambda *_: steps.append(1))
    found = write(model, [PROMPTS[1]], new_tokens=30, prompt_indices=[1])
    new = len(found[0]) - len(PROMPTS[1])
    assert 1 <= new <= 3 and len(steps) == new
    steps.clear()
    assert write(model, [PROMPTS[1]], new_tokens=30, prompt_indices=[1], read_last=True) == found
    assert len(steps) == new + 1
    with_hook.remove()


@pytest.mark.parametrize(
    ("family", "mode"),
    [
        ("gpt2", "replay"),
        ("llama", "live"),
        ("mamba", "live"),
        ("mamba2", "replay"),
        pytest.param("gpt2", "live", marks=pytest.mark.slow),
        pytest.param("llama", "replay", marks=pytest.mark.slow),
        pytest.param("mamba", "replay", marks=pytest.mark.slow),
        pytest.param("mamba2", "live", marks=pytest.mark.slow),
    ],
)
def test_every_token_up_to_the_end_token_has_its_values(family: str, mode: str, tmp_path: Path) -> None:
    model = FAMILIES[family]()
    end = ends_of(model)
    texts = [" ".join(f"w{i}" for i in prompt) for prompt in PROMPTS]
    run = nf.capture(model, word_tokenizer(), texts, store=tmp_path, run="r", generate=NEW, mode=mode, batch_size=3)
    ragged = set()
    for i, prompt in enumerate(PROMPTS):
        rows = run.prompt_tokens(i)
        assert rows.token_id.tolist() == own_greedy(model, prompt)
        assert rows.generated.tolist() == [j >= len(prompt) for j in range(len(rows.position))]
        assert end not in rows.token_id[len(prompt) : -1]
        ragged.add(len(rows.position) - len(prompt))
        values, _ = plain(model, NAMES[family], rows.token_id.tolist())
        for layer in run.layers:
            stored = run.activations(layer.site, layer.layer)[rows.token_idx]
            assert_same_pass(stored, values[layer.site, layer.layer], layer.layer)
    assert len(ragged) > 1


def long_rope() -> PreTrainedModel:
    """A Phi-3 that takes other rotary angles from 17 tokens on."""
    return phi3(
        rope_parameters={
            "rope_type": "longrope", "rope_theta": 10000.0, "short_factor": [1.0] * 2, "long_factor": [4.0] * 2,
            "original_max_position_embeddings": 16, "factor": 4.0,
        },
        original_max_position_embeddings=16,
    )  # fmt: skip


@pytest.mark.parametrize("mode", ["replay", "live"])
def test_values_beyond_a_rotary_limit_are_those_of_one_pass(mode: str, tmp_path: Path) -> None:
    """Sequences that grow past it, end tokens that make them ragged."""
    model = long_rope()
    prompts = [list(range(5, 18)), list(range(30, 43)), list(range(50, 63)), [5, 6, 7]]
    ends_of(model, prompts)
    texts = [" ".join(f"w{i}" for i in prompt) for prompt in prompts]
    run = nf.capture(model, word_tokenizer(), texts, store=tmp_path, run="r", generate=8, mode=mode, batch_size=4)
    longest = 0
    for i in range(len(prompts)):
        rows = run.prompt_tokens(i)
        longest = max(longest, len(rows.position))
        values, _ = plain(model, NAMES["phi3"], rows.token_id.tolist())
        for layer in run.layers:
            stored = run.activations(layer.site, layer.layer)[rows.token_idx]
            assert_same_pass(stored, values[layer.site, layer.layer], layer.layer)
    assert longest > 16


# Nothing of the caller's changes


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_global_generator_and_the_models_settings_stay(temperature: float) -> None:
    model = FAMILIES["gpt2"]()
    model.generation_config = GenerationConfig(
        do_sample=True, top_k=1, repetition_penalty=5.0, eos_token_id=2, max_new_tokens=3, suppress_tokens=[5, 6]
    )
    config, settings = model.generation_config, model.generation_config.to_dict()
    torch.manual_seed(12)
    state = torch.get_rng_state()
    written = write(model, temperature=temperature)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.generation_config is config and config.to_dict() == settings
    plain_model = FAMILIES["gpt2"]()
    assert write(plain_model, temperature=temperature) == written  # the checkpoint's own habits play no part


def test_an_error_while_generating_puts_the_settings_back() -> None:
    model = FAMILIES["gpt2"]()
    config = model.generation_config

    def fail(*_: object) -> None:
        raise RuntimeError("no")

    handle = model.transformer.h[1].register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="no"):
        write(model)
    handle.remove()
    assert model.generation_config is config
