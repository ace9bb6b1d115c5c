"""Every tool beside the same bare passes, then every kind of file: `make bench-peers` writes docs/benchmarks.md.

    python -m tests.benchmarks.peers [--quick] [--page FILE]

Each tool has a process of its own. Rows go to build/bench-peers/rows.jsonl as they come.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from tests.benchmarks.peers.measure import TOLERANCES, TOOLS
from tests.benchmarks.peers.page import tables
from tests.benchmarks.peers.stores import STORES
from tests.benchmarks.report import tell

PLACE = Path("build/bench-peers")
PACKAGES = {
    "np.save": "numpy",
    "np.memmap": "numpy",
    "TransformerLens": "transformer-lens",
    "HDF5": "h5py",
    "Parquet": "pyarrow",
    "DuckDB, tall": "duckdb",
}
SIZES = {"gated": (4096, 2048), "gpt2": (1024, 0)}
"""Tokens of the corpus in prompts of 128, and of the corpora in prompts of other lengths: as many as there is time
for."""


SAE_LENS = Path(".venv-peers-sae/bin/python")
"""It needs another TransformerLens than the one that is measured."""


def child(module: str, *arguments: object, python: Path = Path(sys.executable)) -> Iterator[dict[str, Any]]:
    """The rows that a process prints; its folder is removed."""
    folder = PLACE / "values"
    command = [str(python), "-W", "ignore", "-m", f"tests.benchmarks.peers.{module}", *map(str, arguments)]
    threads = str(os.cpu_count())
    environment = {**os.environ, "OMP_NUM_THREADS": threads, "HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}
    environment.pop("OMP_PROC_BIND", None)
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    shutil.rmtree(folder, ignore_errors=True)
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        rows.append({"what": "corpus", "length": 0, "refused": reason[:300]})
    yield from rows


def measured(quick: bool) -> list[dict[str, Any]]:
    PLACE.mkdir(parents=True, exist_ok=True)
    rows = []
    with (PLACE / "rows.jsonl").open("w") as file:

        def keep(row: dict[str, Any]) -> None:
            rows.append(row)
            print(json.dumps(row), file=file, flush=True)

        for shape, sizes in SIZES.items():
            tokens, other = (256, 256) if quick else sizes
            fewer_bytes = [f"nfinspect, {precision}" for precision in TOLERANCES] if shape == "gated" else []
            for tool in (*TOOLS, *fewer_bytes):
                print(f"{tool}, {shape}", file=sys.stderr, flush=True)
                python = SAE_LENS if tool == "SAELens" else Path(sys.executable)
                lengths = 0 if tool in fewer_bytes else other
                how = (1 if quick else 3, tokens, lengths)
                for row in child("measure", tool, shape, PLACE / "values", *how, python=python):
                    keep({"tool": tool, "shape": shape, **row})
        for store in STORES:
            print(store, file=sys.stderr, flush=True)
            for row in child("stores", store, PLACE / "values", 512 if quick else 2048):
                keep({"store": store, **row})
    return rows


def versions() -> dict[str, str]:
    found = {}
    if SAE_LENS.exists():
        query = "from importlib.metadata import version; print(version('sae-lens'))"
        found["SAELens"] = subprocess.run([SAE_LENS, "-c", query], capture_output=True, text=True).stdout.strip()
    for tool in (*TOOLS, *STORES):
        try:
            found[tool] = version(PACKAGES.get(tool, tool))
        except PackageNotFoundError:
            continue
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="tiny sizes and one round: to see whether it works")
    parser.add_argument("--rows", type=Path, help="tables of the rows of an earlier run")
    parser.add_argument("--page", type=Path, help="write the tables there, too, between the marks")
    chosen = parser.parse_args()
    if chosen.rows:
        rows = [json.loads(line) for line in chosen.rows.read_text().splitlines()]
    else:
        rows = measured(chosen.quick)
    found = tables(rows, versions())
    tell("bench-peers", found, chosen.page)


if __name__ == "__main__":
    main()
