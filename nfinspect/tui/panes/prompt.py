"""A whole prompt as one neuron read it."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from textual.app import ComposeResult

from nfinspect.present.numbers import counted, number
from nfinspect.tui import cells
from nfinspect.tui.cells import Cell, content
from nfinspect.tui.neuron_text import reading
from nfinspect.tui.panes.run_pane import RunPane
from nfinspect.tui.requests import PromptReading
from nfinspect.tui.widgets.text_panel import TextPanel

if TYPE_CHECKING:
    from nfinspect.tui.session import Session
    from nfinspect_store.addresses import Address


class PromptPane(RunPane):
    """Tokens toned by strength; what the model wrote comes after a double line."""

    help_text = (
        "Every token of the prompt, toned by how strongly it sets the neuron off; the strongest are in "
        "brackets. What follows the double line was written by the model. Below, the strongest values."
    )

    def __init__(self, session: Session, address: Address, prompt_idx: int, token_idx: int) -> None:
        super().__init__(f"prompt {prompt_idx}", session, address.site or session.default_site)
        self._address = address
        self._prompt_idx = prompt_idx

    def compose(self) -> ComposeResult:
        yield TextPanel(id="prompt")

    @property
    def hint(self) -> str:
        return f"as {self._address} read it"

    def on_mount(self) -> None:
        prompt = partial(self.session.prompt, self._prompt_idx, self._address)
        self.load("prompt", prompt, self._show, busy="reading the prompt")

    def _show(self, read: PromptReading) -> None:
        g = self.glyphs
        kept = "" if read.values else "  (values were not kept: no strengths)"
        if left := read.values.count(None):
            kept = f"  ({left} not recorded)"
        written = sum(read.generated)
        count = f"{counted(len(read.tokens), 'token')}, {written} of them written by the model{kept}"
        head = f"concept {read.concept}, {count}"
        pieces = [Cell(head, "dim"), "\n\n", *reading(read.pieces, read.values, read.generated, g)]
        values = {i: value for i, value in enumerate(read.values) if value}
        if read.values and not values:
            pieces += ["\n\n", Cell("the neuron is 0 on every token of this prompt", "dim")]
        elif values:
            pieces += ["\n\n", Cell("strongest", "title"), "\n"]
            for i, value in sorted(values.items(), key=lambda one: (-abs(one[1]), one[0]))[:12]:
                token = cells.fit(read.tokens[i], 24, g)
                pieces.append(f"{number(value, g):>9}  {token} at position {i}\n")
        self.query_one(TextPanel).put(content(*pieces))
