"""What the app's token walk takes from the model: computed once, and saved with the run."""

from typing import TYPE_CHECKING

import click

from nfinspect import output
from nfinspect.cli.options import full_name, json_option, model_options, opened, run_argument, store_option
from nfinspect.cli.progress import CommandLine, recompute_option
from nfinspect.cli.through_backend import backend_option, model_of_run
from nfinspect.experiments.run_model import named_model, run_model
from nfinspect.model_files import lasting_name, weights_stamp
from nfinspect.present.numbers import counted, fixed
from nfinspect.present.tables import Column, table

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from nfinspect.analysis.keeping import Made
    from nfinspect.analysis.ticks import Tick

WHAT = "the walk's figures"


def _model(options: "Mapping[str, Any]") -> str:
    return model_of_run(options, WHAT)


@click.command()
@run_argument
@click.option("--model", metavar="M", help="The run's model; as the run names it if not given.")
@store_option
@recompute_option
@model_options
@json_option
@backend_option(_model)
def walk(
    run: str,
    model: str | None,
    store: str | None,
    recompute: bool,
    revision: str | None,
    dtype: str,
    device: str,
    allow_pickle: bool,
    as_json: bool,
) -> None:
    """Surprisal of a run's tokens, lengths of output weights: for the app's token walk.

    Both take the model that the run was captured from. They are saved with the run; the app then colours tokens by
    surprisal, and ranks the neurons at a token by contribution, |a| times the length of their output weights.
    """
    from nfinspect.analysis.keeping import keep_or_find
    from nfinspect_store.results import run_results

    with opened(store, run) as file:
        name = full_name(named_model(file, model, WHAT), revision)

        def compute(tick: "Tick") -> "Made":
            from nfinspect.experiments.run_walk import walk_figures

            options = {"revision": revision, "dtype": dtype, "device": device, "allow_pickle": allow_pickle}
            found = walk_figures(file, run_model(file, model, WHAT, tells_edits=False, **options), tick)
            return found.to_json(), {"norms": found.norms, "surprisal": found.surprisal}

        settings = {"model": lasting_name(name), "weights": weights_stamp(name), "dtype": dtype}
        result = keep_or_find(
            run_results(file.path),
            "walk",
            settings,
            file.info.run_id,
            compute,
            lambda result: result,
            recompute=recompute,
            what=WHAT,
            reporter=CommandLine(),
        )[0]
    document = result.document
    for note in document["notes"]:
        output.note(note)
    if as_json:
        output.document(document)
        return
    mean = document["mean_surprisal"]
    told = "" if mean is None else f": {fixed(mean, places=3)} nats on average"
    columns = [
        Column("site", text=True, whole=True),
        Column("layer"),
        Column("neurons"),
        Column("mean |w_out|"),
        Column("max |w_out|"),
    ]
    rows = [[row[key] for key in ("site", "layer", "neurons", "mean_norm", "max_norm")] for row in document["layers"]]
    lengths = ["", *table(columns, rows)] if rows else []  # a note says why there are none
    output.lines([f"Surprisal of {counted(document['tokens'], 'token')}{told}", *lengths])
