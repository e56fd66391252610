"""Loaded before Django's settings (`-p tests.environment`): tests never touch a real home and never
ask a hub."""

import atexit
import os
import pathlib
import shutil
import tempfile

HOME = tempfile.mkdtemp(prefix="deepextension-tests-")
atexit.register(shutil.rmtree, HOME, ignore_errors=True)

os.environ["DEEPEXTENSION_HOME"] = HOME
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["PORT"] = "8123"
# Tiny models gain nothing from threads, and the suite runs in several processes.
os.environ["OMP_NUM_THREADS"] = "1"
for name in ("DATABASE_URL", "REDIS_URL", "SECRET_KEY", "DEBUG", "DEEPEXTENSION_HTTPS"):
    os.environ.pop(name, None)
# Where collected front-end files would lie; pages under test need none.
(pathlib.Path(HOME) / "static").mkdir()
