"""Copy what the pages need out of node_modules/ into static/vendor/: `npm ci`, then `python
scripts/vendor.py`.

Only built files travel, so that a copy of the platform that serves pages needs neither Node nor
node_modules/."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MODULES = ROOT / "node_modules"
VENDOR = ROOT / "static" / "vendor"

FILES = {
    "tabler.css": "@tabler/core/dist/css/tabler.min.css",
    "chart.js": "chart.js/dist/chart.umd.min.js",
}
FONTS = ("@fontsource-variable/inter", "@fontsource-variable/jetbrains-mono")

# One picture for all icons: a line an icon of Tabler's outline set that some page draws.
ICONS = (ROOT / "scripts" / "icons.txt").read_text().split()


def main() -> int:
    if not MODULES.is_dir():
        sys.stderr.write("node_modules/ is missing: run `npm ci` first.\n")
        return 1

    shutil.rmtree(VENDOR, ignore_errors=True)
    VENDOR.mkdir(parents=True)
    for name, source in FILES.items():
        (VENDOR / name).write_text(without_source_map((MODULES / source).read_text()))

    fonts_copy()
    (VENDOR / "icons.svg").write_text(icons_sprite())
    (VENDOR / "LICENSES.txt").write_text(licenses())

    return 0


def without_source_map(text: str) -> str:
    """The maps are not shipped, and the manifest of static files insists on every file that is
    named."""
    return re.sub(r"/\*# sourceMappingURL=\S+ \*/|//# sourceMappingURL=\S+", "", text)


def fonts_copy() -> None:
    """One style sheet for all faces; browsers fetch only the scripts that a page uses
    (unicode-range)."""
    sheets = []
    (VENDOR / "fonts").mkdir()

    for package in FONTS:
        sheet = (MODULES / package / "index.css").read_text()
        for name in re.findall(r"url\(\./files/([^)]+)\)", sheet):
            shutil.copyfile(MODULES / package / "files" / name, VENDOR / "fonts" / name)

        sheets.append(sheet.replace("url(./files/", "url(fonts/"))

    (VENDOR / "fonts.css").write_text("\n".join(sheets))


def icons_sprite() -> str:
    symbols = []
    for name in ICONS:
        drawing = (MODULES / "@tabler/icons/icons/outline" / f"{name}.svg").read_text()
        paths = re.sub(
            r"\s*\n\s*",
            "",
            drawing[drawing.index(">", drawing.index("<svg")) + 1 : drawing.rindex("</svg>")],
        )

        symbols.append(f'<symbol id="{name}" viewBox="0 0 24 24">{paths}</symbol>')

    return '<svg xmlns="http://www.w3.org/2000/svg">\n' + "\n".join(symbols) + "\n</svg>\n"


def licenses() -> str:
    """Name, version and licence of what is shipped."""
    lines = []
    for package in sorted(json.loads((ROOT / "package.json").read_text())["dependencies"]):
        about = json.loads((MODULES / package / "package.json").read_text())
        lines.append(f"{package} {about['version']}: {about['license']}")

    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
