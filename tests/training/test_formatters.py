"""The server and the browser write a number in the same way: core/templatetags/display.py and DX.format
of static/app.js."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
from pathlib import Path

import pytest
from django.conf import settings

from core.templatetags import display

# The formatters stand at the head of the file and touch no page.
SCRIPT = """
const source = require("fs").readFileSync(process.argv[1], "utf8");
const body = source.slice(source.indexOf("const MISSING"), source.indexOf("function icon("));
const format = new Function(`${body}; return format;`)();
const cases = JSON.parse(require("fs").readFileSync(0, "utf8"));
console.log(JSON.stringify(cases.map(([name, value]) => format[name](value))));
"""
# {name in the browser: name on the server}
FORMATTERS = {
    "loss": "loss",
    "rate": "rate",
    "thousands": "thousands",
    "big": "big",
    "size": "size",
    "share": "share",
    "duration": "duration",
    "about": "about",
    "timeLeft": "time_left",
}
EDGES = (0, 0.4, 0.5, 1.5, 2.5, -0.4, -0.0004, -1234, 0.0625, 0.0005, 0.00099995, 0.001)
SHARES = (0.0995, 0.09949, 0.0125, 0.985, 0.99, 0.995, 1, 1 / 3)
TIMES = (59.4, 59.5, 90, 90.5, 150, 3599.6, 3600, 86399, 86400)
AMOUNTS = (999.5, 1000, 1500, 2500, 12345, 12500, 999500, 999999, 1e6, 1.25e9, 1.5e9, 1e12, 1e15)


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
def test_server_and_browser_write_the_same():
    chance = random.Random(7)
    some = [chance.uniform(0, 10 ** chance.randint(-6, 9)) for _ in range(300)]
    numbers = [*EDGES, *SHARES, *TIMES, *AMOUNTS, *some]
    cases = [(name, number) for name in FORMATTERS for number in [*numbers, None]]

    answer = subprocess.run(
        ["node", "-e", SCRIPT, str(Path(settings.BASE_DIR) / "static" / "app.js")],
        input=json.dumps(cases),
        capture_output=True,
        text=True,
        check=True,
    )
    in_browser = json.loads(answer.stdout)
    on_server = [getattr(display, FORMATTERS[name])(number) for name, number in cases]

    different = [
        (*case, server, browser)
        for case, server, browser in zip(cases, on_server, in_browser, strict=True)
        if server != browser
    ]
    assert different == []
