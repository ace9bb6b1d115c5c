"""Marks, notes and named sets of neurons, as what a series of changes leaves (marks_file.py keeps it).

Marks are the set `marked`; a tag of a neuron is the name of a set that it is in. A neuron is one of a model, which is
known by its fingerprint, so that a mark made in one run of it is seen in the others; without one, it is one of a run.
"""

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from nfinspect_store.addresses import Address
from nfinspect_store.errors import RequestError

if TYPE_CHECKING:
    from nfinspect_store.types import RunInfo

MARKED = "marked"
"""The set that marking puts neurons in."""

LONGEST_NOTE = 2000
"""Characters of a note."""

SAME_LOGITS = 0.1
"""Mean |difference| of the logits that fingerprints keep, as a share of their spread, up to which two runs are of one
model [own]: what rounding to bfloat16 is allowed, the coarsest precision in which unquantised models are captured."""

JOINED = " | "
"""Between two notes on one neuron that were written at once."""

_NAME = re.compile(r"\w[\w.+-]{0,63}")

Neuron = tuple[int, int]
"""Layer and neuron."""


@dataclass(frozen=True)
class Subject:
    """The run in which something was marked, and its model. fingerprint: as in the run's settings, if it has one."""

    run_id: str
    run: str
    model: str
    fingerprint: Mapping[str, Any] | None = None

    @classmethod
    def of(cls, info: "RunInfo", run: str) -> "Subject":
        found = info.settings.get("fingerprint")
        return cls(info.run_id, run, info.model, found if isinstance(found, dict) and found.get("logits") else None)


@dataclass(frozen=True)
class Change:
    """Neurons that came into a set or left it. of: whose they are (Marks.owner); at: UTC, ISO 8601."""

    added: bool
    name: str
    of: str
    neurons: tuple[Address, ...]  # each with its site
    run: str
    model: str
    at: str


@dataclass(frozen=True)
class NoteChange:
    """A neuron's note, empty to delete it. was: the note that the writer saw: another in its place is not lost."""

    of: str
    neuron: Address
    text: str
    was: str
    run: str
    model: str
    at: str


@dataclass(frozen=True)
class KnownModel:
    """A model of which neurons were marked."""

    of: str
    name: str
    fingerprint: Mapping[str, Any]


@dataclass(frozen=True)
class Made:
    """Where and when a neuron was put into a set, or a note was written."""

    run: str
    model: str
    at: str
    text: str = ""


@dataclass
class Marks:
    """What holds after the changes so far. sets: by name, owner and site, in order of marking."""

    sets: dict[str, dict[str, dict[str, dict[Neuron, Made]]]] = field(default_factory=dict)
    notes: dict[str, dict[str, dict[Neuron, Made]]] = field(default_factory=dict)
    models: dict[str, KnownModel] = field(default_factory=dict)

    def copy(self) -> "Marks":
        return Marks(
            {name: {of: _copied(sites) for of, sites in owners.items()} for name, owners in self.sets.items()},
            {of: _copied(sites) for of, sites in self.notes.items()},
            dict(self.models),
        )

    def apply(self, change: Change | NoteChange | KnownModel) -> None:
        if isinstance(change, KnownModel):
            self.models.setdefault(change.of, change)
        elif isinstance(change, NoteChange):
            self._note(change)
        else:
            sites = self.sets.setdefault(change.name, {}).setdefault(change.of, {})
            made = Made(change.run, change.model, change.at)
            for address in change.neurons:
                here = sites.setdefault(address.site or "", {})
                if change.added:
                    here.setdefault((address.layer, address.neuron), made)
                else:
                    here.pop((address.layer, address.neuron), None)

    def _note(self, change: NoteChange) -> None:
        here = self.notes.setdefault(change.of, {}).setdefault(change.neuron.site or "", {})
        key = (change.neuron.layer, change.neuron.neuron)
        there = here[key].text if key in here else ""
        text = (
            change.text if there in (change.was, change.text, "") else JOINED.join(filter(None, (there, change.text)))
        )
        if text:
            here[key] = Made(change.run, change.model, change.at, text)
        else:
            here.pop(key, None)

    # reading

    def owner(self, subject: Subject) -> str:
        """Whose neurons those of a run are: `model:…`, that of a known model if it is the same, or `run:…`."""
        if subject.fingerprint is None:
            return f"run:{subject.run_id}"
        for known in self.models.values():
            if same_model(known.fingerprint, subject.fingerprint):
                return known.of
        text = json.dumps(brief(subject.fingerprint), sort_keys=True)
        return f"model:{hashlib.sha256(text.encode()).hexdigest()[:16]}"

    def members(self, name: str, of: str, site: str) -> Mapping[Neuron, Made]:
        """The neurons of a set at one site, in order of marking."""
        return self.sets.get(name, {}).get(of, {}).get(site, {})

    def addresses(self, name: str, of: str) -> tuple[Address, ...]:
        """The neurons of a set at every site, each with its site."""
        sites = self.sets.get(name, {}).get(of, {})
        return tuple(Address(*neuron, site) for site, neurons in sites.items() for neuron in neurons)

    def names(self, of: str | None = None) -> tuple[str, ...]:
        """The sets that have a neuron, of one owner or of any: `marked` first, then by name."""
        owners = {
            name: [key for key, sites in owned.items() if any(sites.values())] for name, owned in self.sets.items()
        }
        held = [name for name, keys in owners.items() if (of in keys if of is not None else keys)]
        return tuple(sorted(held, key=lambda name: (name != MARKED, name)))

    def tags(self, of: str, site: str, neuron: Neuron) -> tuple[str, ...]:
        """The names of the sets that a neuron is in, without `marked`."""
        return tuple(name for name in self.names(of) if name != MARKED and neuron in self.members(name, of, site))

    def note(self, of: str, site: str, neuron: Neuron) -> str:
        found = self.notes.get(of, {}).get(site, {}).get(neuron)
        return found.text if found is not None else ""


def _copied(sites: Mapping[str, dict[Neuron, Made]]) -> dict[str, dict[Neuron, Made]]:
    return {site: neurons.copy() for site, neurons in sites.items()}


def check_set_name(text: str) -> str:
    """The name of a set, without its @. Raises RequestError for what cannot be one."""
    name = text.strip().removeprefix("@")
    if not _NAME.fullmatch(name):
        raise RequestError(
            f"a set is named by up to 64 letters, digits, dots, - and +, found {text.strip()[:60]!r}: such as hot"
        )
    return name


def check_note(text: str) -> str:
    """A note as one line. Raises RequestError for one that is too long."""
    line = " ".join(text.split())
    if len(line) > LONGEST_NOTE:
        raise RequestError(f"a note has up to {LONGEST_NOTE} characters, found {len(line)}")
    return line


def with_sites(addresses: Iterable[Address], default: str) -> tuple[Address, ...]:
    """The addresses, each once and with its site."""
    return tuple(dict.fromkeys(Address(a.layer, a.neuron, a.site or default) for a in addresses))


def brief(fingerprint: Mapping[str, Any]) -> dict[str, Any]:
    """What of a fingerprint tells one model from another: the rest takes 5 kB for a large one."""
    layers = fingerprint.get("layers")
    return {
        "model_type": fingerprint.get("model_type"),
        "token_ids": fingerprint.get("token_ids"),
        "vocabulary": fingerprint.get("vocabulary"),
        "logits": fingerprint.get("logits"),
        "depth": len(layers) if isinstance(layers, list) else fingerprint.get("depth"),
    }


def same_model(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two fingerprints are of the same weights up to the rounding of a coarser precision."""
    a, b = brief(one), brief(other)
    if any(a[name] != b[name] for name in ("model_type", "token_ids", "vocabulary", "depth")):
        return False
    try:
        then, now = ([float(x) for x in side["logits"]] for side in (a, b))
    except (TypeError, ValueError):
        return False
    if len(then) != len(now) or not then:
        return False
    mean = sum(then) / len(then)
    spread = sum(abs(x - mean) for x in then)
    apart = sum(abs(x - y) for x, y in zip(then, now, strict=True))
    return math.isfinite(apart) and (apart <= SAME_LOGITS * spread if spread else apart == 0)
