"""All measurements, one after the other: `make bench`."""

from tests.benchmarks import (
    bench_analyses,
    bench_bytes,
    bench_capture,
    bench_monitor,
    bench_ngrams,
    bench_store,
    bench_tui,
)

for bench in (bench_store, bench_bytes, bench_capture, bench_monitor, bench_ngrams, bench_analyses, bench_tui):
    print(f"\n{bench.__name__.rpartition('.')[2]}", flush=True)
    bench.main()
