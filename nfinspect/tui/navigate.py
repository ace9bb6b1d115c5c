"""What can be typed after `:` (a neuron, a layer, a pane), and going there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nfinspect.analyses import names
from nfinspect.tui.places import Place, place
from nfinspect_store.addresses import Address, parse_address
from nfinspect_store.errors import RequestError
from nfinspect_store.marks import MARKED
from nfinspect_store.types import CLASSES

if TYPE_CHECKING:
    from nfinspect.tui.hub import Hub
    from nfinspect.tui.session import Session

ANALYSES = names()
WORDS = (
    "runs",
    "capture",
    "live",
    "watch",
    "compare",
    "diff",
    "layers",
    "neurons",
    "trace",
    "overlap",
    "walk",
    "lab",
    "marks",
    "sql",
    "analyses",
    *ANALYSES,
    "quit",
)
TAKEN = frozenset((*WORDS, *CLASSES, "q", "exit"))
"""Words that have a meaning after `:`."""

EXPECTED = (
    "L12/N3071, L12, a class such as dead, trace CONCEPT, overlap, walk PROMPT, lab PROMPT, sql, layers, "
    "neurons, runs, a run's name, capture MODEL, live RUN, "
    f"watch NAME, compare A,B, diff A B, marks, @SET, analyses, {', '.join(ANALYSES)} or quit"
)


@dataclass(frozen=True)
class Target:
    """`word` is one of WORDS, or `neuron`, or `layer`."""

    word: str
    address: Address | None = None
    layer: int | None = None
    site: str | None = None
    rest: str = ""


def parse_target(text: str) -> Target:
    """Raises RequestError, in one line, for what is no target."""
    text = text.strip()
    head, _, rest = text.partition(" ")
    rest = rest.strip()
    word = head.lower()
    if word in ("q", "quit", "exit"):
        return Target("quit")
    if word in CLASSES:
        return Target("neurons", rest=word)
    if head.startswith("@"):
        return Target("marks", rest=text)
    if word in WORDS:
        return Target(word, rest=rest)
    if "/" in head:
        return Target("neuron", address=parse_address(text))
    site, _, layer = head.rpartition(":")
    if layer[:1] in ("l", "L") and layer[1:].isdigit():
        return Target("layer", layer=int(layer[1:]), site=site or None)
    raise RequestError(f"go to what? expected {EXPECTED}; found {text!r}")


def go_to(app: Hub, text: str) -> None:
    """Raises RequestError for a target that cannot be read or is not there."""
    if not text:
        return
    try:
        target = parse_target(text)
    except RequestError:
        if (found := next((one for one in app.listed if one.name == text.strip()), None)) is None:
            raise
        target = Target("watch" if found.kind == "history" else "runs", rest=found.name)
    match target.word:
        case "quit":
            app.action_leave()
        case "runs" if target.rest:
            app.open_run(target.rest)
        case "runs":
            app.to_runs()
        case "capture":
            from nfinspect.tui.capture_form import fields_of

            app.into(place("capture", fields_of(target.rest)))
        case "live":
            session = app.session_here()
            run = target.rest or (session.name if session is not None else "")
            if not run:
                raise RequestError("live view of which run? expected live RUN")
            app.follow(run)
        case "watch" if target.rest:
            app.into(place("history", target.rest))
        case "watch":
            raise RequestError("watch which training? expected watch NAME")
        case "compare":
            to_comparison(app, tuple(name.strip() for name in target.rest.split(",") if name.strip()))
        case "diff":
            to_diff(app, tuple(target.rest.replace(",", " ").split()))
        case _:
            session = app.session_here()
            if session is None:
                raise RequestError("open a run first: Enter on it, then go to a place in it")
            if target.word == "layers":
                app.to_layers(session)
            else:
                app.jump(_in_run(app, session, target), session)


def to_comparison(app: Hub, runs: tuple[str, ...]) -> None:
    """Raises RequestError for too few runs, or for more than a drawing can tell apart."""
    from nfinspect.tui.comparing import SIGNS

    runs = tuple(dict.fromkeys(runs))
    if not 2 <= len(runs) <= len(SIGNS):
        how = "Space marks them in the list of runs, or :compare A,B names them"
        raise RequestError(f"expected 2 to {len(SIGNS)} runs to compare, found {len(runs)}: {how}")
    app.into(place("compare", runs))


def to_diff(app: Hub, runs: tuple[str, ...]) -> None:
    """Two runs neuron by neuron; of a single name, the run that is open against it. Raises RequestError."""
    here = app.session_here()
    if len(runs) == 1 and here is not None:
        runs = (here.name, *runs)
    if len(set(runs)) != 2 or len(runs) != 2:
        raise RequestError(f"expected two different runs, as in diff A B; found {' '.join(runs) or 'none'}")
    app.into(place("diff", *runs))


def _in_run(app: Hub, session: Session, target: Target) -> Place:
    here = app.pane.run_name == session.name
    site = getattr(app.pane, "site", session.default_site) if here else session.default_site
    match target.word:
        case "neuron" if target.address is not None:
            _check(session, target.address)
            return place("neuron", session, target.address)
        case "layer":
            _check(session, Address(target.layer or 0, 0, target.site or site))
            return place("neurons", session, target.site or site, layer=target.layer)
        case "neurons":
            return place("neurons", session, site, cls=target.rest or None)
        case "trace":
            if target.rest and target.rest not in session.concepts:
                raise RequestError(f"no concept {target.rest!r}: this run has {', '.join(session.concepts)}")
            return place("trace", session, site, target.rest or None)
        case "walk":
            return place("walk", session, site, find=target.rest)
        case "lab":
            return place("lab", session, site, **{**_begins_with(app, session), **_prompt(session, target.rest)})
        case "marks":
            return place("marked", session, site, app.marks.set_of(session, target.rest or MARKED))
        case "lens":
            found = {name: value for name, value in _begins_with(app, session).items() if name == "prompt_idx"}
            return place("lens", session, site, **{**found, **_prompt(session, target.rest)})
        case "logits" | "similar":
            if not target.rest:
                raise RequestError(f"{target.word} of which neuron? expected {target.word} L12/N3071")
            address = parse_address(target.rest)
            _check(session, address)
            return place(target.word, session, address)
        case "sql":
            return place("sql", session, target.rest)
        case pane:
            return place(pane, session, site)


def _begins_with(app: Hub, session: Session) -> dict[str, Any]:
    """What the pane on screen is about, where the lab and the lens begin."""
    here = app.pane.run_name == session.name
    return dict(getattr(app.pane, "lab_begins_with", {})) if here else {}


def _prompt(session: Session, typed: str) -> dict[str, Any]:
    """A typed prompt: one of the run by its number, or its text."""
    if typed.isdecimal() and len(typed) < 10 and int(typed) < session.prompts:
        return {"prompt_idx": int(typed)}
    return {"prompt": typed} if typed else {}


def _check(session: Session, address: Address) -> None:
    """Raises RequestError for a neuron that is not in the run."""
    site = address.site or session.default_site
    if site not in session.sites:
        raise RequestError(f"no site {site!r}: this run has {', '.join(session.sites)}")
    there = {x.layer: x.neurons for x in session.layers if x.site == site}
    if address.layer not in there:
        raise RequestError(f"no layer L{address.layer} at {site}: this run has L{min(there)} to L{max(there)}")
    if address.neuron >= (neurons := there[address.layer]):
        raise RequestError(f"no neuron N{address.neuron} in L{address.layer}: it has N0 to N{neurons - 1}")
