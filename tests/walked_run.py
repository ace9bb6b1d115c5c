"""A small run whose texts are in many scripts, cut into tokens as a byte-level tokenizer does, with planted neurons."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from nfinspect.capturing.arrays import array_info
from nfinspect.capturing.recorder import LayerValues, RecordedPrompt, Recorder
from nfinspect_store.token_text import readable
from nfinspect_store.types import Keep, Layer, utc_now
from nfinspect_store.writer import RunWriter

LAYERS = [
    *(Layer(i, "mlp", i, f"h.{i}.mlp", 16, "gelu", "positive") for i in range(3)),
    *(Layer(3 + i, "resid", i, f"h.{i}", 4, "", "scale") for i in range(3)),
]

STRANGE = "e\u0301 \u202eab\u0007\t漢字 مرحبا 👩‍🚀 हिन्दी x"
"""A combining mark, a control that turns text round, a bell, Chinese, Arabic, a joined emoji, Hindi."""

LONG = 1200


def byte_tokens(text: str, size: int = 2) -> list[bytes]:
    """Pieces of `size` bytes, whatever characters they cut."""
    raw = text.encode()
    return [raw[i : i + size] for i in range(0, len(raw), size)]


@dataclass(frozen=True)
class Text:
    concept: str
    text: str
    tokens: Sequence[bytes]
    own: int
    recorded: Sequence[bool] | None = None


def texts(where: bool = False) -> list[Text]:
    plain = [b"The", b" red", b" tulip", b"\n", b"of", b" Hanoi", b" and", b" of", b" Vietnam", b"."]
    strange = byte_tokens(STRANGE)
    long = [f" w{i}".encode() for i in range(LONG)]
    chosen = [i % 2 == 1 for i in range(len(plain))] if where else None
    return [
        Text("tulip", b"".join(plain[:6]).decode(), plain, 6, chosen),
        Text("scripts", STRANGE, strange, len(strange)),
        Text("long", b"".join(long).decode(), long, LONG),
    ]


def values(prompt: int, layer: Layer, tokens: int) -> NDArray[np.float32]:
    """Noise around 0, but: mlp L1/N5 is 8 on token 5 of prompt 0, L2/N3 is 0.9 there and else within 0.1 of 0; every
    neuron of L0 is four times as far from 0 on token 8.
    """
    found = np.random.default_rng([prompt, layer.layer_id]).normal(0, 1, (tokens, layer.neurons)).astype(np.float32)
    if layer.site == "mlp" and layer.layer == 2:
        found[:, 3] = np.clip(found[:, 3], -1, 1) * 0.1
    if layer.site == "mlp" and prompt == 0:
        if layer.layer == 0:
            found[8] *= 4
        if layer.layer == 1:
            found[5, 5] = 8
        if layer.layer == 2:
            found[5, 3] = 0.9
    return found


def write_walked(path: Path, *, keep: Keep = "all", where: bool = False) -> Path:
    """The run, with every second token of prompt 0 alone where `where`."""
    info = array_info(path.stem, 0)
    settings = {"keep": keep, "precision": "float32", **({"where": "tokens=odd"} if where else {})}
    writer = RunWriter.create(path, info.__class__(**{**vars(info), "settings": settings}), LAYERS)
    recorder = Recorder(writer, 0, torch.device("cpu"))
    for i, text in enumerate(texts(where)):
        shown = [readable(token) for token in text.tokens]
        raw = [None if one.encode() == token else token for one, token in zip(shown, text.tokens, strict=True)]
        chosen = None if text.recorded is None else np.array(text.recorded)
        prompt = RecordedPrompt(
            text.concept, text.text, list(range(len(shown))), shown, prompt_tokens=text.own, raw=raw, chosen=chosen
        )
        taken = slice(None) if chosen is None else chosen
        recorder.add([prompt], {one.layer_id: LayerValues(values(i, one, len(shown))[taken], None) for one in LAYERS})
    recorder.commit({"status": "complete", "finished_at": utc_now()}, final=True)
    writer.close()
    return path
