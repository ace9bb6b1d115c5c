"""The direct effect of a neuron's output weights on the logits (methods §5).

A neuron writes value × w_out into the residual stream. Its direct effect on the logits is W_U · diag(γ_final) · w_out:
w_out (centred first if the final norm is a LayerNorm) through the final norm, without its scale, and the unembedding,
minus the mean over the vocabulary; times the factors by which a model scales what it adds to the stream or its logits
(Granite, Cohere). It leaves out what depends on the text: the effect of w_out on later layers, the norm's scale, and
how far a soft cap (Gemma 2) bends large logits.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from nfinspect.experiments.direct_path import path_to_logits, through
from nfinspect.experiments.projection_weights import projection_weight
from nfinspect.experiments.scales import scale_to_logits
from nfinspect.models import LayerSite, LoadedModel
from nfinspect_store.errors import RequestError

VOCABULARY_CHUNK = 16384
"""Rows of the unembedding that are converted to float32 at a time: 256 MB at a width of 4,096."""


def output_effects(loaded: LoadedModel, site: LayerSite, neurons: Sequence[int]) -> NDArray[np.float32]:
    """Direct effects of neurons of one layer on every token's logit: float32[neurons, vocabulary], per unit of value.

    At `resid` the neuron is a coordinate of the residual stream and w_out the unit vector along it. If there is a norm
    between the projection and the residual stream (Gemma 2 and 3), or on the stream itself (OPT-350m), its gain is
    applied like the final norm's [own]. Factors that the model multiplies by (Granite, Cohere) are applied, a soft
    cap with its slope at logits of 0, and the gate of a shared expert (Qwen2-MoE) as half open. The vocabulary is the
    head's rows, in some models more than the tokenizer's.

    Raises RequestError for a neuron that the layer does not have, UnsupportedModel if the path from the site to the
    logits is not known or its weights are packed.
    """
    for neuron in neurons:
        if not 0 <= neuron < site.neurons:
            raise RequestError(
                f"no neuron {neuron} in layer {site.layer} at site {site.site}: it has neurons 0-{site.neurons - 1}"
            )
    way = path_to_logits(loaded, site)
    head, scale = way.head, scale_to_logits(loaded, way)
    directions = scale * through(way.steps, output_weights(loaded, site, neurons))
    unembedding = projection_weight(head.module, head.name)
    directions = directions.to(unembedding.device)
    effects = torch.cat([directions @ rows.float().T for rows in torch.split(unembedding, VOCABULARY_CHUNK)], dim=1)
    effects -= effects.mean(dim=1, keepdim=True)
    found: NDArray[np.float32] = effects.cpu().numpy()
    return found


def output_weights(loaded: LoadedModel, site: LayerSite, neurons: Sequence[int]) -> Tensor:
    """What each neuron adds to its sublayer's output per unit of value: float32[neurons, hidden size]."""
    chosen = torch.as_tensor(list(neurons), dtype=torch.long)
    if site.site == "resid":
        return torch.nn.functional.one_hot(chosen, site.neurons).float()
    weight = projection_weight(loaded.model.get_submodule(site.module), site.module)
    return weight[:, chosen.to(weight.device)].T.float()
