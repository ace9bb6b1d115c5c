"""The text of documents: what `json` writes of the same values, only sooner."""

import datetime as dt
import json
from types import MappingProxyType

import numpy as np
import pytest

from nfinspect import json_values
from nfinspect.json_values import indented, jsonable

ROWS = [{"layer": i, "value": i / 3, "none": None, "text": 'ünï "x"\n', "yes": True} for i in range(3)]

VALUES = {
    "numbers and texts": [0, -1.5, 1e300, "", "é\ud800", True, None],
    "rows": ROWS,
    "rows of other keys": [*ROWS, {"layer": 1}, *ROWS],
    "rows of odd keys": [{"100 %s": 1, '"': float("nan")}, {"100 %s": "%d\n", '"': 2}],
    "rows without keys": [{}, {}],
    "rows of rows": [{"x": ROWS}, {"x": []}],
    "nested": {"a": {"b": [[], {}, [1, [2, [3]]], {"c": (1, 2)}], "rows": ROWS}, "d": ()},
    "undefined": [float("nan"), [1.0, float("inf")], {"x": -float("inf"), "y": 2}],
    "numpy": {
        "x": np.arange(3),
        "y": np.float64(0.1),
        "z": [np.int64(2), np.bool_(True)],
        "w": np.array([np.nan, 1.0]),
    },
    "keys": {1: "a", None: [2], "b": {2.5: 1}},
    "others": [dt.datetime(2026, 1, 2, 3, 4, 5), {3}, MappingProxyType({"a": 1}), (i for i in range(2))],
    "a number": 3.25,
    "a text": "x",
    "undefined alone": float("nan"),
    "empty": [],
}


@pytest.mark.parametrize("name", [name for name in VALUES if name != "others"])
def test_the_text_is_that_of_json(name: str) -> None:
    value = VALUES[name]
    assert "".join(indented(value)) == json.dumps(jsonable(value), indent=2, allow_nan=False)


def test_rows_are_written_some_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_values, "ROWS", 2)
    assert "".join(indented({"a": ROWS})) == json.dumps({"a": ROWS}, indent=2)


def test_what_json_does_not_know_becomes_what_it_does() -> None:
    first, of, mapped, made = VALUES["others"]
    expected = ["2026-01-02T03:04:05", [3], {"a": 1}, [0, 1]]
    assert "".join(indented([first, of, mapped, made])) == json.dumps(expected, indent=2)
