"""The lowest versions that pyproject.toml allows, as constraints for pip: `make test-lowest` tests with them.

What only the tests need (pytest and the like) stays at what constraints.txt pins.
"""

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
RANGE = re.compile(r"([A-Za-z0-9._-]+)>=([0-9.]+)")


def lowest() -> dict[str, str]:
    """The lower end of each dependency, those of the extras too, by name."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [line for name, lines in project["optional-dependencies"].items() if name != "dev" for line in lines]
    return dict(RANGE.match(line).groups() for line in [*project["dependencies"], *extras])


def tools(besides: dict[str, str]) -> dict[str, str]:
    """What the tests need besides, pinned."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split() if "==" in line)
    names = [RANGE.match(line)[1] for line in project["optional-dependencies"]["dev"]]
    return {name: pins[name] for name in names if name not in besides}


if __name__ == "__main__":
    chosen = lowest() | dict(argument.split("==") for argument in sys.argv[1:])
    for name, version in (chosen | tools(chosen)).items():
        print(f"{name}=={version}")
