"""What storing everything costs: a capture against the bare forward passes and generation of the same prompts.

GPT-2-small shape, random weights. Both run in this process on the same batches, in turn; the ratio of medians is printed.
"""

import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import GenerationConfig, GPT2Config, GPT2LMHeadModel

from nfinspect.capturing.prompts import PromptIds
from nfinspect.capturing.request import CaptureRequest
from nfinspect.capturing.session import Capture, Listener
from nfinspect.models import LoadedModel

ROUNDS = 3


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

    def read_prompts(self) -> list[PromptIds]:
        return self._given


def gpt2_small() -> LoadedModel:
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config()).eval()
    return LoadedModel(model, Words(), "gpt2-small-shape", "gpt2", "cpu", "float32", 1024, 12, 0)  # type: ignore[arg-type]


def prompts(count: int, tokens: int) -> list[PromptIds]:
    generator = torch.Generator().manual_seed(1)
    rows = torch.randint(0, 50257, (count, tokens), generator=generator).tolist()
    return [PromptIds("corpus", f"window {i}", tuple(row), f"window {i}") for i, row in enumerate(rows)]


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def ratio(name: str, bare: Callable[[], object], ours: Callable[[], object], asked: float) -> None:
    """Run both in turn and print the ratio of medians."""
    bare(), ours()
    pairs = [(seconds(bare), seconds(ours)) for _ in range(ROUNDS)]
    median_bare, median_ours = (statistics.median(column) for column in zip(*pairs, strict=True))
    each = ", ".join(f"{b / a:.2f}" for a, b in pairs)
    print(f"{name}: bare {median_bare:.2f} s, captured {median_ours:.2f} s, ratio {median_ours / median_bare:.3f} "
          f"(each {each}; asked <= {asked})", flush=True)


def main() -> None:
    loaded = gpt2_small()
    model = loaded.model
    store = Path(tempfile.mkdtemp())
    try:
        for sites in (("mlp",), ("mlp", "resid")):
            given = prompts(32, 256)

            def bare() -> None:
                with torch.inference_mode():
                    for start in range(0, len(given), 4):
                        model(torch.tensor([p.token_ids for p in given[start : start + 4]]), use_cache=False)

            def captured() -> None:
                shutil.rmtree(store, ignore_errors=True)
                request = CaptureRequest("shape", store, sites=sites, run="corpus", batch_size=4)
                GivenPrompts(request, loaded, given).run()

            ratio(f"corpus, {'+'.join(sites)}, everything stored", bare, captured, 1.35)

        started = prompts(8, 32)

        def bare_generation() -> None:
            with torch.inference_mode():
                config = GenerationConfig(max_new_tokens=64, do_sample=False, pad_token_id=0, eos_token_id=None)
                model.generate(
                    torch.tensor([p.token_ids for p in started]),
                    attention_mask=torch.ones(8, 32, dtype=torch.long),
                    generation_config=config,
                )

        for mode in ("replay", "live"):

            def captured_generation() -> None:
                shutil.rmtree(store, ignore_errors=True)
                request = CaptureRequest("shape", store, generate=64, run="new", batch_size=8, mode=mode)
                GivenPrompts(request, loaded, started).run()

            ratio(f"generation, {mode}, everything stored", bare_generation, captured_generation, 1.25)
    finally:
        shutil.rmtree(store, ignore_errors=True)


if __name__ == "__main__":
    main()
