"""What somebody who can write to Redis would like workers to call."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

MARK = "a-worker-called-it"


def leave_mark(*_: Any, **__: Any) -> None:
    (Path(os.environ["DEEPEXTENSION_HOME"]) / MARK).touch()
