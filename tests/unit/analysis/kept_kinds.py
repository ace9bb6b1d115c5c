"""Kept results that say which neurons are of a kind, without the analysis."""

import pyarrow as pa

from nfinspect_store.reader import RunFile
from nfinspect_store.results import Result, keep_result, model_results, run_results

Places = list[tuple[int, int]]


def keep_kind(
    run: RunFile, kind: str, places: Places, site: str = "mlp", notes: tuple[str, ...] = (), **settings: object
) -> Result:
    """A result that lists these (layer, neuron): kind `positions`, `delta`, or `ngrams` with n among the settings."""
    rows = [{"site": site, "layer": layer, "neuron": neuron, "delta_sensitive": True} for layer, neuron in places]
    field = "detectors" if kind == "ngrams" else "neurons"
    document = {"site": site, "n": settings.get("n"), field: rows, "notes": list(notes)}
    return keep_result(run_results(run.path), kind, {"site": site, **settings}, document, run_id=run.info.run_id)


def keep_attention(run: RunFile, places: Places, listed: int = 20, **settings: object) -> Result:
    """Scores of the run's model with these neurons first; the document lists `listed` of them."""
    rows = [{"layer": layer, "neuron": neuron} for layer, neuron in places]
    return keep_result(
        model_results(run.path.parent, run.info.model),
        "attention",
        {"site": "mlp", "model": run.info.model, **settings},
        {"site": "mlp", "method": "rollout", "neurons": rows[:listed], "notes": ["only 3 prompts"]},
        run_id=None,
        tables={"scores": pa.Table.from_pylist(rows)},
    )
