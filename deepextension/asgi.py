"""The web application, for an ASGI server. `manage.py web` serves it."""

import os

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "deepextension.settings")
django.setup(set_prefix=False)

from django.conf import settings  # noqa: E402

from core.web.handler import Handler  # noqa: E402

application = Handler(
    threads=settings.WEB_THREADS,
    transfers=settings.WEB_TRANSFERS,
    transfers_per_address=max(1, settings.WEB_TRANSFERS // 2),
)
