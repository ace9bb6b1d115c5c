"""What a run file takes, everything in it included: bytes per value, table by table, and the blocks left free.

    python -m tests.benchmarks.bench_bytes [--quick] [--page FILE] [WORD …]

Captures of models with random weights: GPT-2-small's neurons over prompts of one concept, and the shape of a
135 M-parameter Llama with `mlp` and `resid` over short prompts of five concepts, each with few and with more tokens.
Prompts cost, too: each has its means. A million tokens come from arrays (feeding.py), with few neurons: 3.1 GB of disk,
deleted afterwards. Words choose shapes by name, tokens or precision.
"""

import shutil
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import duckdb
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from nfinspect.capturing.prompts import PromptIds
from nfinspect.capturing.request import CaptureRequest
from nfinspect.models import LoadedModel
from nfinspect_store.types import Precision
from tests.benchmarks.bench_capture import GivenPrompts, Words
from tests.benchmarks.feeding import Source, gpt2, record
from tests.benchmarks.report import SMALLER, conditions, options, table, tell

VOCABULARY = 512
CONCEPTS = ("tulip", "vietnam", "hanoi", "violent", "baseline")


@dataclass(frozen=True)
class Shape:
    """A run to be weighed. family: of the model, `arrays` for none. asked: bytes per value at most."""

    name: str
    family: str
    tokens: int
    prompts: int
    concepts: int
    asked: float
    precision: Precision = "float32"


GPT2 = "GPT-2-small, one concept"
LLAMA = "Llama 135M, mlp and resid"
ARRAYS = "2 x 384 neurons"
SHAPES = (
    Shape(GPT2, "gpt2", 280, 6, 1, 5.2),
    Shape(GPT2, "gpt2", 280, 11, 1, 5.2),
    Shape(GPT2, "gpt2", 1800, 70, 1, 4.6),
    Shape(LLAMA, "llama", 280, 11, 5, 6.0),
    Shape(LLAMA, "llama", 1832, 70, 5, 4.8),
    Shape(ARRAYS, "arrays", 1_000_000, 7813, 5, 4.4),
    Shape(GPT2, "gpt2", 280, 11, 1, 2.2, "float16"),
    Shape(GPT2, "gpt2", 1800, 70, 1, 2.2, "float16"),
    Shape(ARRAYS, "arrays", 1_000_000, 7813, 5, 2.2, "float16"),
    Shape(GPT2, "gpt2", 280, 11, 1, 1.1, "int8"),
    Shape(GPT2, "gpt2", 1800, 70, 1, 1.1, "int8"),
    Shape(ARRAYS, "arrays", 1_000_000, 7813, 5, 1.1, "int8"),
    Shape(ARRAYS, "arrays", 1_000_000, 977, 5, 1.1, "int8"),
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


def write(shape: Shape, path: Path) -> int:
    """Make the run, and return how many values it has."""
    if shape.family == "arrays":
        source = Source(gpt2(2, 384), shape.tokens // shape.prompts + 1)
        return record(path, source, shape.tokens, precision=shape.precision) * source.neurons
    sites = ("mlp", "resid") if shape.family == "llama" else ("mlp",)
    request = CaptureRequest("shape", path.parent, run=path.stem, sites=sites, precision=shape.precision)
    capture = GivenPrompts(request, loaded(shape.family), prompts(shape))
    capture.run()
    return shape.tokens * sum(layer.neurons for layer in capture.layers)


def weigh(shape: Shape, folder: Path) -> list[object]:
    path = folder / "run.duckdb"
    values = write(shape, path)
    size = path.stat().st_size
    with duckdb.connect(str(path), read_only=True) as connection:
        query = "SELECT total_blocks, free_blocks FROM pragma_database_size()"
        blocks, free = connection.execute(query).fetchall()[0]
    parts = {name: f"{held / values:.3f}" for name, held in by_table(path).items()}
    path.unlink()
    return [
        f"{shape.name}, {shape.precision}",
        f"{shape.tokens:,}",
        f"{shape.prompts:,}",
        f"{size / values:.3f}",
        shape.asked,
        *map(parts.get, ("blocks", *TOLD)),
        f"{sum(float(held) for name, held in parts.items() if name not in ('blocks', *TOLD)):.3f}",
        f"{free} of {blocks}",
    ]


TOLD = ("prompt_means", "statistics", "histograms", "neurons")
HEADS = ("run", "tokens", "prompts", "**bytes per value**", "goal", "blocks", *TOLD, "other tables", "free disk blocks")


def main(words: list[str] | None = None) -> None:
    parser = options(__doc__ or "")
    parser.add_argument("word", nargs="*")
    chosen = parser.parse_args(words)
    lines = [conditions(quick=chosen.quick)]
    rows = []
    for shape in SHAPES:
        told = f"{shape.name} {shape.tokens} {shape.precision}".lower()
        if not all(word.lower() in told for word in chosen.word):
            continue
        if chosen.quick:
            if shape.tokens not in (280, 1_000_000) or shape.family == "llama":
                continue
            shape = replace(shape, tokens=max(shape.tokens // SMALLER, 24), prompts=max(shape.prompts // SMALLER, 2))
        folder = Path(tempfile.mkdtemp())
        try:
            rows.append(weigh(shape, folder))
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    tell("bench-bytes", "\n\n".join([*lines, table(HEADS, rows)]), chosen.page)


if __name__ == "__main__":
    main()
