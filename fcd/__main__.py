from __future__ import annotations

import sys

from fcd.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
