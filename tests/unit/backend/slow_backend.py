"""`nfinspect`, with captures that commit every SEGMENT_SECONDS of the environment and can be slowed down or broken by
files in the working directory: `slow` (seconds per batch, and per token that is followed), `fail` (the message of an
error that the next batch raises, once unless it ends with `always`). The file `commits` there has the seconds that each
commit took.
"""

import os
import sys
import time
from pathlib import Path

import torch

from nfinspect.capturing import following, segments, session
from nfinspect.capturing.recorder import Recorder
from nfinspect.cli import main

HERE = Path.cwd()

segments.SEGMENT_SECONDS = float(os.environ["SEGMENT_SECONDS"])
read = session.Capture.read_batch


def read_batch(self, reader, batch):  # type: ignore[no-untyped-def]
    slow, fail = HERE / "slow", HERE / "fail"
    if slow.exists():
        time.sleep(float(slow.read_text() or 0))
    if fail.exists():
        said = fail.read_text()
        if not said.endswith("always"):
            fail.unlink()
        raise torch.OutOfMemoryError(said) if said.startswith("out of memory") else RuntimeError(said)
    return read(self, reader, batch)


def written(self, *args, **options):  # type: ignore[no-untyped-def]
    if (HERE / "slow").exists():
        time.sleep(float((HERE / "slow").read_text() or 0))
    return tell(self, *args, **options)


def commit(self, *args, **options):  # type: ignore[no-untyped-def]
    began = time.monotonic()
    write(self, *args, **options)
    with (HERE / "commits").open("a") as told:
        told.write(f"{time.monotonic() - began}\n")


session.Capture.read_batch = read_batch
write = Recorder.commit
Recorder.commit = commit
tell = following.Follower.written
following.Follower.written = written

if __name__ == "__main__":
    sys.exit(main())
