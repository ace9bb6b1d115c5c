"""What can go wrong in a capture, besides what models and the store raise.

NfinspectError
└── CaptureError              a capture that cannot begin or continue
    ├── BadPrompts            prompts that cannot be read, are empty, or do not fit the model's context
    ├── OutOfMemory           one prompt alone does not fit into memory
    ├── CannotResume          the command does not match the run that it should resume
    └── CaptureInterrupted    stopped on purpose; what was recorded is kept
        └── LimitReached      by --limit-bytes
"""

from nfinspect_store.errors import NfinspectError


class CaptureError(NfinspectError):
    """A capture that cannot begin or continue."""


class BadPrompts(CaptureError):
    """Prompts that cannot be read, are empty, or do not fit the model's context."""


class OutOfMemory(CaptureError):
    """One prompt alone does not fit into memory."""


class CannotResume(CaptureError):
    """The command does not match the run that it should resume."""

    exit_status = 2


class CaptureInterrupted(CaptureError):
    """Stopped on purpose (Ctrl-C, a hang-up, a byte limit); what was recorded is kept and can be resumed."""

    exit_status = 130


class LimitReached(CaptureInterrupted):
    """Stopped by --limit-bytes: not interrupted, and not complete either."""

    exit_status = 1
