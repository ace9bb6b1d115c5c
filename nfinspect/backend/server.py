"""The backend's process: one model, one job at a time, and any number of clients.

Jobs run in the main thread, where Ctrl-C and signals arrive: cancelling a job is what Ctrl-C does to its command. Each
connection has a thread (docs/decisions/0015), so a long query or a long forward pass holds up nobody's question.
"""

import contextlib
import gc
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from nfinspect.backend.answers import answer
from nfinspect.backend.directory import Entry, Place
from nfinspect.backend.hosting import Hosted, hosting
from nfinspect.backend.jobs import Job, Jobs
from nfinspect.backend.protocol import (
    COMMANDS,
    Act,
    AskStatus,
    BadMessage,
    Bytes,
    Message,
    Opened,
    OpenRun,
    Query,
    ReadOutput,
    ReadTokens,
    Refused,
    Status,
    Stop,
    Submit,
    Wait,
)
from nfinspect.backend.sharing import SharedRuns, Snapshot
from nfinspect.backend.streams import as_in_terminal
from nfinspect.backend.wire import Gone, NotAllowed, Wire
from nfinspect_store.errors import NfinspectError, QueryError, RequestError

if TYPE_CHECKING:
    from nfinspect.models import LoadedModel

LONG_POLL = 2.0
"""Seconds after which a Wait is answered although nothing has changed."""

OUTPUT = 2**20
"""Bytes of a job's output in one frame."""

SNAPSHOT_IDLE = 60.0
"""Seconds after which a snapshot that nobody asks anything is ended: while there is one, a commit cannot clean up."""

GREETING = 10.0
MOST_CLIENTS = 128
FAREWELL = 0.5
"""Seconds for clients to learn how the last job ended."""


@dataclass(frozen=True)
class Model:
    """What a backend is to hold. load: loads it; name: its lasting name."""

    name: str
    load: "Callable[[], LoadedModel]"
    hold: "Callable[[LoadedModel], contextlib.AbstractContextManager[object]]"


@dataclass(frozen=True)
class Ran:
    """How a command ended. broken: the device can do nothing more in this process."""

    status: int
    broken: bool = False


class Server:
    """A backend. run: runs a command in this process, as `nfinspect ARGUMENTS` does."""

    def __init__(self, place: Place, model: Model, run: Callable[[tuple[str, ...]], Ran], idle: float) -> None:
        """idle: seconds without a job after which it ends; 0: never."""
        self._place = place
        self._model = model
        self._run = run
        self._idle = idle
        self._since = time.time()
        self._state = "loading"
        self._device = self._dtype = ""
        self._shared = SharedRuns()
        self._in_job = False
        self._cancelling = self._ctrl_c = False
        self._main = threading.get_ident()
        self._jobs = Jobs(self._interrupt)
        self._clients: dict[Wire, threading.Thread] = {}
        self._lock = threading.Lock()
        self._hangups = _Hangups()

    def serve(self, say: Callable[[str], None] = lambda line: None) -> int:
        """Until it is idle or told to end; returns the exit status. For the main thread. Raises what loading does."""
        self._tell()
        accepting = threading.Thread(target=self._accept, name="nfinspect-accept", daemon=True)
        with self._signals():
            accepting.start()
            try:
                loaded = self._load()
                with self._model.hold(loaded):
                    self._device, self._dtype = loaded.places, loaded.dtype
                    self._state = "ready"
                    del loaded
                    say(f"{self._place.id} is ready on {self._device} ({self._dtype}), process {os.getpid()}")
                    status = self._work()
            except KeyboardInterrupt:
                status = 130
            except BaseException as error:
                self._jobs.close(f"the model could not be loaded: {error}")
                raise
            finally:
                self._state = "stopping"
                self._jobs.close("this backend is ending")
                time.sleep(FAREWELL if self._clients else 0)
                self._close_clients(accepting)
        return status

    def _load(self) -> "LoadedModel":
        try:
            self._in_job = True
            loaded = self._model.load()
        finally:
            self._in_job = False
        return loaded

    # Jobs

    def _work(self) -> int:
        while not self._jobs.closed and not self._ctrl_c:
            job = self._jobs.take(1.0)
            if job is None:
                if self._idle and self._jobs.idle_seconds > self._idle and not self._clients_busy():
                    return 0
                continue
            self._tell(job)
            ran = self._do(job)
            self._jobs.ended(job, ran.status)
            self._cancelling = False  # its signal has come by now
            self._tell()
            if ran.broken:
                self._jobs.close("the GPU failed: this backend ends, start another")
                return 1
            _free()
        return 0

    def _clients_busy(self) -> bool:
        with self._lock:
            return any(wire in self._hangups for wire in self._clients)

    def _do(self, job: Job) -> Ran:
        """Run a command as if in its user's directory and terminal; what it prints is kept."""
        ran = Ran(130)
        with hosting(Hosted(job, self._shared.sharing, lambda: self._shared.watched)), contextlib.ExitStack() as stack:
            try:
                stack.enter_context(as_in_terminal(job))
            except OSError as error:  # its directory has gone since it was asked for
                job.note(f"nfinspect: cannot run the command in {job.request.directory}: {error.strerror}")
                return Ran(1)
            try:
                self._in_job = True
                if not job.cancelled and not self._ctrl_c:
                    ran = self._run(job.request.arguments)
                self._in_job = False
            except KeyboardInterrupt:
                self._in_job = False
                job.note("nfinspect: interrupted")
        if ran.status == 130 and not job.cancelled:
            self._ctrl_c = True
        return ran

    def _interrupt(self) -> None:
        """Do to the running job what Ctrl-C would."""
        self._cancelling = True
        signal.pthread_kill(self._main, signal.SIGINT)

    # Signals

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """A hang-up is ignored: the backend outlives its terminal. SIGTERM and Ctrl-C end it, and its job before."""
        inner, outer = socket.socketpair()
        outer.setblocking(False)
        before = {
            signal.SIGHUP: signal.signal(signal.SIGHUP, signal.SIG_IGN),
            signal.SIGTERM: signal.signal(signal.SIGTERM, self._on_signal),
            signal.SIGINT: signal.signal(signal.SIGINT, self._on_signal),
        }
        wakeup = signal.set_wakeup_fd(outer.fileno(), warn_on_full_buffer=False)
        threading.Thread(target=self._watch_signals, args=(inner,), name="nfinspect-signals", daemon=True).start()
        try:
            yield
        finally:
            signal.set_wakeup_fd(wakeup)
            for number, handler in before.items():
                signal.signal(number, handler)
            outer.close()

    def _watch_signals(self, inner: socket.socket) -> None:
        """A job's own handlers may have taken the signal: its number arrives here, too."""
        with inner:
            while numbers := inner.recv(64):
                if signal.SIGTERM in numbers:
                    self._jobs.close("the backend was ended by SIGTERM", signalled=True)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._in_job:
            raise KeyboardInterrupt
        if number == signal.SIGTERM or not self._cancelling:  # else a job that was to be cancelled has just ended
            self._ctrl_c = True

    # Clients

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._place.socket.accept()
            except OSError:  # closed: the backend ends
                return
            wire = Wire(connection)
            with self._lock:
                if len(self._clients) >= MOST_CLIENTS:
                    wire.close()
                    continue
                thread = threading.Thread(target=self._serve, args=(wire,), name="nfinspect-client", daemon=True)
                self._clients[wire] = thread
            thread.start()

    def _serve(self, wire: Wire) -> None:
        client = _Client(wire)
        try:
            wire.check_peer("client")
            wire.greet()
            while True:
                request = wire.receive_any(None if client.snapshot is None else SNAPSHOT_IDLE)
                try:
                    self._answer(client, request)
                except (Gone, BadMessage):
                    raise
                except NfinspectError as error:
                    place = error.place if isinstance(error, QueryError) else None
                    wire.send(Refused(type(error).__name__, str(error), place))
        except Gone:
            pass
        except (BadMessage, NotAllowed) as error:
            with contextlib.suppress(NfinspectError):
                wire.send(Refused(type(error).__name__, str(error)))
        finally:
            if client.snapshot is not None:
                self._shared.forget(client.snapshot)
            for job in client.attached:
                if not job.state().ended:
                    self._jobs.cancel(job)
            with self._lock:
                self._clients.pop(wire, None)
            wire.close()

    def _answer(self, client: "_Client", request: Message) -> None:
        wire = client.wire
        match request:
            case AskStatus():
                wire.send(self.status())
            case Submit():
                wire.send(self._submit(client, request).state())
            case Wait():
                job = self._jobs.job(request.job)
                self._jobs.wait(job, request.version, LONG_POLL)
                wire.send(job.state(request.notes))
            case Act():
                job = self._jobs.job(request.job)
                self._jobs.act(job, request.action)
                wire.send(job.state())
            case ReadOutput():
                data = self._jobs.job(request.job).output(max(0, request.offset), OUTPUT)
                wire.send(Bytes(len(data)), data)
            case ReadTokens():
                wire.send(self._jobs.job(request.job).tokens(request.start))
            case Stop():
                self._jobs.close("the backend was told to end")
                self._state = "stopping"
                if self._device == "":  # it loads
                    self._interrupt()
                wire.send(self.status())
            case OpenRun():
                if client.snapshot is not None:
                    self._shared.forget(client.snapshot)
                client.snapshot = self._shared.snapshot(Path(request.path), wire.shut)
                wire.send(Opened(client.snapshot.commits))
            case Query():
                if client.snapshot is None:
                    raise RequestError("expected a run to be opened before it is queried")
                with self._hangups.watched(wire, client.snapshot.cursor.interrupt):
                    answer(wire, client.snapshot, request)
            case _:
                raise BadMessage(f"expected a request, found {type(request).__name__}")

    def _submit(self, client: "_Client", request: Submit) -> Job:
        command = request.arguments[0] if request.arguments else ""
        if command not in COMMANDS:
            raise RequestError(f"a backend runs {', '.join(COMMANDS)}, not {command or 'nothing'!r}")
        if not os.path.isdir(request.directory):
            raise RequestError(f"expected a directory to run the command in, found none at {request.directory}")
        job = self._jobs.add(request)
        if request.attached:
            client.attached.append(job)
        return job

    def status(self) -> Status:
        running = self._jobs.running
        return Status(
            id=self._place.id,
            model=self._model.name,
            device=self._device,
            dtype=self._dtype,
            state=self._state,
            pid=os.getpid(),
            since=self._since,
            idle_seconds=0.0 if self._state == "loading" else self._jobs.idle_seconds,
            idle_limit=self._idle,
            memory_bytes=_resident_bytes(),
            device_bytes=_device_bytes(self._device),
            job=None if running is None else running.state(),
            queue=tuple(job.state() for job in self._jobs.waiting),
        )

    def _tell(self, job: Job | None = None) -> None:
        entry = Entry(self._place.id, os.getpid(), self._model.name)
        if job is not None:
            entry = replace(entry, job=job.request.arguments, directory=job.request.directory)
        self._place.tell(entry)

    def _close_clients(self, accepting: threading.Thread) -> None:
        self._place.socket.shutdown(socket.SHUT_RDWR)  # wakes `accept`
        accepting.join()
        with self._lock:
            left = dict(self._clients)
        for wire in left:
            wire.shut()
        for thread in left.values():
            thread.join(FAREWELL)
        self._hangups.close()


class _Client:
    """What belongs to one connection."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self.snapshot: Snapshot | None = None
        self.attached: list[Job] = []


class _Hangups:
    """Interrupts the query of a client that has gone: nobody wants its answer."""

    EVERY = 0.2

    def __init__(self) -> None:
        self._watched: dict[Wire, Callable[[], None]] = {}
        self._changed = threading.Condition()
        self._over = False
        self._thread = threading.Thread(target=self._look, name="nfinspect-hangups", daemon=True)
        self._thread.start()

    def close(self) -> None:
        with self._changed:
            self._over = True
            self._changed.notify()
        self._thread.join()

    def __contains__(self, wire: Wire) -> bool:
        return wire in self._watched

    @contextlib.contextmanager
    def watched(self, wire: Wire, interrupt: Callable[[], None]) -> Iterator[None]:
        with self._changed:
            self._watched[wire] = interrupt
            self._changed.notify()
        try:
            yield
        finally:
            with self._changed:
                del self._watched[wire]

    def _look(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: bool(self._watched) or self._over)
                if self._over:
                    return
            time.sleep(self.EVERY)
            with self._changed:
                poller, found = select.poll(), {}
                for wire, interrupt in self._watched.items():
                    with contextlib.suppress(ValueError, OSError):
                        poller.register(wire.fileno(), select.POLLRDHUP)
                        found[wire.fileno()] = interrupt
                for number, event in poller.poll(0):
                    if event:
                        with contextlib.suppress(Exception):
                            found[number]()


def _free() -> None:
    """What a job has left in memory is not the next one's."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


def _resident_bytes() -> int:
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def _device_bytes(device: str) -> int:
    """What torch has reserved on the GPUs among `device`, which may be several: `cuda:0, cuda:1`."""
    torch = sys.modules.get("torch")
    if torch is None:
        return 0
    return sum(torch.cuda.memory_reserved(one) for one in device.split(", ") if one.startswith("cuda"))
