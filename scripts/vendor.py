"""Copy what the pages need from node_modules/ to static/vendor/: `npm ci`, then `python
scripts/vendor.py`.

Only built files are copied, so that a platform that serves pages needs neither Node nor
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
    "chart-annotation.js": "chartjs-plugin-annotation/dist/chartjs-plugin-annotation.min.js",
    # Without Hammer.js, which it needs for fingers alone: those scroll the page.
    "chart-zoom.js": "chartjs-plugin-zoom/dist/chartjs-plugin-zoom.min.js",
    "htmx.js": "htmx.org/dist/htmx.min.js",
    "idiomorph.js": "idiomorph/dist/idiomorph-ext.min.js",
    "marked.js": "marked/lib/marked.umd.js",
    "purify.js": "dompurify/dist/purify.min.js",
    "highlight.js": "@highlightjs/cdn-assets/highlight.min.js",
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
        text = (MODULES / source).read_text()
        (VENDOR / name).write_text(without_source_map(text))

    fonts_copy()
    (VENDOR / "icons.svg").write_text(icons_sprite())
    (VENDOR / "LICENSES.txt").write_text(licenses())

    return 0


def without_source_map(text: str) -> str:
    """The text without its reference to a source map: maps are not copied, and Django's manifest of
    static files fails for a reference to a missing file."""
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
        tag_end = drawing.index(">", drawing.index("<svg")) + 1
        content = drawing[tag_end : drawing.rindex("</svg>")]
        paths = re.sub(r"\s*\n\s*", "", content)

        symbols.append(f'<symbol id="{name}" viewBox="0 0 24 24">{paths}</symbol>')

    return '<svg xmlns="http://www.w3.org/2000/svg">\n' + "\n".join(symbols) + "\n</svg>\n"


def licenses() -> str:
    """Name, version and licence of each package that is copied."""
    project = json.loads((ROOT / "package.json").read_text())
    lines = []

    for name in sorted(project["dependencies"]):
        package = json.loads((MODULES / name / "package.json").read_text())
        lines.append(f"{name} {package['version']}: {package['license']}")

    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
