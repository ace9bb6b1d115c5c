"""Text files for training: cut into documents, a fixed share of which is held out."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from pathlib import Path

END = "<|endoftext|>"
DOCUMENT_CHARS = 600  # shorter blocks are joined with the ones after them


@dataclass(frozen=True)
class Text:
    """One text file, cut into documents and split into a training and a held-out part."""

    name: str
    size: int  # bytes of the file
    repeat: int
    train: list[str]
    held_out: list[str]


def documents(text: str) -> list[str]:
    """Cut at END if the file has it, else at blank lines, after undoing the hard line breaks of books."""
    text = text.replace("\r\n", "\n")
    if END in text:
        return [part.strip() for part in text.split(END) if part.strip()]
    text = re.sub(r"(?m)^(.{50,80})\n(?=\S)", r"\1 ", text)
    found, block = [], ""
    for paragraph in re.split(r"\n\s*\n", text):
        block = f"{block}\n{paragraph.strip()}".strip()
        if len(block) >= DOCUMENT_CHARS:
            found.append(block)
            block = ""
    return [*found, block] if block else found


def read(spec: str, share: float, seed: int) -> Text:
    """Read `FILE` or `FILE:REPEAT` and hold out a share of its documents, drawn by seed and file name."""
    path, colon, count = spec.rpartition(":")
    if not (colon and count.isdigit()):
        path, count = spec, "1"
    raw = Path(path).read_bytes()
    found = documents(raw.decode("utf-8"))
    order = list(range(len(found)))
    random.Random(f"{seed} {Path(path).name}").shuffle(order)
    out = set(order[: max(1, round(share * len(found)))])
    kept, held_out = [d for i, d in enumerate(found) if i not in out], [found[i] for i in sorted(out)]
    return Text(Path(path).name, len(raw), int(count), kept, held_out)
