"""Take the README's screenshots from the demo: `make screenshots`, after `make demo`, whether that
runs or not."""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Literal

import django

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "deepextension.settings")
django.setup()

from django.conf import settings  # noqa: E402
from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY, get_user_model  # noqa: E402
from django.contrib.sessions.backends.db import SessionStore  # noqa: E402
from playwright.sync_api import ViewportSize, sync_playwright  # noqa: E402

from core.serving import address, health, platform  # noqa: E402
from training.models import TrainRun  # noqa: E402

WIDE: ViewportSize = {"width": 1440, "height": 960}
QUIET = (
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)


def session_of_admin() -> SessionStore:
    user = get_user_model().objects.filter(is_superuser=True).order_by("pk").first()
    if user is None:
        sys.exit("There is no account yet. Run: make demo")

    session = SessionStore()
    session[SESSION_KEY] = str(user.pk)
    session[BACKEND_SESSION_KEY] = settings.AUTHENTICATION_BACKENDS[-1]
    session[HASH_SESSION_KEY] = user.get_session_auth_hash()
    session.create()

    return session


def main() -> None:
    run = TrainRun.objects.filter(status=TrainRun.Status.FINISHED).order_by("pk").first()
    if run is None:
        sys.exit("There is no finished train to show. Run: make demo")

    session = session_of_admin()
    shots: dict[str, tuple[str, Literal["light", "dark"]]] = {
        "evaluation-light": (f"/trains/{run.pk}/evaluation/", "light"),
        "new-train-dark": (f"/trains/new/{run.method.slug}/?copy={run.pk}", "dark"),
    }
    folder = ROOT / "docs" / "images"
    folder.mkdir(exist_ok=True)

    with ExitStack() as stack:
        if health().get("status") != "ok":
            stack.enter_context(platform(print))

        # Everything has been read from the database by now: Playwright's event loop and Django's
        # database calls do not mix.
        playwright = stack.enter_context(sync_playwright())
        browser = playwright.chromium.launch(
            executable_path=os.environ.get("CHROMIUM", "/usr/bin/chromium"),
            args=[*QUIET, *(["--no-sandbox"] if os.getuid() == 0 else [])],
        )

        for name, (path, colours) in shots.items():
            context = browser.new_context(
                viewport=WIDE, color_scheme=colours, device_scale_factor=1
            )
            context.add_cookies(
                [
                    {
                        "name": settings.SESSION_COOKIE_NAME,
                        "value": str(session.session_key),
                        "url": address(),
                    }
                ]
            )

            page = context.new_page()
            page.goto(address(path))
            page.wait_for_timeout(2500)
            page.screenshot(path=folder / f"{name}.png")
            context.close()
            sys.stdout.write(f"docs/images/{name}.png\n")

        browser.close()

    session.delete()


if __name__ == "__main__":
    main()
