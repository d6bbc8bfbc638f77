"""The stores that the studio's other tests make are used here too."""

from __future__ import annotations

import sys
from pathlib import Path

for _part in ("studio", "service"):
    sys.path.insert(0, str(Path(__file__).parents[1] / "unit" / _part))
