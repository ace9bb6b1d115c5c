"""Writing what a pane shows into a file: the name is asked for, and nothing is replaced unasked."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from functools import partial

from nfinspect.tui.panes.base import Pane
from nfinspect_store.paths import expanded


class ExportingPane(Pane):
    """A pane with data that a file can hold."""

    @property
    def export_name(self) -> str:
        """The file name that is offered."""
        raise NotImplementedError

    def exporter(self) -> Callable[[str], str] | None:
        """What writes this pane's data to a file of a given name, in a worker, and returns the line to show."""
        raise NotImplementedError

    def action_export(self) -> None:
        if self.exporter() is None:
            self.hub.say("there is nothing to export yet", "warn")
        else:
            name = self._may_replace or re.sub(r"[^\w.-]+", "-", self.export_name)
            self.hub.ask(self, "export", "export to", name)

    def entered_export(self, text: str) -> None:
        write = self.exporter()
        if not text or write is None:
            return
        if text != self._may_replace and os.path.exists(expanded(text)):
            self._may_replace = text
            self.hub.say(f"{text} is there already: e and the same name again replaces it", "warn")
            return
        self._may_replace = None
        self.load("exported", partial(write, text), busy="exporting")

    _may_replace: str | None = None

    def show_exported(self, line: str) -> None:
        self.hub.say(line, "good")
