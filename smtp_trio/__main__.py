"""``python -m smtp_trio`` is ``smtp-trio``."""

import sys

from ._cli.main import main

sys.exit(main())
