"""Carrying out what was typed after `:`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nfinspect.tui.destinations import ANALYSES, parse_target
from nfinspect.tui.places import place
from nfinspect_store.errors import RequestError

if TYPE_CHECKING:
    from nfinspect.tui.engine import Session
    from nfinspect.tui.hub import Hub


def go_to(app: Hub, text: str) -> None:
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
        if not target.rest:
            raise RequestError("watch which training? expected watch NAME")
        app.into(place("history", target.rest))
        return
    if target.word == "compare":
        to_comparison(app, tuple(name.strip() for name in target.rest.split(",") if name.strip()))
        return
    session = app.session_here()
    if session is None:
        raise RequestError("open a run first: Enter on it, then go to a place in it")
    _in_run(app, session, target.word, text)


def to_comparison(app: Hub, runs: tuple[str, ...]) -> None:
    """Raises RequestError for too few runs, or for more than a drawing tells apart."""
    from nfinspect.tui.comparing import SIGNS

    runs = tuple(dict.fromkeys(runs))
    if not 2 <= len(runs) <= len(SIGNS):
        how = "Space marks them in the list of runs, or :compare A,B names them"
        raise RequestError(f"expected 2 to {len(SIGNS)} runs to compare, found {len(runs)}: {how}")
    app.into(place("compare", runs))


def _in_run(app: Hub, session: Session, word: str, text: str) -> None:
    target = parse_target(text)
    site = (
        getattr(app.pane, "site", session.default_site) if app.pane.run_name == session.name else session.default_site
    )
    if word == "neuron" and target.address is not None:
        _check(session, target.address.site or session.default_site, target.address.layer, target.address.neuron)
        app.jump(place("neuron", session, target.address), session)
    elif word == "layer":
        site = target.site or site
        _check(session, site, target.layer or 0, 0)
        app.jump(place("neurons", session, site, layer=target.layer), session)
    elif word == "layers":
        app.to_layers(session)
    elif word == "neurons":
        app.jump(place("neurons", session, site, cls=target.rest or None), session)
    elif word == "trace":
        if target.rest and target.rest not in session.concepts:
            raise RequestError(f"no concept {target.rest!r}: this run has {', '.join(session.concepts)}")
        app.jump(place("trace", session, site, target.rest or None), session)
    elif word == "overlap":
        app.jump(place("overlap", session, site), session)
    elif word == "analyses":
        app.jump(place("analyses", session, site), session)
    elif word in ANALYSES:
        _to_analysis(app, session, site, word, target.rest)
    else:
        app.jump(place("sql", session, target.rest), session)


def _to_analysis(app: Hub, session: Session, site: str, word: str, rest: str) -> None:
    from nfinspect_store.addresses import parse_address

    if word == "lens":
        app.jump(place("lens", session, site, prompt=rest or None), session)
        return
    if word != "logits":
        app.jump(place(word, session, site), session)
        return
    if not rest:
        raise RequestError("logits of which neuron? expected logits L12/N3071")
    address = parse_address(rest)
    _check(session, address.site or session.default_site, address.layer, address.neuron)
    app.jump(place("logits", session, address), session)


def _check(session: Session, site: str, layer: int, neuron: int) -> None:
    if site not in session.sites:
        raise RequestError(f"no site {site!r}: this run has {', '.join(session.sites)}")
    there = {x.layer: x.neurons for x in session.layers if x.site == site}
    if layer not in there:
        raise RequestError(f"no layer L{layer} at {site}: this run has L{min(there)} to L{max(there)}")
    if neuron >= there[layer]:
        raise RequestError(f"no neuron N{neuron} in L{layer}: it has N0 to N{there[layer] - 1}")
