"""Addresses of neurons in a live model."""

from collections.abc import Iterable

from nfinspect.models import LayerSite, LoadedModel, default_site, find_sites
from nfinspect_store.addresses import Address
from nfinspect_store.errors import RequestError


def resolve_addresses(
    loaded: LoadedModel, addresses: Iterable[Address], *, experts: bool = False
) -> dict[LayerSite, tuple[int, ...]]:
    """The neurons of each site and layer, in order of first appearance, each once.

    An address without a site is at the model's default site. experts: also those of mixtures of experts. Raises
    UnknownSite for a site or a layer that the model does not have, RequestError for a neuron that it does not have,
    UnsupportedModel for one that cannot be read.
    """
    usual = default_site(loaded.model, experts=True)  # one that is refused is not taken for one of another site
    groups: dict[tuple[str, int], list[int]] = {}
    for address in addresses:
        groups.setdefault((address.site or usual, address.layer), []).append(address.neuron)
    found: dict[LayerSite, tuple[int, ...]] = {}
    for (name, layer), neurons in groups.items():
        (site,) = find_sites(loaded.model, [name], [layer], experts=experts)
        if max(neurons) >= site.neurons:
            raise RequestError(
                f"no neuron {max(neurons)} in layer {layer} at site {name} of {loaded.name}: "
                f"it has neurons 0-{site.neurons - 1}"
            )
        found[site] = tuple(dict.fromkeys(neurons))
    return found
