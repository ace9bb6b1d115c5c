"""Where one is and where one was: the breadcrumbs, and a history of them for `[` and `]`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nfinspect.tui.panes.base import Pane
    from nfinspect.tui.places import Place

KEPT = 30
"""Trails that are remembered. Panes that are in none of them are removed."""


@dataclass(eq=False)
class Stop:
    """One place of the breadcrumbs. Its pane is made when it is first shown."""

    make: Callable[[], Pane]
    run: str | None = None
    place: Place | None = None
    pane: Pane | None = field(default=None, repr=False)


class Trail:
    """The current breadcrumbs and the ones before and after them, like a browser's."""

    def __init__(self, first: Stop) -> None:
        self._past: list[tuple[Stop, ...]] = [(first,)]
        self._place = 0

    @property
    def stops(self) -> tuple[Stop, ...]:
        return self._past[self._place]

    @property
    def here(self) -> Stop:
        return self.stops[-1]

    def go(self, stops: tuple[Stop, ...]) -> None:
        """To another place; those after this one are forgotten."""
        del self._past[self._place + 1 :]
        self._past.append(stops)
        del self._past[:-KEPT]
        self._place = len(self._past) - 1

    def into(self, stop: Stop) -> None:
        self.go((*self.stops, stop))

    def beside(self, stop: Stop) -> None:
        """To a place next to this one: where the breadcrumbs have one of its kind already, they are cut there."""
        kind = stop.place.pane if stop.place is not None else ""
        for at, known in enumerate(self.stops):
            if known.place is not None and known.place.pane == kind and known.run == stop.run:
                same = known.place == stop.place
                if not same or known is not self.here:
                    self.go((*self.stops[:at], known if same else stop))
                return
        self.into(stop)

    def out(self) -> bool:
        if len(self.stops) < 2:
            return False
        self.go(self.stops[:-1])
        return True

    def step(self, step: int) -> bool:
        """Back (-1) or forward (1) in the history."""
        place = self._place + step
        if not 0 <= place < len(self._past):
            return False
        self._place = place
        return True

    def forget_run(self, run: str) -> None:
        """Drop every trail through a run that is gone."""
        here = self.stops
        kept = [stops for stops in self._past if all(stop.run != run for stop in stops)]
        if here not in kept:
            here = tuple(stop for stop in here if stop.run != run)
            kept.append(here)
        self._past = kept
        self._place = len(kept) - 1 - kept[::-1].index(here)

    def known(self) -> set[Stop]:
        return {stop for stops in self._past for stop in stops}
