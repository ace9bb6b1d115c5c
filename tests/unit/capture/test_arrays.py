"""A run from arrays: what it cannot know is refused, not guessed."""

from pathlib import Path

import numpy as np
import pytest

from nfinspect.capturing.arrays import ArrayPrompt, write_run
from nfinspect.capturing.examples import RandomTokens
from nfinspect_store.errors import RequestError
from nfinspect_store.reader import RunFile
from nfinspect_store.types import Keep, Layer

PROMPT = ArrayPrompt("tulip", "a b", [1, 2], ["a", " b"], 2)
GATED = Layer(0, "mlp", 0, "h.0.mlp", 3, "silu", "gate")
VALUES = np.array([[1.0, -1.0, 2.0], [1.0, -1.0, 2.0]], np.float32)


def test_a_gated_layer_needs_what_fired(tmp_path: Path) -> None:
    path = tmp_path / "run.duckdb"
    with pytest.raises(RequestError, match=r"expected `fired` for layers that fire by a gate \(mlp L0\)"):
        write_run(path, layers=[GATED], prompts=[PROMPT], values=lambda i, layer: VALUES)
    assert not path.exists()


def test_a_gated_layer_fires_as_its_gate_says(tmp_path: Path) -> None:
    path = tmp_path / "run.duckdb"
    fired = np.array([[False, True, True], [False, True, False]])
    write_run(path, layers=[GATED], prompts=[PROMPT], values=lambda i, layer: VALUES, fired=lambda i, layer: fired)
    with RunFile.open(path) as run:
        rates = run.sql("SELECT firing_rate FROM neurons ORDER BY neuron").fetchall()
    assert rates == [(0.0,), (1.0,), (0.5,)]


@pytest.mark.parametrize("keep", ["all", "stats"])
def test_random_tokens_are_drawn_only_where_values_are_not_kept(
    keep: Keep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[int] = []
    add = RandomTokens.add

    def noted(self: RandomTokens, start: int, places: np.ndarray) -> np.ndarray:
        drawn.append(len(places))
        return add(self, start, places)

    monkeypatch.setattr(RandomTokens, "add", noted)
    layer = Layer(0, "mlp", 0, "h.0.mlp", 3, "relu", "positive")
    path = tmp_path / "run.duckdb"
    write_run(path, layers=[layer], prompts=[PROMPT], values=lambda i, layer: VALUES, keep=keep)
    assert drawn == ([2] if keep == "stats" else [])
