"""``python -m cnd.data``: see :mod:`cnd.data.tools.command`."""

import sys

from cnd.data.tools.command import main

if __name__ == "__main__":
    sys.exit(main())
