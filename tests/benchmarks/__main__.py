"""All measurements, one after the other, each in a process of its own: `make bench`.

python -m tests.benchmarks [--quick] [--page FILE]
"""

import subprocess
import sys
import time

from tests.benchmarks.report import options

PAGED = (
    "bench_stages",
    "bench_growth",
    "bench_merge",
    "bench_workers",
    "bench_bytes",
    "bench_large",
    "bench_analyses",
    "bench_tui",
)
"""Those that have a part of the page."""

OTHERS = ("bench_store", "bench_capture", "bench_monitor", "bench_ngrams", "bench_experts")


def command(name: str, *arguments: str) -> list[str]:
    """What runs one of them."""
    return [sys.executable, "-m", f"tests.benchmarks.{name}", *arguments]


def main() -> int:
    """The number of those that failed; the others are run all the same."""
    chosen = options(__doc__ or "").parse_args()
    quick = ["--quick"] if chosen.quick else []
    page = ["--page", str(chosen.page)] if chosen.page else []
    failed = 0
    for name in (*PAGED, *OTHERS):
        print(f"\n{name}", flush=True)
        start = time.monotonic()
        done = subprocess.run(command(name, *quick, *(page if name in PAGED else ())))
        print(f"{name}: {'done' if done.returncode == 0 else 'FAILED'} in {time.monotonic() - start:.0f} s", flush=True)
        failed += done.returncode != 0
    return failed


if __name__ == "__main__":
    sys.exit(main())
