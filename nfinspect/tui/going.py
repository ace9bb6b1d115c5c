"""Carrying out what was typed after `:`."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from nfinspect.tui.goto import ANALYSES, parse_target
from nfinspect_store.errors import RequestError

if TYPE_CHECKING:
    from nfinspect.tui.app import NfinspectApp
    from nfinspect.tui.engine import Session


def go_to(app: NfinspectApp, text: str) -> None:
    """Raises RequestError for a target that cannot be read or is not there."""
    if not text:
        return
    target = parse_target(text)
    if target.word == "quit":
        app.action_leave()
        return
    if target.word == "runs":
        if target.rest:
            app.open_run(target.rest)
        else:
            app.to_runs()
        return
    if target.word == "watch":
        from nfinspect.tui.panes.history import HistoryPane

        if not target.rest:
            raise RequestError("watch which training? expected watch NAME")
        app.into(partial(HistoryPane, target.rest))
        return
    if target.word == "compare":
        to_comparison(app, tuple(name.strip() for name in target.rest.split(",") if name.strip()))
        return
    session = app.session_here()
    if session is None:
        raise RequestError("open a run first: Enter on it, then go to a place in it")
    _in_run(app, session, target.word, text)


def to_comparison(app: NfinspectApp, runs: tuple[str, ...]) -> None:
    """Raises RequestError for too few runs, or for more than a drawing tells apart."""
    from nfinspect.tui.comparing import SIGNS
    from nfinspect.tui.panes.compare import ComparePane

    runs = tuple(dict.fromkeys(runs))
    if not 2 <= len(runs) <= len(SIGNS):
        how = "Space marks them in the list of runs, or :compare A,B names them"
        raise RequestError(f"expected 2 to {len(SIGNS)} runs to compare, found {len(runs)}: {how}")
    app.into(partial(ComparePane, runs))


def _in_run(app: NfinspectApp, session: Session, word: str, text: str) -> None:
    from nfinspect.tui.panes.neurons import NeuronsPane

    target = parse_target(text)
    site = (
        getattr(app.pane, "site", session.default_site) if app.pane.run_name == session.name else session.default_site
    )
    if word == "neuron" and target.address is not None:
        from nfinspect.tui.panes.neuron import NeuronPane

        _check(session, target.address.site or session.default_site, target.address.layer, target.address.neuron)
        app.jump(partial(NeuronPane, session, target.address), session)
    elif word == "layer":
        site = target.site or site
        _check(session, site, target.layer or 0, 0)
        app.jump(partial(NeuronsPane, session, site, layer=target.layer), session)
    elif word == "layers":
        app.to_layers(session)
    elif word == "neurons":
        app.jump(partial(NeuronsPane, session, site, cls=target.rest or None), session)
    elif word == "trace":
        from nfinspect.tui.panes.trace import TracePane

        if target.rest and target.rest not in session.concepts:
            raise RequestError(f"no concept {target.rest!r}: this run has {', '.join(session.concepts)}")
        app.jump(partial(TracePane, session, site, target.rest or None), session)
    elif word == "overlap":
        from nfinspect.tui.panes.overlap import OverlapPane

        app.jump(partial(OverlapPane, session, site), session)
    elif word == "analyses":
        from nfinspect.tui.panes.analyses import AnalysesPane

        app.jump(partial(AnalysesPane, session, site), session)
    elif word in ANALYSES:
        _to_analysis(app, session, site, word, target.rest)
    else:
        from nfinspect.tui.panes.sql import SqlPane

        app.jump(partial(SqlPane, session, target.rest), session)


def _to_analysis(app: NfinspectApp, session: Session, site: str, word: str, rest: str) -> None:
    from nfinspect.tui.panes.analyses import logits_pane, pane_of
    from nfinspect_store.addresses import parse_address

    if word == "lens":
        from nfinspect.tui.panes.lens import LensPane

        app.jump(partial(LensPane, session, site, prompt=rest or None), session)
        return
    if word != "logits":
        app.jump(partial(pane_of(word), session, site), session)
        return
    if not rest:
        raise RequestError("logits of which neuron? expected logits L12/N3071")
    address = parse_address(rest)
    _check(session, address.site or session.default_site, address.layer, address.neuron)
    app.jump(partial(logits_pane, session, address), session)


def _check(session: Session, site: str, layer: int, neuron: int) -> None:
    if site not in session.sites:
        raise RequestError(f"no site {site!r}: this run has {', '.join(session.sites)}")
    there = {x.layer: x.neurons for x in session.layers if x.site == site}
    if layer not in there:
        raise RequestError(f"no layer L{layer} at {site}: this run has L{min(there)} to L{max(there)}")
    if neuron >= there[layer]:
        raise RequestError(f"no neuron N{neuron} in L{layer}: it has N0 to N{there[layer] - 1}")
