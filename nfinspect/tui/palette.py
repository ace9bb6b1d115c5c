"""The command palette: Textual's, with a list that takes keys before it has lines, and that closes once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from textual.app import SystemCommand
from textual.await_complete import AwaitComplete
from textual.command import CommandList, CommandPalette
from textual.markup import escape
from textual.message import Message
from textual.widgets import Button, Input, OptionList

if TYPE_CHECKING:
    from textual.screen import Screen

    from nfinspect.tui.hub import Hub

CHOICES = (Input.Submitted, Button.Pressed, OptionList.OptionSelected)


class Palette(CommandPalette):
    """Its list is filled and laid out after it opens; until then Textual's own would page through missing lines.

    A second Enter, on its way when the first has closed the palette, would close the screen below it, too, and run the
    command again.
    """

    _dismissed = False

    def dismiss(self, result: None = None) -> AwaitComplete:
        if self._dismissed:
            done: AwaitComplete = AwaitComplete.nothing()  # type: ignore[no-untyped-call]
            return done
        self._dismissed = True
        return super().dismiss(result)

    async def _dispatch_message(self, message: Message) -> None:
        if not (self._dismissed and isinstance(message, CHOICES)):
            await super()._dispatch_message(message)

    def _action_command_list(self, action: str) -> None:
        if self._has_lines:
            super()._action_command_list(action)
        else:
            self.call_after_refresh(self._when_laid_out, action)

    def _when_laid_out(self, action: str) -> None:
        if self.is_attached and self._has_lines:  # a terminal of a few cells has no room for any
            super()._action_command_list(action)

    @property
    def _has_lines(self) -> bool:
        commands = self.query_one(CommandList)
        return bool(commands.option_count) and bool(commands.scrollable_content_region)


def commands(
    app: Hub, screen: Screen[Any], do: Callable[..., Any], go_to: Callable[[str], None]
) -> Iterator[SystemCommand]:
    """Every key of the place on screen, by name, and the places to go to. do: an action of a node."""
    seen = set()
    for node, binding, enabled, _ in screen.active_bindings.values():
        words = binding.description
        moving = binding.id is None or binding.id.startswith(("table.", "text."))
        if not words or not enabled or moving or binding.action in seen:
            continue
        seen.add(binding.action)
        key = app.get_key_display(binding)
        yield SystemCommand(words, f"key {key}", partial(do, binding.action, node))
    from nfinspect.tui.completing import places

    for title, said, target in places(app):
        # names are foreign, and the palette reads markup
        yield SystemCommand(escape(title), escape(said), partial(go_to, target))
