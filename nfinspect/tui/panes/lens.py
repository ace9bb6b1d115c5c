"""What each layer would answer to a prompt: the logit lens."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from textual.binding import Binding, BindingType

from nfinspect.analyses.lens import SPEC
from nfinspect.tui.cells import Cell, visible_in
from nfinspect.tui.commands import lens_of
from nfinspect.tui.listing import Arranged
from nfinspect.tui.panes.analysis import AnalysisPane
from nfinspect.tui.panes.found import Found, read_result
from nfinspect.tui.panes.run_pane import AS_TYPED

if TYPE_CHECKING:
    from nfinspect.tui.session import Session
    from nfinspect_store.results import Result


class LensPane(AnalysisPane):
    """Rows are layers. Every prompt has a result of its own; `<` and `>` go through those of this model."""

    spec = SPEC
    help_text = SPEC.explains
    idle: ClassVar[Mapping[str, str]] = {
        **AnalysisPane.idle,
        **dict.fromkeys(
            ("mark", "marked", "site"), "rows are layers here, not neurons: the lens reads the residual stream"
        ),
    }

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("p", "prompt", "Prompt of the run", id="lens.prompt"),
        Binding("i", "type", "Type a prompt", id="lens.type"),
        Binding("d", "list", "List", id="lens.list"),
    ]

    def __init__(
        self, session: Session, site: str | None = None, *, prompt: str | None = None, prompt_idx: int | None = None
    ) -> None:
        """prompt: the text of the first to show, or else that of the run's prompt_idx; that of the newest saved result
        if neither is given.
        """
        super().__init__(session, site)
        self._wish = prompt
        self._first = prompt_idx

    def on_mount(self) -> None:
        if self._wish is not None:
            self.hub.say(AS_TYPED, "dim")
        elif self._first is not None:
            self.hub.say(f"the prompt is number {self._first} of the run", "dim")
        if self._wish is None and self._first is not None:
            read = partial(self.session.first_text, self._first)
            self.load("first prompt", read, self._typed, busy="reading the prompt")

    @property
    def hint(self) -> str:
        return self.session.name

    # which prompt

    @property
    def _prompt(self) -> str:
        """The prompt that is asked about, empty if none has been chosen."""
        if self._wish is not None:
            return self._wish
        return "" if self.analysis is None else str(self.analysis.document["prompt"])

    def options(self) -> tuple[str, ...]:
        return lens_of(self._prompt) if self._prompt else ()  # make_command takes the run's first

    def adopt(self, result: Result) -> None:
        self._wish = str(result.settings["prompt"])

    def finder(self) -> Callable[[], Found]:
        kept, command = self.command.kept, self.command.asked()
        return partial(_find, kept, self._wish, self._place, command, self.rows.arranger())

    def show_found(self, found: Found) -> None:
        super().show_found(found)
        if found.result is not None:
            self._wish = None

    def _choose(self, prompt: str) -> None:
        if "\0" in prompt:
            self.hub.say("this prompt has a NUL character, which no command can take", "bad")
            return
        self._wish = prompt
        self.changed()

    def action_prompt(self) -> None:
        self.offer_prompts(self._choose, self._prompt)

    def action_type(self) -> None:
        prompt = self._prompt if self._prompt.isprintable() else ""
        self.hub.ask(self, "prompt", "prompt", self._typed, prompt)

    def _typed(self, text: str) -> None:
        if text:
            self._choose(text)

    def action_kept(self, step: int) -> None:
        if self._wish is not None and self.analysis is None:  # back from a prompt without a result
            self._wish = None
            self.changed()
        else:
            super().action_kept(step)

    # what is shown

    def choices(self) -> list[Cell | str]:
        return [Cell("p i ", "bold"), "prompt  ", *super().choices()]

    def nothing(self) -> str:
        return "No lens of this prompt is kept." if self._wish is not None else "No lens is kept yet."

    # keys

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        if action in ("mark", "marked", "site"):  # rows are layers, and the lens reads the residual stream alone
            return False
        return super().check_action(action, parameters)

    def open_row(self) -> None:
        if (row := self.table.current) is None:
            return
        if any(layer.layer == row["layer"] for layer in self.session.layers if layer.site == self.site):
            self.open_neurons(layer=row["layer"])
        else:
            self.hub.say(f"this run holds no neurons of L{row['layer']} at {self.site}", "warn")

    def action_copy(self) -> None:
        if self.analysis is None:
            super().action_copy()
            return
        rows = [(x["layer"], x["answer_rank"], f"{math.exp(x['answer_log_prob']):.6g}", f"{x['entropy']:.4f}",
                 *(visible_in(token["token"]) for token in x["top"])) for x in self.rows.current]  # fmt: skip
        self.hub.copy("\n".join("\t".join(map(str, row)) for row in rows))


def _find(
    kept: Callable[[], tuple[Result, ...]],
    wish: str | None,
    place: int,
    command: Callable[..., tuple[str, ...]],
    arrange: Callable[[Any], Arranged],
) -> Found:
    """Called in a worker: the newest result of the prompt `wish`; without it, the result at `place` among all."""
    every = kept()
    same = [i for i, result in enumerate(every) if wish is None or result.settings.get("prompt") == wish]
    if not same:
        return Found((), 0, None, command())
    place = max(0, min(place, len(every) - 1)) if wish is None else same[0]
    lens = read_result(SPEC.read, every[place])
    return Found(every, place, lens, command(choices=lens_of(lens.document["prompt"])), arrange(lens))
