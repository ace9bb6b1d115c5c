"""A text through a simulated network: the same stages with made-up values, to show the report without a model."""

import re
import zlib
from dataclasses import replace

import numpy as np

from nfinspect.analysis.array_health import array_health
from nfinspect.analysis.classes import HealthOptions
from nfinspect.analysis.health import NetworkReport, report_of_layers
from nfinspect.analysis.planted import planted_layer
from nfinspect.analysis.planted_forms import FEWEST_TOKENS
from nfinspect.experiments.text_report import Stage, TextFiring, TextToken
from nfinspect_store.errors import RequestError

MODEL = "simulated"
LAYERS, NEURONS = 4, 256
FAULTS = {"dead": 10, "missing": 5, "weak": 10, "saturated": 5}
"""In the first layer; the last one of several has three times as many."""

MOST_WORDS = 4096

SIMULATED = (
    "simulated: drawn at random from the text's checksum; nothing here comes from a model or says anything of one"
)


def simulated_stages(text: str, options: HealthOptions | None = None) -> TextFiring:
    """The stages of a simulated network; the same text gives the same figures.

    Raises RequestError for a text without a word, or with too many of them.
    """
    options = options or HealthOptions()
    words = re.findall(r"\w+|[^\w\s]", text)
    if not 1 + options.skip_first <= len(words) <= MOST_WORDS:
        raise RequestError(f"expected a text of {1 + options.skip_first} to {MOST_WORDS:,} words, found {len(words):,}")
    rng = np.random.default_rng(zlib.crc32(text.encode("utf-8", "surrogatepass")))
    count = len(words) - options.skip_first

    def report(site: str, kind: str, layers: int) -> NetworkReport:
        found = []
        for layer in range(layers):
            grown = 1 + 2 * layer / max(1, layers - 1)
            faults = {name: round(number * grown) for name, number in FAULTS.items()}
            planted = planted_layer(kind, layer, layer, rng, NEURONS, max(count, FEWEST_TOKENS), faults)
            described = replace(planted.layer, site=site, module=f"simulated.{layer}.{site}")
            found.append(array_health(described, planted.values[:count], None, options).health)
        return report_of_layers(found)

    return TextFiring(
        text=text,
        model=MODEL,
        simulated=True,
        tokens=tuple(TextToken(i, i, word, None) for i, word in enumerate(words)),
        next_tokens=None,
        stages=(
            Stage("tokenization", f"{len(words):,} words; no neurons here", ()),
            Stage("embedding", "simulated", (report("embedding", "resid", 1),)),
            Stage("attention", "simulated", (report("attn", "resid", LAYERS),)),
            Stage("processing", "simulated", (report("mlp", "relu", LAYERS), report("resid", "resid", LAYERS))),
            Stage("output", "simulated", (report("output", "resid", 1),)),
        ),
        notes=(SIMULATED,),
    )
