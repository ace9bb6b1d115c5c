"""Reading a whole run without keeping it in memory."""

from collections.abc import Iterator
from contextlib import contextmanager

from nfinspect_store.tables import RunTables

CACHE = "1GB"
"""DuckDB's memory while a run is streamed. By itself it keeps what it reads until 80 % of the machine's memory is full:
5.7 GB for a run of 5 GB, where 1.8 GB do and take no longer."""


@contextmanager
def small_cache(run: RunTables) -> Iterator[None]:
    """Inside the block DuckDB holds little of the run. Two at a time do no harm: the first to end frees the other."""
    run.cursor().execute(f"SET memory_limit = '{CACHE}'")
    try:
        yield
    finally:
        run.cursor().execute("RESET memory_limit")
