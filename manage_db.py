#!/usr/bin/env python3
"""manage_db.py: the commands of The Construct's README, carried out by `headwater`.

python manage_db.py migrate | status | validate --verbose | seed | clear --force | health | backup | restore FILE
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

try:
    from headwater.cli.main import main
except ModuleNotFoundError as missing:
    installed = Path(__file__).resolve().parent / ".venv" / "bin" / "python"
    if installed.is_file() and Path(sys.prefix).resolve() != installed.parent.parent.resolve():
        os.execv(installed, [str(installed), *sys.argv])  # noqa: S606  # no shell wanted
    sys.exit(f"manage_db.py: {missing.name} is not installed here. Run `make install` first.")

if __name__ == "__main__":
    main()
