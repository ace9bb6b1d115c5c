"""The analyses that have a pane: what each answers, and the command that makes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nfinspect.analyses import names, spec
from nfinspect.tui.requests import MARKED

if TYPE_CHECKING:
    from nfinspect.tui.session import Session

MODEL, TEXT = "MODEL", "TEXT"
"""What stands in a command where the app does not know better: the user is asked to put it in."""


@dataclass(frozen=True)
class Analysis:
    """name: of the place; kind: of its kept results, empty where none is kept; word: the command, if not the name."""

    name: str
    kind: str
    answers: str
    of_model: bool = False
    word: str = ""

    @property
    def command(self) -> str:
        return self.word or self.name


OWN = {
    one.name: one
    for one in (
        Analysis("ablate", "ablation", "what is lost without a set of neurons", of_model=True),
        Analysis("kinds", "", "how many neurons are of two such kinds", word="overlap"),
        Analysis("lens", "lens", "what each layer would answer to a prompt", of_model=True, word="logits"),
        Analysis("logits", "", "tokens that a neuron promotes, suppresses", of_model=True),
    )
}
"""Those that have panes of their own. Of the others the specs tell."""


def analysis_names() -> tuple[str, ...]:
    """The names of all, in their order; they are places after `:`, too."""
    return (*names(), *OWN)


def analysis_of(name: str) -> Analysis:
    """An analysis by its name."""
    if name in OWN:
        return OWN[name]
    found = spec(name)
    return Analysis(name, name, found.answers, of_model=found.needs == "model")


def from_the_store() -> str:
    """Kinds of neurons whose analysis needs no model: `overlap --kinds` makes and keeps what is not there."""
    from nfinspect.analyses.kinds import KEPT_KINDS, SINGLE_KINDS

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
    where = () if site == session.default_site else ("--site", site)
    model = model or session.info.model or MODEL
    if name == "logits":
        made = ("logits", model, *choices, "--json", "--from", session.name)
    elif name == "lens":
        made = ("logits", model, *(choices or lens_of(first_text(session))), *bos_of(session), "--from", session.name)
    elif name == "ablate":
        # On the run's own windows, which are what its classes and kinds were found on.
        chosen = ("--neurons", str(session.results_folder / MARKED)) if marked else ("--class", "dead")
        made = ("ablate", model, "--from", session.name, *chosen, *choices, *where)
    elif name == "kinds":
        made = ("overlap", session.name, "--kinds", from_the_store(), *where)
    elif analysis_of(name).of_model:
        made = (name, model, *choices, *where, "--from", session.name)
    else:
        made = (name, session.name, *choices, *where)
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
