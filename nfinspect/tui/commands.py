"""The command that makes an analysis of a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nfinspect.analyses import command_of, spec
from nfinspect.tui.requests import MARKED

if TYPE_CHECKING:
    from nfinspect.tui.session import Session

MODEL, TEXT = "MODEL", "TEXT"
"""What stands in a command where the app does not know better: the user is asked to put it in."""


def from_the_store() -> str:
    """Kinds of neurons whose analysis needs no model: `overlap --kinds` makes and keeps what is not there."""
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
    """The arguments of `nfinspect` that make an analysis of a run. It looks for the run's texts: call it in a worker.

    choices: the pane's own options. marked: how many neurons are marked, which is what an ablation then cuts out.
    """
    word, needs = command_of(name), spec(name).needs
    where = () if site == session.default_site else ("--site", site)
    of = (session.name,) if needs == "run" else (model or session.info.model or MODEL,)
    source = () if needs == "run" else ("--from", session.name)
    made: tuple[str, ...] = (word, *of, *choices, *where, *source)
    if name == "logits":
        made = (word, *of, *choices, "--json", *source)
    elif name == "lens":
        made = (word, *of, *(choices or lens_of(first_text(session))), *bos_of(session), *source)
    elif name == "ablate":
        # On the run's own windows, which are what its classes and kinds were found on.
        chosen = ("--neurons", str(session.results_folder / MARKED)) if marked else ("--class", "dead")
        made = (word, *of, *source, *chosen, *choices, *where)
    elif name == "kinds":
        made = (word, *of, "--kinds", from_the_store(), *where)
    return (*made, "--store", str(store))


def incomplete(arguments: Sequence[str]) -> str:
    """What stands in a command that only the user knows, the last of it first; empty where nothing does."""
    return next((word for word in (TEXT, MODEL) if word in arguments), "")


def lens_of(prompt: str) -> tuple[str, ...]:
    """The options of `logits` for a prompt."""
    return ("--lens", prompt, "--positions")


def first_text(session: Session) -> str:
    """The text of the run's first prompt that has one."""
    return next((prompt.text for prompt in session.texts(1)), TEXT)


def bos_of(session: Session) -> tuple[str, ...]:
    """What stands before a text, as in the capture."""
    bos = str(session.info.settings.get("bos", "auto"))
    return () if bos == "auto" else ("--bos", bos)
