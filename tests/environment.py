"""Loaded before Django's settings (`-p tests.environment`): tests never touch a real home and never ask a hub."""

import os
import pathlib
import tempfile

os.environ["DEEPEXTENSION_HOME"] = tempfile.mkdtemp(prefix="deepextension-tests-")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["PORT"] = "8123"
for name in ("DATABASE_URL", "REDIS_URL", "SECRET_KEY", "DEBUG", "DEEPEXTENSION_HTTPS"):
    os.environ.pop(name, None)
# Where collected front-end files would lie; pages under test need none.
(pathlib.Path(os.environ["DEEPEXTENSION_HOME"]) / "static").mkdir()
