"""Prompts files: JSON, JSONL, CSV, TSV, Parquet, or text with one prompt per line.

In a file with columns the prompt is in `messages` (a chat), `text` or `prompt`, the first that a row has, and its
concept in `concept` or `label`, unless other names are given. Errors name the line that cannot be read.
"""

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nfinspect.capturing.errors import BadPrompts
from nfinspect.models import Message
from nfinspect_store.paths import read_text

MESSAGES = "messages"
TEXT_COLUMNS = ("text", "prompt")
CONCEPT_COLUMNS = ("concept", "label")

PROMPTS = ("prompts", BadPrompts)
"""What is read, for messages, and the error raised if it cannot be."""

CELL_CHARACTERS = 2**31 - 1
"""The longest cell in a CSV file: a prompt may exceed the 128 KB that Python's module allows by default."""


@dataclass(frozen=True)
class Columns:
    """The columns of a table's prompts and concepts; None: those of the names above that exist."""

    text: str | None = None
    concept: str | None = None


@dataclass(frozen=True)
class PromptText:
    """A prompt as given: a text, the messages of a chat, or token ids, which are used unchanged.

    `origin` says where it comes from, for error messages.
    """

    concept: str
    content: str | tuple[Message, ...] | tuple[int, ...]
    origin: str


def read_prompts(path: Path, concept: str | None = None, columns: Columns | None = None) -> list[PromptText]:
    """The prompts of a file; its suffix decides the format: .json, .jsonl, .csv, .tsv, .parquet, else text.

    The concept is `concept`, else the row's own, else the file's stem. Raises BadPrompts.
    """
    columns = columns or Columns()
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        rows: Iterable[tuple[str, Mapping[str, Any]]] = _parquet_rows(path, columns)
    elif suffix in (".csv", ".tsv"):
        rows = _csv_rows(path, "," if suffix == ".csv" else "\t")
    elif suffix == ".jsonl":
        rows = _json_lines(path)
    elif suffix == ".json":
        return _some(path, _from_json(path, concept, columns))
    else:
        lines = _lines(read_text(path, *PROMPTS))
        label = concept or path.stem
        return _some(path, [PromptText(label, x, f"{path}:{i + 1}") for i, x in enumerate(lines) if x.strip()])
    return _some(path, [_of_row(path, row, origin, concept, columns) for origin, row in rows])


def chat_of(said: object, origin: str) -> tuple[Message, ...]:
    """[{"role": "…", "content": "…"}, …] as messages. Raises BadPrompts."""
    shape = '[{"role": "user", "content": "…"}, …]'
    if isinstance(said, str | Mapping) or not isinstance(said, Sequence) or not said:
        raise BadPrompts(f"expected messages {shape} in {origin}, found {_short(said)}")
    for one in said:
        if not isinstance(one, Mapping) or not all(isinstance(one.get(key), str) for key in ("role", "content")):
            raise BadPrompts(f"expected messages {shape} in {origin}, found {_short(one)} among them")
    return tuple(Message(one["role"], one["content"]) for one in said)


def _some(path: Path, prompts: list[PromptText]) -> list[PromptText]:
    if not prompts:
        raise BadPrompts(f"expected prompts in {path}, found none: the file is empty")
    return prompts


def _of_row(path: Path, row: Mapping[str, Any], origin: str, concept: str | None, columns: Columns) -> PromptText:
    """A prompt from a row of named values."""
    names = [columns.text] if columns.text is not None else [MESSAGES, *TEXT_COLUMNS]
    there = [name for name in names if row.get(name) is not None]
    # A column may exist only for other rows, and "" is the only way for CSV to say that a row has nothing in it.
    filled = [name for name in there if row[name] not in ("", [])]
    if not there:
        looked = " or ".join(map(repr, names))
        raise BadPrompts(
            f"expected a prompt in {looked} of {origin}, found {_short(list(row))}: --text-column says where it is"
        )
    name = filled[0] if filled else there[-1]
    value = row[name]
    label = concept or _concept(row, origin, columns) or path.stem
    if name == MESSAGES or isinstance(value, list | tuple):
        # In CSV a chat is a cell of JSON.
        return PromptText(label, chat_of(_parsed(value, origin) if isinstance(value, str) else value, origin), origin)
    if not isinstance(value, str):
        raise BadPrompts(f"expected text in {name!r} of {origin}, found {_short(value)}")
    return PromptText(label, value, origin)


def _concept(row: Mapping[str, Any], origin: str, columns: Columns) -> str:
    if columns.concept is not None and columns.concept not in row:
        raise BadPrompts(f"expected a concept in {columns.concept!r} of {origin}, found {_short(list(row))}")
    names = [columns.concept] if columns.concept is not None else CONCEPT_COLUMNS
    value = next((row[name] for name in names if row.get(name) not in (None, "")), "")
    if isinstance(value, dict | list):
        raise BadPrompts(f"expected a concept's name in {origin}, found {_short(value)}")
    return str(value)


def _csv_rows(path: Path, delimiter: str) -> list[tuple[str, dict[str, Any]]]:
    reader = csv.reader(io.StringIO(read_text(path, *PROMPTS), newline=""), delimiter=delimiter, strict=True)
    allowed = csv.field_size_limit(CELL_CHARACTERS)  # global: restored below
    try:
        header = next(reader, [])
        if len(set(header)) < len(header):
            raise BadPrompts(f"expected columns with different names in {path}:1, found {_short(header)}")
        rows = []
        before = reader.line_num
        for cells in reader:
            origin, before = f"{path}:{before + 1}", reader.line_num
            if cells and len(cells) != len(header):
                raise BadPrompts(f"expected {len(header)} columns as in the first line in {origin}, found {len(cells)}")
            if cells:
                rows.append((origin, dict(zip(header, cells, strict=True))))
        return rows
    except csv.Error as error:
        raise BadPrompts(f"expected CSV in {path}:{reader.line_num}, found an error: {error}") from error
    finally:
        csv.field_size_limit(allowed)


def _parquet_rows(path: Path, columns: Columns) -> Iterator[tuple[str, dict[str, Any]]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    wanted = {columns.text, columns.concept, MESSAGES, *TEXT_COLUMNS, *CONCEPT_COLUMNS}
    number = 0
    try:
        with pq.ParquetFile(path) as file:
            there = file.schema_arrow.names
            read = [name for name in there if name in wanted]
            for batch in file.iter_batches(columns=read):
                # No column of these names: one row without values, so that the error names the columns there are.
                rows = batch.to_pylist() if read else [dict.fromkeys(there)]
                for row in rows:
                    number += 1
                    yield f"{path} row {number}", row
    except OSError as error:
        raise BadPrompts(f"cannot read prompts from {path}: {error.strerror or error}") from error
    except pa.ArrowException as error:
        raise BadPrompts(f"expected a Parquet file in {path}, found {str(error).splitlines()[0]}") from error


def _json_lines(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for number, line in enumerate(_lines(read_text(path, *PROMPTS)), start=1):
        if not line.strip():
            continue
        origin = f"{path}:{number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise BadPrompts(f"expected one JSON object in {origin}, found an error: {error}") from error
        if not isinstance(row, dict):
            raise BadPrompts(f'expected {{"text": "…", "concept": "…"}} in {origin}, found {line[:60]!r}')
        yield origin, row


def _from_json(path: Path, concept: str | None, columns: Columns) -> list[PromptText]:
    try:
        data = json.loads(read_text(path, *PROMPTS))
    except (ValueError, RecursionError) as error:
        raise BadPrompts(f"expected JSON in {path}, found an error: {error}") from error
    if isinstance(data, dict) and MESSAGES in data:
        data = [data]
    items = data.get("prompts") if isinstance(data, dict) else data
    if not isinstance(items, list):
        raise BadPrompts(f'expected {{"prompts": ["…", …]}} in {path}, found something else')
    label = concept or path.stem
    prompts = []
    for i, item in enumerate(items):
        origin = f"{path} prompt {i + 1}"
        if isinstance(item, str):
            prompts.append(PromptText(label, item, origin))
        elif isinstance(item, dict):
            prompts.append(_of_row(path, item, origin, concept, columns))
        elif isinstance(item, list):
            prompts.append(PromptText(label, chat_of(item, origin), origin))
        else:
            raise BadPrompts(f'expected {{"prompts": ["…", …]}} in {path}, found {_short(item)} as prompt {i + 1}')
    return prompts


def _parsed(text: str, origin: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadPrompts(f"expected messages as JSON in {origin}, found an error: {error}") from error


def _lines(content: str) -> list[str]:
    """Split only at line feeds: str.splitlines also splits at U+2028 and form feeds, which JSON and text may hold."""
    return content.split("\n")


def _short(value: object) -> str:
    return repr(value)[:60]
