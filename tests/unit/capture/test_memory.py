"""Memory stays flat however many tokens pass. In a process of its own, as the peak of a process never falls."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

NEURONS = 4096
SHORT, LONG = 4096, 16384

CHILD = f"""
import resource, sys
from transformers import GPT2Config, GPT2LMHeadModel
from words import word_tokenizer
import nfinspect as nf
from nfinspect.capturing import segments
from nfinspect_store import blocks, memory
# What may fill up is made small, so that the process cannot hide growth below it.
blocks.QUEUE_BYTES, memory.MEMORY, segments.SEGMENT_SECONDS = 8 * 2**20, 32 * 2**20, 0.3
shape = GPT2Config(vocab_size=101, n_embd=16, n_layer=2, n_head=4, n_positions=64, n_inner={NEURONS // 2})
model = GPT2LMHeadModel(shape)
for tokens in ({SHORT}, {LONG}):
    prompts = ["w5 w6 w7 w8 " * 16] * (tokens // 64)
    options = {{"store": sys.argv[1], "run": str(tokens), "keep": sys.argv[2], "batch_size": 8}}
    run = nf.capture(model, word_tokenizer(), prompts, **options)
    assert run.tokens == tokens
    run.close()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


@pytest.mark.slow
@pytest.mark.parametrize("keep", ["all", "stats"])
def test_four_times_the_tokens_take_no_more_memory(keep: str, tmp_path: Path) -> None:
    folders = [str(Path(__file__).parent), str(Path(__file__).parent.parent / "models")]
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(tmp_path), keep],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(folders)},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    short, long = map(float, done.stdout.split())
    values = (LONG - SHORT) * NEURONS * 4 / 2**20
    assert values == 192  # MB that pass more
    assert long - short < 0.35 * values
