"""What cutting out sets of neurons costs, compared with random sets."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from nfinspect.present import style
from nfinspect.present.charts import Chart, Table, sentences
from nfinspect.present.numbers import counted, number
from nfinspect.text import model_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def ablation_chart(document: Mapping[str, Any]) -> Chart:
    """document: of `nfinspect ablate`."""
    table = Table.of(
        {
            "set": "name of the set",
            "neurons": "how many were cut out",
            "nll": "mean negative log-likelihood without them, nats per token",
            "perplexity": "exp(nll); empty: too large",
            "delta_nll": "nll less that of the whole model, nats per token",
            "ci95_low": "95 % bootstrap interval of delta_nll; empty where undefined",
            "ci95_high": "the same, upper end",
            "controls": "random sets with as many neurons in each layer",
            "control_mean": "mean delta_nll of the random sets",
            "control_sd": "their standard deviation",
            "z": "(delta_nll - control_mean) / control_sd",
            "p_value": "(1 + random sets that cost as much or more) / (random sets + 1)",
        },
        [
            (
                one["name"],
                one["neurons"],
                one["nll"],
                one["perplexity"],
                one["delta_nll"],
                *one["ci95"],
                *(one["control"][name] for name in ("count", "mean_delta_nll", "sd", "z", "p_value")),
            )
            for one in document["sets"]
        ],
    )
    controls = Table.of(
        {"set": "name of the set", "delta_nll": "of one of its random sets, nats per token"},
        [(one["name"], value) for one in document["sets"] for value in one["control"]["delta_nlls"]],
    )
    base, drawn = document["baseline"], document["bootstrap"]
    mode = "0" if document["sets"][0]["mode"] == "zero" else "their mean over the run"
    numbers = sorted({one["control"]["count"] for one in document["sets"]})
    random = f", {numbers[-1]} random sets for each" if numbers[-1] else ", no random sets"
    units = counted(drawn["units"], drawn["resampled"].removesuffix("s"))
    interval = (
        f" The whiskers of a set are its 95 % interval under a bootstrap of the text's {units} ({drawn['draws']:,} "
        "draws)."
        if drawn["units"] > 1
        else ""
    )
    return Chart(
        name="ablation",
        title=f"What the model loses without sets of neurons, values set to {mode}",
        n=f"n = {counted(document['tokens'], 'predicted token')}{random}",
        text=(
            f"The mean negative log-likelihood of {model_name(document['model'])} on {document['text']} (windows of "
            f"{document['context']} tokens, moved by {document['stride']}), less that of the whole model, in nats per "
            f"token: to the right the model is worse.{interval}",
            "Below each set, random sets with as many neurons in each layer, drawn from those outside it: their mean, "
            "whiskers of one standard deviation, and a cross for each. p = (1 + random sets that cost as much or more) "
            "/ (random sets + 1).",
        ),
        findings=(
            f"Of the whole model: {number(base['nll'], digits=5)} nats per token"
            + (f", perplexity {number(base['perplexity'], digits=5)}." if base["perplexity"] is not None else "."),
            *(_finding(one) for one in document["sets"]),
            *sentences(*document["notes"]),
        ),
        tables={"ablation": table, "ablation-controls": controls},
        draw=_draw,
        inches=(9.0, 1.8 + 0.9 * len(table.rows)),
        facts={name: document[name] for name in ("model", "text", "tokens", "context", "stride", "seed", "baseline")},
    )


def _finding(one: Mapping[str, Any]) -> str:
    without = f"Without {one['name']} ({counted(one['neurons'], 'neuron')})"
    if one["delta_nll"] == 0:
        return f"{without} the likelihood is the same: ΔNLL is exactly 0."
    p = one["control"]["p_value"]
    beside = "" if p is None else f", p = {number(p, digits=2)} beside random sets"
    return f"{without}: ΔNLL {number(one['delta_nll'], digits=3)}{beside}."


def _draw(figure: "Figure", chart: Chart) -> None:
    axes, table = figure.subplots(), chart.table
    places = np.arange(len(table.rows), dtype=float)
    delta, mean, sd = (_numbers(table, name) for name in ("delta_nll", "control_mean", "control_sd"))
    low, high = (np.abs(delta - _numbers(table, name)) for name in ("ci95_low", "ci95_high"))
    whiskers: dict[str, Any] = {"ecolor": "black", "capsize": 4, "error_kw": {"linewidth": 1}}
    spans = np.nan_to_num(np.stack([low, high]))
    axes.barh(places - 0.2, delta, 0.34, xerr=spans, label="the set, 95 % interval", **whiskers, **style.bars(1))
    if np.isfinite(mean).any():
        shown = np.nan_to_num(mean)
        axes.barh(
            places + 0.2,
            shown,
            0.34,
            xerr=np.nan_to_num(sd),
            label="random sets, mean ± standard deviation",
            **whiskers,
            **style.bars(2),
        )
    controls = chart.tables["ablation-controls"]
    place = dict(zip(table.column("set"), places, strict=True))
    heights = [place[name] + 0.2 for name in controls.column("set")]
    axes.plot(controls.column("delta_nll"), heights, "x", color="black", markersize=4, label="one random set")
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(places, [_name(row) for row in zip(*map(table.column, ("set", "neurons", "p_value")), strict=True)])
    axes.set_ylim(len(places) - 0.45, -0.55)
    axes.set_xlabel("ΔNLL (nats per token)")
    axes.margins(x=0.08)
    if not any(np.nan_to_num(delta)) and not any(controls.column("delta_nll")):
        axes.set_xlim(-1e-3, 1e-3)
    figure.legend(loc="outside lower center", ncols=3, fontsize=8, handlelength=2.5)


def _numbers(table: Table, name: str) -> np.ndarray:
    return np.array([np.nan if value is None else value for value in table.column(name)], np.float64)


def _name(row: tuple[str, int, float | None]) -> str:
    name, neurons, p = row
    return f"{style.label(name)}\n{counted(neurons, 'neuron')}" + ("" if p is None else f", p = {number(p, digits=2)}")
