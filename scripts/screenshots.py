"""Take the screenshots of the README and of docs/ from the demo: `make screenshots`, after `make
demo`, whether that runs or not. Those of exports are taken where the demo's model has some, that of the
playground where there is a conversation."""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Literal, NamedTuple

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
from exports.models import Export  # noqa: E402
from models_app.models import BaseModel  # noqa: E402
from playground.models import Conversation  # noqa: E402
from training.models import TrainRun  # noqa: E402

WIDE: ViewportSize = {"width": 1440, "height": 960}
QUIET = (
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)


class Shot(NamedTuple):
    """part: a selector of what is shown, "" for the whole window."""

    path: str
    colours: Literal["light", "dark"] = "light"
    part: str = ""


def shots_of_models() -> dict[str, Shot]:
    """Of what comes after the train, as far as it is there."""
    trained = BaseModel.objects.filter(source=BaseModel.Source.TRAIN, status="ready")
    model = trained.order_by("pk").first()
    if model is None:
        return {}

    shots = {
        "use-this-model": Shot(f"/trains/{model.trained_from['train']}/", part="#use"),
        "trained-model": Shot(f"/models/{model.pk}/"),
        "export-form": Shot(f"/exports/new/{model.pk}/", part=".export-form"),
    }
    export = Export.objects.filter(model=model, status=Export.Status.READY).first()
    if export is not None:
        shots["export"] = Shot(export.get_absolute_url())

    return shots


def shots_of_playground() -> dict[str, Shot]:
    """Of the newest conversation, where there is one."""
    conversation = Conversation.objects.first()
    if conversation is None:
        return {}

    return {"playground": Shot(conversation.get_absolute_url())}


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
    shots = {
        **shots_of_playground(),
        "evaluation-light": Shot(f"/trains/{run.pk}/evaluation/"),
        "new-train-dark": Shot(f"/trains/new/{run.method.slug}/?copy={run.pk}", "dark"),
        **shots_of_models(),
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

        for name, (path, colours, part) in shots.items():
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
            shown = page.locator(part) if part else page
            shown.screenshot(path=folder / f"{name}.png")
            context.close()
            sys.stdout.write(f"docs/images/{name}.png\n")

        browser.close()

    session.delete()


if __name__ == "__main__":
    main()
