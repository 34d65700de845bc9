"""``python -m lossc``: the command, where its script is not on the path."""

import sys

from lossc.cli.main import main

sys.exit(main())
