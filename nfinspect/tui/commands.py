"""The analyses that have a pane: what each answers, and the command that makes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nfinspect.tui.engine import Session

MODEL, FILE = "MODEL", "FILE"
"""What stands in a command where the app does not know better: the user is asked to put it in."""


@dataclass(frozen=True)
class Analysis:
    """name: of the command and of the place; kind: of its kept results, empty where none is kept."""

    name: str
    kind: str
    answers: str
    of_model: bool = False


ANALYSES = (
    Analysis("ngrams", "ngrams", "which neurons fire on a few tokens or n-grams only"),
    Analysis("positions", "positions", "which neurons tell where in the text a token stands"),
    Analysis("delta", "delta", "which neurons change with every token; Mamba's step size"),
    Analysis("attention", "attention", "which neurons go with what the model attends to", of_model=True),
    Analysis("ablate", "ablation", "what the model loses when a set of neurons is cut out", of_model=True),
    Analysis("logits", "", "which tokens a neuron's output weights promote and suppress", of_model=True),
)
BY_NAME = {analysis.name: analysis for analysis in ANALYSES}


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
        return ("logits", model, *choices, "--json")
    if name == "attention":
        made = ("attention", model, *choices, *where, "--prompts", str(prompts_file(session)))
    elif name == "ablate":
        chosen = ("--neurons", str(marked_file(session))) if marked else ("--class", "dead")
        made = ("ablate", model, "--from", session.name, *chosen, *choices, *where, "--text", text_of(session))
    else:
        made = (name, session.name, *choices, *where)
    return (*made, "--store", str(store))


def incomplete(arguments: Sequence[str]) -> str:
    """What stands in a command that only the user knows, the last of it first; empty where nothing does."""
    return next((word for word in (FILE, MODEL) if word in arguments), "")


def prompts_file(session: Session) -> Path:
    """Where the run's prompts are written for a command that reads prompts."""
    return session.results_folder / "prompts.jsonl"


def marked_file(session: Session) -> Path:
    """Where the marked neurons are written for a command that reads neurons."""
    return session.results_folder / "marked.txt"


def text_of(session: Session) -> str:
    """A text that the run was captured from, if it is still there."""
    files = session.info.settings.get("files", ())
    there = (str(file) for file in files if not str(file).endswith((".json", ".jsonl")) and Path(str(file)).is_file())
    return next(there, FILE)


def write_lines(path: Path, lines: Sequence[str]) -> None:
    """Raises StorageFull."""
    from nfinspect_store.errors import StorageFull

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    except OSError as error:
        raise StorageFull(f"cannot write {path}: {error.strerror or error}") from error
