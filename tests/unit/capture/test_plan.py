"""Batches are the prompts in order, each in one of them, as many as may go together."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from families import FAMILIES
from test_generation import long_rope
from words import word_tokenizer

from nfinspect.capturing import plan
from nfinspect.capturing.plan import Batch, plan_batches
from nfinspect.capturing.prompts import PromptIds
from nfinspect.capturing.request import CaptureRequest
from nfinspect.models import LoadedModel, in_memory

HELD = [100, 100]
BYTES_PER_TOKEN = 800
SIZES = np.random.default_rng(1).integers(1, 20, 200).tolist()


def loaded(family: str) -> LoadedModel:
    return in_memory(FAMILIES[family](), word_tokenizer())


def prompts_of(sizes: Sequence[int]) -> list[PromptIds]:
    return [PromptIds("a", "", (5,) * size, "") for size in sizes]


def planned(model: LoadedModel, sizes: Sequence[int], batch_size: int | None = None, generate: int = 0) -> list[Batch]:
    request = CaptureRequest("m", Path("s"), batch_size=batch_size, generate=generate)
    batches = plan_batches(prompts_of(sizes), request, model, HELD)
    assert [i for b in batches for i in range(b.start, b.stop)] == list(range(len(sizes)))
    assert all(b.stop > b.start for b in batches)
    return batches


@pytest.mark.parametrize("generate", [0, 7])
@pytest.mark.parametrize("batch_size", [1, 3, 8, 1000])
def test_a_given_batch_size_is_kept(batch_size: int, generate: int) -> None:
    sizes = [b.stop - b.start for b in planned(loaded("gpt2"), SIZES, batch_size, generate)]
    assert sizes[:-1] == [batch_size] * (len(sizes) - 1) and 1 <= sizes[-1] <= batch_size


@pytest.mark.parametrize("generate", [0, 7])
@pytest.mark.parametrize("tokens", [1, 30, 200, 10_000])
def test_bytes_bound_the_padded_batch_and_no_room_is_left(
    tokens: int, generate: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "BATCH_BYTES", tokens * BYTES_PER_TOKEN)
    batches = planned(loaded("gpt2"), SIZES, generate=generate)

    def padded(start: int, stop: int) -> int:
        return (max(SIZES[start:stop]) + generate) * (stop - start)

    for batch in batches:
        # One prompt alone is taken however long it is.
        assert padded(batch.start, batch.stop) <= tokens or batch.stop - batch.start == 1
        if batch.stop < len(SIZES):
            assert padded(batch.start, batch.stop + 1) > tokens


@pytest.mark.parametrize("family", ["gpt2", "mamba", "mamba2", "bloom", "llama"])
def test_lengths_mix_where_left_padding_is_exact(family: str) -> None:
    assert planned(loaded(family), SIZES[:8], 8, generate=4) == [Batch(0, 8)]


def test_lengths_are_equal_where_left_padding_is_not_exact() -> None:
    model = loaded("mamba_bias")
    sizes = [3, 3, 3, 5, 5, 2, 3]
    assert planned(model, sizes, 8) == [Batch(0, 7)]  # reading pads on the right
    assert planned(model, sizes, 8, generate=4) == [Batch(0, 3), Batch(3, 5), Batch(5, 6), Batch(6, 7)]
    assert planned(model, sizes, 2, generate=4)[:2] == [Batch(0, 2), Batch(2, 3)]


def test_beyond_a_rotary_limit_lengths_are_equal_and_generations_alone() -> None:
    model = in_memory(long_rope(), word_tokenizer())
    sizes = [10, 16, 12, 17, 17, 18, 5]
    assert planned(model, sizes, 8) == [Batch(0, 3), Batch(3, 5), Batch(5, 6), Batch(6, 7)]
    # 10 + 6 new tokens stay within 16; longer ones may end at different lengths beyond it.
    assert planned(model, [10, 10, 9, 12, 12], 8, generate=6) == [Batch(0, 3), Batch(3, 4), Batch(4, 5)]
