"""What passes between a backend and its clients: frozen values, as JSON lines; tables follow as Arrow IPC.

A line is one message, {"message": NAME, field: value …}. Nothing in it is ever executed, and everything is bounded:
lines by LINE, frames of bytes by FRAME. The first message of either side is Hello; a difference in VERSION is refused.
"""

import json
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cache
from typing import Any, Literal

from nfinspect_store.errors import NfinspectError, StoreError

VERSION = 4

LINE = 16 * 2**20
"""The most bytes of a line: a query may name many tokens."""

FRAME = 64 * 2**20
"""The most bytes of a frame."""

MOST_TOKENS = 256
"""Tokens in one answer."""

MOST_STRONGEST = 20_000
"""Strongest neurons in one answer, of all its tokens."""

COMMANDS = ("capture", "attention", "ablate", "logits", "delta", "text", "generate", "similar", "walk")
"""What a backend runs."""


def makes_a_run(arguments: Sequence[str]) -> bool:
    """Whether a command is a capture, and not only the estimate of one."""
    return tuple(arguments[:1]) == ("capture",) and "--estimate" not in arguments


Action = Literal["pause", "go on", "cancel"]
Side = Literal["original", "edited"]
State = Literal["waiting", "running", "paused", "done", "failed", "cancelled"]
ENDED: tuple[State, ...] = ("done", "failed", "cancelled")


class BadMessage(NfinspectError):
    """A message that is none, or too long."""


class RunEnded(StoreError):
    """The capture of a run has ended: from now on its file can be read."""


# From a client


@dataclass(frozen=True)
class Hello:
    """The first message of both sides."""

    version: int = VERSION


@dataclass(frozen=True)
class AskStatus:
    """Answered by Status."""


@dataclass(frozen=True)
class Terminal:
    """What a command's output depends on, besides its arguments. store: the value of $NFINSPECT_STORE, or ''."""

    store: str = ""
    columns: int = 80
    lines: int = 24
    encoding: str = "utf-8"


@dataclass(frozen=True)
class Submit:
    """Run `nfinspect ARGUMENTS` in `directory`. attached: cancel it if this connection ends. Answered by JobState."""

    arguments: tuple[str, ...]
    directory: str
    terminal: Terminal = Terminal()
    attached: bool = False


@dataclass(frozen=True)
class Wait:
    """Answered by JobState as soon as its `version` is past this one, and after some seconds anyway.

    notes: how many of its lines are known already.
    """

    job: int
    version: int = -1
    notes: int = 0


@dataclass(frozen=True)
class Act:
    """Pause a job, let it go on, or cancel it. Answered by JobState."""

    job: int
    action: Action


@dataclass(frozen=True)
class ReadOutput:
    """What a job has printed, from byte `offset` on. Answered by Bytes; none at the end."""

    job: int
    offset: int = 0


@dataclass(frozen=True)
class ReadTokens:
    """The tokens of texts that a job writes, from number `start` on. Answered by Tokens at once, if only by none: the
    state of a job changes when it has written one (Wait). A capture tells them while they are asked for.
    """

    job: int
    start: int = 0


@dataclass(frozen=True)
class Stop:
    """End the backend: the job is cancelled, what was recorded is committed. Answered by Status."""


@dataclass(frozen=True)
class OpenRun:
    """Read the run at `path`, as it is at its last commit, until this connection ends. Answered by Opened."""

    path: str


@dataclass(frozen=True)
class Query:
    """One reading statement over the run that was opened. Answered by Columns, then Bytes for each batch, then End.

    parameters: by place or by name. most, start: only so many rows, from that one on. count: only how many rows.
    rows: at most so many in a batch; 0: as many as fit into a frame. describe: no rows, only the columns.
    """

    sql: str
    parameters: Mapping[str, Any] | Sequence[Any] | None = None
    most: int | None = None
    start: int = 0
    count: bool = False
    rows: int = 0
    describe: bool = False
    timeout: float | None = None


# From the backend


@dataclass(frozen=True)
class Refused:
    """Why a request has failed, in one line. error: the class of ours that the client raises; place: the character of
    a query that is wrong.
    """

    error: str
    line: str
    place: int | None = None


@dataclass(frozen=True)
class JobState:
    """A job. `notes`: its lines on stderr that the client does not know yet; `line`: the last of all.

    status: its exit status once it has ended. done, total: tokens of a capture, else whatever the command counts;
    rate: tokens per second; bytes: of the run's file; run: the file that it writes, or ''.
    """

    id: int
    arguments: tuple[str, ...]
    directory: str
    state: State
    version: int = 0
    status: int | None = None
    phase: str = ""
    done: int = 0
    total: int | None = None
    rate: float = 0.0
    seconds: float = 0.0
    seconds_left: float | None = None
    bytes: int = 0
    run: str = ""
    line: str = ""
    notes: tuple[str, ...] = ()
    noted: int = 0  # how many notes there are in all

    @property
    def ended(self) -> bool:
        return self.state in ENDED


@dataclass(frozen=True)
class Status:
    """A backend. model: the lasting name of its model; state: loading | ready | stopping; since: seconds since the
    epoch; memory_bytes: of the process, device_bytes: what it has reserved on its GPU.
    """

    id: str
    model: str
    device: str
    dtype: str
    state: str
    pid: int
    since: float
    idle_seconds: float
    idle_limit: float
    memory_bytes: int
    device_bytes: int
    job: JobState | None = None
    queue: tuple[JobState, ...] = field(default=())


@dataclass(frozen=True)
class Opened:
    """The run is open. commits: how many there have been."""

    commits: int


@dataclass(frozen=True)
class Columns:
    """A result's columns, and DuckDB's names of their types."""

    names: tuple[str, ...]
    types: tuple[str, ...]


@dataclass(frozen=True)
class Token:
    """A token that a job has read or written.

    index: its number among those of the job, from 0. prompt: which of the run's prompts it belongs to, from 0 (a
    capture tells one of each batch); position: its place there, from 0; generated: the model wrote it. side: of a
    generation with edits, whether it is without them (original) or with them. surprisal: −ln p under that side, in
    nats; None for a first token, and for the prompts of a capture. strongest: layer, neuron and value of the largest
    |value| at `site` of each layer.
    """

    index: int
    prompt: int
    position: int
    text: str
    generated: bool
    side: Side = "original"
    surprisal: float | None = None
    site: str = ""
    strongest: tuple[tuple[int, int, float], ...] = ()


@dataclass(frozen=True)
class Tokens:
    """Consecutive tokens: `rows` of them from number `start` on, at most MOST_TOKENS. start: later than was asked for
    if earlier ones are no longer held. count: how many there have been.
    """

    start: int
    count: int
    rows: tuple[Token, ...] = ()


@dataclass(frozen=True)
class Bytes:
    """So many bytes follow the line: a part of an output, or an Arrow IPC stream with one batch."""

    bytes: int


@dataclass(frozen=True)
class End:
    """There are no more batches."""


Message = (
    Hello | AskStatus | Submit | Wait | Act | ReadOutput | ReadTokens | Stop | OpenRun | Query
    | Refused | JobState | Status | Opened | Tokens | Columns | Bytes | End
)  # fmt: skip

_KINDS: dict[str, type] = {kind.__name__: kind for kind in typing.get_args(Message)}


def encoded(message: Message) -> bytes:
    """A message as a line. Raises BadMessage for one that is too long, or that JSON cannot hold."""
    try:
        line = json.dumps({"message": type(message).__name__, **asdict(message)}, allow_nan=False).encode() + b"\n"
    except (TypeError, ValueError) as error:
        raise BadMessage(f"a {type(message).__name__} cannot be sent: {error}") from error
    if len(line) > LINE:
        raise BadMessage(f"expected a message of at most {LINE} bytes, found {len(line)}: ask for less at once")
    return line


def decoded(line: bytes) -> Message:
    """The message in a line. Raises BadMessage for anything but a message with its fields."""
    try:
        content = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise BadMessage("expected a message as a line of JSON, found something else") from error
    kind = _KINDS.get(content.pop("message", "")) if isinstance(content, dict) else None
    if kind is None:
        raise BadMessage("expected a message of a backend or a client, found another JSON value")
    message: Message = _made(kind, content)
    return message


def _made(kind: type, content: dict[str, Any]) -> Any:
    wanted = _wanted(kind)
    unknown = set(content) - set(wanted)
    if unknown:
        raise BadMessage(f"a {kind.__name__} has no field {min(unknown)[:40]!r}")
    try:
        return kind(
            **{name: _checked(wanted[name], value, f"{kind.__name__}.{name}") for name, value in content.items()}
        )
    except TypeError as error:
        raise BadMessage(f"a {kind.__name__} lacks a field") from error


@cache
def _wanted(kind: type) -> dict[str, Any]:
    hints = typing.get_type_hints(kind)
    return {one.name: hints[one.name] for one in fields(kind)}


def _checked(wanted: Any, value: Any, where: str) -> Any:
    """`value` if it is of the wanted type; lists become tuples, objects dataclasses. Raises BadMessage."""
    origin, inner = typing.get_origin(wanted), typing.get_args(wanted)
    if wanted is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        for one in inner:
            try:
                return _checked(one, value, where)
            except BadMessage:
                continue
    elif origin is Literal:
        if value in inner:
            return value
    elif origin is tuple:
        if isinstance(value, list):
            kinds = inner[:1] * len(value) if inner[-1] is Ellipsis else inner
            if len(kinds) == len(value):
                return tuple(_checked(kind, one, where) for kind, one in zip(kinds, value, strict=True))
    elif origin is not None:  # Mapping, Sequence
        if isinstance(value, dict if issubclass(origin, Mapping) else list):
            return value
    elif wanted is float:
        if isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
    elif isinstance(value, dict) and wanted in (Terminal, JobState, Token):
        return _made(wanted, value)
    elif type(value) is wanted:
        return value
    raise BadMessage(f"expected {getattr(wanted, '__name__', wanted)} as {where}, found {str(value)[:40]!r}")
