"""What storing everything costs: a capture against the bare forward passes and generation of the same prompts.

GPT-2-small shape, random weights. Both run here on the same batches, in turn; the ratio of medians is printed.
"""

import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, GPT2Config, GPT2LMHeadModel

from nfinspect.capturing.plan import Files
from nfinspect.capturing.prompts import PromptIds
from nfinspect.capturing.request import CaptureRequest
from nfinspect.capturing.session import Capture, Listener
from nfinspect.models import LoadedModel
from tests.benchmarks.report import options

ROUNDS = 3
NEW_TOKENS = 192


class Words:
    """As much of a tokenizer as a capture of given token ids needs."""

    def decode(self, ids: list[int], **options: object) -> str:
        return " ".join(map(str, ids))

    def convert_ids_to_tokens(self, token_id: int) -> str:
        return str(token_id)


class GivenPrompts(Capture):
    """A capture of token ids."""

    def __init__(self, request: CaptureRequest, loaded: LoadedModel, prompts: list[PromptIds]) -> None:
        self._given = prompts
        super().__init__(request, loaded, Listener())

    def read_prompts(self, files: Files | None) -> list[PromptIds]:
        return self._given


def gpt2_small(layers: int = 12) -> LoadedModel:
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(n_layer=layers)).eval()
    return LoadedModel(model, Words(), "gpt2-small-shape", "gpt2", "cpu", "float32", 1024, layers, 0)  # type: ignore[arg-type]


def prompts(count: int, tokens: int) -> list[PromptIds]:
    generator = torch.Generator().manual_seed(1)
    rows = torch.randint(0, 50257, (count, tokens), generator=generator).tolist()
    return [PromptIds("corpus", f"window {i}", tuple(row), f"window {i}") for i, row in enumerate(rows)]


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def ratio(name: str, bare: Callable[[], object], ours: Callable[[], object], asked: float, rounds: int) -> None:
    """Run both in turn and print the ratio of medians."""
    bare(), ours()
    pairs = [(seconds(bare), seconds(ours)) for _ in range(rounds)]
    median_bare, median_ours = (statistics.median(column) for column in zip(*pairs, strict=True))
    each = ", ".join(f"{b / a:.2f}" for a, b in pairs)
    print(
        f"{name}: bare {median_bare:.2f} s, captured {median_ours:.2f} s, ratio {median_ours / median_bare:.3f} "
        f"(each {each}; asked <= {asked})",
        flush=True,
    )


def bare_passes(model: Any, given: list[PromptIds]) -> None:
    """The forward passes alone, as a capture batches them. model: with the vocabulary projection, or without."""
    with torch.inference_mode():
        for start in range(0, len(given), 4):
            model(torch.tensor([p.token_ids for p in given[start : start + 4]]), use_cache=False)


def bare_generation(model: Any, given: list[PromptIds], new_tokens: int) -> None:
    config = GenerationConfig(max_new_tokens=new_tokens, do_sample=False, pad_token_id=0, eos_token_id=None)
    ids = torch.tensor([p.token_ids for p in given])
    with torch.inference_mode():
        model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config)


def captured(loaded: LoadedModel, given: list[PromptIds], store: Path, **options: Any) -> None:
    shutil.rmtree(store, ignore_errors=True)
    GivenPrompts(CaptureRequest("shape", store, run="run", **options), loaded, given).run()


def main(words: list[str] | None = None) -> None:
    quick = options(__doc__ or "", page=False).parse_args(words).quick
    count, tokens, new_tokens, rounds = (4, 32, 4, 1) if quick else (64, 256, NEW_TOKENS, ROUNDS)
    loaded = gpt2_small(1) if quick else gpt2_small()
    model = loaded.model
    store = Path(tempfile.mkdtemp())
    try:
        corpus = prompts(count, tokens)
        for sites in (("mlp",), ("mlp", "resid")):
            ratio(
                f"corpus of {count * tokens} tokens, {'+'.join(sites)}, everything stored",
                partial(bare_passes, model, corpus),
                partial(captured, loaded, corpus, store, sites=sites, batch_size=4),
                1.35,
                rounds,
            )
        blocks = seconds(partial(bare_passes, model.transformer, corpus))
        print(f"    the same passes without the vocabulary projection, as a capture makes them: {blocks:.2f} s")
        begun = prompts(8, 32)
        for mode in ("replay", "live"):
            ratio(
                f"generation of 8 x {new_tokens} tokens, {mode}, everything stored",
                partial(bare_generation, model, begun, new_tokens),
                partial(captured, loaded, begun, store, generate=new_tokens, batch_size=8, mode=mode),
                1.25,
                rounds,
            )
    finally:
        shutil.rmtree(store, ignore_errors=True)


if __name__ == "__main__":
    main()
