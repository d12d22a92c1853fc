"""`python -m emosafe_lib.sources fetch --study NAME`: see `fetch.py`."""

import sys

from emosafe_lib.sources.fetch import main

sys.exit(main())
