"""Lets the tests here import `families`, whatever import mode pytest runs in."""

import sys
from pathlib import Path

if (here := str(Path(__file__).parent)) not in sys.path:
    sys.path.insert(0, here)
