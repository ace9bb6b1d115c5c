"""A segment that is given up keeps nobody waiting, and one that fails leaves nothing behind."""

import gc
import threading
import weakref
from pathlib import Path
from typing import Any

import duckdb
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


def test_a_segment_that_cannot_be_written_is_freed_with_its_connection(tmp_path: Path) -> None:
    """DuckDB's binding prints what is left of a connection at the end: forty lines after that on a full disk."""
    layer = Layer(0, "mlp", 0, "h.0", 4, "relu", "positive")
    stream = BlockStream(tmp_path / "r.duckdb", duckdb.connect(), [BlockBuffer(layer)])  # it has no table for blocks
    with pytest.raises(StoreError):
        stream.put(0, np.ones((4, BLOCK), np.float32), None)
        stream.finish(final=True)
    left = weakref.ref(stream)
    del stream
    gc.collect()
    assert left() is None
