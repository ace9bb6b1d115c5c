"""The neurons and directions of a model that written edits name."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch

from nfinspect import output
from nfinspect.analysis.comparison import ask, read_groups
from nfinspect.edits import DIRECTION, Asked, AskedDirection
from nfinspect.experiments.addresses import resolve_addresses
from nfinspect.experiments.run_model import check_run_model
from nfinspect.models import LoadedModel, ModelError, find_sites, fingerprint
from nfinspect.models.editing import DirectionEdit, Edit, NeuronEdit
from nfinspect.text import model_name
from nfinspect_store.addresses import Address
from nfinspect_store.catalog import run_path
from nfinspect_store.errors import RequestError
from nfinspect_store.marks import Subject
from nfinspect_store.marks_file import set_of
from nfinspect_store.reader import RunFile
from nfinspect_store.types import SITES

Note = Callable[[str], None]


def resolved_edits(loaded: LoadedModel, asked: Iterable[Asked], store: Path, note: Note = output.note) -> list[Edit]:
    """The edits in this model; sets and runs are those of `store`. note: takes what the user should be told.

    Raises RequestError for a neuron, a set or a concept that there is not and for an
    amount beyond the model's dtype, RunNotFound, UnknownSite for a site or a
    layer, OtherWeights for a direction of another model's run.
    """
    found: list[Edit] = []
    most = torch.finfo(loaded.model.dtype).max
    for one in asked:
        amount = one.factor if isinstance(one, AskedDirection) else one.amount
        if abs(amount) > most:
            raise RequestError(f"expected edits by at most {most:.4g} in {loaded.dtype}, found {amount:.4g}")
        if isinstance(one, AskedDirection):
            found.append(_resolved_direction(loaded, one, store, note))
            continue
        addresses = [a for part in one.neurons for a in _addresses(loaded, part, store, note)]
        for site, neurons in resolve_addresses(loaded, addresses, experts=True).items():
            found.append(NeuronEdit(one.kind, site, np.asarray(neurons, np.int64), one.amount))
    return found


def _addresses(loaded: LoadedModel, part: Address | str, store: Path, note: Note) -> tuple[Address, ...]:
    """A neuron, or those of a set that were marked in any run of the model."""
    if isinstance(part, Address):
        return (part,)
    neurons: dict[tuple[str, int], int] = {}
    for name in SITES:
        try:
            neurons |= {
                (site.site, site.layer): site.neurons for site in find_sites(loaded.model, [name], experts=True)
            }
        except ModelError:
            continue  # the model has no such site, or it cannot be read
    found = json.loads(json.dumps(fingerprint(loaded).to_json()))  # as runs keep it: without tuples
    subject = Subject("", model_name(loaded.name), loaded.name, found)
    there, absent = set_of(store, subject, neurons, part)
    if absent:
        note(f"{absent:,} neurons of {part} are at sites or layers that {loaded.name} does not have: left out")
    return there


def _resolved_direction(loaded: LoadedModel, asked: AskedDirection, store: Path, note: Note) -> DirectionEdit:
    with RunFile.open(run_path(store, asked.run)) as run:
        run.require_tokens()
        if run.info.status != "complete":
            note(f"{run.name} is not complete: it holds {run.tokens:,} tokens")
        (site,) = resolve_addresses(loaded, [asked.place])
        check_run_model(run, loaded, note)
        layer = run.resolve_layer(site.layer, site.site)
        if layer.neurons != site.neurons:
            raise RequestError(
                f"layer {site.layer} of {run.name} has {layer.neurons:,} neurons at {site.site}, that of {loaded.name} "
                f"has {site.neurons:,}: it is another model"
            )
        concept, baseline = _concepts(run, asked)
        question = ask(run, (concept,), baseline, None, 1, "difference", site.site)
        groups, notes = read_groups(run, question)
    for text in notes:
        note(text)
    assert groups.baseline is not None  # it was named
    columns = np.asarray(groups.index.layer) == site.layer
    means = [group[:, columns].mean(axis=0, dtype=np.float64) for group in (groups.concepts[concept], groups.baseline)]
    return DirectionEdit(asked.text, site, (means[0] - means[1]).astype(np.float32), asked.factor)


def _concepts(run: RunFile, asked: AskedDirection) -> tuple[str, str]:
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
