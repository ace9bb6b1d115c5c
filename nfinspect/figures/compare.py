"""Several runs in one figure: the same analysis of each, over the depth of its network.

Networks with different numbers of layers share one axis (nfinspect.analysis.depth). The n-gram figures are those of
single tokens, after figures 2 to 4 of Voita, Ferrando & Nalmpantis 2023.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from nfinspect.analysis.dead import DeadLayer
from nfinspect.analysis.depth import depths
from nfinspect.analysis.enough import few_tokens
from nfinspect.present import style
from nfinspect.present.charts import RUN_COLUMNS, Chart, Table, percent, sentences
from nfinspect.present.drawn import over_depth
from nfinspect.present.numbers import counted
from nfinspect_store.errors import RequestError

if TYPE_CHECKING:
    pass


def check_runs(names: list[str]) -> list[str]:
    """Raises RequestError for more runs than a figure can tell apart."""
    if len(names) > style.MOST_LINES:
        raise RequestError(f"expected {style.MOST_LINES} runs or fewer, found {len(names)}: more lines look alike")
    return names


def dead_overlay(runs: Mapping[str, Sequence[DeadLayer]]) -> Chart:
    """The share of dead neurons of several runs."""
    rows = [
        (name, x.layer, depth, x.reached, x.dead, percent(x.dead, x.reached))
        for name, layers in runs.items()
        for x, depth in zip(layers, depths(layers), strict=True)
    ]
    columns = {"neurons": "neurons of the layer", "dead": "of them dead", "dead_percent": "% of the layer's neurons"}
    findings = []
    for name, layers in runs.items():
        dead, neurons = sum(x.dead for x in layers), sum(x.reached for x in layers)
        findings.append(f"{name}: {dead:,} of {neurons:,} neurons dead." if dead else f"{name}: no neuron is dead.")
        findings += sentences(few_tokens(layers[0].tokens), of=name)
    return Chart(
        name="compared-dead",
        title="Dead neurons by depth",
        n="n = "
        + "; ".join(
            f"{name} {counted(sum(x.reached for x in layers), 'neuron')}, {counted(layers[0].tokens, 'token')}"
            for name, layers in runs.items()
        ),
        text=(
            "The share of each layer's neurons (%) that are dead on the run's own text, over the depth of the network.",
        ),
        findings=tuple(findings),
        tables={"compared-dead": Table.of({**RUN_COLUMNS, **columns}, rows)},
        draw=over_depth("dead_percent", "dead neurons (% of the layer)"),
    )
