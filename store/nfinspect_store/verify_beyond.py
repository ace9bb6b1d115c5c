"""The check of `verify` on values that `--where beyond=pX` chose one by one: can they be those of the capture?"""

from collections.abc import Iterator

import numpy as np

from nfinspect_store.arrow_numbers import numbers
from nfinspect_store.histogram import BINS, bin_of
from nfinspect_store.reader import RunFile
from nfinspect_store.types import Layer
from nfinspect_store.verify_tables import EACH_EXAMPLE

ASTRAY = """
SELECT count(*) FROM beyond b LEFT JOIN layers l USING (layer_id)
WHERE (b.neuron >= 0 AND b.neuron < l.neurons AND b.token_idx >= 0 AND b.token_idx < $tokens) IS NOT TRUE
   OR b.value IS NULL
"""

TWICE = """
SELECT count(*) FROM (SELECT 1 FROM beyond WHERE layer_id = $layer GROUP BY neuron, token_idx HAVING count(*) > 1)
"""

OTHER_EXAMPLES = f"""
SELECT count(*) FROM ({EACH_EXAMPLE}) e JOIN beyond b USING (layer_id, neuron, token_idx)
WHERE b.layer_id = $layer AND b.value <> e.value
"""


def check_beyond(run: RunFile) -> list[str]:
    """Whether the chosen values are of neurons and tokens of the run, each once, and of its histograms."""
    if run.beyond is None:
        return [f"beyond: a run of {run.kept} holds {run.beyond_rows} values one by one"] if run.beyond_rows else []
    astray = run.cursor().execute(ASTRAY, {"tokens": run.tokens}).fetchall()[0][0]
    if astray:
        return [f"beyond: {astray} values belong to no neuron or no token of the run"]
    return [problem for layer in run.layers if run.tokens for problem in _of_layer(run, layer)]


def _of_layer(run: RunFile, layer: Layer) -> Iterator[str]:
    place, of_layer = f"{layer.site} layer {layer.layer}", {"layer": layer.layer_id}
    if twice := run.cursor().execute(TWICE, of_layer).fetchall()[0][0]:
        yield f"beyond: {place}: {twice} neurons and tokens come twice"
    if other := run.cursor().execute(OTHER_EXAMPLES, of_layer).fetchall()[0][0]:
        yield f"beyond: {place}: {other} values are not those of the examples"
    found = np.zeros((layer.neurons, BINS), np.int64)
    for batch in run.beyond_batches(layer):
        neuron, value = (numbers(batch.column(name)) for name in ("neuron", "value"))
        np.add.at(found, (neuron, bin_of(np.ascontiguousarray(value, np.float32))), 1)
    more = (found > run.histograms(layer.site, layer.layer)).any(axis=1)
    if more.any():
        yield (
            f"beyond: {place}: {int(more.sum())} neurons have more values than their histogram counts, "
            f"the first is N{int(more.argmax())}"
        )
