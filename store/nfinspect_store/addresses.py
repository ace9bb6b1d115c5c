"""How a neuron is written: `L5/N123`, with a site in front when it is not the default one (`resid:L11/N447`)."""

import re
from dataclasses import dataclass

from nfinspect_store.errors import RequestError

_ADDRESS = re.compile(r"(?:(?P<site>[A-Za-z_][\w.-]*):)?L(?P<layer>\d+)/N(?P<neuron>\d+)", re.IGNORECASE)


@dataclass(frozen=True, order=True)
class Address:
    """One neuron. `site` is None when the run's default site is meant."""

    layer: int
    neuron: int
    site: str | None = None

    def __str__(self) -> str:
        place = f"L{self.layer}/N{self.neuron}"
        return f"{self.site}:{place}" if self.site else place


def parse_address(text: str) -> Address:
    """Read `L5/N123` or `resid:L11/N447`. Raises RequestError with the form expected."""
    match = _ADDRESS.fullmatch(text.strip())
    if match is None:
        raise RequestError(f"a neuron is written L5/N123 or resid:L11/N447; found {text.strip()!r}")
    return Address(int(match["layer"]), int(match["neuron"]), match["site"])
