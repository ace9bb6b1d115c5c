"""What a run file takes, everything in it included: bytes per value, table by table, and the blocks left free.

Captures of models with random weights: GPT-2-small's neurons over prompts of one concept, and the shape of a
135 M-parameter Llama with `mlp` and `resid` over short prompts of five concepts, each with few and with more tokens.
Prompts cost, too: each has its means.
"""

import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import duckdb
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from nfinspect.capturing.prompts import PromptIds
from nfinspect.capturing.request import CaptureRequest
from nfinspect.models import LoadedModel
from tests.benchmarks.bench_capture import GivenPrompts, Words

VOCABULARY = 512
CONCEPTS = ("tulip", "vietnam", "hanoi", "violent", "baseline")


@dataclass(frozen=True)
class Shape:
    """A capture to be weighed. asked: bytes per value at most."""

    name: str
    family: str
    tokens: int
    prompts: int
    concepts: int
    asked: float


SHAPES = (
    Shape("GPT-2-small, one concept", "gpt2", 1800, 70, 1, 4.6),
    Shape("GPT-2-small, one concept", "gpt2", 280, 6, 1, 5.2),
    Shape("GPT-2-small, one concept", "gpt2", 280, 11, 1, 5.2),
    Shape("Llama 135M, mlp and resid", "llama", 1832, 70, 5, 4.8),
    Shape("Llama 135M, mlp and resid", "llama", 280, 11, 5, 6.0),
)


def loaded(family: str) -> LoadedModel:
    torch.manual_seed(0)
    model: PreTrainedModel
    if family == "gpt2":
        # Narrow outside of the MLPs: only their 12 x 3072 neurons are read.
        shape = GPT2Config(vocab_size=VOCABULARY, n_embd=192, n_layer=12, n_head=4, n_inner=3072, n_positions=512)
        model = GPT2LMHeadModel(shape)
    else:
        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=VOCABULARY,
                hidden_size=576,
                intermediate_size=1536,
                num_hidden_layers=30,
                num_attention_heads=9,
                num_key_value_heads=3,
                max_position_embeddings=512,
            )
        )
    return LoadedModel(model.eval(), Words(), f"{family}-shape", family, "cpu", "float32", 512, 12, 0)  # type: ignore[arg-type]


def prompts(shape: Shape) -> list[PromptIds]:
    """Prompts of uneven lengths, `shape.tokens` in all."""
    generator = torch.Generator().manual_seed(1)
    cuts = torch.randperm(shape.tokens // 2 - 1, generator=generator)[: shape.prompts - 1].add(1).mul(2).sort().values
    even = [shape.tokens * i // shape.prompts for i in range(shape.prompts + 1)]
    # Half way between even lengths and random ones.
    ends = [0, *((int(cut) + even[i + 1]) // 2 for i, cut in enumerate(cuts)), shape.tokens]
    ids = torch.randint(1, VOCABULARY, (shape.tokens,), generator=generator).tolist()
    return [
        PromptIds(CONCEPTS[i % shape.concepts], f"prompt {i}", tuple(ids[ends[i] : ends[i + 1]]), f"prompt {i}")
        for i in range(shape.prompts)
    ]


def by_table(path: Path) -> dict[str, int]:
    """Bytes of the disk blocks that each table's columns lie in; one that several share is shared out."""
    with duckdb.connect(str(path), read_only=True) as connection:
        size = connection.execute("SELECT block_size FROM pragma_database_size()").fetchall()[0][0]
        tables = [row[0] for row in connection.execute("SELECT table_name FROM duckdb_tables()").fetchall()]
        holders: dict[int, list[str]] = {}
        for table in tables:
            query = """SELECT DISTINCT unnest(list_append(additional_block_ids, block_id)) FROM pragma_storage_info(?)
                       WHERE block_id >= 0"""
            for (block,) in connection.execute(query, [table]).fetchall():
                holders.setdefault(block, []).append(table)
    return {table: sum(size // len(held) for held in holders.values() if table in held) for table in tables}


def weigh(shape: Shape, folder: Path) -> None:
    path = folder / "run.duckdb"
    request = CaptureRequest(
        "shape", folder, run="run", sites=("mlp", "resid") if shape.family == "llama" else ("mlp",)
    )
    capture = GivenPrompts(request, loaded(shape.family), prompts(shape))
    start = time.perf_counter()
    capture.run()
    seconds = time.perf_counter() - start
    values = shape.tokens * sum(layer.neurons for layer in capture.layers)
    size = path.stat().st_size
    with duckdb.connect(str(path), read_only=True) as connection:
        blocks = connection.execute(
            "SELECT total_blocks, free_blocks, block_size FROM pragma_database_size()"
        ).fetchall()
    print(
        f"{shape.name}, {shape.tokens} tokens of {shape.prompts} prompts: {size / values:.3f} bytes/value "
        f"(asked <= {shape.asked}), {blocks[0][1]} of {blocks[0][0]} disk blocks free, "
        f"{seconds / values * 1e9:.0f} ns/value with the model's passes"
    )
    parts = sorted(by_table(path).items(), key=lambda part: -part[1])
    print("    " + ", ".join(f"{table} {held / values:.3f}" for table, held in parts if held), flush=True)
    path.unlink()


def main() -> None:
    for shape in SHAPES:
        if all(word in f"{shape.name} {shape.tokens}".lower() for word in sys.argv[1:]):
            folder = Path(tempfile.mkdtemp())
            try:
                weigh(shape, folder)
            finally:
                shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
