"""The tree of errors that a user can meet. Everything below NfinspectError is printed as one line.

NfinspectError
├── StoreError
│   ├── NotARun          a file that is not a run, or is damaged
│   ├── RunNotFound      no run of that name in the store
│   ├── RunExists        a run of that name already exists
│   ├── RunBusy          another process writes to the run
│   ├── SchemaTooNew     written by a newer nfinspect
│   ├── SchemaTooOld     written by an older nfinspect, and not migrated
│   ├── BadName          a run name that cannot be a file name
│   ├── CannotMerge      runs that are not the parts of one capture
│   ├── PartLost         a part that holds values of a run is missing, or is another than it was
│   └── StorageFull      the disk is full, or the store cannot be written
├── NotInstalled         an optional package is needed and not installed
├── QueryError           SQL that is refused, or that DuckDB cannot run
└── RequestError         an unknown concept, layer, site, neuron, column or option: wrong usage, exit status 2

Each message says what was expected, what was found and what to do about it, in one line.
"""


class NfinspectError(Exception):
    """Root of all errors that nfinspect raises on purpose. `str(error)` is one line for the user."""

    exit_status = 1


class StoreError(NfinspectError):
    """A problem with the files of a store."""


class NotARun(StoreError):
    """A file that is not a run, or is damaged."""


class RunNotFound(StoreError):
    """No run of that name in the store, and no such file."""


class RunExists(StoreError):
    """A run of that name already exists."""


class RunBusy(StoreError):
    """Another process is writing to the run."""


class SchemaTooNew(StoreError):
    """The file was written by a newer nfinspect."""


class SchemaTooOld(StoreError):
    """The file was written by an older nfinspect: `nfinspect migrate` brings it up to date."""


class BadName(StoreError):
    """A run name that cannot be a file name."""

    exit_status = 2


class CannotMerge(StoreError):
    """Runs that are not the parts of one capture, or not all of them."""


class PartLost(StoreError):
    """A part that holds values of a run is missing, unreadable, or another than it was."""


class StorageFull(StoreError):
    """The disk is full, or the store cannot be written."""


class NotInstalled(NfinspectError):
    """An optional package is not installed."""


class QueryError(NfinspectError):
    """SQL that is refused, or that DuckDB cannot run. place: the character of it that is wrong, if DuckDB says so."""

    place: int | None = None


class RequestError(NfinspectError):
    """Wrong usage: an unknown concept, layer, site, neuron, column or option."""

    exit_status = 2
