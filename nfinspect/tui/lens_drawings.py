"""What the logit lens is drawn as, like the functions of `drawings`. All of it runs in workers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nfinspect.tui.cells import fit
from nfinspect.tui.glyphs import ASCII, UNICODE, shade
from nfinspect.tui.widgets.plots import layer_bars

Lines = tuple[str, ...]
MARKED = 4
"""Cells between two marks below the map."""


@dataclass(frozen=True)
class Lens:
    """The document of `nfinspect logits --lens`."""

    document: Mapping[str, Any]

    @property
    def layers(self) -> list[Mapping[str, Any]]:
        found: list[Mapping[str, Any]] = self.document["layers"]
        return found

    @property
    def answer(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self.document["answer"]
        return found

    @property
    def tokens(self) -> list[str | None]:
        """Of the prompt; empty where the lens was at its end alone."""
        found: list[str | None] = self.document.get("prompt_tokens", [])
        return found

    def to_json(self) -> dict[str, object]:
        return dict(self.document)


def _labels(found: Lens) -> tuple[str, ...]:
    return tuple(f"L{layer['layer']}" for layer in found.layers)


def lens_probability(found: Lens, row: object, width: int, height: int, plain: bool) -> Lines:
    shares = tuple(100 * math.exp(layer["answer_log_prob"]) for layer in found.layers)
    what = f"probability that each layer gives to the model's answer {quoted(found.answer)}, %"
    return (what, *layer_bars(_labels(found), (shares,), width, height - 1, plain))


def lens_entropy(found: Lens, row: object, width: int, height: int, plain: bool) -> Lines:
    what = "entropy of what each layer would answer, nats (0: it is sure)"
    return (what, *layer_bars(_labels(found), (tuple(x["entropy"] for x in found.layers),), width, height - 1, plain))


def lens_map(found: Lens, row: Mapping[str, Any] | None, width: int, height: int, plain: bool) -> Lines:
    """Layers by tokens, the last layer above; the layers around `row`, and the last tokens, if not all fit."""
    glyphs = ASCII if plain else UNICODE
    layers = list(reversed(found.layers))
    room = max(1, height - 2)
    first = max(0, min(layers.index(row) - room // 2 if row in layers else 0, len(layers) - room))
    label = max(len(name) for name in _labels(found)) + 1
    tokens = len(found.tokens)
    wide = max(1, min(6, (width - label) // max(1, tokens)))
    shown = range(max(0, tokens - (width - label) // wide), tokens)
    lines = []
    for layer in layers[first : first + room]:
        after = [layer["positions"][place]["probability"] for place in shown]
        sign = glyphs.cursor if layer == row else " "
        lines.append(fit(f"L{layer['layer']}", label - 1) + sign + "".join(shade(p, glyphs) * wide for p in after))
    lines.append(" " * label + _marks([str(place) for place in shown], wide))
    cut = f" {shown[0]}-{tokens - 1}" if shown and shown[0] else ""
    what = f"probability of each layer's likeliest token after each token{cut}; full from 7/8"
    return (what, *lines)


def _marks(names: Sequence[str], wide: int) -> str:
    """As many of the names as have room, each below the beginning of its cell."""
    line = ""
    for place, name in enumerate(names):
        if len(line) <= place * wide - (1 if line else 0) and (place * wide) % MARKED < wide:
            line = line.ljust(place * wide) + name
    return line


def quoted(token: Mapping[str, Any]) -> str:
    return "-" if token["token"] is None else f'"{token["token"]}"'
