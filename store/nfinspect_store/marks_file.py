"""The marks of a store: `<store>/marks.jsonl`, one change a line, only ever appended to (docs/decisions/0016).

Every process may write at any time: a change is one line, written under a lock, and never rewrites another's. Readers
take whole lines and hold no lock. A killed writer costs at most the line that it was writing. The first line says the
format; a file that does not begin with it is somebody else's, and is left alone.
"""

import errno
import fcntl
import json
import os
import stat
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from nfinspect_store.addresses import Address, parse_address
from nfinspect_store.errors import NotARun, RequestError, RunBusy, SchemaTooNew, StorageFull, StoreError
from nfinspect_store.marks import (
    Change,
    KnownModel,
    Marks,
    NoteChange,
    Subject,
    brief,
    check_note,
    check_set_name,
)
from nfinspect_store.small_files import MOST, kind_of

FILE = "marks.jsonl"
FORMAT = 1

HEADER_BYTES = 1024
"""More bytes than the first line takes."""

LOCK_SECONDS = 5.0
"""How long another writer is waited for: each holds the lock for milliseconds."""

Written = tuple[Subject, Change | NoteChange]


class MarksFile:
    """The marks of one store. Threads may share it."""

    def __init__(self, store: Path) -> None:
        self.path = store / FILE
        self._lock = threading.Lock()
        self._forget()

    def _forget(self) -> None:
        self._marks, self._offset, self._file = Marks(), 0, (0, 0)
        self.skipped = 0
        """Lines that could not be understood: torn by a kill, or of another hand."""

    def read(self) -> Marks:
        """All marks. A store without the file has none. Raises StoreError for what is no file of marks."""
        with self._lock:
            try:
                with self._opened(os.O_RDONLY) as file:
                    self._take_in(file)
            except FileNotFoundError:
                self._forget()
            except OSError as error:
                raise StoreError(f"cannot read {self.path}: {error.strerror or error}") from error
            return self._marks.copy()

    def write(self, changes: Sequence[Written]) -> Marks:
        """Append changes in one write, and return all marks. Raises StorageFull, RunBusy, StoreError as `read` does;
        then nothing is written.
        """
        with self._lock:
            try:
                with self._opened(os.O_RDWR | os.O_APPEND | os.O_CREAT) as file:
                    self._wait_for(file)
                    torn = self._take_in(file)
                    self._append(file, torn + self._encoded(changes))
                    self._take_in(file)
            except OSError as error:
                raise StorageFull(f"cannot write {self.path}: {error.strerror or error}") from error
            return self._marks.copy()

    @contextmanager
    def _opened(self, flags: int) -> Iterator[int]:
        """The file, which must be a regular one. Raises OSError, NotARun."""
        try:
            file = os.open(self.path, flags | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.EISDIR):
                raise NotARun(f"expected a file of marks, found a link or a directory: {self.path}") from error
            raise
        try:
            found = os.fstat(file)
            if not stat.S_ISREG(found.st_mode):
                raise NotARun(f"expected a file of marks, found {kind_of(found.st_mode)}: {self.path}")
            if found.st_size > MOST:
                raise NotARun(f"expected a file of marks, found one of {found.st_size} bytes: {self.path}")
            yield file
        finally:
            os.close(file)  # and with it the lock

    def _wait_for(self, file: int) -> None:
        """Lock the file. Raises RunBusy, OSError."""
        deadline = time.monotonic() + LOCK_SECONDS
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise RunBusy(f"another process has held {self.path} locked for {LOCK_SECONDS:g} s") from None
                time.sleep(0.002)

    def _take_in(self, file: int) -> bytes:
        """Apply the whole lines that were added since the last time. Returns what ends a torn last line, if there is
        one, or begins a new file.
        """
        found = os.fstat(file)
        if (found.st_dev, found.st_ino) != self._file or found.st_size < self._offset:
            self._forget()
        if self._offset == 0 and found.st_size:
            self._check_header(os.pread(file, HEADER_BYTES, 0))
        self._file = (found.st_dev, found.st_ino)
        data = os.pread(file, found.st_size - self._offset, self._offset)
        whole = data[: data.rfind(b"\n") + 1]
        for line in whole.splitlines():
            change = _decoded(line)
            if change is not None:
                self._marks.apply(change)
            elif line.strip() and not line.startswith(b'{"marks"'):
                self.skipped += 1
        self._offset += len(whole)
        if not found.st_size:
            return (json.dumps({"marks": {"format": FORMAT}}) + "\n").encode()
        return b"\n" if len(whole) < len(data) else b""

    def _check_header(self, start: bytes) -> None:
        try:
            head = json.loads(start.split(b"\n")[0])
            version = head["marks"]["format"]
        except (ValueError, TypeError, KeyError, RecursionError):
            version = None
        if type(version) is not int or version < 1:
            raise NotARun(f"expected marks of nfinspect, found another file: {self.path}; move it away to mark neurons")
        if version > FORMAT:
            raise SchemaTooNew(
                f"{self.path} is of format {version}, this nfinspect writes {FORMAT}: install a newer one"
            )

    def _encoded(self, changes: Sequence[Written]) -> bytes:
        """The lines of changes. Under the lock, so that a model known to another process gets the same owner."""
        lines, marks = [], self._marks.copy()
        for subject, change in changes:
            of = marks.owner(subject)
            if subject.fingerprint is not None and of not in marks.models:
                known = KnownModel(of, subject.model, brief(subject.fingerprint))
                marks.apply(known)
                lines.append({"model": vars(known)})
            lines.append(_line(replace(change, of=of)))
        return "".join(f"{json.dumps(line, separators=(',', ':'))}\n" for line in lines).encode()

    def _append(self, file: int, data: bytes) -> None:
        start = os.fstat(file).st_size
        written = -1
        try:
            written = os.write(file, data)
            if written != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(file)
        except OSError:
            if written != -1:
                os.ftruncate(file, start)
            raise


def _line(change: Change | NoteChange) -> dict[str, Any]:
    told = {"of": change.of, "run": change.run, "model": change.model, "at": change.at}
    if isinstance(change, NoteChange):
        return {"note": {"neuron": str(change.neuron), "text": change.text, "was": change.was, **told}}
    neurons = [str(address) for address in change.neurons]
    return {"add" if change.added else "remove": {"set": change.name, "neurons": neurons, **told}}


def _decoded(line: bytes) -> Change | NoteChange | KnownModel | None:
    """A line's change; None for one that says none, whoever wrote it."""
    try:
        document = json.loads(line)
        ((kind, content),) = document.items()
        if kind == "model":
            of, name, fingerprint = content["of"], content["name"], content["fingerprint"]
            return KnownModel(_text(of), _text(name), dict(fingerprint))
        told = {name: _text(content[name]) for name in ("of", "run", "model", "at")}
        if kind == "note":
            text, was = check_note(content["text"]), _text(content["was"])
            return NoteChange(neuron=_neuron(content["neuron"]), text=text, was=was, **told)
        if kind in ("add", "remove"):
            neurons = tuple(map(_neuron, content["neurons"]))
            return Change(added=kind == "add", name=check_set_name(content["set"]), neurons=neurons, **told)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, RequestError):
        pass
    return None


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _neuron(value: object) -> Address:
    address = parse_address(_text(value))
    if address.site is None:
        raise ValueError
    return address


# What changes


def changed(subject: Subject, name: str, addresses: Sequence[Address], *, added: bool, of: str = "") -> Written:
    """Neurons put into a set, or taken out of it."""
    return subject, Change(added, name, of, tuple(addresses), subject.run, subject.model, _now())


def noted(subject: Subject, address: Address, text: str, was: str, *, of: str = "") -> Written:
    """A note on a neuron in place of the one that was there. Raises RequestError for one that is too long."""
    return subject, NoteChange(of, address, check_note(text), was, subject.run, subject.model, _now())


def set_of(
    store: Path, subject: Subject, layers: Mapping[tuple[str, int], int], text: str
) -> tuple[tuple[Address, ...], int]:
    """The neurons of the set `text` (with or without @) that a run has, each with its site; how many others of its
    model are in the set. layers: the run's neurons by site and layer.

    Raises RequestError that names the sets there are, for an unknown set and for one without a neuron of the run.
    """
    name = check_set_name(text)
    marks = MarksFile(store).read()
    of = marks.owner(subject)
    found = marks.addresses(name, of)
    there = tuple(a for a in found if a.neuron < layers.get((a.site or "", a.layer), 0))
    if there:
        return there, len(found) - len(there)
    here = ", ".join(f"@{known}" for known in marks.names(of)) or "none"
    if found:
        raise RequestError(f"the {len(found)} neurons of @{name} are at sites or layers that {subject.run} lacks")
    if name in marks.names():
        owners = marks.sets[name].values()
        runs = sorted({made.run for sites in owners for neurons in sites.values() for made in neurons.values()})
        raise RequestError(
            f"@{name} has no neuron of {subject.run} or its model, only some marked in {', '.join(runs[:5])}; sets "
            f"with neurons of it: {here}"
        )
    raise RequestError(f"no set @{name}: sets with neurons of {subject.run} are {here} (nfinspect marks lists all)")


def _now() -> str:
    from nfinspect_store.types import utc_now  # imports numpy, which the app's first paint does without

    return utc_now().isoformat(timespec="milliseconds")
