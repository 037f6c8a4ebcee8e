"""`python -m enxuto`."""

import sys

from .cli import main

sys.exit(main())
