"""What the lab asks of a model: a prompt, edits and how to write, as the command and as the Python that do it."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nfinspect.edits import KINDS, typed_edits
from nfinspect.model_files import lasting_name
from nfinspect_store.edits import DIRECTION, number_text, worded_edits
from nfinspect_store.errors import RequestError

if TYPE_CHECKING:
    from nfinspect_store.types import RunInfo

CONCEPT = "lab"
"""Of the prompt of a generation that is kept as a run."""

EDIT_FORMS = "zero @marked, scale L3/N17=0.5, clamp L3/N17,L4/N2=8, add @hot=1 or direction tulip-baseline@resid:L2=4"
AMOUNTS = {"scale": "2", "clamp": "1", "add": "1", DIRECTION: "1"}
"""What an edit begins with where none was typed."""

DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class Change:
    """One edit. what: neurons and sets, or a direction as CONCEPT-BASELINE@resid:L5; amount: as it was typed, kept
    while the kind needs none.
    """

    kind: str
    what: str
    amount: str = ""

    @property
    def value(self) -> str:
        """The value of the option of this kind."""
        return self.what if self.kind == "zero" else f"{self.what}={self.amount}"

    @property
    def text(self) -> str:
        return f"{self.kind} {self.value}"

    def turned(self) -> Change:
        """The next kind of edit of the same neurons; a direction has only one."""
        if self.kind == DIRECTION:
            return self
        names = [str(kind) for kind in KINDS]
        kind = names[(names.index(self.kind) + 1) % len(names)]
        return replace(self, kind=kind, amount=self.amount or AMOUNTS.get(kind, ""))


@dataclass(frozen=True)
class Setup:
    """model: as a command takes it, with its revision; dtype, bos, chat: as the run was captured."""

    run: str
    model: str
    dtype: str = "auto"
    bos: str = "auto"
    chat: bool = False
    prompt: str = ""
    changes: tuple[Change, ...] = ()
    new_tokens: int = 40
    temperature: float = 0.0
    seed: int = 0
    start: int = 0
    controls: int = 20


@dataclass(frozen=True)
class Number:
    """A number of a setup that is typed. option: of the command; least, most: what is accepted."""

    field: str
    name: str
    option: str
    least: int
    about: str = ""
    most: int = 2**63 - 1


NUMBERS = (
    Number("new_tokens", "new tokens", "--new-tokens", 1),
    Number("temperature", "temperature", "--temperature", 0, "0 is greedy", most=10**6),
    Number("seed", "seed", "--seed", 0, "of the draws and of the random edits"),
    Number("start", "from token", "--from", 0, "the first that edits change"),
    Number("controls", "controls", "--controls", 0, "random edits of the same size, 20 or more; 0 for none"),
)

DEFAULTS: Mapping[str, object] = {one.name: one.default for one in fields(Setup)}


def setup_of(run: str, info: RunInfo) -> Setup:
    """What is known from a run: its model, its edits, and how it was read. Raises RequestError for a run that names no
    model.
    """
    if not info.model or info.kind == "simulated":
        raise RequestError("this run names no model: the lab has nothing to run")
    model, settings = lasting_name(info.model), info.settings
    revision = settings.get("revision")
    if revision and not Path(model).exists() and "@" not in model:
        model = f"{model}@{revision}"
    dtype = info.dtype if info.dtype in DTYPES else "auto"
    try:
        changes, start = _changes_of(settings.get("edits") or ()), int(settings.get("edits_from") or 0)
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError, RequestError):  # a stranger's
        changes, start = (), 0
    return Setup(
        run,
        model,
        dtype,
        str(settings.get("bos") or "auto"),
        bool(settings.get("chat")),
        changes=changes,
        start=max(0, start),
    )


def _changes_of(edits: Sequence[Mapping[str, Any]]) -> tuple[Change, ...]:
    """Edits of a run's settings."""
    changes = tuple(Change(edit.kind, ",".join(edit.what), edit.amount) for edit in worded_edits(edits))
    for change in changes:
        _check(change)
    return changes


def of_run(run: str, change: Change) -> str:
    """The value of a direction's option: of `run`, unless it names another before its concepts."""
    concepts, _, _ = change.what.rpartition("@")
    return change.value if ":" in concepts else f"{run}:{change.value}"


def typed_change(text: str) -> Change:
    """An edit as it is typed. Raises RequestError."""
    kind, _, rest = text.strip().partition(" ")
    kind, rest = kind.lower(), rest.strip()
    if kind not in (*KINDS, DIRECTION) or not rest:
        raise RequestError(f"expected an edit such as {EDIT_FORMS}, found {text!r}")
    if kind == "zero":
        change = Change(kind, rest)
    else:
        what, _, amount = rest.rpartition("=")
        change = Change(kind, what.strip(), amount.strip()) if what else Change(kind, rest, "")
    _check(change)
    return change


def _check(change: Change) -> None:
    typed_edits([f"{DIRECTION} {of_run('RUN', change)}" if change.kind == DIRECTION else change.text])


def typed_number(one: Number, text: str) -> float | int:
    """Raises RequestError."""
    try:
        value = float(text) if one.field == "temperature" else int(text)
    except ValueError:
        value = math.nan
    if not one.least <= value <= one.most or (one.field == "controls" and 0 < value < 20):
        least = "0, or of 20" if one.field == "controls" else str(one.least)
        raise RequestError(f"expected {one.name} of {least} to {one.most}, found {text!r}")
    return value


def prompt_line(prompt: str) -> str:
    """A prompt on one line, as it is typed."""
    return prompt.replace("\\", "\\\\").replace("\n", "\\n").replace("\t", "\\t")


def typed_prompt(text: str) -> str:
    """The prompt of a typed line: \\n is a line break, \\t a tab and \\\\ a backslash. Raises RequestError."""
    prompt, place = "", 0
    known = {"n": "\n", "t": "\t", "\\": "\\"}
    while place < len(text):
        pair = text[place : place + 2]
        if pair[0] == "\\" and pair[1:] in known:
            prompt, place = prompt + known[pair[1:]], place + 2
        else:
            prompt, place = prompt + pair[0], place + 1
    if "\0" in prompt:
        raise RequestError("this prompt has a NUL character, which no command can take")
    return prompt


def command(setup: Setup) -> tuple[str, ...]:
    """The arguments of `nfinspect`, with what differs from its defaults. Raises RequestError for an empty prompt."""
    if not setup.prompt:
        raise RequestError("which prompt? i types one, p takes one of the run")
    found = ["generate", setup.model, *_edits(setup)]
    found += _numbers(setup, [one.field for one in NUMBERS])
    return (*found, *_how_read(setup), *(("--",) if setup.prompt.startswith("-") else ()), setup.prompt)


def kept_prompt(setup: Setup, folder: Path) -> tuple[Path, str]:
    """The file of a prompt that is kept as a run, by what it is, so that it can be resumed; and its content."""
    content = json.dumps({"prompts": [setup.prompt]})
    return folder / f"lab-{hashlib.sha256(content.encode()).hexdigest()[:12]}.json", content


def kept_command(
    setup: Setup,
    name: str,
    prompts: Path,
    sites: Sequence[str],
    layers: Sequence[int] | None,
    keep: str = "all",
) -> tuple[str, ...]:
    """The arguments of the capture that keeps, as the run `name`, what is written with the edits of a setup.

    prompts: the file of its prompt; sites, layers, keep: those of the run, None: all layers.
    """
    fields = ["temperature", "seed", *(["start"] if setup.changes else [])]
    return (
        "capture", setup.model, "--prompts", f"{CONCEPT}={prompts}", "--generate", str(setup.new_tokens),
        *_edits(setup), *_numbers(setup, fields), *_how_read(setup),
        "--sites", ",".join(sites), *(("--layers", ",".join(map(str, layers))) if layers else ()),
        *(("--keep", keep) if keep != "all" else ()), "--run", name,
    )  # fmt: skip


def _edits(setup: Setup) -> list[str]:
    found: list[str] = []
    for change in setup.changes:
        found += [f"--{change.kind}", of_run(setup.run, change) if change.kind == DIRECTION else change.value]
    return found


def _numbers(setup: Setup, fields: Sequence[str]) -> list[str]:
    """The options of what is not as by default."""
    found: list[str] = []
    for one in NUMBERS:
        if one.field in fields and (value := getattr(setup, one.field)) != DEFAULTS[one.field]:
            found += [one.option, number_text(value)]
    return found


def _how_read(setup: Setup) -> list[str]:
    found = ["--dtype", setup.dtype] if setup.dtype != "auto" else []
    found += ["--bos", setup.bos] if setup.bos != "auto" else []
    return [*found, "--chat"] if setup.chat else found


def backend_options(setup: Setup) -> tuple[str, ...]:
    """Those that the model's backend is started with."""
    return ("--dtype", setup.dtype) if setup.dtype != "auto" else ()


def python(setup: Setup, store: Path) -> str:
    """The Python that does the same."""
    name, at, revision = (setup.model, "", "") if Path(setup.model).exists() else setup.model.partition("@")
    revised = f", revision={revision!r}" if at else ""
    lines = [
        "import nfinspect as nf",
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        f"name = {name!r}",
        f"model = AutoModelForCausalLM.from_pretrained(name, dtype={setup.dtype!r}{revised})",
        f"tokenizer = AutoTokenizer.from_pretrained(name{revised})",
        "found = nf.generate(",
        "    model,",
        "    tokenizer,",
        f"    {setup.prompt!r},",
    ]
    for kind in (*KINDS, DIRECTION):
        of_kind = [change for change in setup.changes if change.kind == kind]
        if values := [of_run(setup.run, one) if kind == DIRECTION else one.value for one in of_kind]:
            lines.append(f"    {kind}={values!r},")
    for field in (*(one.field for one in NUMBERS), "bos", "chat"):
        if (value := getattr(setup, field)) != DEFAULTS[field]:
            lines.append(f"    {field}={value!r},")
    lines += [f"    store={str(store.resolve())!r},", ")", "print(found.original.text)"]
    if setup.changes:
        lines += ["print(found.edited.text)", "print(found.comparison)"]
    return "\n".join(lines) + "\n"
