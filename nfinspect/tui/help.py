"""The help screen, made from the bindings that work where it was opened, so that it is never out of date."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen

from nfinspect.analyses import names
from nfinspect.tui.cells import Cell, content, fit
from nfinspect.tui.journal import command_line, without_store
from nfinspect.tui.widgets.text_block import TextBlock

if TYPE_CHECKING:
    from nfinspect.tui.hub import Hub


INDENT = " " * 7
ARGUMENTS = {"lens": " The capital of", "logits": " L1/N4", "similar": " L1/N4"}


def _analyses() -> str:
    """What to type to go to each analysis, to a comparison and to marked neurons."""
    return "  ".join(
        [
            ":analyses",
            *(f":{name}{ARGUMENTS.get(name, '')}" for name in names()),
            ":compare A,B",
            ":diff A B",
            ":marks",
            ":@name",
        ]
    )


class HelpScreen(ModalScreen[None]):
    """Keys of a place with their ids (for remapping), and at the end what it shows."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,q,question_mark,f1", "dismiss", "Close", id="help.close"),
        Binding("j,down", "scroll(1)", "Down", show=False, id="help.down"),
        Binding("k,up", "scroll(-1)", "Up", show=False, id="help.up"),
        Binding("ctrl+d,pagedown,space", "scroll(15)", "Page down", show=False, id="help.page_down"),
        Binding("ctrl+u,pageup", "scroll(-15)", "Page up", show=False, id="help.page_up"),
        Binding("g,home", "scroll(-10_000)", "To the top", show=False, id="help.first"),
        Binding("G,end", "scroll(10_000)", "To the end", show=False, id="help.last"),
    ]

    DEFAULT_CSS = """
    HelpScreen { align: center middle; background: $background 50%; }
    HelpScreen VerticalScroll {
        width: 76; max-width: 100%; height: auto; max-height: 100%; background: $panel; padding: 0 2;
    }
    HelpScreen TextBlock { width: 1fr; height: auto; }
    """

    def __init__(self, text: Content) -> None:
        super().__init__()
        self._text = text

    @classmethod
    def of(cls, app: Hub) -> HelpScreen:
        groups: dict[str, dict[str, tuple[list[str], str, str]]] = {}
        for _, binding, _, _ in app.screen.active_bindings.values():
            if not binding.description or binding.id is None:
                continue
            kind = binding.id.split(".")[0]
            moving = kind in ("table", "text")
            place = "in tables and texts" if moving else "everywhere" if kind in ("app", "run") else "here"
            keys, _, _ = groups.setdefault(place, {}).setdefault(binding.id, ([], binding.description, binding.id))
            keys.append(app.get_key_display(binding))
        told = app.pane.help_text
        below = "  G: what is shown" if told else ""
        pieces: list[Cell | str] = [Cell(app.pane.crumb, "bold"), Cell(below, "dim"), "\n"]
        if app.pane.equivalent:
            pieces += [Cell("the same", "title"), f"  {command_line(without_store(app.pane.equivalent))}\n"]
        for place in ("here", "everywhere", "in tables and texts"):
            pieces += ["\n", Cell(f"Keys {place}", "title"), "\n"]
            own = sorted(groups.get(place, {}).values(), key=lambda one: one[2].startswith("classes."))
            for keys, words, name in own:  # what several panes share comes after what is of this one
                shown = " ".join(dict.fromkeys(keys))
                pieces += [Cell(fit(shown, 17), "bold"), " ", fit(words, 29), " ", Cell(name, "dim"), "\n"]
        pieces += [
            "\n",
            Cell("go to", "title"),
            "  :L12/N3071  :resid:L1/N4  :L12  :dead  :trace tulip  :overlap\n"
            "       :walk Hanoi  :lab  :sql  :runs  :layers  :neurons  :watch NAME  :quit\n"
            "       :capture MODEL  :live RUN\n"
            f"{textwrap.fill(_analyses(), 72, initial_indent=INDENT, subsequent_indent=INDENT)}\n",
        ]
        pieces += [Cell("remap", "title"), '  ~/.config/nfinspect/keys.json: {"id": "key,key"}\n']
        if told:
            pieces += ["\n", Cell("What is shown", "title"), f"\n{told}\n"]
        pieces += [Cell("j k move, Esc closes", "dim")]
        return cls(content(*pieces))

    def compose(self) -> ComposeResult:
        with VerticalScroll():
            yield TextBlock()

    def on_mount(self) -> None:
        self.query_one(TextBlock).put(self._text)

    def action_scroll(self, step: int) -> None:
        self.query_one(VerticalScroll).scroll_relative(y=step, animate=False)
