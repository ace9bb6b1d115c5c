"""Ablation: how the result of nfinspect.experiments.ablation_table is printed, shown and drawn. Rows are sets of
neurons.

The command is nfinspect.cli.ablate: it takes a model, a text and the sets.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any

from nfinspect.analyses.ablate.charts import ablation_chart
from nfinspect.analyses.analysis_spec import AnalysisSpec, Drawing, Field, Figures, Neurons, RowSet, Shown, Table
from nfinspect.analyses.fields import Told
from nfinspect.present.numbers import counted, number
from nfinspect.present.plots import Bar, Bars, Plot
from nfinspect.text import model_name
from nfinspect_store.addresses import parse_address
from nfinspect_store.reader import RunFile
from nfinspect_store.results import Result

Set = Mapping[str, Any]
"""A row of the document's sets."""


@dataclass(frozen=True)
class Ablation(Told):
    """The document of `nfinspect ablate`. neurons: those of each set, by the set's name and by site, None if the site
    was not named.
    """

    neurons: Mapping[str, Mapping[str | None, Neurons]] = field(default_factory=dict)

    @property
    def sets(self) -> Sequence[Set]:
        found: Sequence[Set] = self.document["sets"]
        return found

    @property
    def set_to(self) -> str:
        """What the values were set to."""
        return "0" if self.sets[0]["mode"] == "zero" else "their mean"


def _read(result: Result) -> Ablation:
    found = Ablation(result.document, _neurons(result))
    _sentence(found, result)  # raises for a document that lacks what is shown
    return found


def _neurons(result: Result) -> dict[str, dict[str | None, Neurons]]:
    found: dict[str, dict[str | None, Neurons]] = {}
    for name, addresses in result.settings.get("sets", {}).items():
        read = [parse_address(address) for address in addresses]
        sites = dict.fromkeys(one.site for one in read)
        found[name] = {site: tuple((x.layer, x.neuron) for x in read if x.site == site) for site in sites}
    return found


def _covers(run: RunFile, result: Result, site: str) -> bool:
    """Whether neurons of this site, and of no other, were cut out of the run's own model."""
    cut = {named or run.default_site for by_site in _neurons(result).values() for named in by_site}
    return result.run_id is not None and bool(result.document["model_of_run"]) and cut == {site}


def _neurons_of(row: Set, found: Ablation, of: Shown) -> Neurons:
    """The neurons of a set that are at the site that is shown."""
    by_site = found.neurons.get(row["name"], {})
    return (*by_site.get(of.site, ()), *(by_site.get(None, ()) if of.usual else ()))


# texts and lists. The whole model is a row of the command's table, with fewer figures.


def _figure(key: str) -> Callable[[Set], Any]:
    return lambda row: row.get(key, "")


def _beside(key: str) -> Callable[[Set], Any]:
    return lambda row: row["control"][key] if "control" in row else ""


FIELDS = (
    Field("name", "name of the set", "set", "text", width=10, ascending=True, tone="bold", flex=True),
    Field("neurons", "how many were cut out", "neurons", "count"),
    Field("perplexity", "without them", "perpl.", digits=5, width=7, header="perplexity"),
    Field("delta_nll", "by how much the NLL grows, nats per token", "dNLL", width=7, header="ΔNLL", tone="bold",
          value=_figure("delta_nll")),
    Field("ci95", "bootstrap interval of ΔNLL", "95 % interval", "interval", width=18, header="95 %", sorts=False,
          value=_figure("ci95")),
    Field("controls", "mean ΔNLL of random sets with as many neurons in each layer", "controls", spare=1,
          value=_beside("mean_delta_nll")),
    Field("z", "how many of their standard deviations it lies above their mean", "z", "fixed", digits=1, width=6,
          value=_beside("z")),
    Field("p", "share of them that cost as much or more, the set itself counted", "p", digits=2, width=6,
          ascending=True, value=_beside("p_value")),
)  # fmt: skip


def _printed(found: Ablation) -> Sequence[Table]:
    d, base = found.document, found.document["baseline"]
    title = f"{d['model']} on {d['tokens']} tokens of {d['text']} (windows of {d['context']}, stride {d['stride']})"
    if not found.sets:
        rows = [
            ("perplexity", number(base["perplexity"], digits=5)),
            ("NLL", f"{number(base['nll'], digits=5)} nats per token"),
        ]
        return [Table([Field("", "", form="text", value=itemgetter(i)) for i in (0, 1)], rows, title)]
    drawn = d["bootstrap"]
    over = f", its interval over {drawn['units']} {drawn['resampled']}" if drawn["units"] > 1 else ""
    title += (
        f", values set to {found.set_to}; ΔNLL in nats per token{over}; controls: mean ΔNLL of random sets with as "
        "many neurons in each layer"
    )
    whole = {"name": "(none)", "neurons": 0, "perplexity": base["perplexity"]}
    return [Table(FIELDS, [whole, *found.sets], title)]


def _sentence(found: Ablation, kept: Result | None) -> str:
    d = found.document
    return (
        f"{d['text']}: perplexity {number(d['baseline']['perplexity'], digits=5)} over "
        f"{counted(d['tokens'], 'token')}, windows of {d['context']}; values set to {found.set_to}"
    )


def _kept(result: Result) -> str:
    d, asked = result.document, result.settings
    sets = ", ".join(f"{one['name']} ({one['neurons']})" for one in d["sets"])
    other = "" if d["model_of_run"] else f" of another model than the run's, {model_name(d['model'])}"
    return f"{asked['mode']} of {sets}{other}; {d['tokens']:,} tokens of {d['text']}, {asked['controls']} controls"


def _bars(found: Ablation, row: Set | None) -> Plot:
    """Two bars for each set: without it, and without random sets of its size."""

    def of(one: Set) -> tuple[Bar, Bar]:
        low, high = one["ci95"]
        control = one["control"]
        interval = "" if low is None else f"{number(low, digits=3)} to {number(high, digits=3)}"
        spread = "" if control["sd"] is None else f"sd {number(control['sd'], digits=3)}"
        return (
            Bar(one["name"], one["delta_nll"], interval),
            Bar(f"  {control['count']} random", control["mean_delta_nll"], spread),
        )

    title = "change of NLL without them, nats per token (+: a loss), 95 % interval"
    return Bars(title, tuple(map(of, found.sets)), found.sets.index(row) if row in found.sets else 0)


SPEC = AnalysisSpec(
    name="ablate",
    needs="model",
    format=2,
    keeps="ablation",
    sited=False,
    answers="what is lost without a set of neurons",
    explains=(
        "dNLL: by how much the negative log-likelihood grows without the set, in nats per predicted token (positive: "
        "the model is worse off); its 95 % interval is a bootstrap over documents, or over windows of a single one. "
        "perpl.: perplexity without the set. controls: mean dNLL of random sets with as many neurons in each layer. "
        "z: how many of their standard deviations the set lies above their mean. p: share of controls that cost as "
        "much or more, the set itself counted. r cuts out the marked neurons, or the dead ones if none is marked, on "
        "the run's own text; R edits the command: --class, --trace, --mode mean, --text FILE. Enter goes to the set's "
        "neurons, Space marks all of them."
    ),
    title="What the model loses without sets of neurons",
    what=lambda options: "perplexity",
    read=_read,
    covers=_covers,
    printed=_printed,
    lists=(
        RowSet(lambda found: FIELDS, lambda found: found.sets, ("", False), "no set",
               searched=itemgetter("name"), named=(), neurons=_neurons_of),
    ),
    sentence=_sentence,
    kept=_kept,
    drawings=(Drawing("bars", _bars, follows=True),),
    figure=Figures(lambda kept: [ablation_chart(one.result.document) for one in kept.values()], "ablation"),
)  # fmt: skip
