"""The keys to the sheets of a table: how often each value of a column occurs, and the figures of every column."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nfinspect.tui.places import place

if TYPE_CHECKING:
    from nfinspect.tui.hub import Hub
    from nfinspect.tui.sheets import Sheet


def choose_column(app: Hub) -> None:
    """Count the values of a column that the user chooses."""
    if (sheet := _sheet(app)) is None:
        return
    titles = {title: key for key, title in sheet.columns}
    here = next((title for title, key in titles.items() if key == sheet.here), None)

    def count(key: str) -> None:
        app.step_in(place("frequencies", sheet, key))

    app.pane.pick("count which column", list(titles), here, lambda title: count(titles[title]))


def describe(app: Hub) -> None:
    """The figures of every column."""
    if (sheet := _sheet(app)) is not None:
        app.step_in(place("columns", sheet))


def _sheet(app: Hub) -> Sheet | None:
    sheet: Sheet | None = app.pane.sheet()
    if sheet is None:
        app.say("no table with columns here", "dim")
    return sheet
