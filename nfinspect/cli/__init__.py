"""The command line: parse, call, print. `main` is the entry point and returns the exit status.

0 done, 1 the job failed, 2 wrong usage, 3 diff --fail-if holds, 130 interrupted. Whatever goes wrong ends in one line
on stderr; a traceback is shown with --debug only. Heavy packages are imported inside the commands that need them.
"""

import sys
from collections.abc import Callable, Sequence

from nfinspect import output

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None, failed: Callable[[BaseException], None] | None = None) -> int:
    """Run one command. arguments: without the program's name; None: the process's own. failed: told of its error."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    end = given.index("--") if "--" in given else len(given)
    debug = "--debug" in given[:end]
    given = [a for i, a in enumerate(given) if a != "--debug" or i >= end]
    with output.shown_streams():
        return _run(given, debug, failed)


def _run(given: list[str], debug: bool, failed: Callable[[BaseException], None] | None) -> int:
    try:
        from nfinspect.cli.group import nfinspect

        status = nfinspect.main(args=given, prog_name="nfinspect", standalone_mode=False)
        output.flush()
    except BaseException as error:
        if failed is not None:
            failed(error)
        if isinstance(error, BrokenPipeError | output.ReaderGone):
            output.swallow_broken_pipe()
            return 0
        from nfinspect.cli.errors import explained

        message, status = explained(error)
        try:
            if debug:
                import traceback

                traceback.print_exception(error)
            else:
                output.note(message)
        except BrokenPipeError:
            output.swallow_broken_pipe()
        return status
    return int(status or 0)
