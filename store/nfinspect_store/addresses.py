"""How a neuron is written: `L5/N123`, with its site in front when that is not the default (`resid:L11/N447`)."""

import re
from dataclasses import dataclass

from nfinspect_store.errors import RequestError

_ADDRESS = re.compile(r"(?:(?P<site>[A-Za-z_][\w.-]*):)?L(?P<layer>\d+)/N(?P<neuron>\d+)", re.IGNORECASE)


@dataclass(frozen=True, order=True)
class Address:
    """One neuron. `site` None means the run's default site."""

    layer: int
    neuron: int
    site: str | None = None

    def __str__(self) -> str:
        place = f"L{self.layer}/N{self.neuron}"
        return f"{self.site}:{place}" if self.site else place


def parse_address(text: str) -> Address:
    """Parse `L5/N123` or `resid:L11/N447`. Raises RequestError, which names the expected form."""
    match = _ADDRESS.fullmatch(text.strip())
    if match is None:
        raise RequestError(f"a neuron is written L5/N123 or resid:L11/N447; found {text.strip()!r}")
    return Address(int(match["layer"]), int(match["neuron"]), match["site"])
