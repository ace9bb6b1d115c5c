"""Threads that write must not share the one processor that OpenMP has bound their parent to."""

import os
import subprocess
import sys

import pytest

from nfinspect_store.errors import RequestError
from nfinspect_store.processors import MOST, processor_count, processors, writer_threads

BOUND = """
import os, sys, threading
from nfinspect_store.processors import unbind

free = os.sched_getaffinity(0)
other = threading.Event()
threading.Thread(target=other.wait).start()
os.sched_setaffinity(0, {min(free)})  # as OMP_PROC_BIND binds the main thread
found = []

def write(first):
    found.append(os.sched_getaffinity(0))
    if first:
        unbind()
        found.append(os.sched_getaffinity(0))

for first in (True, False):
    thread = threading.Thread(target=write, args=(first,))
    thread.start()
    thread.join()
other.set()
assert found == [{min(free)}, free, {min(free)}], found
"""

HERE = hasattr(os, "sched_setaffinity") and len(os.sched_getaffinity(0)) > 1


@pytest.mark.skipif(not HERE, reason="needs a system that binds threads, and two processors")
def test_a_writer_of_a_bound_thread_uses_every_processor() -> None:
    subprocess.run([sys.executable, "-c", BOUND], check=True)


def test_the_processors_are_those_of_the_process() -> None:
    assert 1 <= processor_count() <= (os.cpu_count() or 1)
    if hasattr(os, "sched_getaffinity"):
        assert os.sched_getaffinity(0) <= processors()


def test_writers_are_a_number_or_one_fewer_than_processors() -> None:
    assert writer_threads(3) == 3
    assert writer_threads("auto") == max(1, min(processor_count() - 1, MOST))
    for wrong in (0, -1, True, "2", 1.5, None):
        with pytest.raises(RequestError, match="expected a number of writers, 1 or more, or auto"):
            writer_threads(wrong)  # type: ignore[arg-type]
