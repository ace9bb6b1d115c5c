"""The thresholds of the neurons' classes: how they are typed and shown, and the options of the command that uses them.

None stands for the defaults, by which the run's own tables are made.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from nfinspect.analysis.classes import HealthOptions
from nfinspect_store.errors import RequestError

DEFAULTS = HealthOptions()

FIELDS = {
    "missing": "threshold_missing",
    "weak": "threshold_weak",
    "scale": "threshold_scale",
    "rate": "threshold_activation_rate",
    "skip-first": "skip_first",
}
"""What is typed, and the option that it sets."""

RESET = "reset"
TRUTH = {"yes": True, "no": False}
EXPECTED = "missing=0.01 weak=0.1 scale=layer or absolute, rate=0.01 skip-first=yes or no, or reset"


def written(thresholds: HealthOptions | None) -> str:
    """All of them, as they can be typed."""
    return _written(thresholds or DEFAULTS, FIELDS)


def told(thresholds: HealthOptions | None) -> str:
    """That classes are not by the default ones, and how; empty if they are."""
    changed = _written(thresholds or DEFAULTS, _changed(thresholds))
    return f"thresholds {changed} (T)" if changed else ""


def arguments(thresholds: HealthOptions | None) -> tuple[str, ...]:
    """The options that a command needs for them."""
    found: tuple[str, ...] = ()
    for field in _changed(thresholds).values():
        option, value = f"--{field.replace('_', '-')}", getattr(thresholds, field)
        found += (option,) if value is True else (option, str(value))
    return found


def read(text: str, now: HealthOptions | None) -> HealthOptions | None:
    """What is typed; a threshold that is not mentioned stays as it is now. Raises RequestError."""
    if text.strip().lower() in ("", "0", RESET):
        return None
    changes: dict[str, Any] = {}
    for word in text.replace(",", " ").split():
        name, equals, value = word.partition("=")
        field = FIELDS.get(name.lower())
        if field is None or not equals:
            raise RequestError(f"expected {EXPECTED}; found {word!r}")
        changes[field] = _value(name, field, value)
    found = replace(now or DEFAULTS, **changes)
    return None if found == DEFAULTS else found


def _changed(thresholds: HealthOptions | None) -> dict[str, str]:
    now = thresholds or DEFAULTS
    return {name: field for name, field in FIELDS.items() if getattr(now, field) != getattr(DEFAULTS, field)}


def _written(thresholds: HealthOptions, fields: dict[str, str]) -> str:
    words = {True: "yes", False: "no"}
    values = {name: getattr(thresholds, field) for name, field in fields.items()}
    return " ".join(f"{name}={words[v] if isinstance(v, bool) else v}" for name, v in values.items())


def _value(name: str, field: str, text: str) -> Any:
    if field == "threshold_scale":
        return text.lower()
    if field == "skip_first":
        if text.lower() not in TRUTH:
            raise RequestError(f"{name} is yes or no, found {text!r}")
        return TRUTH[text.lower()]
    try:
        return float(text)
    except ValueError:
        raise RequestError(f"{name} is a number, found {text!r}") from None
