"""Checks, whenever a run is opened, what every reader relies on in its small tables `run`, `layers` and `prompts`.

They give the sizes of arrays and the ranges of ids, and a stranger's file may say anything. All other tables are too
large to be checked at every opening: verify.py does that.
"""

import datetime as dt
import json
from pathlib import Path

import duckdb

from nfinspect_store.errors import NotARun
from nfinspect_store.schema import EXPERTS, ROUTED

STATUSES = ("capturing", "complete", "interrupted", "failed")
FIRINGS = ("positive", "gate", "scale")

ROWS_PER_BYTE = 4
"""More neurons, tokens or prompts per byte of file than any capture writes: only compression could hold more."""

FEW = 2**16
"""A token index that a prompt may claim in any run: an array of this size is small, and verify reports excess."""

READ_RUN = "SELECT run_id, name, kind, model, status, created_at, settings FROM run LIMIT 2"
VALUES_PER_BYTE = 8
"""Likewise for values, which take four bytes each where they are stored."""

READ_LAYERS = (
    "SELECT layer_id, site, layer, module, neurons, activation, fires FROM layers ORDER BY layer_id LIMIT 32768"
)
READ_SIZES = """
SELECT (SELECT count(*) FROM tokens), (SELECT count(*) FROM prompts), (SELECT sum(neurons) FROM layers),
       settings->>'keep', (settings->'$.merged.attached') IS NOT NULL, (SELECT count(*) FROM unrecorded),
       (SELECT count(*) FROM beyond)
FROM run
"""
OPTIONAL = "SELECT table_name FROM duckdb_tables() WHERE database_name = current_database()"
READ_ROUTED = f"""
SELECT (SELECT coalesce(sum(neurons), 0) FROM layers l 
        ANTI JOIN {EXPERTS} e
            ON e.site = l.site AND e.layer = l.layer AND e.experts > 0 AND e.experts::HUGEINT * e.width = l.neurons),
       (SELECT count(*) FROM {ROUTED}) * (SELECT coalesce(max(width), 0) FROM {EXPERTS})
"""
"""In a run that keeps the values of experts: the other neurons, and about how many values those of experts have."""
READ_PROMPTS = """
SELECT coalesce(min(least(first_token, prompt_tokens, tokens)), 0),
       coalesce(max(greatest(first_token + tokens, prompt_tokens)), 0) FROM prompts
"""


def check_contents(connection: duckdb.DuckDBPyConnection, path: Path) -> None:
    """Raises NotARun, naming what no capture writes. connection: from nfinspect_store.connect.attach."""
    problem = (
        _of_run(connection.execute(READ_RUN).fetchall())
        or _of_layers(connection.execute(READ_LAYERS).fetchall())
        or _of_sizes(connection, path)
    )
    if problem:
        raise NotARun(f"{path} is not a run, or is damaged: {problem}")


def _of_run(rows: list[tuple[object, ...]]) -> str | None:
    if len(rows) != 1:
        return f"expected one row in the table run, found {'more' if rows else 'none'}"
    *texts, status, created_at, settings = rows[0]
    if not all(isinstance(text, str) for text in texts):
        return "its table run lacks the run's id, name, kind or model"
    if status not in STATUSES:
        return f"expected one of {', '.join(STATUSES)} as its status, found {str(status)[:40]!r}"
    if not isinstance(created_at, dt.datetime) or created_at.year >= dt.MAXYEAR:
        return "its time of creation is missing or impossible"
    try:
        if not isinstance(json.loads(str(settings)), dict):
            return "its settings are not a JSON object"
    except (ValueError, RecursionError):
        return "its settings are not JSON"
    return None


def _of_layers(rows: list[tuple[object, ...]]) -> str | None:
    seen: list[object] = []
    layers = set()
    for number, (layer_id, site, layer, module, neurons, activation, fires) in enumerate(rows):
        if layer_id != number:
            return f"its layers are not numbered from 0: expected {number}, found {layer_id}"
        if not (isinstance(site, str) and site and isinstance(module, str) and isinstance(activation, str)):
            return f"layer {number} lacks its site, module or activation"
        if fires not in FIRINGS:
            return f"expected one of {', '.join(FIRINGS)} for how layer {number} fires, found {str(fires)[:40]!r}"
        if not isinstance(layer, int) or layer < 0 or not isinstance(neurons, int) or neurons < 1:
            return f"layer {number} has the impossible number {layer} or {neurons} neurons"
        if (site, layer) in layers or (site in seen[:-1]):
            return f"layer {number} is listed twice, or apart from the others of its site"
        layers.add((site, layer))
        if site not in seen:
            seen.append(site)
    return None if rows else "it holds no layers"


def _of_sizes(connection: duckdb.DuckDBPyConnection, path: Path) -> str | None:
    tokens, prompts, neurons, keep, attached, unrecorded, beyond = connection.execute(READ_SIZES).fetchall()[0]
    log = path.with_name(f"{path.name}.wal")
    size = path.stat().st_size + (log.stat().st_size if log.exists() else 0)
    values = 0 if keep == "stats" or attached else tokens * neurons
    if values > VALUES_PER_BYTE * size and {EXPERTS, ROUTED} <= {x[0] for x in connection.execute(OPTIONAL).fetchall()}:
        others, routed = connection.execute(READ_ROUTED).fetchall()[0]
        values = tokens * others + routed
    first, last = connection.execute(READ_PROMPTS).fetchall()[0]
    if first < 0 or last > max(2 * tokens, FEW):
        return f"its prompts claim tokens from {first} to {last}, and it holds {tokens} tokens"
    if max(tokens, unrecorded, prompts, neurons, beyond) > ROWS_PER_BYTE * size or values > VALUES_PER_BYTE * size:
        return f"{tokens} tokens, {prompts} prompts and {neurons} neurons are more than a file of its size can hold"
    return None
