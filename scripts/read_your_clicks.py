"""Check through HTTP that lists show the clicks before them: --help tells how."""

import sys

from api.freshness_check import main

sys.exit(main())
