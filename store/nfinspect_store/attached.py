"""A run may leave its values in the parts that it was merged from: it is attached to them (docs/decisions/0021).

Its file says where they are, relative to itself, and by what to know them again: `settings.merged.attached`. This
module reads that, and defines the view through which SQL sees them. It opens nothing: open_parts.py does.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nfinspect_store.errors import NotARun
from nfinspect_store.part_settings import MERGED, is_number
from nfinspect_store.schema import quoted

if TYPE_CHECKING:
    import duckdb

ATTACHED = "attached"
"""Of settings.merged: name, path, run_id, tokens, bytes, digest of each part, in order."""

MOST_ATTACHED = 256
"""The most parts that a run is attached to: each is an open file, and a branch of the view [own]."""

PATH_LENGTH = 4096

_NAME = re.compile(r"part_\d{1,5}_of_[0-9a-f]{8}")

STAND_IN = "activations (site VARCHAR, layer INTEGER, neuron INTEGER, token_idx BIGINT, value FLOAT)"


@dataclass(frozen=True)
class AttachedPart:
    """A part that holds the values of some consecutive tokens of a run. told: where it is, as the run says it."""

    name: str  # in SQL
    told: str
    run_id: str
    tokens: int
    bytes: int
    digest: str  # of what the part says its tables and values are
    first_token: int  # of the run

    def path(self, run: Path) -> Path:
        """run: the file of the run."""
        return run.resolve().parent / self.told

    def problem(self, run: Path) -> str | None:
        """Why its values cannot be read, as far as its file can say without being opened; None if nothing is wrong."""
        path = self.path(run)
        try:
            size = path.stat().st_size
        except OSError as error:
            return (
                f"{path} is missing" if isinstance(error, FileNotFoundError) else f"{path}: {error.strerror or error}"
            )
        changed = f"{path} is not as it was when it was attached: it had {self.bytes} bytes, and has {size}"
        return None if size == self.bytes else changed


def is_attached(settings: Mapping[str, Any]) -> bool:
    """Whether a run's values are in parts, as its settings say."""
    told = settings.get(MERGED)
    return isinstance(told, dict) and ATTACHED in told


def attached_parts(settings: Mapping[str, Any]) -> tuple[AttachedPart, ...]:
    """The parts that hold a run's values, in order; empty for a run that holds them itself. Raises NotARun."""
    if not is_attached(settings):
        return ()
    told = settings[MERGED][ATTACHED]
    found: list[AttachedPart] = []
    before = 0
    for one in told if isinstance(told, list) and 0 < len(told) <= MOST_ATTACHED else [None]:
        if not isinstance(one, dict) or not _is_whole(one) or any(part.name == one["name"] for part in found):
            raise NotARun("the run does not say which parts hold its values: it is damaged, or was changed")
        fields = {name: one[name] for name in ("name", "run_id", "tokens", "bytes", "digest")}
        found.append(AttachedPart(told=one["path"], first_token=before, **fields))
        before += one["tokens"]
    return tuple(found)


def parts_in(connection: "duckdb.DuckDBPyConnection", catalog: str) -> tuple[AttachedPart, ...]:
    """`attached_parts` of the run that is attached as `catalog`. Settings that are no JSON object tell of none."""
    rows = connection.execute(f"SELECT settings::VARCHAR FROM {quoted(catalog)}.main.run").fetchall()
    try:
        settings = json.loads(rows[0][0] or "{}")
    except (ValueError, RecursionError):  # check_contents refuses it
        return ()
    return attached_parts(settings) if isinstance(settings, dict) else ()


def _is_whole(one: Mapping[str, Any]) -> bool:
    texts = [one.get(name) for name in ("name", "path", "run_id", "digest")]
    if not all(isinstance(text, str) and 0 < len(text) <= PATH_LENGTH and "\0" not in text for text in texts):
        return False
    size = one.get("bytes")
    counted = is_number(one.get("tokens")) and isinstance(size, int) and not isinstance(size, bool) and size > 0
    return counted and _NAME.fullmatch(one["name"]) is not None and not os.path.isabs(one["path"])


def told_parts(run: Path, run_id: str, parts: Iterable[tuple[Path, str, int, str]]) -> list[dict[str, Any]]:
    """What the settings of the run at `run` say of its parts: each its path, run_id, number of tokens and digest."""
    place = run.resolve().parent
    return [
        {
            "name": f"part_{number}_of_{run_id[:8]}",
            "path": os.path.relpath(path.resolve(), place),
            "run_id": part_id,
            "tokens": tokens,
            "bytes": path.stat().st_size,
            "digest": digest,
        }
        for number, (path, part_id, tokens, digest) in enumerate(parts, 1)
    ]


def contents_digest(connection: "duckdb.DuckDBPyConnection") -> str:
    """SHA-256 of what a run says that it holds. connection: its default catalog is the run."""
    rows = connection.execute('SELECT part, "rows", digest FROM digests ORDER BY ALL').fetchall()
    return hashlib.sha256(repr(rows).encode()).hexdigest()


def activations_view(parts: Sequence[AttachedPart]) -> str:
    """SQL of the view of a run that is attached to these parts. It works where they are attached by their names."""
    branches = (
        f"SELECT site, layer, neuron, token_idx + {part.first_token} AS token_idx, value "
        f"FROM {quoted(part.name)}.main.activations"
        for part in parts
    )
    return f"CREATE VIEW activations AS {' UNION ALL '.join(branches)}"


def define_view(connection: "duckdb.DuckDBPyConnection", parts: Sequence[AttachedPart]) -> None:
    """Replace the view of a new run, the default catalog. DuckDB looks for what a view reads when it is made: empty
    tables stand in for the parts.
    """
    for part in parts:
        connection.execute(f"ATTACH ':memory:' AS {quoted(part.name)}")
        connection.execute(f"CREATE TABLE {quoted(part.name)}.main.{STAND_IN}")
    connection.execute("DROP VIEW activations")
    connection.execute(activations_view(parts))
    for part in parts:
        connection.execute(f"DETACH {quoted(part.name)}")
