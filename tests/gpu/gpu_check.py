"""Captures on a GPU: are values right, and what do they cost? Under six minutes, without a network: `make gpu-check`.

Values and statistics on the GPU against those of the CPU, bfloat16 against plain hooks, and a Llama of 8B with random
weights, captured while it writes. What a machine with torch and transformers lacks is carried there: --wheels
says how. --device cpu runs the same in small, and measures nothing.
"""

import argparse
import importlib.metadata
import os
import re
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
THERE = ("numpy", "safetensors", "tokenizers", "torch", "transformers")
"""What a machine with a GPU has."""

PLATFORMS = (*(f"manylinux_2_{n}_x86_64" for n in (28, 27, 26, 24, 17)), "manylinux2014_x86_64")


def needed() -> dict[str, str]:
    """The packages that nfinspect imports, by name with the version that the tests run with, but those of THERE."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if "==" in line and not line.startswith("#"))
    names = [re.split(r"[><=]", line)[0] for line in project["dependencies"]]
    return {name: pins[name] for name in names if name not in THERE}


def missing() -> list[str]:
    """Packages of THERE or `needed` that this machine lacks."""
    lacking = []
    for name in (*THERE, *needed()):
        try:
            importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            lacking.append(name)
    return lacking


def how_to_carry() -> str:
    """The commands that fetch what a machine without a network lacks, and install it there."""
    python = ".".join(map(str, sys.version_info[:2]))
    packages = " ".join(f"{name}=={version}" for name, version in needed().items())
    platforms = " ".join(f"--platform {name}" for name in PLATFORMS)
    return (
        f"A machine with {', '.join(THERE)} and no network needs these wheels too. Where there is one, for its Python "
        f"({python} is this one's):\n\n"
        f"    python3 -m pip download --no-deps --only-binary=:all: --python-version {python} {platforms} "
        f"-d wheels {packages}\n\n"
        "There, in this directory, with the folder wheels beside it:\n\n"
        "    python3 -m pip install --no-index --no-deps --target wheels/site wheels/*.whl\n"
        "    PYTHONPATH=wheels/site:.:store python3 -m tests.gpu.gpu_check --json gpu.json\n"
    )


def options() -> argparse.ArgumentParser:
    about = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    about.add_argument("--device", default="cuda", help="cuda, cuda:1; cpu: in small, to see whether it runs")
    about.add_argument("--quick", action="store_true", help="tiny sizes: measures nothing; the usual on a CPU")
    about.add_argument("--json", type=Path, metavar="FILE", help="write everything that was found there, too")
    about.add_argument(
        "--store", type=Path, metavar="DIR", help="the disk to write to; a temporary directory if not given"
    )
    about.add_argument(
        "--part", action="append", default=[], metavar="NAME", help="only this part; an unknown one names them"
    )
    about.add_argument(
        "--wheels", action="store_true", help="only say which wheels to carry to a machine without a network"
    )
    return about


def main(words: Sequence[str] | None = None) -> int:
    chosen = options().parse_args(words)
    if chosen.wheels:
        print(how_to_carry())
        return 0
    if lacking := missing():
        print(f"expected the packages of nfinspect, found no {', '.join(lacking)}\n\n{how_to_carry()}")
        return 1
    import torch

    if chosen.device != "cpu" and not torch.cuda.is_available():
        print("expected a machine with a CUDA GPU, found none that torch sees: --device cpu checks the same in small")
        return 1
    os.environ["HF_HUB_OFFLINE"] = "1"  # before transformers is imported
    from tests.gpu.checks import PARTS, check

    if unknown := [name for name in chosen.part if name not in PARTS]:
        print(f"expected --part from {', '.join(PARTS)}, found {unknown[0]}")
        return 1
    quick = chosen.quick or chosen.device == "cpu"
    return check(chosen.device, quick=quick, store=chosen.store, result=chosen.json, only=chosen.part)


if __name__ == "__main__":
    sys.exit(main())
