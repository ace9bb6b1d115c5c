"""The analyses that a report shows: computed if missing, from the run alone or with its model."""

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

from nfinspect.cli.attention import RunModel, attention_of_run
from nfinspect.cli.kept_ablation import How, ablation_of_run
from nfinspect.cli.kinds import made_from_runs, make_kind
from nfinspect.experiments.run_model import named_model, own_dtype, run_model
from nfinspect_store.errors import NfinspectError, RequestError, StorageFull, StoreError

if TYPE_CHECKING:
    from nfinspect.models import LoadedModel
    from nfinspect_store.reader import RunFile

CUT = ("dead", "positional", "delta", "ngrams1", "attention", "dead+positional")
"""Kinds of neurons that are cut out, where there are any: single ones, and the founding notes' pair."""


def make_from_run(file: "RunFile", site: str, kinds: Collection[str] | None = None) -> dict[str, str]:
    """Run the analyses of these kinds (all if not given) that have no saved result. Returns, by kind, why one cannot be
    computed.
    """
    from nfinspect.analyses.neuron_kinds import KEPT_KINDS, newest

    refused = {}
    for kind in made_from_runs():
        place = KEPT_KINDS[kind].spec.site or site
        if place not in file.sites or (kinds is not None and kind not in kinds):
            continue
        if newest(file, kind, place) is not None:
            continue
        try:
            make_kind(file, place, kind)
        except StorageFull:
            raise
        except StoreError as error:  # the run lacks what the analysis needs
            refused[kind] = str(error)
    return refused


def make_with_model(file: "RunFile", site: str, model: str | None) -> dict[str, str]:
    """Run what needs the run's model and is not saved: attention, the detectors' suppression, ablation.

    model: where the model is, if not where the run says. Returns, by kind, why one cannot be computed. Raises
    ModelError and RequestError if the model cannot be loaded or is not the run's.
    """
    from nfinspect.analysis.chosen import chosen_layers
    from nfinspect.experiments.substitution import matching_sites

    loaded = run_model(file, model, "--with-model")
    chosen = chosen_layers(file, site, None)
    if not any(layer.experts for layer in chosen):  # of these each step says what it cannot do
        matching_sites(loaded, chosen)
    refused: dict[str, str] = {}
    name = named_model(file, model, "--with-model")
    steps: dict[str, Callable[[RunFile, str, LoadedModel, str], None]] = {
        "attention": _attention,
        "suppression": _suppression,
        "ablation": _ablation,
    }
    for kind, step in steps.items():
        try:
            step(file, site, loaded, name)
        except StorageFull:
            raise
        except NfinspectError as error:  # this model's attention, gradients or logits cannot be had
            refused[kind] = str(error)
    return refused


def _attention(file: "RunFile", site: str, loaded: "LoadedModel", name: str) -> None:
    """The methods without a saved result, over the run's own prompts."""
    from nfinspect.analyses import spec
    from nfinspect.analyses.neuron_kinds import kept_over_all_layers
    from nfinspect.analysis.attention_methods import METHODS

    known = {one.document["method"] for one in kept_over_all_layers(file, spec("attention"), site)}
    for method in (method for method in METHODS if method not in known):
        attention_of_run(file, RunModel(name, own_dtype(file), lambda: loaded), method, site)


def _suppression(file: "RunFile", site: str, loaded: "LoadedModel", name: str) -> None:
    """What the saved detectors do to the logits of their own n-grams."""
    from nfinspect.analyses import spec
    from nfinspect.analyses.neuron_kinds import newest_with
    from nfinspect.analyses.ngrams import keep_suppression
    from nfinspect.results import read_or_none

    ngrams = spec("ngrams")
    for variant in ngrams.variants:
        kept = next(newest_with(file, ngrams, variant.options, site), None)
        found = None if kept is None else read_or_none(ngrams, kept)
        if kept is not None and found is not None and found.detectors and found.suppression_model is None:
            keep_suppression(kept, found, loaded)


def _ablation(file: "RunFile", site: str, loaded: "LoadedModel", name: str) -> None:
    """Kinds of neurons cut out, on the run's own windows."""
    from nfinspect.analyses import spec
    from nfinspect.analyses.neuron_kinds import NoKeptResult, kept_over_all_layers, set_of_kinds
    from nfinspect.analysis.neuron_sets import NeuronSet

    if kept_over_all_layers(file, spec("ablate"), site):
        return
    sets: dict[str, NeuronSet] = {}
    for kind in CUT:
        if "+" in kind and not all(part in sets for part in kind.split("+")):
            continue  # one of them is empty: the pair equals the other one
        try:
            sets[kind] = set_of_kinds(file, kind, site)
        except (NoKeptResult, RequestError, StoreError):  # none of this kind, or the run cannot tell
            continue
    if not sets:
        raise RequestError("no neuron is of a kind that could be cut out")

    ablation_of_run(file, name, list(sets.values()), How(), lambda: loaded)
