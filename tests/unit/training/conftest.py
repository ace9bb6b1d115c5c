"""Puts the folders of the small networks on the path."""

import sys
from pathlib import Path

for folder in (Path(__file__).parent, Path(__file__).parent.parent / "models"):
    sys.path.insert(0, str(folder))
