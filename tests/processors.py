"""The numeric tests on processors that this one can stand for: `make test-processors`, with SHORT=1 a few of them.

MKL, oneDNN and ATen each choose kernels by the instruction set, and can be held to a lower one. A higher one than the
machine has cannot be had: random rounding (tests/rounding.py) stands for it, and says so.
"""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]

NUMERIC = (
    "tests/unit/analysis",
    "tests/unit/capture",
    "tests/unit/experiments",
    "tests/unit/models",
    "tests/unit/training",
    "tests/unit/test_dying_relu.py",
    "tests/unit/cli/test_logits_and_ablate.py",
    "tests/unit/cli/test_ngrams_and_positions.py",
)
SHORT = (
    "tests/unit/capture/test_capture_values.py",
    "tests/unit/experiments/test_hidden_attention.py",
    "tests/unit/experiments/test_perplexity.py",
    "tests/unit/models/test_padding.py",
)

SETS = {
    "default": {"ATEN_CPU_CAPABILITY": "default", "MKL_ENABLE_INSTRUCTIONS": "SSE4_2", "ONEDNN_MAX_CPU_ISA": "SSE41"},
    "avx2": {"ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2", "ONEDNN_MAX_CPU_ISA": "AVX2"},
    "avx512": {
        "ATEN_CPU_CAPABILITY": "avx512",
        "MKL_ENABLE_INSTRUCTIONS": "AVX512",
        "ONEDNN_MAX_CPU_ISA": "AVX512_CORE",
    },
}
"""By what torch calls the processor, the lowest first."""

ROUNDINGS = (1, 2, 3)


def capability() -> str:
    """default, avx2 or avx512: what torch sees of this processor."""
    ask = "import torch; print(torch.backends.cpu.get_cpu_capability().lower())"
    clean = {name: value for name, value in os.environ.items() if name not in SETS["default"]}
    return subprocess.run(
        [sys.executable, "-c", ask], env=clean, check=True, capture_output=True, text=True
    ).stdout.strip()


def run(name: str, settings: dict[str, str], tests: tuple[str, ...]) -> bool:
    """Whether the tests pass under these variables."""
    print(f"== {name}: " + " ".join(f"{key}={value}" for key, value in settings.items()), flush=True)
    command = [sys.executable, "-m", "pytest", "-n", "2", "--dist", "loadfile", *tests]
    return subprocess.run(command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1", **settings}).returncode == 0


def main(short: bool) -> int:
    here, order = capability(), list(SETS)
    if here not in order:
        print(f"expected a processor of the kinds {', '.join(order)}, found {here}: only random rounding is tried")
        here = ""
    held = order[: order.index(here) + 1] if here else []
    legs = {f"held to {name}": SETS[name] for name in (held[:1] if short else held)}
    legs |= {f"rounding {seed}": {"NFINSPECT_TEST_ROUNDING": str(seed)} for seed in ROUNDINGS[: 1 if short else None]}
    failed = [name for name, settings in legs.items() if not run(name, settings, SHORT if short else NUMERIC)]
    if not short:
        for name in order[len(held) :]:
            print(f"not run: {name}, which this processor does not have; random rounding stands for it")
    print(f"{len(legs)} settings, failed: {', '.join(failed) or 'none'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(short="--short" in sys.argv[1:]))
