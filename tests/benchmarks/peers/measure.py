"""One tool in a process of its own: values proved equal, then timed beside bare passes; JSON lines on stdout.

python -m tests.benchmarks.peers.measure TOOL SHAPE FOLDER ROUNDS TOKENS OTHER_TOKENS
"""

import argparse
import importlib
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.benchmarks.memory import peak_mb
from tests.benchmarks.peers import models
from tests.benchmarks.peers.saving import save_safetensors
from tests.benchmarks.peers.tool import Tool, empty

LENGTHS = (128, 1, 26, 1024)
"""Tokens of a prompt. The first is measured first: memory and equality are read there."""

PROMPTS, PROMPT_TOKENS = 8, 16
NEW_TOKENS = {"gpt2": (32,), "gated": (32, 256)}
"""How many new tokens a generation is measured with, of each shape: as many as there is time for. What a run costs once
shows in the short one."""

TOOLS = ("np.save", "safetensors", "interp-engine", "nnsight", "TransformerLens", "SAELens", "nfinspect")

TOLERANCES = {"float16": 1e-3, "int8": 1e-2}
"""Shares of a layer's largest value that values may differ by where a run stores them in fewer bytes. These
are measured with prompts of LENGTHS[0] alone, without generation."""

TOLERANCE = 1e-5
"""The same for float32: sums in another order."""


def make(tool: str, model: models.Model) -> Tool:
    """Import only the tool under measurement."""

    def module(name: str) -> Any:
        return importlib.import_module(f"tests.benchmarks.peers.{name}")

    makers: dict[str, Callable[[], Tool]] = {
        "np.save": lambda: module("with_hooks").reader(model),
        "safetensors": lambda: module("with_hooks").reader(model, save_safetensors),
        "interp-engine": lambda: module("with_interp_engine").reader(model),
        "nnsight": lambda: module("with_nnsight").reader(model),
        "TransformerLens": lambda: module("with_transformer_lens").reader(model),
        "SAELens": lambda: module("with_sae_lens").CachedActivations(model),
        "nfinspect": lambda: module("with_nfinspect").Runs(model),
        **{
            f"nfinspect, {precision}": lambda precision=precision: module("with_nfinspect").Runs(
                model, precision=precision
            )
            for precision in TOLERANCES
        },
    }
    return makers[tool]()


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def difference(
    tool: Tool, folder: Path, expected: Sequence[torch.Tensor], tokens: int, sequence: int, tolerance: float = TOLERANCE
) -> float:
    """The greatest difference of any value, in units of the layer's greatest; infinite where it exceeds `tolerance`.

    expected: float32[prompts * sequence, neurons] for each layer; the first `tokens` of each sequence are compared.
    """
    worst = 0.0
    for layer, of_layer in enumerate(expected):
        found = tool.values(folder, layer)
        width = found.shape[-1]
        prompts = len(of_layer) // sequence
        found = found.reshape(prompts, -1, width)[:, :tokens]
        wanted = of_layer.numpy().reshape(prompts, sequence, width)[:, :tokens]
        largest = float(np.abs(wanted).max())
        if found.shape != wanted.shape or not np.allclose(found, wanted, rtol=0, atol=tolerance * largest):
            return float("inf")
        worst = max(worst, float(np.abs(found - wanted).max()) / largest)
    return worst


def say(**row: Any) -> None:
    print(json.dumps(row), flush=True)


def measure_corpus(
    tool: Tool, model: models.Model, folder: Path, rounds: int, tokens: int, length: int, tolerance: float = TOLERANCE
) -> None:
    given = models.batches(model, tokens, length)
    read = sum(ids.numel() for ids in given)
    row: dict[str, Any] = {"what": "corpus", "length": length, "tokens": read}
    models.whole_passes(model, given[:1])
    if length == LENGTHS[0]:
        for part in (read // 4, read):  # the smaller first: memory once taken is kept by the allocator
            some = models.batches(model, part, length)
            row[f"peak_mb_{part}"] = peak_mb(lambda some=some: tool.corpus(some, empty(folder)))
    else:
        tool.corpus(given, empty(folder))
    row["bytes_per_value"] = size(folder) / (read * model.values_per_token)
    row["difference"] = difference(tool, folder, models.reference(model, given), length, length, tolerance)
    if np.isfinite(row["difference"]):
        row["whole"] = seconds(lambda: models.whole_passes(model, given))
        row["rounds"] = [
            (
                seconds(lambda: models.block_passes(model, given)),
                seconds(lambda: tool.corpus(given, empty(folder))),
            )
            for _ in range(rounds)
        ]
    say(**row)


def measure_generation(
    tool: Tool, model: models.Model, folder: Path, rounds: int, new_tokens: int, one_by_one: bool
) -> None:
    """one_by_one: time the bare generation of one prompt at a time, too."""
    ids = models.batches(model, PROMPTS * PROMPT_TOKENS, PROMPT_TOKENS)[0]
    sequences = models.generation(model, ids, new_tokens)
    tool.generation(ids, new_tokens, empty(folder))
    sequence = sequences.shape[1]
    row: dict[str, Any] = {"what": "generation", "new_tokens": new_tokens, "tokens": sequences.numel()}
    row["difference"] = difference(tool, folder, models.reference(model, [sequences]), sequence - 1, sequence)
    if np.isfinite(row["difference"]):
        if one_by_one:
            row["one_by_one"] = seconds(lambda: [models.generation(model, one[None], new_tokens) for one in ids])
        row["rounds"] = [
            (
                seconds(lambda: models.generation(model, ids, new_tokens)),
                seconds(lambda: tool.generation(ids, new_tokens, empty(folder))),
            )
            for _ in range(rounds)
        ]
    say(**row)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("tool")
    parser.add_argument("shape", choices=sorted(models.LAYERS))
    parser.add_argument("folder", type=Path)
    parser.add_argument("rounds", type=int)
    parser.add_argument("tokens", type=int, help="of the corpus in prompts of 128")
    parser.add_argument("other_tokens", type=int, help="of the corpora in prompts of other lengths; 0: of none")
    chosen = parser.parse_args()
    model = models.build(chosen.shape)
    try:
        tool = make(chosen.tool, models.build(chosen.shape))  # a model of its own: some tools replace modules in it
    except (ImportError, NotImplementedError) as error:
        say(what="corpus", length=0, refused=str(error))
        return
    precision = chosen.tool.rpartition(", ")[2]
    tolerance = TOLERANCES.get(precision, TOLERANCE)
    for length in LENGTHS if chosen.other_tokens else LENGTHS[:1]:
        tokens = chosen.tokens if length == LENGTHS[0] else chosen.other_tokens
        sizes = (chosen.rounds, tokens, length, tolerance)
        attempt(lambda sizes=sizes: measure_corpus(tool, model, chosen.folder, *sizes), length)
    if precision in TOLERANCES:
        return
    alone = chosen.tool == "interp-engine"
    for new in NEW_TOKENS[chosen.shape]:
        attempt(lambda new=new: measure_generation(tool, model, chosen.folder, chosen.rounds, new, alone), 0, new)


def attempt(work: Callable[[], None], length: int, new_tokens: int = 0) -> None:
    """A row that a tool cannot do is told with the reason. length: of the prompts; 0: a generation of so many new
    tokens.
    """
    try:
        work()
    except Exception as error:
        what = {"what": "corpus", "length": length} if length else {"what": "generation", "new_tokens": new_tokens}
        say(**what, refused=f"{type(error).__name__}: {error}"[:300])


if __name__ == "__main__":
    main()
