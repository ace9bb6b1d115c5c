"""Which layers of a run an analysis reads."""

from collections.abc import Sequence

from nfinspect_store.errors import RequestError
from nfinspect_store.tables import RunTables
from nfinspect_store.types import Layer


def chosen_layers(run: RunTables, site: str | None, layers: Sequence[int] | None) -> tuple[Layer, ...]:
    """The layers of a site with these numbers, in order; without numbers all of them.

    Raises RequestError for a site or a layer that is not in the run.
    """
    if layers is None:
        return run.site_layers(site)
    if not layers:
        raise RequestError("expected one layer or more, found none")
    return tuple(run.resolve_layer(layer, site) for layer in sorted(set(layers)))
