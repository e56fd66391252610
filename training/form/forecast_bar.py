"""The forecast of memory as the form shows it: a bar for each device, the verdict, and what would take
less. The page renders it at first, and the script puts what the server renders anew in its place."""

from __future__ import annotations

import json
from typing import Any

from django.template.loader import render_to_string

from training.forecast.verdicts import DOES_NOT_FIT, FITS, TIGHT, size_words

# Tints of chips and notices.
TINTS = {FITS: "green", TIGHT: "amber", DOES_NOT_FIT: "red"}
# The width of a bar in its own units.
WIDTH = 1000
TEMPLATE = "training/_forecast.html"


def forecast_context(preview: dict[str, Any]) -> dict[str, Any]:
    """What the template needs of a preview; "shown" is None where there is no plan."""
    forecast = preview.get("forecast")
    if forecast is None:
        return {"shown": None}

    fixes = [
        fix | {"json": json.dumps(fix["set"]), "tint": TINTS[fix["verdict"]]}
        for fix in forecast["fixes"]
    ]
    return {
        "shown": forecast
        | {"bars": [bar_of(device) for device in forecast["devices"]], "fixes": fixes}
    }


def bar_of(device: dict[str, Any]) -> dict[str, Any]:
    """A device with the places of its parts on the bar, which is as long as its memory, or as what
    does not fit into it."""
    scale = max(device["memory"], device["total"]) or 1
    segments = []
    begins = 0

    for part in device["parts"]:
        ends = begins + part["bytes"]
        x = round(WIDTH * begins / scale)
        segments.append(
            {
                "name": part["name"],
                "title": part["title"],
                "words": size_words(part["bytes"]),
                "x": x,
                "width": max(1, round(WIDTH * ends / scale) - x),
            }
        )
        begins = ends

    return {
        **{name: device[name] for name in ("name", "kind", "title", "verdict", "basis", "workers")},
        "tint": TINTS[device["verdict"]],
        "total": size_words(device["total"]),
        "memory": size_words(device["memory"]),
        "error": size_words((device["high"] - device["low"]) // 2),
        "segments": segments,
        "limit": round(WIDTH * device["usable"] / scale),
    }


def with_forecast_html(
    preview: dict[str, Any], *, try_url: str = "", start_anyway: bool = False
) -> dict[str, Any]:
    """The preview with what its script puts in place of the bar. try_url: where one step is tried, ""
    where that is not offered."""
    context = forecast_context(preview) | {"try_url": try_url, "start_anyway": start_anyway}
    return preview | {"forecast_html": render_to_string(TEMPLATE, context)}
