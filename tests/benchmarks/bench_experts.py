"""What the neurons of experts cost: a plain pass, one that reads them, and their recording, in processor time.

    python -m tests.benchmarks.bench_experts [--quick]

Mixtures of random weights in float32, one thread: 64 experts of 256 neurons, of which a token passes 8, in 4 layers of
512. Each way to run experts by itself; the least of five rounds in turn. The ratios count.
"""

import dataclasses
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from transformers import OlmoeConfig, OlmoeForCausalLM

from nfinspect.capturing.arrays import array_info
from nfinspect.capturing.new_run import store_layers
from nfinspect.capturing.reading import BatchReader, Values
from nfinspect.capturing.recorder import RecordedPrompt, Recorder
from nfinspect.models import LoadedModel, body, find_sites, forward_batch
from nfinspect_store.writer import RunWriter
from tests.benchmarks.bench_capture import Words
from tests.benchmarks.report import conditions, options, table

ROUNDS = 5
VOCABULARY = 101
SIZES = {"num_experts": 64, "num_experts_per_tok": 8, "intermediate_size": 256, "hidden_size": 512}
QUICK = {"num_experts": 4, "num_experts_per_tok": 2, "intermediate_size": 16, "hidden_size": 32}


def mixture(how: str, sizes: dict[str, int]) -> OlmoeForCausalLM:
    torch.manual_seed(0)
    heads = {"num_attention_heads": 8, "num_key_value_heads": 8, "num_hidden_layers": 4}
    ids = {"vocab_size": VOCABULARY, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    model = OlmoeForCausalLM(OlmoeConfig(**sizes, **heads, **ids)).float().eval()
    model.set_experts_implementation(how)
    return model


def took(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def measured(how: str, keep: str, sizes: dict[str, int], prompts: list[list[int]], folder: Path) -> list[object]:
    """A row of the table."""
    model = mixture(how, sizes)
    loaded = LoadedModel(model, Words(), "m", "olmoe", "cpu", "float32", None, 4, 0)  # type: ignore[arg-type]
    sites = find_sites(model, ["mlp"], experts=True)
    batch = forward_batch(model, prompts, pad_id=0)
    reader = BatchReader(loaded, sites)
    told = [RecordedPrompt("a", "", prompt, [""] * len(prompt), len(prompt)) for prompt in prompts]
    path = folder / f"{how}-{keep}.duckdb"
    info = dataclasses.replace(array_info(how, 0), settings={"keep": keep})
    writer = RunWriter.create(path, info, store_layers(sites))
    recorder = Recorder(writer, 0, torch.device("cpu"), commits=False)
    times: list[tuple[float, float, float]] = []
    for _ in range(ROUNDS):
        with torch.inference_mode():
            bare = took(lambda: body(model)(**batch.inputs()))
        held: Values = {}
        read = took(lambda held=held: held.update(reader.replay(prompts)))
        times.append((bare, read, took(lambda held=held: recorder.add(told, held))))
    commit = took(lambda: recorder.commit({"status": "complete"}, final=True))
    writer.close()
    bare, read, recorded = (min(column) for column in zip(*times, strict=True))
    values = sum(site.held for site in sites) * sum(map(len, prompts))
    neurons = sum(site.neurons for site in sites)
    return [
        how, f"--keep {keep}", f"{neurons:,}",
        f"{1e3 * bare:,.0f}", f"{read / bare:.2f}", f"{(read + recorded) / bare:.2f}",
        f"{1e9 * recorded / values:.0f}", f"{1e6 * commit / neurons:.0f}", f"{path.stat().st_size / neurons:.0f}",
        f"{path.stat().st_size / (ROUNDS * values):.2f}",
    ]  # fmt: skip


def main(words: list[str] | None = None) -> None:
    chosen = options(__doc__ or "", page=False).parse_args(words)
    said = conditions(quick=chosen.quick)
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    shape = (2, 8) if chosen.quick else (16, 64)
    prompts = rng.integers(3, VOCABULARY, shape).tolist()
    folder = Path(tempfile.mkdtemp())
    try:
        sizes = QUICK if chosen.quick else SIZES
        ways = (("grouped_mm", "stats"), ("grouped_mm", "all"), ("eager", "stats"))
        rows = [measured(how, keep, sizes, prompts, folder) for how, keep in ways]
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    heads = (
        "experts run as", "kept", "neurons", "plain pass, ms", "reading, × plain", "and recording, × plain",
        "recording, ns a value", "commit, µs a neuron", "file, bytes a neuron", "file, bytes a value",
    )  # fmt: skip
    print(f"{said}\n\n{table(heads, rows)}")


if __name__ == "__main__":
    main()
