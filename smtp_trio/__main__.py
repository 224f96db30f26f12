"""Run ``smtp-trio`` as ``python -m smtp_trio``."""

import sys

from ._cli.entry import main

sys.exit(main())
