"""A run whose kinds of neurons are known, for reports, and how their files are read."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np

from nfinspect.capturing.arrays import ArrayPrompt, write_run
from nfinspect_store.types import Layer

PROMPTS, LENGTH, NEURONS = 110, 24, 10
DEAD, DETECTORS, POSITIONAL = {(0, 0), (1, 0), (1, 1)}, {(0, 3): 7, (1, 5): 9}, {(1, 8)}
CONCEPTS = ("tulip", "vietnam", "baseline")


def write_planted(path: Path, layers: int = 2, seed: int = 0, prompts: int = PROMPTS) -> Path:
    """ReLU noise with dead neurons, detectors of token 7 and 9, and one that is on in the first half of a prompt."""
    ids = np.random.default_rng(seed).integers(0, 40, (prompts, LENGTH))

    def values(prompt: int, layer: Layer) -> np.ndarray:
        rng = np.random.default_rng([seed, prompt, layer.layer])
        found = np.maximum(rng.normal(size=(LENGTH, NEURONS)), 0).astype(np.float32)
        for (where, neuron), token in DETECTORS.items():
            if where == layer.layer:
                found[:, neuron] = ids[prompt] == token
        for where, neuron in POSITIONAL:
            if where == layer.layer:
                found[:, neuron] = np.arange(LENGTH) < LENGTH // 2
        for where, neuron in DEAD:
            if where == layer.layer:
                found[:, neuron] = 0
        return found

    write_run(
        path,
        layers=[Layer(i, "mlp", i, f"h.{i}.mlp", NEURONS, "relu", "positive") for i in range(layers)],
        prompts=[
            ArrayPrompt(CONCEPTS[i % 3], f"\x1b[31m$x$ {i}", row, [f" \x1b|{token}" for token in row], LENGTH)
            for i, row in enumerate(ids.tolist())
        ],
        values=values,
    )
    return path


def rows_of(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8", newline="") as opened:
        return list(csv.DictReader(opened))


def document(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))


def contents(directory: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(directory.iterdir())}
