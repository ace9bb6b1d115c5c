"""Edits of a model as a command line writes them: which neurons, which direction, by how much."""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nfinspect import output
from nfinspect.cli.options import opened
from nfinspect.text import model_name
from nfinspect_store.addresses import Address, parse_address
from nfinspect_store.errors import RequestError

if TYPE_CHECKING:
    from nfinspect.experiments.editing import DirectionEdit, Edit, Kind
    from nfinspect.models import LoadedModel
    from nfinspect_store.reader import RunFile

DIRECTION = "RUN:CONCEPT-BASELINE@resid:L5=FACTOR"


@dataclass(frozen=True)
class AskedEdit:
    """Neurons and sets (`@name`) whose values change."""

    kind: "Kind"
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


def asked_edits(
    zero: Sequence[str], scale: Sequence[str], clamp: Sequence[str], add: Sequence[str], direction: Sequence[str]
) -> list[Asked]:
    """The edits of the options. Raises RequestError for one that is mistyped."""
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
    from nfinspect_store.marks import check_set_name

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


def resolved_edits(
    loaded: "LoadedModel", asked: Iterable[Asked], store: Path, store_option: str | None
) -> "list[Edit]":
    """The edits in this model. Raises RequestError for a neuron, a set, a run or a concept that there is not,
    UnknownSite for a site or a layer, OtherWeights for a direction of another model's run.
    """
    import numpy as np

    from nfinspect.experiments.addresses import resolve_addresses
    from nfinspect.experiments.editing import NeuronEdit

    found: list[Edit] = []
    for one in asked:
        if isinstance(one, AskedDirection):
            found.append(_resolved_direction(loaded, one, store_option))
            continue
        addresses = [a for part in one.neurons for a in _addresses(loaded, part, store)]
        for site, neurons in resolve_addresses(loaded, addresses).items():
            found.append(NeuronEdit(one.kind, site, np.asarray(neurons, np.int64), one.amount))
    return found


def _addresses(loaded: "LoadedModel", part: Address | str, store: Path) -> tuple[Address, ...]:
    """A neuron, or those of a set that were marked in any run of the model."""
    if isinstance(part, Address):
        return (part,)
    from nfinspect.models import ModelError, find_sites, fingerprint
    from nfinspect_store.marks import Subject
    from nfinspect_store.marks_file import set_of
    from nfinspect_store.types import SITES

    neurons: dict[tuple[str, int], int] = {}
    for name in SITES:
        try:
            neurons |= {(site.site, site.layer): site.neurons for site in find_sites(loaded.model, [name])}
        except ModelError:
            continue  # the model has no such site, or it cannot be read
    found = json.loads(json.dumps(fingerprint(loaded).to_json()))  # as runs keep it: without tuples
    subject = Subject("", model_name(loaded.name), loaded.name, found)
    there, absent = set_of(store, subject, neurons, part)
    if absent:
        output.note(f"{absent} neurons of {part} are at sites or layers that {loaded.name} does not have: left out")
    return there


def _resolved_direction(loaded: "LoadedModel", asked: AskedDirection, store: str | None) -> "DirectionEdit":
    import numpy as np

    from nfinspect.analysis.comparison import ask, read_groups
    from nfinspect.experiments.addresses import resolve_addresses
    from nfinspect.experiments.editing import DirectionEdit
    from nfinspect.experiments.run_model import check_run_model

    with opened(store, asked.run) as run:
        (site,) = resolve_addresses(loaded, [asked.place])
        check_run_model(run, loaded)
        run.resolve_layer(site.layer, site.site)
        concept, baseline = _concepts(run, asked)
        question = ask(run, (concept,), baseline, None, 1, "difference", site.site)
        groups, notes = read_groups(run, question)
    for note in notes:
        output.note(note)
    assert groups.baseline is not None  # it was named
    columns = np.asarray(groups.index.layer) == site.layer
    means = [group[:, columns].mean(axis=0, dtype=np.float64) for group in (groups.concepts[concept], groups.baseline)]
    return DirectionEdit(asked.text, site, (means[0] - means[1]).astype(np.float32), asked.factor)


def _concepts(run: "RunFile", asked: AskedDirection) -> tuple[str, str]:
    """Both concepts: their names may have dashes themselves."""
    words = asked.concepts.split("-")
    splits = [("-".join(words[:i]), "-".join(words[i:])) for i in range(1, len(words))]
    known = [pair for pair in splits if set(pair) <= set(run.concepts)]
    if not known:
        raise RequestError(
            f"expected two concepts of {run.name} joined by a dash in --direction {DIRECTION}, found "
            f"{asked.concepts!r}: its concepts are {', '.join(run.concepts)}"
        )
    return known[0]
