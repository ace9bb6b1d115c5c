"""Every exception, ours or foreign, as one line for the user and an exit status."""

import errno
import re
from collections.abc import Callable

import click

from nfinspect_store.errors import NfinspectError

FAILED, WRONG_USAGE, INTERRUPTED = 1, 2, 130


def explained(error: BaseException) -> tuple[str, int]:
    """(one line, exit status). Foreign libraries are recognised by name, so that none is imported for it."""
    message, status = _explained(error)
    return f"nfinspect: {_one_line(message)}", status


def _explained(error: BaseException) -> tuple[str, int]:
    if isinstance(error, NfinspectError):
        return str(error), error.exit_status
    if isinstance(error, click.UsageError):
        command = f"{error.ctx.command_path} -h" if error.ctx else "nfinspect -h"
        return f"{error.format_message()}{_prompts_hint(error)} ({command} shows the usage)", WRONG_USAGE
    if isinstance(error, click.ClickException):
        return error.format_message(), FAILED
    if isinstance(error, KeyboardInterrupt | click.Abort):
        return "interrupted", INTERRUPTED
    if isinstance(error, SystemExit):
        return "stopped", error.code if isinstance(error.code, int) else FAILED
    for fits, explain in FOREIGN:
        if fits(error):
            return explain(error), FAILED
    return (
        f"unexpected {type(error).__name__}: {str(error) or 'no message'} (this is a bug: "
        "the same command with --debug shows where)",
        FAILED,
    )


def _prompts_hint(error: click.UsageError) -> str:
    """A shell makes several words of `--prompts *.json`, of which the option takes the first."""
    takes_prompts = error.ctx is not None and any("--prompts" in one.opts for one in error.ctx.command.params)
    extra = takes_prompts and error.message.startswith("Got unexpected extra argument")
    return ": --prompts goes before each file" if extra else ""


def _from(module: str, name: str = "") -> Callable[[BaseException], bool]:
    def fits(error: BaseException) -> bool:
        return any(
            kind.__module__.split(".")[0] in (module, f"_{module}") and name in kind.__name__
            for kind in type(error).__mro__
        )

    return fits


def _is(*kinds: type[BaseException]) -> Callable[[BaseException], bool]:
    return lambda error: isinstance(error, kinds)


def _out_of_memory(error: BaseException) -> str:
    return "out of memory: use a smaller --batch-size, --context, --top or fewer --layers"


def _gpu_failed(error: BaseException) -> str:
    said = str(error).strip().splitlines()[0]
    return f"the GPU failed ({said}): what was saved before is intact; CUDA_LAUNCH_BLOCKING=1 shows which operation did"


def is_gpu_failure(error: BaseException) -> bool:
    """Whether the GPU can do nothing more in this process, whatever is asked of it: CUDA says so only in words."""
    return isinstance(error, RuntimeError) and "CUDA error" in str(error)


def _ran_out(error: BaseException) -> bool:
    return isinstance(error, RuntimeError) and "out of memory" in str(error)


def _database(error: BaseException) -> str:
    text = (str(error).splitlines() or [""])[0]
    if "No space left" in text:
        return "the disk is full: free some space; what was saved before is intact"
    return f"the run cannot be read: {text} (nfinspect verify RUN says more)"


def _system(error: BaseException) -> str:
    assert isinstance(error, OSError)
    if error.errno == errno.ENOSPC:
        return "the disk is full: free some space; what was saved before is intact"
    what = error.strerror or str(error) or type(error).__name__
    return f"{error.filename}: {what}" if error.filename else what


def _missing(error: BaseException) -> str:
    assert isinstance(error, ImportError)
    if error.name == "nfinspect":  # an editable install comes after every directory that Python looks into
        return (
            "Python imported a directory called nfinspect, such as a clone, instead of the package: start in another "
            "directory, or with python -P"
        )
    return f"a Python package cannot be imported: {error} (install nfinspect again)"


FOREIGN: tuple[tuple[Callable[[BaseException], bool], Callable[[BaseException], str]], ...] = (
    (_is(MemoryError), _out_of_memory),
    (_from("torch", "OutOfMemoryError"), _out_of_memory),
    (_from("duckdb", "OutOfMemory"), _out_of_memory),
    (_ran_out, _out_of_memory),
    (is_gpu_failure, _gpu_failed),
    (_from("duckdb"), _database),
    (_from("pyarrow"), lambda error: f"the run cannot be read: {error}"),
    (_is(ImportError), _missing),
    (_is(OSError), _system),
    (_from("torch"), lambda error: f"torch: {error}"),
    (_from("safetensors"), lambda error: f"the weights cannot be read: {error}"),
)


def _one_line(message: str) -> str:
    return re.sub(r"\s*\n\s*", " ", message.strip())
