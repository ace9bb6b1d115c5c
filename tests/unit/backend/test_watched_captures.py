"""While somebody watches a capture, what it has recorded is soon committed; else commits stay rare."""

import time
from pathlib import Path

import pytest
from running_backends import ended, started, wait_until

from nfinspect.backend.hosting import Hosted
from nfinspect.backend.jobs import Jobs
from nfinspect.backend.protocol import RunEnded, Submit
from nfinspect.backend.remote import run_under_way
from nfinspect.backend.sharing import SharedRuns
from nfinspect.capturing.segments import COMMIT_SHARE
from nfinspect_store.errors import RunNotFound

BEHIND = 2.0
"""Seconds that a reader may be behind, besides the batch and the commit under way, where commits are cheap."""

BATCH = 1.0
"""Seconds that a batch may take here."""


@pytest.mark.slow
def test_a_reader_is_two_seconds_behind_or_twenty_commits(model: Path, text: Path, tmp_path: Path) -> None:
    """Commits come every minute here if nobody watches. Each batch of 64 tokens takes a fifth of a second."""
    store = tmp_path / "store"
    process, backend = started(store, model, "--id", "gpt2", segment_seconds=60.0)
    try:
        wait_until(lambda: backend.status().state == "ready")
        (store / "slow").write_text("0.2")
        long = tmp_path / "long.txt"
        long.write_text(text.read_text() * 50)  # more than is waited for: the capture is cancelled
        of_text = ["--text", str(long), "--context", "16", "--batch-size", "4"]
        job = backend.submit(["capture", str(model), *of_text, "--layers", "0", "--run", "r", "--store", str(store)])
        recorded: list[tuple[float, int]] = []  # when how many tokens had been recorded, by what the backend says

        def done() -> int:
            running = backend.status().job
            if running is None:  # not taken from the queue yet
                assert not recorded, "the capture has ended"
                return 0
            recorded.append((time.monotonic(), running.done))
            return running.done

        wait_until(lambda: done() >= 64 * 20)  # four seconds in which nobody waits for news of it or reads the run
        path = store / "r.duckdb"
        with pytest.raises(RunNotFound, match="committed nothing yet"):
            run_under_way(path)

        def committed() -> int:
            try:
                run = run_under_way(path)
            except RunNotFound:
                return 0
            assert run is not None
            with run:
                return run.tokens

        wait_until(committed)
        behind, commits = [], set()
        while len(commits) < 5:
            done()
            tokens = committed()
            commits.add(tokens)
            waiting = [at for at, known in recorded if known > tokens]  # the first: the oldest that is not committed
            behind.append(time.monotonic() - waiting[0] if waiting else 0.0)
            time.sleep(0.05)
        # Where a busy disk makes a commit take longer than a tenth of a second, they come less often.
        took = [float(line) for line in (store / "commits").read_text().split()]
        allowed = max(BEHIND, max(took) / COMMIT_SHARE) + BATCH + max(took)
        assert max(behind) <= allowed, (max(behind), took)
        backend.act(job.id, "cancel")
        while not job.ended:
            job = backend.wait(job)
    finally:
        backend.close()
        assert ended(process) == 0


def test_who_waits_for_news_of_a_capture_watches_it(tmp_path: Path) -> None:
    jobs = Jobs(lambda: None)
    job = jobs.add(Submit(("capture", "m"), str(tmp_path)))
    runs = SharedRuns()
    hosted = Hosted(job, runs.sharing, lambda: runs.watched)
    assert not hosted.watched
    jobs.wait(job, -1, 0.0)
    assert hosted.watched
    other = Hosted(jobs.add(Submit(("capture", "m"), str(tmp_path))), runs.sharing, lambda: runs.watched)
    assert not other.watched
    with pytest.raises(RunEnded):  # nothing is being written: nobody reads it
        runs.snapshot(tmp_path / "r.duckdb", lambda: None)
    assert not other.watched
    for one in (job, jobs.waiting[1]):
        one.close()
