"""What to do about the issues that a network has, and in which layers; other issues are not mentioned."""

from collections.abc import Sequence

from nfinspect.analysis.classes import FAULTS
from nfinspect.analysis.scores import LOW_ACTIVATION, LayerHealth, NetworkParts
from nfinspect_store.types import RELU_FAMILY

DEGRADED_BY = 0.1  # smallest fall of the mean score from the first to the last third that is mentioned [own]

ADVICE = {
    "dead ReLU": (
        "{share} of the {activation} neurons never fire. In training: He initialisation, normalisation "
        "before the layer, a lower learning rate, or a leaky activation (LeakyReLU, GELU, SiLU). In a "
        "trained model: read more text before calling them dead, then prune"
    ),
    "dead": (
        "{share} of the neurons hardly move. Check that the layer's input arrives (a zero or masked "
        "input, a vanished signal) and how its weights are initialised"
    ),
    "saturated": (
        "{share} of the neurons are stuck at one value. In training: gradient clipping, normalisation "
        "before the layer, a lower learning rate, residual connections; where it is one constant, look for a large bias"
    ),
    "sporadic": (
        "{share} of the neurons fire rarely and strongly. Read their top examples: detectors of rare "
        "text are healthy; in training, spikes without such a text call for gradient clipping or a "
        "longer warm-up"
    ),
    "missing": (
        "{share} of the neurons fire far below their layer's scale. In training: check for vanishing "
        "gradients, and use Xavier or He initialisation, normalisation or residual connections"
    ),
    "weak": (
        "{share} of the neurons fire weakly. Check the scale of initialisation and normalisation, weight"
        " decay, and whether the training data exercises the layer; where the model underfits besides, more "
        "or better data, pre-trained embeddings, or another width or depth"
    ),
    LOW_ACTIVATION: (
        "only {rate} of the (token, neuron) pairs fire. Check for biases drifting negative, a learning "
        "rate that is too high, and a sparsity penalty that is too strong"
    ),
}


def recommendations(layers: Sequence[LayerHealth], parts: NetworkParts) -> tuple[str, ...]:
    """One line for each kind of issue present, naming the layers that have it; none for a healthy network."""
    lines = []
    for kind in (*FAULTS, LOW_ACTIVATION):
        held = [layer for layer in layers if layer.has_issue(kind)]
        if kind == "dead":
            rectified = [layer for layer in held if layer.activation in RELU_FAMILY]
            lines += _advice("dead ReLU", kind, rectified)
            held = [layer for layer in held if layer not in rectified]
        lines += _advice(kind, kind, held)
    fall = parts.first_third - parts.last_third
    if fall >= DEGRADED_BY:
        lines.append(
            f"Health falls by {fall:.2f} from the first third of the layers to the last: check residual "
            "connections and normalisation of the deep layers, and their learning rates."
        )
    return tuple(lines)


def _advice(key: str, kind: str, layers: Sequence[LayerHealth]) -> list[str]:
    if not layers:
        return []
    share = (
        sum(layer.count(kind) for layer in layers) / max(1, sum(x.reached_neurons for x in layers))
        if kind in FAULTS
        else 0.0
    )
    rate = sum((layer.activation_rate or 0.0) * layer.neurons for layer in layers) / sum(x.neurons for x in layers)
    text = ADVICE[key].format(share=f"{100 * share:.1f} %", rate=f"{100 * rate:.2f} %", activation=layers[0].activation)
    return [f"{layer_names([layer.layer for layer in layers])}, {kind}: {text}."]


def layer_names(numbers: Sequence[int]) -> str:
    """`Layer 3`, `Layers 0-3, 7`."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    spans = ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
    return f"Layer {spans}" if len(numbers) == 1 else f"Layers {spans}"
