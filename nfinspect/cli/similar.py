"""Neurons like a given one."""

from dataclasses import replace
from typing import TYPE_CHECKING

import click

from nfinspect import output
from nfinspect.analyses import does
from nfinspect.cli.analysis import lines, top_option
from nfinspect.cli.capture import layer_list
from nfinspect.cli.options import (
    full_name,
    json_option,
    layers_option,
    model_options,
    opened,
    run_argument,
    site_option,
    store_option,
)
from nfinspect.cli.progress import CommandLine, recompute_option
from nfinspect.cli.through_backend import backend_option, model_of_run
from nfinspect_store.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from nfinspect.analyses.similar import Similar
    from nfinspect.analysis.keeping import Made
    from nfinspect.analysis.ticks import Tick
    from nfinspect_store.reader import RunFile


def _model(options: "Mapping[str, Any]") -> str:
    """The model whose weights are asked for. Raises RequestError without --weights."""
    if not options["weights"]:
        raise RequestError("--backend goes with --weights: all else is computed from the run")
    return model_of_run(options, "similar --weights")


@click.command(short_help=does("similar"))
@run_argument
@click.argument("address", metavar="L5/N123")
@click.option("--weights", is_flag=True, help="Also by weights, which loads the run's model.")
@click.option("--model", metavar="M", help="With --weights: where the run's model is, if not where it was.")
@layers_option
@top_option
@site_option
@recompute_option
@store_option
@model_options
@json_option
@backend_option(_model)
def similar(
    run: str,
    address: str,
    weights: bool,
    model: str | None,
    layers: str | None,
    top: int,
    site: str | None,
    recompute: bool,
    store: str | None,
    revision: str | None,
    dtype: str,
    device: str,
    allow_pickle: bool,
    as_json: bool,
) -> None:
    """Neurons like a given one: by values over the run's tokens, and by weights.

    --site and --layers say where they are sought, by default at the neuron's own site. A neuron at another site than
    the run's default one is written with it: resid:L5/N123.
    """
    from nfinspect.analyses.similar import SPEC, full_address
    from nfinspect.results import find_or_compute

    if not weights and (model or revision or dtype != "auto" or device != "auto" or allow_pickle):
        raise RequestError("--model, --revision, --dtype, --device and --allow-pickle go with --weights")
    chosen = layer_list(layers)
    with opened(store, run) as file:
        address = full_address(file, address)
        own = site or address.partition(":")[0]
        if weights:
            loading = {"revision": revision, "dtype": dtype, "device": device, "allow_pickle": allow_pickle}
            found = _with_weights(file, address, own, chosen, model, recompute, loading)
        else:
            _, found = find_or_compute(
                SPEC, file, own, chosen, recompute=recompute, reporter=CommandLine(), neuron=address
            )
    for text in found.notes:
        output.note(text)
    if as_json:
        output.document(found.to_json())
    else:
        output.lines(lines(SPEC, found, top))


def _with_weights(
    file: "RunFile",
    address: str,
    site: str,
    layers: "Sequence[int] | None",
    model: str | None,
    recompute: bool,
    loading: "Mapping[str, Any]",
) -> "Similar":
    """The saved result with weights, or a new one, which is saved: the model is loaded only for that."""
    from nfinspect.analyses.similar import SPEC
    from nfinspect.analyses.similar import similar as computed
    from nfinspect.analysis.chosen import chosen_layers
    from nfinspect.analysis.keeping import keep_or_find
    from nfinspect.experiments.run_model import named_model, run_model, without_edits
    from nfinspect.experiments.weight_cosines import cosines_in_run
    from nfinspect.model_files import lasting_name, weights_stamp
    from nfinspect_store.results import run_results

    name = full_name(named_model(file, model, "similar --weights"), loading["revision"])

    def make(tick: "Tick") -> "Made":
        loaded = run_model(file, model, "similar --weights", tells_edits=False, **loading)
        cosines = cosines_in_run(loaded, file, address, site, layers)
        found = computed(file, address, site, layers, tick, weights=cosines)
        return replace(found, notes=(*found.notes, *without_edits(file))).to_json(), {}

    chosen = chosen_layers(file, site, layers)
    settings = {
        "neuron": address,
        "weights": lasting_name(name),
        "stamp": weights_stamp(name),
        "dtype": loading["dtype"],
        "site": site,
        "layers": [layer.layer for layer in chosen],
    }
    found: Similar
    _, found = keep_or_find(
        run_results(file.path),
        SPEC.result_kind,
        settings,
        file.info.run_id,
        make,
        SPEC.read,
        recompute=recompute,
        what=SPEC.what({"neuron": address}),
        in_format=SPEC.format,
        reporter=CommandLine(),
    )
    return found
