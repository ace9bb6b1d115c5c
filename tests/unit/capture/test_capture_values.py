"""A run holds, for every token, what one unpadded pass over its whole sequence gives: every family, both modes."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from families import FAMILIES
from rounding import assert_same_pass
from test_padding import NAMES, plain
from transformers import AutoModelForCausalLM
from words import word_tokenizer

from nfinspect.capturing.request import CaptureRequest, PromptFile
from nfinspect.capturing.session import Capture, Listener, load
from nfinspect_store.reader import RunFile

PROMPTS = ["w5", "w9 w8 w7 w6 w5", "w11 w12 w13", "w20 w21 w22 w23 w24 w25 w26 w27 w28"]
NEW_TOKENS = 4


@pytest.fixture(scope="module")
def prompts_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("prompts") / "words.json"
    path.write_text(json.dumps({"prompts": PROMPTS}))
    return path


def capture(request: CaptureRequest) -> Path:
    """Capture with the words' tokenizer, whatever class transformers picks for the model type."""
    return Capture(request, replace(load(request), tokenizer=word_tokenizer()), Listener()).run()


def sites_of(family: str) -> tuple[str, ...]:
    return ("mixer", "resid") if NAMES[family].attn is None else ("mlp", "attn", "resid")


# A live generation pads on the left, whatever the side of a replay.
WAYS = [("replay", "left"), ("replay", "right"), ("live", "left")]


# Every seventh of all: each way for some of the families.
@pytest.mark.parametrize(
    ("family", "mode", "side"),
    [
        pytest.param(family, *way, marks=() if (3 * i + j) % 7 == 0 else pytest.mark.slow)
        for i, family in enumerate(sorted(FAMILIES))
        for j, way in enumerate(WAYS)
    ],
)
def test_stored_values_are_those_of_an_unpadded_pass(
    family: str, mode: str, side: str, model_dir: Callable[[str], Path], prompts_file: Path, tmp_path: Path
) -> None:
    request = CaptureRequest(
        model=str(model_dir(family)),
        store=tmp_path,
        prompts=(PromptFile(prompts_file),),
        generate=NEW_TOKENS,
        sites=sites_of(family),
        run="r",
        batch_size=3,
        padding_side=side,
        mode=mode,
        temperature=0.9,
        seed=3,
    )
    path = capture(request)
    model = AutoModelForCausalLM.from_pretrained(model_dir(family)).float().eval()
    with RunFile.open(path) as run:
        assert run.prompts == len(PROMPTS)
        seen = 0
        for prompt_idx, text in enumerate(PROMPTS):
            rows = run.prompt_tokens(prompt_idx)
            read = len(text.split())
            assert [f"w{i}" for i in rows.token_id[:read]] == text.split()
            assert rows.generated.tolist() == [i >= read for i in range(len(rows.position))]
            assert 1 <= len(rows.position) - read <= NEW_TOKENS
            values, _ = plain(model, NAMES[family], rows.token_id.tolist())
            for layer in run.layers:
                stored = run.activations(layer.site, layer.layer)[rows.token_idx]
                assert_same_pass(stored, values[layer.site, layer.layer], layer.layer)
                seen += stored.size
        assert seen == run.tokens * sum(layer.neurons for layer in run.layers)


@pytest.mark.parametrize("family", ["gpt2", "llama", "phi3", "mamba", "mamba2"])
def test_firing_counts_are_those_of_the_definition(
    family: str, model_dir: Callable[[str], Path], prompts_file: Path, tmp_path: Path
) -> None:
    request = CaptureRequest(
        model=str(model_dir(family)), store=tmp_path, prompts=(PromptFile(prompts_file),), run="r", keep="stats"
    )
    model = AutoModelForCausalLM.from_pretrained(model_dir(family)).float().eval()
    with RunFile.open(capture(request)) as run:
        for layer in run.layers:
            expected = torch.zeros(layer.neurons, dtype=torch.long)
            for prompt_idx in range(run.prompts):
                ids = run.prompt_tokens(prompt_idx).token_id.tolist()
                values, gates = plain(model, NAMES[family], ids)
                fires = gates[layer.layer] if gates else values[layer.site, layer.layer]
                expected += (fires > 0).reshape(-1, layer.neurons).sum(0)
            assert run.statistics(layer=layer.layer).fired.tolist() == expected.tolist()
