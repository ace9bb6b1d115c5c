"""What a finished command has shown, and what runs one. Named unlike every other module of the tests."""

import subprocess
from collections.abc import Callable

Finished = subprocess.CompletedProcess[str]
Run = Callable[..., Finished]
