"""How strongly n-gram detectors suppress their own triggers (methods §5).

A detector's suppression is the mean, over the n-grams that it covers, of its direct effect on the logit of the
n-gram's last token: negative if it makes the token that triggered it less likely to come again. Voita et al. 2023.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby

import numpy as np

from nfinspect.analysis.ngram_layers import LayerNgrams
from nfinspect.analysis.ngrams import Detector, NgramAnalysis
from nfinspect.experiments.output_weights import output_effects
from nfinspect.models import LayerSite, LoadedModel, find_sites
from nfinspect_store.errors import RequestError

ROWS = 256
"""Detectors per computation: 51 MB of effects for a vocabulary of 50,000."""


def with_suppression(analysis: NgramAnalysis, loaded: LoadedModel) -> NgramAnalysis:
    """The analysis with every detector's suppression.

    Raises RequestError if the model is not the run's (other layers, other widths, a smaller vocabulary),
    UnsupportedModel if its path to the logits is not known.
    """
    wanted = sorted({detector.layer for detector in analysis.detectors})
    if not wanted:
        return replace(analysis, suppression_model=loaded.name)
    if wanted[-1] >= loaded.layers:
        raise RequestError(
            f"the run has a layer {wanted[-1]}, and {loaded.name} has {loaded.layers} layers: it is another model"
        )
    sites = {site.layer: site for site in find_sites(loaded.model, [analysis.site], wanted)}
    widths = {layer.layer: layer for layer in analysis.layers}
    found: list[Detector] = []
    for layer, group in groupby(analysis.detectors, key=lambda detector: detector.layer):
        _check_width(loaded, sites[layer], widths[layer])
        detectors = list(group)
        for start in range(0, len(detectors), ROWS):
            found += _suppressing(loaded, sites[layer], detectors[start : start + ROWS])
    return replace(analysis, detectors=tuple(found), suppression_model=loaded.name)


def _suppressing(loaded: LoadedModel, site: LayerSite, detectors: Sequence[Detector]) -> list[Detector]:
    effects = output_effects(loaded, site, [detector.neuron for detector in detectors])
    found = []
    for detector, effect in zip(detectors, effects, strict=True):
        last = np.array([ngram.token_ids[-1] for ngram in detector.ngrams])
        if last.max() >= len(effect):
            raise RequestError(
                f"the run has token {last.max()}, and {loaded.name} has tokens 0-{len(effect) - 1}: it is another model"
            )
        found.append(replace(detector, suppression=float(effect[last].mean(dtype=np.float64))))
    return found


def _check_width(loaded: LoadedModel, site: LayerSite, layer: LayerNgrams) -> None:
    if site.neurons != layer.neurons:
        raise RequestError(
            f"layer {layer.layer} of the run has {layer.neurons:,} neurons at {layer.site}, that of {loaded.name} has "
            f"{site.neurons:,}: it is another model"
        )
