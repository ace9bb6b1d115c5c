"""`python -m nfinspect`."""

import sys

from nfinspect.cli import main

sys.exit(main())
