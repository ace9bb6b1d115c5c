"""The list that a neuron was opened from, and the steps along it with J and K."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from nfinspect.tui.requests import NeuronQuery

if TYPE_CHECKING:
    from nfinspect.analysis.classes import HealthOptions
    from nfinspect.analysis.neuron import NeuronDetail
    from nfinspect.tui.session import Session
    from nfinspect_store.addresses import Address


@dataclass(frozen=True)
class Steps:
    """A query and a row of it, or neighbours in a short list; with neither, the neurons of the layer."""

    query: NeuronQuery | None = None
    around: tuple[tuple[int, int], ...] = ()
    row: int | None = None


@dataclass(frozen=True)
class Found:
    """A neuron, and its place in its list."""

    address: Address
    row: int | None
    total: int | None
    detail: NeuronDetail


@dataclass(frozen=True)
class Step:
    """A question that `find` answers: which neuron is `step` places further than this one. options: the thresholds of
    classes.
    """

    address: Address
    steps: Steps
    step: int
    options: HealthOptions | None = None


def sizes_of(session: Session, site: str) -> dict[int, int]:
    """Neurons by layer."""
    return {layer.layer: layer.neurons for layer in session.layers if layer.site == site}


def find(session: Session, question: Step) -> Found:
    """Called in a worker: the neuron that `question` leads to, with all its figures. A step ends at the list's end."""
    from nfinspect_store.addresses import Address

    address, steps, step = question.address, question.steps, question.step
    row, total = steps.row, None
    site = address.site
    if steps.query is not None and row is not None:
        row = max(0, row + step)
        page = session.neurons(steps.query, row, 1)
        total = page.total
        if not page.rows:
            row = max(0, total - 1)
            page = session.neurons(steps.query, row, 1)
        if step and page.rows:
            address = Address(page.rows[0].layer, page.rows[0].neuron, site)
    elif steps.around and row is not None:
        row, total = max(0, min(len(steps.around) - 1, row + step)), len(steps.around)
        address = Address(*steps.around[row], site)
    elif step:
        here = site or session.default_site
        neurons = sizes_of(session, here)[address.layer]
        address = Address(address.layer, max(0, min(neurons - 1, address.neuron + step)), site)
    return Found(address, row, total, session.neuron(address, question.options))
