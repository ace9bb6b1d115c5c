"""The command palette: Textual's, with a list that takes keys before it has lines."""

from __future__ import annotations

from textual.command import CommandList, CommandPalette


class Palette(CommandPalette):
    """Its list is filled and laid out after it opens; until then Textual's own would page through missing lines."""

    _chosen = False

    def _action_command_list(self, action: str) -> None:
        if self._has_lines:
            self._act(action)
        else:
            self.call_after_refresh(self._when_laid_out, action)

    def _when_laid_out(self, action: str) -> None:
        if self.is_attached and self._has_lines:  # a terminal of a few cells has no room for any
            self._act(action)

    def _act(self, action: str) -> None:
        """A second Enter, before the first has closed the palette, would close the screen below it, too."""
        if action == "select":
            if self._chosen:
                return
            self._chosen = self.query_one(CommandList).highlighted is not None
        super()._action_command_list(action)

    @property
    def _has_lines(self) -> bool:
        commands = self.query_one(CommandList)
        return bool(commands.option_count) and bool(commands.scrollable_content_region)
