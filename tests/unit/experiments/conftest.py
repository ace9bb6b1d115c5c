"""Lets the tests here import the tiny models and their tokenizer, whatever import mode pytest runs in."""

import sys
from pathlib import Path

UNIT = Path(__file__).parents[1]
for folder in ("models", "capture"):
    if (path := str(UNIT / folder)) not in sys.path:
        sys.path.insert(0, path)
