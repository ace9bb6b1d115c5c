"""A small run with planted neurons of every kind, and the analyses kept beside it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from fake_engine import HOSTILE
from numpy.typing import NDArray

from nfinspect.analyses import spec
from nfinspect.analysis.attention_scores import AttentionLayer, AttentionScores, LayerScores, distribution_of, ranked
from nfinspect.capturing.arrays import ArrayPrompt, array_info, write_run
from nfinspect.json_values import jsonable
from nfinspect.results import find_or_compute
from nfinspect_store.reader import RunFile
from nfinspect_store.results import keep_result, model_results, run_results
from nfinspect_store.types import Layer

MODEL = "study-model"
PROMPTS, TOKENS, NEURONS = 100, 32, 12
WORDS = (" one", " two", " three", " four", " five", HOSTILE, " seven", " eight")
HOSTILE_ID = WORDS.index(HOSTILE)
LAYERS = [Layer(i, "mlp", i, f"h.{i}.mlp.c_proj", NEURONS, "relu", "positive") for i in range(2)]


def token_ids(prompt: int) -> NDArray[np.int64]:
    return np.random.default_rng([7, prompt]).integers(0, len(WORDS), TOKENS)


def values(prompt: int, layer: Layer) -> NDArray[np.float32]:
    """Slow noise, but for the neurons that are planted.

    L0/N0 is dead; L0/N3 fires on the hostile token alone, L1/N2 on `one two`; L0/N7 in the second half of a prompt;
    L1/N9 on every other token.
    """
    rng = np.random.default_rng([prompt, layer.layer_id])
    steps = rng.normal(size=(TOKENS, NEURONS))
    for i in range(1, TOKENS):
        steps[i] = 0.95 * steps[i - 1] + 0.3 * steps[i]
    found = np.maximum(steps, 0).astype(np.float32)
    ids, places = token_ids(prompt), np.arange(TOKENS)
    if layer.layer == 0:
        found[:, 0] = 0
        found[:, 3] = ids == HOSTILE_ID
        found[:, 7] = places >= TOKENS // 2
    else:
        found[1:, 2] = (ids[:-1] == 0) & (ids[1:] == 1)
        found[0, 2] = 0
        found[:, 9] = (places + prompt) % 2
    return found


def write_study(store: Path) -> Path:
    """The run alone."""
    store.mkdir(parents=True, exist_ok=True)
    prompts = [
        ArrayPrompt("tulip" if i % 2 else "baseline", f"prompt {i}", ids, [WORDS[j] for j in ids], TOKENS)
        for i in range(PROMPTS)
        for ids in [token_ids(i).tolist()]
    ]
    path = store / "study.duckdb"
    info = replace(array_info("study", 0), model=MODEL)
    write_run(path, layers=LAYERS, prompts=prompts, values=values, info=info)
    return path


def keep_analyses(path: Path) -> None:
    """Every analysis of the run, as the commands keep it; attention and ablation as if a model had been there."""
    with RunFile.open(path) as run:
        for n in (1, 2):
            find_or_compute(spec("ngrams"), run, n=n)
        find_or_compute(spec("positions"), run)
        find_or_compute(spec("delta"), run)
        keep_attention(path.parent)
        keep_result(
            run_results(path),
            "ablation",
            ablation_settings(),
            ablation_document(),
            run_id=run.info.run_id,
            in_format=spec("ablate").format,
        )


def keep_attention(store: Path, neurons: int = NEURONS, **settings: object) -> None:
    """Scores that fall with the neuron's number; L1/N4 has the largest."""
    score = np.linspace(0.5, 0.1, neurons)
    layers = [
        LayerScores(i, np.where(np.arange(neurons) == 4, 0.9 * i + 0.05, score), score * 2, score * 3, score * np.nan)
        for i in range(2)
    ]
    rows = [
        AttentionLayer("mlp", one.layer, neurons, distribution_of(one.score), 2, 0.25 + one.layer / 4, 0.5, 0.1)
        for one in layers
    ]
    pairs = [(layer, i, j, 1 / (i + 1)) for layer in range(2) for i in range(4) for j in range(i + 1)]
    columns = zip(("layer", "query", "key", "weight"), zip(*pairs, strict=True), strict=True)
    found = AttentionScores(
        "attention_weighted", "mlp", 6, 6, 90, tuple(rows), (), ranked("mlp", layers),
        pa.table({"layer": [0, 1], "head": [0, 0], "sink": [0.2, 0.3], "entropy": [0.5, 0.5]}),
        pa.table(dict(columns)),
        pa.table({"position": range(4), "token": [" The", HOSTILE, " fields", "."]}),
    )  # fmt: skip
    asked = {"model": MODEL, "method": "attention_weighted", "prompts": [["/texts/six.txt", "1"]], "text": []}
    document = jsonable(found.to_json())
    folder = model_results(store, MODEL)
    keep_result(folder, "attention", {**asked, **settings}, document, run_id=None, tables=found.tables())


def ablation_settings() -> dict[str, Any]:
    sets = {"dead": ["mlp:L0/N0"], "positional": ["mlp:L0/N7", "mlp:L1/N9"]}
    return {"mode": "zero", "controls": 20, "sets": sets, "text": "tales.txt"}


def ablation_document() -> dict[str, Any]:
    def one(name: str, neurons: int, delta: float, z: float) -> dict[str, Any]:
        control = {"count": 20, "mean_delta_nll": 0.01, "sd": 0.005, "z": z, "p_value": 0.5, "delta_nlls": [0.01] * 20}
        ends = [delta - 0.02, delta + 0.02]
        return {"name": name, "neurons": neurons, "mode": "zero", "nll": 3 + delta, "perplexity": 20 + delta,
                "delta_nll": delta, "ci95": ends, "control": control}  # fmt: skip

    return {
        "text": "tales.txt", "tokens": 4321, "context": 64, "stride": 32, "model": MODEL, "model_of_run": True,
        "notes": [], "baseline": {"nll": 3.0, "perplexity": 20.1},
        "sets": [one("dead", 1, 0.0, -2.0), one("positional", 2, 0.25, 48.0)],
    }  # fmt: skip
