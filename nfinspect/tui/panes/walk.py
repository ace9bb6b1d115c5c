"""A prompt's text token by token, and beside it what the model's neurons did at the token under the cursor."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, cast

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container, Vertical

from nfinspect.tui import walk_text
from nfinspect.tui.cells import Cell, content
from nfinspect.tui.columns.walk import lens_columns, token_columns
from nfinspect.tui.panes.run_pane import RunPane
from nfinspect.tui.panes.walk_model import ModelReading
from nfinspect.tui.walking import Colouring, Question, TokenWalk
from nfinspect.tui.widgets.paged_table import PagedTable
from nfinspect.tui.widgets.text_block import TextBlock
from nfinspect.tui.widgets.token_text import TokenText

if TYPE_CHECKING:
    from nfinspect.analysis.prompt_text import TextPart
    from nfinspect.analysis.token_neurons import AtToken, TokenRank
    from nfinspect.tui.requests import JobState
    from nfinspect.tui.session import Session
    from nfinspect.tui.walking import Opened, Strengths, WalkPrompt
    from nfinspect_store.addresses import Address

TOP = 100
"""Neurons in the list."""

BY = ("layer", "neuron", "surprisal", "nothing")


class WalkPane(RunPane):
    """h and l go from token to token. The panel beside the text is about the token under the cursor."""

    help_text = walk_text.HELP

    first_focus = "TokenText"
    follows = True
    idle: ClassVar[Mapping[str, str]] = {"walk": "this is the token walk"}

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("J", "prompt(1)", "Next prompt", id="walk.next_prompt"),
        Binding("K", "prompt(-1)", "Previous prompt", show=False, id="walk.previous_prompt"),
        Binding("r", "rank", "Rank", id="walk.rank"),
        Binding("c", "colour", "Colour", id="walk.colour"),
        Binding("C", "colour_neuron", "Colour by this neuron", show=False, id="walk.colour_neuron"),
        Binding("L", "layer", "Layer", id="walk.layer"),
        Binding("d", "list", "Neurons or lens", show=False, id="walk.list"),
        Binding("m", "model", "Read the model", show=False, id="walk.model"),
        Binding("x", "cancel", "Cancel", show=False, id="walk.cancel"),
        Binding("p", "find", "Prompt", show=False, id="walk.prompt"),
        Binding("S", "site", "Site", show=False, id="walk.site"),
        Binding("space", "mark", "Mark", key_display="Space", show=False, id="walk.mark"),
        Binding("O", "marked", "Overlap of the marked", show=False, id="walk.marked"),
        Binding("y", "copy", "Copy", show=False, id="walk.copy"),
    ]

    DEFAULT_CSS = """
    WalkPane #head { height: 1; padding: 0 1; }
    WalkPane #legend { height: 1; padding: 0 1; }
    WalkPane #both { layout: horizontal; height: 1fr; }
    WalkPane TokenText { width: 1fr; height: 1fr; }
    WalkPane #beside { width: 39; height: 1fr; }
    WalkPane.-wide #beside { width: 50; }
    WalkPane #token { height: 4; padding: 0 1; text-wrap: nowrap; text-overflow: ellipsis; }
    """

    def __init__(
        self,
        session: Session,
        site: str | None = None,
        *,
        token: int | None = None,
        neuron: Address | None = None,
        find: str = "",
    ) -> None:
        """token: to begin with, by its token_idx; else the first of the prompt that `find` names. neuron: to colour
        the tokens by.
        """
        super().__init__("walk", session, site)
        self._first_token, self._find = token, find
        self._neuron = neuron
        self._layer: int | None = None
        self._rank: TokenRank = "value"
        self._by = "neuron" if neuron is not None else "layer" if session.has_values else "nothing"
        self._turn = BY.index(self._by)  # also where a colour could not be had, so that c goes on to the next
        self._prompt: WalkPrompt | None = None
        self._values: dict[int, float | None] = {}
        self._full = 0.0
        self._steps: dict[int, int] = {}
        self._asking: Question | None = None
        self._histograms = False
        self._at: AtToken | None = None
        self._lens: Mapping[str, Any] | None = None
        self._shows_lens = False
        self._listed: Question | None = None  # whose answer the list is
        self._later: Callable[[], None] | None = None
        self._reading = ModelReading(self)

    @property
    def equivalent(self) -> tuple[str, ...]:
        known = self._listed is not None and not self._shows_lens and self.session.has_values
        statement = self._listed.statement(TOP) if known and self._listed is not None else ""
        return ("sql", self.session.name, statement) if statement else ()

    def compose(self) -> ComposeResult:
        yield TextBlock(id="head")
        with Container(id="both"):
            yield TokenText(glyphs=self.glyphs)
            with Vertical(id="beside", classes="ruled-left"):
                yield TextBlock(id="token")
                table = PagedTable(
                    token_columns(self._rank, self.glyphs), glyphs=self.glyphs, frozen=1, empty="", id="neurons"
                )
                table.add_class("panel")
                table.marked = self._is_marked
                yield table
        yield TextBlock(id="legend")

    @property
    def lab_begins_with(self) -> dict[str, Any]:
        return {} if self._prompt is None else {"prompt_idx": self._prompt.prompt_idx}

    @property
    def text(self) -> TokenText:
        return self.query_one(TokenText)

    def on_mount(self) -> None:
        self.text.step = self._steps.get
        if self._first_token is not None:
            self._open(partial(self.session.ask_walk, TokenWalk.at_token, self._first_token))
        elif self._find:
            self._open(partial(self.session.ask_walk, TokenWalk.find, self._find))
        else:
            self._open(partial(self.session.ask_walk, TokenWalk.beginning, 0))

    def on_resize(self) -> None:
        self.set_class(self.size.width >= 100, "-wide")

    def entered(self) -> None:
        self.table.refresh()  # marks may have changed elsewhere

    def read_again(self) -> None:
        """The values of a token stay; what they are compared with has grown."""
        if self._prompt is not None:
            if (part := self._part) is not None:
                self._ask_strengths(part)
            self._show_token()

    def _is_marked(self, row: Any) -> bool:
        return not self._shows_lens and self.is_marked(row)

    # a prompt

    def _open(self, read: Callable[[], Opened]) -> None:
        self.load("prompt", read, self._opened, self._not_opened, busy="reading the prompt")

    def _not_opened(self, line: str) -> None:
        if self._prompt is None:
            self.query_one("#head", TextBlock).put(content(Cell(f"! {line}", "bad")))
        self.say_failed(line)

    def _opened(self, opened: Opened) -> None:
        self._prompt = opened.prompt
        self.crumb = f"prompt {opened.prompt.prompt_idx}"
        self._values.clear()
        self._steps.clear()
        self._lens = None
        self.text.open(opened.prompt.size, opened.place)
        for number_of, part in opened.parts.items():
            self._put_part(number_of, part)
        self.hub.update_trail()
        if self._shows_lens:
            self._ask_lens()

    def on_token_text_part_wanted(self, message: TokenText.PartWanted) -> None:
        if self._prompt is None or message.number in self.text.parts:  # it came with the prompt
            return
        prompt_idx, number_of = self._prompt.prompt_idx, message.number
        read = partial(self.session.ask_walk, TokenWalk.part, prompt_idx, number_of)
        self.load(
            f"part {number_of}",
            read,
            partial(self._part_read, number_of),
            partial(self._part_failed, number_of),
            busy="reading the text",
        )

    def _part_read(self, number_of: int, part: TextPart) -> None:
        if self._prompt is not None and part.prompt_idx == self._prompt.prompt_idx:
            self._put_part(number_of, part)

    def _part_failed(self, number_of: int, line: str) -> None:
        self.text.lost(number_of)
        self.say_failed(line)

    def _put_part(self, number_of: int, part: TextPart) -> None:
        self.text.put_part(number_of, part)
        self._ask_strengths(part)
        if part.start <= self.text.cursor < part.stop:
            self._show_token()

    # colours

    @property
    def _colouring(self) -> Colouring:
        layers = [one.layer for one in self.session.layers if one.site == self.site]
        layer = self._layer if self._layer is not None else layers[-1]
        return Colouring(cast("Any", self._by), self.site, layer, self._neuron)

    def _ask_strengths(self, part: TextPart) -> None:
        colouring = self._colouring
        if colouring.by == "nothing" or not part.rows.token:
            return
        read = partial(self.session.ask_walk, TokenWalk.strengths, colouring, part)
        self.load(f"strengths {part.start}", read, partial(self._put_strengths, colouring, part), self._no_strengths,
                  busy="reading values")  # fmt: skip

    def _put_strengths(self, colouring: Colouring, part: TextPart, found: Strengths) -> None:
        if colouring != self._colouring or self._prompt is None or part.prompt_idx != self._prompt.prompt_idx:
            return
        self._full = found.full
        for place, value in enumerate(found.values, part.start):
            self._values[place] = value
            if value is not None:
                self._steps[place] = walk_text.step_of(value, colouring.by, found.full)
        self.text.refresh()
        self._draw_token()
        self._draw_legend()

    def _no_strengths(self, line: str) -> None:
        self._by = "nothing"
        self._draw_legend()
        self.say_failed(line)

    def _recolour(self) -> None:
        self._values.clear()
        self._steps.clear()
        self.text.refresh()
        for part in self.text.parts.values():
            self._ask_strengths(part)
        self._draw_token()
        self._draw_legend()

    # the token under the cursor

    def on_token_text_moved(self) -> None:
        self._later = None
        self._show_token()

    def _show_token(self) -> None:
        self._draw_head()
        self._draw_legend()
        if self._shows_lens:
            self._draw_token()
            self._draw_lens()
        else:
            self._ask()  # the token is drawn with the answer, once: it is there within a repaint or two

    @property
    def _part(self) -> TextPart | None:
        return self.text.part_at(self.text.cursor)

    @property
    def _token_idx(self) -> int | None:
        """Of the token under the cursor; -1 if it is not recorded, None if its part is not here."""
        part = self._part
        return None if part is None else int(part.rows.token_idx[self.text.cursor - part.start])

    def _question(self) -> Question | None:
        token_idx = self._token_idx
        if token_idx is None or token_idx < 0:
            return None
        return Question(token_idx, self.site, self._rank, self._layer, self._histograms)

    def _ask(self) -> None:
        """One list is read at a time: of the tokens that a held key passes meanwhile none is read."""
        question = self._question()
        if question is None:
            self._at = self._listed = None
            self.table.empty = "not recorded: it has no values"
            self.table.put_rows(())
            self._draw_token()
        elif self._asking is None:
            self._asking = question
            q = question
            read = partial(
                self.session.ask_walk, TokenWalk.at, q.site, q.token_idx, q.rank, TOP, q.layer, histograms=q.histograms
            )
            self.load("token", read, partial(self._answered, question), partial(self._no_answer, question),
                      busy="reading the histograms" if q.histograms else "reading the token")  # fmt: skip

    def _answered(self, question: Question, found: AtToken) -> None:
        self._asking = None
        if question != self._question():
            if not self._shows_lens:
                self._ask()
            return
        same = question.lists_as(self._listed)  # only the percentiles are new
        self._at, self._listed = found, question
        self.table.empty = "in no neuron's stored examples" if found.examples else "no neuron"
        if not self._shows_lens:
            self.table.put_rows(found.neurons)
            if not same:
                self.table.move_to(0)
        self._draw_token()
        if self._later is not None:
            later, self._later = self._later, None
            later()
        if not question.histograms:  # the percentiles, once the rest is on screen
            self._histograms = True
            if any(row.percentile is None for row in found.neurons):  # another place may have read them already
                self._ask()

    def _no_answer(self, question: Question, line: str) -> None:
        self._asking = None
        self._draw_token()
        self.say_failed(line)
        if question.rank == "contribution":
            self._set_rank("value")

    def _draw_head(self) -> None:
        if self._prompt is not None:
            told = walk_text.head(self._prompt, self.session.prompts, self.text.cursor, self._part, self.glyphs)
            self.query_one("#head", TextBlock).put(content(Cell(told, "dim")))

    def _draw_token(self) -> None:
        if (part := self._part) is None:
            return
        place, g = self.text.cursor, self.glyphs
        unknown = "not recorded" if self._token_idx == -1 else "not known here" if self._values else g.more
        colour = walk_text.of_colour(self._colouring, self._values.get(place), self._full, unknown, g)
        pieces = [*walk_text.of_token(part, place), "\n", *colour]
        if self._at is not None and self._at.token_idx == self._token_idx:
            width = self.query_one("#token").content_size.width
            pieces += ["\n", *walk_text.of_layers(self._at, width, g)]
        self.query_one("#token", TextBlock).put(content(*pieces))

    def _draw_legend(self) -> None:
        where = f" in L{self._layer}" if self._layer is not None else ""
        listed = "logit lens" if self._shows_lens else f"by {walk_text.RANKED[self._rank]}{where}"
        pieces = walk_text.legend(self._colouring, listed, self.glyphs)
        self.query_one("#legend", TextBlock).put(content(*pieces))

    # the lens

    def action_list(self) -> None:
        self._shows_lens = not self._shows_lens
        if self._shows_lens:
            self._ask_lens()
        else:
            self._columns()
            self._at = None
            self._show_token()

    def _ask_lens(self) -> None:
        if self._prompt is not None:
            read = partial(self.session.ask_walk, TokenWalk.lens, self._prompt.prompt_idx)
            self.load("lens", read, self._show_lens, self._no_lens, busy="reading the lens")

    def _show_lens(self, document: Mapping[str, Any]) -> None:
        self._lens = document
        self._draw_lens()
        self._draw_legend()

    def _no_lens(self, line: str) -> None:
        self.say_failed(line)
        if self._shows_lens:
            self.action_list()

    def _draw_lens(self) -> None:
        if self._lens is None:
            return
        place = self.text.cursor
        inside = place < len(self._lens["prompt_tokens"])
        self.table.set_columns(lens_columns(place, self.glyphs) if inside else ())
        self.table.empty = "the model wrote it: not in the lens"
        self.table.put_rows(self._lens["layers"] if inside else ())

    # what takes the model

    def action_model(self) -> None:
        self._reading.start()

    def action_cancel(self) -> None:
        self._reading.cancel()

    def job_news(self, state: JobState) -> None:
        self._reading.news(state)

    # keys

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        if action == "walk":  # this is it
            return False
        return super().check_action(action, parameters)

    def action_prompt(self, step: int) -> None:
        if self._prompt is None:
            return
        prompt_idx = self._prompt.prompt_idx + step
        if 0 <= prompt_idx < self.session.prompts:
            self._open(partial(self.session.ask_walk, TokenWalk.beginning, prompt_idx))
        else:
            self.hub.say("this is the last prompt" if step > 0 else "this is the first prompt", "dim")

    def action_find(self) -> None:
        self.hub.ask(self, "walk", "prompt (number or text)", self._find_prompt)

    def _find_prompt(self, wanted: str) -> None:
        if wanted:
            self._open(partial(self.session.ask_walk, TokenWalk.find, wanted))

    def action_rank(self) -> None:
        from nfinspect.analysis.token_neurons import TOKEN_RANKS

        if self._shows_lens:
            self.action_list()
        self._set_rank(TOKEN_RANKS[(TOKEN_RANKS.index(self._rank) + 1) % len(TOKEN_RANKS)])

    def _set_rank(self, rank: TokenRank) -> None:
        self._rank = rank
        self._columns()
        self._draw_legend()
        self._ask()

    def _columns(self) -> None:
        self.table.set_columns(token_columns(self._rank, self.glyphs))

    def action_colour(self) -> None:
        self._turn = (self._turn + 1) % len(BY)
        self._by = BY[self._turn]
        self.hub.say("")
        if self._by == "neuron" and self._neuron is None:
            if (row := self._row) is None:
                self.action_colour()
                return
            self._neuron = self.address(row.layer, row.neuron)
        self._recolour()

    def action_colour_neuron(self) -> None:
        if (row := self._row) is not None:
            self._by, self._neuron = "neuron", self.address(row.layer, row.neuron)
            self._turn = BY.index(self._by)
            self._recolour()

    def action_layer(self) -> None:
        names = ["all", *(f"L{layer.layer}" for layer in self.session.layers if layer.site == self.site)]
        here = f"L{self._layer}" if self._layer is not None else "all"
        self.pick("layer", names, here, self._of_layer)

    def _of_layer(self, name: str) -> None:
        self._layer = None if name == "all" else int(name[1:])
        self._show_token()
        if self._by == "layer":
            self._recolour()

    def action_site(self) -> None:
        if self.next_site():
            self._layer = None
            self._show_token()
            if self._by == "layer":
                self._recolour()
            self.hub.update_trail()

    @property
    def _row(self) -> Any | None:
        """The neuron under the cursor of the list."""
        return None if self._shows_lens else self.table.current

    def action_mark(self) -> None:
        self._with_list(self._mark_row)

    def _mark_row(self) -> None:
        if (row := self._row) is not None:
            self.mark_row(self.table, (row.layer, row.neuron))

    def on_token_text_chosen(self) -> None:
        self._with_list(self._open_row)

    def on_paged_table_chosen(self) -> None:
        self._with_list(self._open_row)

    def _with_list(self, do: Callable[[], None]) -> None:
        """What is pressed before the list of this token has come is carried out when it does: on no other token's."""
        asked = self._question()
        if asked is None or asked.lists_as(self._listed):
            do()
        else:
            self._later = do

    def _open_row(self) -> None:
        if (row := self._row) is not None and self._at is not None:
            around = tuple((one.layer, one.neuron) for one in self._at.neurons)
            self.open_neuron(row.layer, row.neuron, around=around, row=self.table.cursor)

    def action_copy(self) -> None:
        part = self._part
        if part is None or self._prompt is None:
            return
        neurons = self._at.neurons if self._at is not None else ()
        self.hub.copy(walk_text.copied(self.session.name, part, self.text.cursor, neurons, self._named))

    def _named(self, layer: int, neuron: int) -> str:
        return str(self.address(layer, neuron))
