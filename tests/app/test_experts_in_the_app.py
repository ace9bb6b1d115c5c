"""A run of a mixture of experts in the app: the router's load, a neuron's expert, and one that no token reached."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from app_driver import Start
from test_making_analyses import go

from nfinspect.capturing.arrays import array_info
from nfinspect.capturing.recorder import LayerValues, RecordedPrompt, Recorder
from nfinspect.tui.engine import Engine
from nfinspect_store.types import Layer, utc_now
from nfinspect_store.writer import RunWriter

EXPERTS, WIDTH, TOKENS = 4, 3, 40


Prompts = list[tuple[str, list[int]]]
"""Of each prompt the concept, and the expert of each token."""

ONE: Prompts = [("one", [(0, 1, 0, 2)[i % 4] for i in range(TOKENS)])]
"""Half of the tokens go to expert 0, a quarter to 1 and 2 each, none to 3."""


def write_mixture(path: Path, prompts: Prompts = ONE) -> None:
    """Each token goes to one expert."""
    layer = Layer(0, "mlp", 0, "h.0.experts", EXPERTS * WIDTH, "silu", "gate", EXPERTS)
    info = replace(array_info(path.stem, 0), settings={"keep": "stats"})
    writer = RunWriter.create(path, info, (layer,))
    recorder = Recorder(writer, 0, torch.device("cpu"))
    chosen = np.array([expert for _, experts in prompts for expert in experts], np.int64)[:, None]
    values = np.random.default_rng(0).normal(size=(len(chosen), WIDTH)).astype(np.float32)
    recorded = [
        RecordedPrompt(concept, "text", list(range(len(of))), [f" t{i}" for i in range(len(of))], len(of))
        for concept, of in prompts
    ]
    recorder.add(recorded, {0: LayerValues(values, values > 0, experts=chosen)})
    recorder.commit({"status": "complete", "finished_at": utc_now()}, final=True)
    writer.close()


async def test_the_load_and_the_expert_are_shown(start: Start, size: tuple[int, int], tmp_path: Path) -> None:
    write_mixture(tmp_path / "mixture.duckdb")
    async with start(Engine(tmp_path), "mixture", size=size) as app:
        # -(0.5 ln 0.5 + 2 * 0.25 ln 0.25) / ln 4
        assert "router: 4 experts of 3, entropy 0.750, load 0.00% to 50.0%, 1 unused" in app.text
        await go(app, "L0/N7")
        assert "L0/N7 (expert 2) " in app.text
        await go(app, "L0/N11")
        assert "L0/N11 (expert 3) absent: no token was routed to its expert" in app.text


async def test_a_trace_says_in_how_many_prompts_of_the_baseline_a_neuron_has_a_mean(
    start: Start, size: tuple[int, int], tmp_path: Path
) -> None:
    """One more column than before the trace is there."""
    prompts: Prompts = [("tulip", [0, 1])] * 3 + [("baseline", [0, 1])] * 2 + [("baseline", [0, 0])] * 3
    write_mixture(tmp_path / "mixture.duckdb", prompts)
    async with start(Engine(tmp_path), "mixture", size=size) as app:
        await go(app, "trace tulip")
        header = next(line for line in app.lines if "neuron" in line and " occ " in line)
        assert header.split()[:5] == ["▲#", "neuron", "occ", "vs", "%"], app.text
        against = {}
        for line in app.lines:
            words = line.replace("▌", " ").split()
            if len(words) > 4 and words[1].startswith("L0/N"):
                against[int(words[1].removeprefix("L0/N"))] = int(words[3])
        assert 2 in against.values(), app.text
        assert against.items() <= {(n, (5, 2)[n // WIDTH]) for n in range(2 * WIDTH)}
