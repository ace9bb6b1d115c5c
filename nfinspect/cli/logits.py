"""What neurons and layers say in tokens: output weights and the logit lens."""

from dataclasses import replace
from typing import TYPE_CHECKING

import click

from nfinspect import output
from nfinspect.backend.hosting import hosted
from nfinspect.cli.options import bos_option, chat_option, full_name, json_option, model_options, opened
from nfinspect.cli.progress import CommandLine, recompute_option
from nfinspect.cli.through_backend import backend_option
from nfinspect.experiments.run_model import loaded_model, run_model, without_edits
from nfinspect.model_files import lasting_name, weights_stamp
from nfinspect_store.addresses import parse_address
from nfinspect_store.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path
    from typing import Any

    from nfinspect.analysis.keeping import Made
    from nfinspect.models import Bos, LoadedModel
    from nfinspect_store.reader import RunFile


@click.command()
@click.argument("model", metavar="MODEL")
@click.argument("address", metavar="[L5/N123|@SET]", required=False)
@click.option("--lens", metavar="TEXT", help="Instead of a neuron: what each layer would predict after this prompt.")
@click.option("--positions", is_flag=True, help="With --lens: also the prediction after every token of the prompt.")
@click.option("--top", metavar="K", type=click.IntRange(min=1), help="Tokens shown; 10 for a neuron, 5 for a layer.")
@click.option("--from", "source", metavar="RUN",
              help="Check that MODEL has the weights of RUN; a lens is saved with the run.")  # fmt: skip
@click.option("--store", metavar="DIR", help="Where RUN and the backend are; with --lens: where the result is saved.")
@bos_option
@chat_option
@recompute_option
@model_options
@json_option
@backend_option()
def logits(
    model: str,
    address: str | None,
    lens: str | None,
    positions: bool,
    top: int | None,
    source: str | None,
    store: str | None,
    recompute: bool,
    bos: "Bos",
    chat: bool,
    revision: str | None,
    dtype: str,
    device: str,
    allow_pickle: bool,
    as_json: bool,
) -> None:
    """Tokens that a neuron promotes and suppresses, or a prompt through the logit lens."""
    from nfinspect.analyses.lens import SPEC as lens_spec
    from nfinspect.analyses.lens import Lens
    from nfinspect.analyses.logits import SPEC as logits_spec
    from nfinspect.analyses.logits import Effects
    from nfinspect.cli.analysis import lines

    if (address is None) == (lens is None):
        given = "neither" if address is None else "both"
        raise RequestError(f"expected either a neuron such as L5/N123 or --lens TEXT, found {given}")
    model = full_name(model, revision)
    options: Mapping[str, Any] = {"revision": revision, "dtype": dtype, "device": device, "allow_pickle": allow_pickle}
    if address is None:
        document = _lens(model, lens or "", positions, top or 5, bos, chat, source, store, recompute, options)
        printed: object = document
        shown = lines(lens_spec, Lens(document))
        for said in document["notes"]:
            output.note(said)
    else:
        # A backend was found by its store, which says no more here.
        needless_store = store is not None and source is None and hosted() is None
        if positions or recompute or chat or bos != "auto" or needless_store:
            raise RequestError(
                "--store, --positions, --bos, --chat and --recompute go with --lens: a neuron's logits need no text "
                "and are not saved"
            )
        if not address.startswith("@"):
            parse_address(address)  # a mistyped one is refused before the model is loaded
        elif source is None:
            raise RequestError(f"{address} is a set of a store: give --from RUN, whose model's neurons are meant")
        from nfinspect.experiments.logits import neuron_logits

        if source is None:
            loaded, addresses = loaded_model(model, **options), [address]
        else:
            from nfinspect.cli.marks import neurons_of

            with opened(store, source) as file:
                addresses = [address]
                if address.startswith("@"):
                    addresses = [str(a) for a in neurons_of(file, address)]
                addresses = [_at_site_of(file, one) for one in addresses]
                loaded = run_model(file, model, "logits", **options)
        documents = [neuron_logits(loaded, one, top or 10).to_json() for one in addresses]
        shown = [line for one in documents for line in ("", *lines(logits_spec, Effects(one)))][1:]
        printed = documents if address.startswith("@") else documents[0]
    if as_json:
        output.document(printed)
    else:
        output.lines(shown)


def _at_site_of(run: "RunFile", address: str) -> str:
    """The address with its site: an address without one is at the run's default site, which need not be the model's."""
    layer, neuron = run.resolve(address)
    return f"{layer.site}:L{layer.layer}/N{neuron}"


def _lens(
    model: str,
    prompt: str,
    positions: bool,
    top: int,
    bos: "Bos",
    chat: bool,
    source: str | None,
    store: str | None,
    recompute: bool,
    options: "Mapping[str, Any]",
) -> "Mapping[str, Any]":
    """The document of the lens: saved with RUN or in the store; with neither it is not saved."""
    from nfinspect.analyses.lens import SPEC as lens_spec
    from nfinspect.analysis.keeping import keep_or_find

    asked = {"prompt": prompt, "positions": positions, "top": top, "bos": bos, "chat": chat}

    def found(load: "Callable[[], LoadedModel]", notes: tuple[str, ...] = ()) -> "Made":
        from nfinspect.experiments.lens import logit_lens

        lens = logit_lens(load(), prompt, top, positions=positions, bos=bos, chat=chat)
        return replace(lens, notes=(*lens.notes, *notes)).to_json(), {}

    def kept(
        folder: "Path",
        run_id: str | None,
        settings: "Mapping[str, Any]",
        load: "Callable[[], LoadedModel]",
        notes: tuple[str, ...] = (),
    ) -> "Mapping[str, Any]":
        return keep_or_find(
            folder,
            lens_spec.result_kind,
            {**asked, **settings},
            run_id,
            lambda tick: found(load, notes),
            lambda result: result.document,
            recompute=recompute,
            what=lens_spec.what({}),
            in_format=lens_spec.format,
            reporter=CommandLine(),
        )[1]

    of_model = {"model": lasting_name(model), "weights": weights_stamp(model)}
    if source is not None:
        from nfinspect_store.results import run_results

        with opened(store, source) as file:
            of_run = {**of_model, "of_run": file.name, "dtype": options["dtype"]}
            return kept(
                run_results(file.path),
                file.info.run_id,
                of_run,
                lambda: run_model(file, model, "lens", tells_edits=False, **options),
                without_edits(file),
            )
    if store is None:
        return found(lambda: loaded_model(model, **options))[0]
    from nfinspect_store.catalog import store_path
    from nfinspect_store.results import model_results

    settings = {**of_model, "dtype": options["dtype"], "device": options["device"]}
    return kept(
        model_results(store_path(store), lasting_name(model)), None, settings, lambda: loaded_model(model, **options)
    )
