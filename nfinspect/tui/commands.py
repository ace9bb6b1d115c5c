"""The command that computes an analysis of a run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nfinspect.analyses import command_of, spec
from nfinspect.tui.requests import MARKED

if TYPE_CHECKING:
    from nfinspect.tui.session import Session

MODEL, TEXT = "MODEL", "TEXT"
"""Placeholders in a command for what the app does not know: the user is asked to fill them in."""


def from_the_store() -> str:
    """`dead`, and the kinds whose analysis needs no model: `overlap --kinds` computes and saves missing ones."""
    from nfinspect.analyses.neuron_kinds import KEPT_KINDS, SINGLE_KINDS

    return ",".join(["dead", *(name for name in SINGLE_KINDS if KEPT_KINDS[name].spec.needs == "run")])


def make_command(
    name: str,
    session: Session,
    store: Path,
    site: str,
    *,
    model: str = "",
    marked: int = 0,
    choices: Sequence[str] = (),
) -> tuple[str, ...]:
    """The arguments of `nfinspect` that compute an analysis of a run. Reads the run's texts: call it in a worker.

    choices: the pane's own options. marked: how many neurons are marked; if any, an ablation cuts these out.
    """
    word, needs, own = command_of(name), spec(name).needs, spec(name).site
    where = () if site == (own if own in session.sites else session.default_site) else ("--site", site)
    of = (session.name,) if needs == "run" else (model or session.info.model or MODEL,)
    source = () if needs == "run" else ("--from", session.name)
    made: tuple[str, ...] = (word, *of, *choices, *where, *source)
    if name == "logits":
        made = (word, *of, *choices, "--json", *source)
    elif name == "similar":
        made = (word, *of, *choices)
    elif name == "lens":
        made = (word, *of, *(choices or lens_of(first_text(session))), *bos_of(session), *source)
    elif name == "ablate":
        # On the run's own windows, on which its classes and kinds were found.
        chosen = ("--neurons", str(session.results_folder / MARKED)) if marked else ("--class", "dead")
        made = (word, *of, *source, *chosen, *choices, *where)
    elif name == "kinds":
        made = (word, *of, "--kinds", from_the_store(), *where)
    return (*made, "--store", str(store))


def incomplete(arguments: Sequence[str]) -> str:
    """The placeholder that the user has to fill in next; empty if there is none."""
    return next((word for word in (TEXT, MODEL) if word in arguments), "")


def lens_of(prompt: str) -> tuple[str, ...]:
    """The options of `logits` for a prompt."""
    return ("--lens", prompt, "--positions")


def first_text(session: Session) -> str:
    """The text of the run's first prompt that has one."""
    return next((prompt.text for prompt in session.texts(1)), TEXT)


def bos_of(session: Session) -> tuple[str, ...]:
    """The option for what comes before a text, as in the capture."""
    bos = str(session.info.settings.get("bos", "auto"))
    return () if bos == "auto" else ("--bos", bos)


READ_MODEL = ("logits", "attention", "ablate", "walk")
"""Commands that load the run's model."""

OWN_WAY = ("--backend", "--model", "--revision", "--dtype", "--device", "--allow-pickle")
"""Options that say where a model comes from and how it is loaded."""


def by_backend(command: tuple[str, ...], session: Session, holds: Callable[[str, str, str], bool]) -> tuple[str, ...]:
    """The command as it is run: in the backend that holds the run's model, if there is one with nothing else to do.

    holds: Captures.holds. It may wait for backends: call this in a worker.
    """
    own = any(word.partition("=")[0] in OWN_WAY for word in command)
    if command[0] not in READ_MODEL or own or len(command) < 2:
        return command
    info = session.info
    model = info.model if command[0] == "walk" else command[1]
    return (command[0], "--backend", *command[1:]) if holds(model, info.dtype, info.device) else command
