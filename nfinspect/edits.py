"""Edits of a model as they are written, in a command line, in Python or in the app: which neurons, which direction, by
how much. Nothing here needs a model.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from nfinspect_store.addresses import Address, parse_address
from nfinspect_store.errors import RequestError
from nfinspect_store.marks import check_set_name

Kind = Literal["zero", "scale", "clamp", "add"]
KINDS: tuple[Kind, ...] = ("zero", "scale", "clamp", "add")
"""In the order in which they act where several edits have the same neuron; directions come last."""

DIRECTION = "RUN:CONCEPT-BASELINE@resid:L5=FACTOR"


@dataclass(frozen=True)
class AskedEdit:
    """Neurons and sets (`@name`) whose values change."""

    kind: Kind
    neurons: tuple[Address | str, ...]
    amount: float


@dataclass(frozen=True)
class AskedDirection:
    """The difference of two concepts' means at one site of a run. concepts: both names, joined by a dash."""

    text: str
    run: str
    concepts: str
    place: Address
    factor: float


Asked = AskedEdit | AskedDirection

FORMS = "zero L3/N17,L4/N2, scale @hot=0.5, clamp L3/N17=8, add L3/N17=-1 or direction RUN:A-B@resid:L5=4"


def typed_edits(texts: Sequence[str]) -> list[Asked]:
    """Edits, each written as its kind and what the option of that name takes: `clamp @hot=8`. Raises RequestError."""
    given: dict[str, list[str]] = {kind: [] for kind in (*KINDS, "direction")}
    for text in texts:
        kind, _, rest = text.strip().partition(" ")
        if kind not in given:
            raise RequestError(f"expected an edit such as {FORMS}, found {text!r}")
        given[kind].append(rest)
    return asked_edits(*given.values())


def asked_edits(
    zero: Sequence[str], scale: Sequence[str], clamp: Sequence[str], add: Sequence[str], direction: Sequence[str]
) -> list[Asked]:
    """The edits of the options, in the order in which they act. Raises RequestError for one that is mistyped."""
    found: list[Asked] = [AskedEdit("zero", _neurons(text, "--zero"), 0.0) for text in zero]
    given: tuple[tuple[Kind, Sequence[str], str], ...] = (
        ("scale", scale, "FACTOR"),
        ("clamp", clamp, "VALUE"),
        ("add", add, "VALUE"),
    )
    for kind, texts, what in given:
        for text in texts:
            neurons, amount = _amount(text, f"--{kind} L3/N17={what}")
            found.append(AskedEdit(kind, _neurons(neurons, f"--{kind}"), amount))
    return [*found, *map(_direction, direction)]


def _neurons(text: str, option: str) -> tuple[Address | str, ...]:
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts:
        raise RequestError(f"expected neurons after {option}, such as L3/N17,L4/N2 or @hot, found none")
    return tuple("@" + check_set_name(part) if part.startswith("@") else parse_address(part) for part in parts)


def _amount(text: str, form: str) -> tuple[str, float]:
    """What is before the last `=`, and the number after it."""
    before, equals, number = text.rpartition("=")
    try:
        amount = float(number) if equals else math.nan
    except ValueError:
        amount = math.nan
    if not math.isfinite(amount):
        raise RequestError(f"expected {form} with a number, found {text!r}")
    return before, amount


def _direction(text: str) -> AskedDirection:
    asked, factor = _amount(text, f"--direction {DIRECTION}")
    of_run, at, place = asked.rpartition("@")
    run, colon, concepts = of_run.partition(":")
    try:
        # A direction is at a whole layer: any neuron of it will do as an address.
        where = parse_address(place + "/N0") if at and colon and run and concepts else None
    except RequestError:
        where = None
    if where is None:
        raise RequestError(f"expected --direction {DIRECTION}, found {text!r}")
    return AskedDirection(text, run, concepts, where, factor)
