"""What each layer would answer to a prompt: the logit lens."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from textual.binding import Binding, BindingType

from nfinspect.present.numbers import counted, percent
from nfinspect.tui.cells import Cell, visible_in
from nfinspect.tui.columns.lens import layer_columns, position_columns
from nfinspect.tui.commands import lens_of
from nfinspect.tui.lens_drawings import Lens, lens_entropy, lens_map, lens_probability, quoted
from nfinspect.tui.listing import Arranged, Listing
from nfinspect.tui.panes.analysis import AnalysisPane, Drawing, Found, read_result
from nfinspect.tui.requests import PromptText
from nfinspect.tui.widgets.paged_table import Column

if TYPE_CHECKING:
    from nfinspect.tui.session import Session
    from nfinspect_store.results import Result

AT_THE_END, EVERYWHERE = "last token", "each token"
MOST_PROMPTS = 500
"""To choose from; of a run with more, so many, evenly taken."""

LONGEST = 200
"""Characters of a prompt in the list to choose from."""


class LensPane(AnalysisPane):
    """Rows are layers. Every prompt has a result of its own; `<` and `>` go through those of this model."""

    command_name = "lens"
    help_text = (
        "Each layer's output at a token goes through the model's final norm and head, as if the layers behind it were "
        "not there: what stands here is what the model would answer if it stopped after that layer. rank and "
        "probability are those of the token that the whole model answers; entropy, in nats, falls as a layer gets "
        "sure. d shows the likeliest token after every token of the prompt (h and l move along them). p takes a prompt "
        "of the run, i one that you type; R edits the command, where quotes keep spaces at the end of a prompt. Enter "
        "goes to the layer's neurons. After nostalgebraist 2020."
    )

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("p", "prompt", "Prompt of the run", id="lens.prompt"),
        Binding("i", "type", "Type a prompt", id="lens.type"),
        Binding("d", "list", "List", id="lens.list"),
    ]

    def __init__(self, session: Session, site: str | None = None, *, prompt: str | None = None) -> None:
        """prompt: what to begin with; the newest that is kept if not given."""
        super().__init__(session, site)
        self._wish = prompt
        self._list = AT_THE_END

    def columns(self) -> list[Column]:
        if self._list == EVERYWHERE and self.analysis is not None:
            return position_columns(self.analysis.tokens, self.glyphs)
        return layer_columns(self.glyphs)

    @property
    def hint(self) -> str:
        return self.session.name

    # which prompt

    @property
    def _prompt(self) -> str:
        """The prompt that is asked about, empty where nothing has been chosen."""
        if self._wish is not None:
            return self._wish
        return "" if self.analysis is None else str(self.analysis.document["prompt"])

    def options(self) -> tuple[str, ...]:
        return lens_of(self._prompt) if self._prompt else ()  # the command's maker knows the run's first

    def listing(self) -> Listing:
        return Listing(
            rows=lambda analysis: analysis.layers,
            value=_value,
            text=lambda row: "\n".join(token["token"] or "" for token in (*row["top"], *row["positions"])),
            place=lambda row: row["layer"],
            named=("layer",),
            order=("layer", False),
            empty="no layer",
        )

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
            self.hub.say("this prompt holds a zero character, which no command can be given", "bad")
            return
        self._wish = prompt
        self.changed()

    def action_prompt(self) -> None:
        texts = partial(self.session.texts, MOST_PROMPTS)
        self.load("texts", texts, self._offer, busy="reading the prompts")

    def _offer(self, prompts: tuple[PromptText, ...]) -> None:
        if not prompts:
            self.hub.say("this run holds no text of its prompts: i types one", "warn")
        elif self.hub.pane is self:
            offered = {f"{one.prompt_idx} {one.concept}: {one.text[:LONGEST]}": one.text for one in prompts}
            here = next((name for name, text in offered.items() if text == self._prompt), None)
            some = f" ({len(prompts)} of {self.session.prompts:,})" if len(prompts) < self.session.prompts else ""
            self.pick(f"prompt{some}", list(offered), here, lambda name: self._choose(offered[name]), width=76)

    def action_type(self) -> None:
        prompt = self._prompt if self._prompt.isprintable() else ""
        self.hub.ask(self, "prompt", "prompt", self._typed, prompt)

    def _typed(self, text: str) -> None:
        if text:
            self._choose(text)

    def action_kept(self, step: int) -> None:
        if self._wish is not None and self.analysis is None:  # back from a prompt that nothing is kept of
            self._wish = None
            self.changed()
        else:
            super().action_kept(step)

    # what is shown

    def choices(self) -> list[Cell | str]:
        return [Cell("p i ", "bold"), "prompt", Cell("  d ", "bold"), Cell(self._list, "accent")]

    def facts(self, analysis: Lens) -> str:
        d = analysis.document
        prompt = str(d["prompt"])
        room = max(24, self.size.width - 40)
        said = prompt if len(prompt) <= room else self.glyphs.more + prompt[-room:]
        return (
            f'"{said}": {quoted(d["answer"])} {percent(d["answer"]["probability"], self.glyphs)} '
            f"after {counted(d['tokens'], 'token')}"
        )

    def nothing(self) -> str:
        return "No lens of this prompt is kept." if self._wish is not None else "No lens is kept yet."

    def drawings(self, analysis: Lens) -> Sequence[Drawing]:
        of_answer = (Drawing("probability", lens_probability), Drawing("entropy", lens_entropy))
        return (*of_answer, Drawing("map", lens_map, follows=True)) if analysis.tokens else of_answer

    def neurons_of(self, row: Mapping[str, Any]) -> tuple[tuple[int, int], ...]:
        return ()

    def is_marked(self, row: Any) -> bool:
        return False

    # keys

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        if action in ("mark", "marked", "site"):  # rows are layers, and the lens reads the residual stream alone
            return False
        return super().check_action(action, parameters)

    def action_list(self) -> None:
        self._list = EVERYWHERE if self._list == AT_THE_END else AT_THE_END
        self.draw_about()
        self.table.set_columns(self.columns())
        self.rows.put(self.rows.shown)

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
    """In a worker: the newest result of the prompt that is wished for, else the one at `place` among all."""
    every = kept()
    same = [i for i, result in enumerate(every) if wish is None or result.settings.get("prompt") == wish]
    if not same:
        return Found((), 0, None, command())
    place = max(0, min(place, len(every) - 1)) if wish is None else same[0]
    lens = read_result(_read, every[place])
    return Found(every, place, lens, command(choices=lens_of(lens.document["prompt"])), arrange(lens))


def _read(result: Result) -> Lens:
    found = Lens(result.document)
    if [len(layer["positions"]) for layer in found.layers] != [len(found.tokens)] * len(found.layers):
        raise ValueError("positions and tokens differ")
    return found


def _value(row: Mapping[str, Any], key: str) -> Any:
    if key == "probability":
        return math.exp(row["answer_log_prob"])
    return row["answer_rank"] if key == "rank" else row[key]
