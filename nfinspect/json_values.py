"""Values as JSON can hold them."""

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from types import NoneType
from typing import Any, ClassVar

ROWS = 4096
"""Rows of a list written at a time."""

PLAIN = frozenset({str, int, float, bool, NoneType})


class Document:
    """A dataclass whose fields are its JSON, in their order."""

    JSON: ClassVar[tuple[str, ...]] = ()
    """If not empty: the fields and properties of its JSON, in order."""

    def to_json(self) -> dict[str, Any]:
        """As `--json` prints it; tuples are lists, documents their own JSON."""
        names: Iterable[str] = self.JSON or self.__dataclass_fields__  # type: ignore[attr-defined]
        return {name: _content(getattr(self, name)) for name in names}


def _content(value: Any) -> Any:
    if type(value) in PLAIN:
        return value
    if hasattr(value, "to_json"):  # a document, or anything else that writes its own JSON
        return value.to_json()
    if isinstance(value, Mapping):
        return {key: _content(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_content(item) for item in value]
    return value


def jsonable(value: Any) -> Any:
    """A value as JSON can hold it: NaN and infinity are None."""
    if type(value) in PLAIN:  # most are
        return value if type(value) is not float or math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, str | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if hasattr(value, "isoformat"):
        return value.isoformat()
    if hasattr(value, "tolist"):  # numpy's scalars and arrays
        return jsonable(value.tolist())
    if isinstance(value, Iterable):
        return [jsonable(item) for item in value]
    return str(value)


def indented(value: Any, line: str = "\n") -> Iterator[str]:
    """The text of `json.dumps(jsonable(value), indent=2)`, in pieces. line: what begins a line at this depth.

    json indents in Python, 2 µs a number; here what holds nothing but numbers and texts, such as a row of a list, is
    encoded at once.
    """
    if type(value) not in (dict, list):
        value = list(value) if type(value) is tuple else jsonable(value)
    if type(value) not in (dict, list) or not value:
        yield _encoder(",")(value)
        return
    inner = line + "  "
    named = type(value) is dict
    if PLAIN.issuperset(map(type, value.values() if named else value)) and (
        not named or {str}.issuperset(map(type, value))
    ):
        try:
            text = _encoder(f",{inner}")(value)
        except ValueError:  # NaN or infinity
            text = _encoder(f",{inner}")(jsonable(value))
        yield f"{text[0]}{inner}{text[1:-1]}{line}{text[-1]}"
        return
    start, end = "{}" if named else "[]"
    if not named and (names := _alike(value)):
        for at in range(0, len(value), ROWS):
            yield f"{start}{inner}{_rows(value[at : at + ROWS], names, inner)}"
            start = ","
        yield f"{line}{end}"
        return
    for key, item in value.items() if named else enumerate(value):
        yield f"{start}{inner}{_encoder(',')(str(key))}: " if named else f"{start}{inner}"
        yield from indented(item, inner)
        start = ","
    yield f"{line}{end}"


def _alike(rows: list[Any]) -> tuple[str, ...]:
    """The names that all rows have in this order, if they are dictionaries of nothing but numbers and texts."""
    names = tuple(rows[0]) if type(rows[0]) is dict else ()
    alike = all(type(row) is dict and tuple(row) == names and PLAIN.issuperset(map(type, row.values())) for row in rows)
    return names if alike and {str}.issuperset(map(type, names)) else ()


def _rows(rows: list[dict[str, Any]], names: tuple[str, ...], line: str) -> str:
    """`indented` rows with these names, one after the other: their values are encoded at once, a line each, as no
    encoded text contains a line break.
    """
    values = [value for row in rows for value in row.values()]
    try:
        text = _encoder("\n")(values)
    except ValueError:  # NaN or infinity
        text = _encoder("\n")(jsonable(values))
    inner = line + "  "
    row = ",".join(f"{inner}{_encoder(',')(name)}: ".replace("%", "%%") + "%s" for name in names)
    return f",{line}".join([f"{{{row}{line}}}"] * len(rows)) % tuple(text[1:-1].split("\n"))


@cache
def _encoder(separator: str) -> Callable[[Any], str]:
    return json.JSONEncoder(allow_nan=False, separators=(separator, ": ")).encode
