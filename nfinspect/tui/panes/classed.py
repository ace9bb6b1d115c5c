"""What the panes that show classes of neurons share: the thresholds, chosen for a run until the app ends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from textual.binding import Binding, BindingType

from nfinspect.tui import thresholds
from nfinspect.tui.panes.run_pane import RunPane
from nfinspect_store.errors import RequestError


class ClassedPane(RunPane):
    """T changes the thresholds; every pane of the run that shows classes follows."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("T", "thresholds", "Thresholds", id="classes.thresholds")]

    _unread_thresholds = ""
    """What was typed last, if it could not be read: it is offered again."""

    def thresholds_changed(self) -> None:
        """The classes are to be read again."""
        raise NotImplementedError

    def action_thresholds(self) -> None:
        text = self._unread_thresholds or thresholds.written(self.session.thresholds)
        self.hub.ask(self, "thresholds", "thresholds", self._put_thresholds, text, completer=_complete)

    def _put_thresholds(self, text: str) -> None:
        self._unread_thresholds = ""
        try:
            chosen = thresholds.read(text, self.session.thresholds)
        except RequestError as error:
            self._unread_thresholds = text
            self.hub.say(f"{error} (T to mend it)", "bad")
            return
        changed = chosen != self.session.thresholds
        self.session.thresholds = chosen
        if changed:
            self.thresholds_changed()
            self.hub.update_trail()
        self.hub.say("the default thresholds" if chosen is None else "", "dim")


def _complete(text: str) -> tuple[str, Sequence[str]]:
    """The names, after what has none yet."""
    from nfinspect.tui.completing import matching

    word = text.rpartition(" ")[2]
    return word, matching(word, [*(f"{name}=" for name in thresholds.FIELDS), thresholds.RESET])
