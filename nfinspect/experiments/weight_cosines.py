"""How alike the weights of one neuron are to those of all neurons of its site (methods §17)."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from nfinspect.analysis.chosen import chosen_layers
from nfinspect.analysis.correlation import WeightCosines
from nfinspect.experiments.projection_weights import projection_weight
from nfinspect.models import LayerSite, LoadedModel, find_sites
from nfinspect.models.structure import width_in, width_out
from nfinspect_store.addresses import Address
from nfinspect_store.errors import RequestError
from nfinspect_store.tables import RunTables
from nfinspect_store.types import MLP_SITES

Floats = NDArray[np.float64]


def cosines_in_run(
    loaded: LoadedModel, run: RunTables, neuron: Address | str, site: str | None, layers: Sequence[int] | None
) -> WeightCosines:
    """weight_cosines of a neuron of a run with those of the layers in which `similar` seeks others: of its own site.

    Raises RequestError for another site, too.
    """
    own, number = run.resolve(neuron)
    if site is not None and site != own.site:
        raise RequestError(f"weights at {own.site} and {site} are not of one kind: compare them at one site")
    chosen = [layer.layer for layer in chosen_layers(run, own.site, layers)]
    return weight_cosines(loaded, own.site, (own.layer, number), chosen)


def weight_cosines(loaded: LoadedModel, site: str, of: tuple[int, int], layers: Sequence[int]) -> WeightCosines:
    """Cosines of the weights of the neuron `of` (layer, number) with those of all neurons of these layers of its site.

    Output: its column of the projection back to the residual stream. Of an MLP also its row of the projection that it
    is read from, and of a gated one its row of the gate. Raw weights: no norm is folded in. Raises RequestError for
    `resid`, whose coordinates have no weights of their own; UnknownSite; UnsupportedModel for packed weights.
    """
    if site == "resid":
        raise RequestError("a coordinate of the residual stream has no weights of its own: give a neuron of an MLP")
    (own,) = find_sites(loaded.model, [site], [of[0]])
    sites = find_sites(loaded.model, [site], list(layers))
    if of[1] >= own.neurons:
        raise RequestError(f"no neuron {of[1]} in layer {of[0]} at site {site}: it has neurons 0-{own.neurons - 1}")
    notes: list[str] = []
    mlp = [_inputs(loaded, one) for one in (own, *sites)] if site in MLP_SITES else []
    if not mlp:
        notes.append(f"at {site} only output weights are compared: several projections and mixtures lead to a neuron")

    def compared(rows: Sequence[Tensor | None]) -> tuple[Floats, ...] | None:
        mine, *others = rows
        held = [one for one in others if one is not None and mine is not None and one.shape[1] == mine.shape[1]]
        if mine is None or len(held) < len(others):
            return None
        return tuple(_cosines(mine[of[1]], one) for one in held)

    gate = compared([rows[0] for rows in mlp]) if mlp else None
    inputs = compared([rows[1] for rows in mlp]) if mlp else None
    if mlp and inputs is None:
        notes.append("input weights are not compared: it is not known which projection leads to the neurons")
    outputs = compared([_outputs(loaded, one) for one in (own, *sites)])
    if outputs is None:
        raise RequestError(f"the layers' output weights at {site} differ in width: they cannot be compared")
    return WeightCosines(loaded.name, gate, inputs, outputs, tuple(notes))


def _outputs(loaded: LoadedModel, site: LayerSite) -> Tensor:
    """[neurons, hidden size]."""
    return projection_weight(loaded.model.get_submodule(site.module), site.module).T


def _inputs(loaded: LoadedModel, site: LayerSite) -> tuple[Tensor | None, Tensor | None]:
    """The rows of the gate and of the projection that the neurons are read from: [neurons, hidden size] each."""
    parent, _, last = site.module.rpartition(".")
    hidden = width_out(loaded.model.get_submodule(site.module))
    siblings = {
        f"{parent}.{name}" if parent else name: module
        for name, module in loaded.model.get_submodule(parent).named_children()
        if name != last and width_in(module) == hidden
    }
    gate, fused = None, None
    if site.gate is not None and width_out(loaded.model.get_submodule(site.gate)) is not None:
        rows = projection_weight(loaded.model.get_submodule(site.gate), site.gate)
        start, stop = site.gate_slice or (0, rows.shape[0])
        gate = rows[start:stop]
        if site.gate_slice is not None and rows.shape[0] == 2 * site.neurons:
            fused = rows[stop:] if start == 0 else rows[:start]
    if fused is not None:
        return gate, fused
    others: list[tuple[str, nn.Module]] = [
        (name, module) for name, module in siblings.items() if name != site.gate and width_out(module) == site.neurons
    ]
    if len(others) != 1:
        return gate, None
    return gate, projection_weight(others[0][1], others[0][0])


def _cosines(vector: Tensor, rows: Tensor) -> Floats:
    """float64[rows]: rounded to 6 decimals, as float32 products are; NaN where either is 0."""
    vector = vector.float()
    found = torch.empty(rows.shape[0])
    for start in range(0, rows.shape[0], 4096):
        part = rows[start : start + 4096].float()
        sizes = part.norm(dim=1) * vector.norm()
        cosine = (part @ vector) / torch.where(sizes > 0, sizes, torch.nan)
        found[start : start + 4096] = cosine.cpu()
    return np.asarray(np.round(np.clip(found.double().numpy(), -1, 1), 6), np.float64)
