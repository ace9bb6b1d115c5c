"""What can be typed after `:` — a neuron, a layer, a pane."""

from dataclasses import dataclass

from nfinspect.tui.commands import analysis_names
from nfinspect_store.addresses import Address, parse_address
from nfinspect_store.errors import RequestError

ANALYSES = analysis_names()
WORDS = ("runs", "watch", "compare", "layers", "neurons", "trace", "overlap", "sql", "analyses", *ANALYSES, "quit")
EXPECTED = (
    "L12/N3071, L12, a class such as dead, trace CONCEPT, overlap, sql, layers, neurons, runs, watch NAME, "
    f"compare A,B, analyses, {', '.join(ANALYSES)} or quit"
)


@dataclass(frozen=True)
class Target:
    """`word` is one of WORDS, or `neuron`, or `layer`."""

    word: str
    address: Address | None = None
    layer: int | None = None
    site: str | None = None
    rest: str = ""


def parse_target(text: str) -> Target:
    """Raises RequestError, in one line, for what is no target."""
    from nfinspect.tui.engine import CLASSES

    text = text.strip()
    head, _, rest = text.partition(" ")
    rest = rest.strip()
    word = head.lower()
    if word in ("q", "quit", "exit"):
        return Target("quit")
    if word in CLASSES:
        return Target("neurons", rest=word)
    if word in WORDS:
        return Target(word, rest=rest)
    if "/" in head:
        return Target("neuron", address=parse_address(text))
    site, _, layer = head.rpartition(":")
    if layer[:1] in ("l", "L") and layer[1:].isdigit():
        return Target("layer", layer=int(layer[1:]), site=site or None)
    raise RequestError(f"go to what? expected {EXPECTED}; found {text!r}")
