"""Which tokens one neuron's output weights promote and suppress."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from nfinspect.analyses.logits import SPEC, Effects
from nfinspect.present.numbers import signed
from nfinspect.tui.listing import Arranged
from nfinspect.tui.panes.analysis import AnalysisPane
from nfinspect.tui.panes.exporting import Export, json_export
from nfinspect.tui.panes.found import Found

if TYPE_CHECKING:
    from nfinspect.tui.session import Session
    from nfinspect_store.addresses import Address

TOP = 50
"""Tokens at either end."""


class LogitsPane(AnalysisPane):
    """Computed for one neuron, and remembered as long as the app runs."""

    spec = SPEC
    help_text = SPEC.explains
    idle: ClassVar[Mapping[str, str]] = {**AnalysisPane.idle, "site": "this is of one neuron, at its own site"}

    def __init__(self, session: Session, address: Address) -> None:
        site = address.site or session.default_site
        self._address = address
        super().__init__(session, site, job=f"logits {address}")
        self.crumb = f"logits {address}"

    def options(self) -> tuple[str, ...]:
        return (self.address_in_model(self._address), "--top", str(TOP))

    def finder(self) -> Callable[[], Found]:
        printed = self.hub.board.printed.get(self.command.runner.key)
        return partial(_find, printed, self._address, self.site, self.command.asked(), self.rows.arranger())

    def nothing(self) -> str:
        return "This needs the model's weights."

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        return action != "site" and super().check_action(action, parameters)  # the neuron is one of this site

    def is_marked(self, row: Any) -> bool:
        return False

    def open_row(self) -> None:
        self.open_neuron(self._address.layer, self._address.neuron)

    def action_copy(self) -> None:
        if self.analysis is not None:
            d = self.analysis.document
            self.hub.copy(
                "\n".join(f"{signed(e['effect'], digits=5)}\t{e['token']}" for e in (*d["promoted"], *d["suppressed"]))
            )
        else:
            super().action_copy()

    def export(self) -> Export | None:
        return json_export(f"{self.session.name}-logits-{self._address}.json", self.analysis, self.rows.not_told)


def _find(
    printed: str | None,
    address: Address,
    site: str,
    command: Callable[[], tuple[str, ...]],
    arrange: Callable[[Any], Arranged],
) -> Found:
    """Called in a worker. printed: what the command has printed, None if it has not run."""
    if printed is None:
        return Found((), 0, None, command())
    effects = _effects(printed, address, site)
    return Found((), 0, effects, command(), arrange(effects))


def _effects(printed: str, address: Address, site: str) -> Effects:
    from nfinspect_store.addresses import Address
    from nfinspect_store.errors import StoreError

    try:
        document = json.loads(printed)
        found = Address(document["layer"], document["neuron"], document["site"])
        _ = (document["promoted"], document["suppressed"])
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError("expected the command's JSON document, found none: leave --json in it") from error
    if found != Address(address.layer, address.neuron, site):
        raise StoreError(f"the command was about {found}, not {Address(address.layer, address.neuron, site)}")
    return Effects(document)
