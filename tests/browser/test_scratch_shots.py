import pytest


@pytest.mark.django_db(transaction=True)
def test_shots(at_home, home):
    paths = {
        "list": "/sweeps/",
        "running": "/sweeps/{sweep-running}/",
        "succ": "/sweeps/{sweep-succeeded}/",
        "stopped": "/sweeps/{sweep-stopped}/",
        "form": "/sweeps/new/lora/?sweep={sweep-running}",
    }
    import os

    only = os.environ.get("SHOTS", "").split(",") if os.environ.get("SHOTS") else list(paths)
    for theme in ("light", "dark"):
        for w in (1440, 1200, 1024, 390):
            if theme == "dark" and w in (1200, 1024):
                continue
            with at_home(color_scheme=theme, viewport={"width": w, "height": 900}) as ctx:
                page = ctx.new_page()
                for n in only:
                    page.goto(paths[n].format(**home), wait_until="load")
                    page.wait_for_timeout(400)
                    page.screenshot(path=f"/tmp/s/{n}-{theme}-{w}.png", full_page=True)
