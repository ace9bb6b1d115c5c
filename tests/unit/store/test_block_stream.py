"""A segment that is given up keeps nobody waiting."""

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nfinspect_store import blocks
from nfinspect_store.blocks import BlockBuffer, BlockStream
from nfinspect_store.errors import StoreError
from nfinspect_store.schema import BLOCK
from nfinspect_store.types import Layer


class Stalled:
    """A connection that reads no batch before the stream is ended."""

    def __init__(self) -> None:
        self.ended = threading.Event()
        self._reader: Any = None

    def register(self, name: str, reader: Any) -> None:
        self._reader = reader

    def unregister(self, name: str) -> None:
        pass

    def execute(self, statement: str) -> None:
        if statement.startswith("INSERT"):
            assert self.ended.wait(30)
            for _ in self._reader:
                pass


def test_giving_up_a_segment_wakes_who_waits_for_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "QUEUE_BYTES", 1)
    connection: Any = Stalled()
    layer = Layer(0, "mlp", 0, "h.0", 4, "relu", "positive")
    stream = BlockStream(tmp_path / "r.duckdb", connection, [BlockBuffer(layer)])
    block, raised = np.ones((4, BLOCK), np.float32), []
    stream.put(0, block, None)

    def put() -> None:
        try:
            stream.put(0, block, None)
        except StoreError as error:
            raised.append(error)

    waiting = threading.Thread(target=put, daemon=True)
    waiting.start()
    with stream._changed:
        assert stream._changed.wait_for(lambda: stream._full, 30)
    abandoning = threading.Thread(target=stream.abandon, daemon=True)
    abandoning.start()
    with stream._changed:
        assert stream._changed.wait_for(lambda: stream._ended, 30)
    connection.ended.set()
    abandoning.join(30)
    waiting.join(10)
    assert not abandoning.is_alive() and not waiting.is_alive()
    (error,) = raised
    assert "given up" in str(error)
