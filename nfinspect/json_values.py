"""Values as JSON can hold them."""

import math
from collections.abc import Iterable, Mapping
from types import NoneType
from typing import Any, ClassVar

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
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, str | bool | int) or value is None:
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
