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


def write_mixture(path: Path) -> None:
    """Each token goes to one expert: half of them to expert 0, a quarter to 1 and 2 each, none to 3."""
    layer = Layer(0, "mlp", 0, "h.0.experts", EXPERTS * WIDTH, "silu", "gate", EXPERTS)
    info = replace(array_info(path.stem, 0), settings={"keep": "stats"})
    writer = RunWriter.create(path, info, (layer,))
    recorder = Recorder(writer, 0, torch.device("cpu"))
    ids = list(range(TOKENS))
    values = np.random.default_rng(0).normal(size=(TOKENS, WIDTH)).astype(np.float32)
    experts = np.array([(0, 1, 0, 2)[i % 4] for i in ids], np.int64)[:, None]
    prompt = RecordedPrompt("one", "text", ids, [f" t{i}" for i in ids], TOKENS)
    recorder.add([prompt], {0: LayerValues(values, values > 0, experts=experts)})
    recorder.commit({"status": "complete", "finished_at": utc_now()}, final=True)
    writer.close()


async def test_the_load_and_the_expert_are_shown(start: Start, size: tuple[int, int], tmp_path: Path) -> None:
    write_mixture(tmp_path / "mixture.duckdb")
    async with start(Engine(tmp_path), "mixture", size=size) as app:
        # -(0.5 ln 0.5 + 2 * 0.25 ln 0.25) / ln 4
        assert "router: 4 experts, entropy 0.750, load 0.00% to 50.0%, 1 unused" in app.text
        await go(app, "L0/N7")
        assert "L0/N7 (expert 2) " in app.text
        await go(app, "L0/N11")
        assert "L0/N11 (expert 3) absent: no token was routed to its expert" in app.text
