"""Copy what the pages need out of node_modules/ into static/vendor/: `npm ci`, then `python scripts/vendor.py`.

Only built files travel, so that a copy of the platform that serves pages needs neither Node nor node_modules/.
"""

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

# One picture for all icons. A template that names an icon which is not here fails its test (tests/house).
ICONS = """
    activity adjustments-horizontal alert-circle alert-triangle api archive archive-off arrow-back-up arrow-down
    arrow-left arrow-narrow-right arrow-right arrow-up arrows-diagonal arrows-maximize arrows-minimize arrows-sort
    book box braces brackets-contain brand-github bulb bug calendar chart-dots chart-line check checks chevron-down
    chevron-left chevron-right chevron-up circle-check circle-dashed circle-dot circle-minus circle-x clock
    clock-play cloud-download code columns-3 command copy copy-plus cpu cube database database-import
    database-plus device-desktop device-floppy dots dots-vertical download edit external-link eye eye-off file
    file-alert file-code file-text file-upload files filter filter-off filter-x flag folder folder-open git-branch
    git-compare hash heart-rate-monitor heartbeat help history home hourglass info-circle inbox key
    layout-grid layout-list layout-sidebar license line-dashed link list list-check list-details loader-2 lock
    logout memory menu-2 message message-2 message-circle messages minus moon moon-stars notes packages paperclip
    pencil photo player-pause player-play player-stop plug plug-x plus point pointer puzzle refresh replace ripple
    robot rocket rotate-clockwise route ruler scale search search-off selector server server-2 server-off
    settings shield-check shield-lock sitemap sort-ascending sort-descending sparkles square square-check stack-2 star
    stopwatch sun sun-moon table tag tags target temperature terminal-2 text-wrap thumb-down thumb-up tool
    transfer trash trending-down trending-up trophy upload user user-circle users vector versions wand wave-sine
    wifi wifi-off world x zoom-in zoom-out zoom-reset
""".split()


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
    """The maps are not shipped, and the manifest of static files insists on every file that is named."""
    return re.sub(r"/\*# sourceMappingURL=\S+ \*/|//# sourceMappingURL=\S+", "", text)


def fonts_copy() -> None:
    """One style sheet for all faces; browsers fetch only the scripts that a page uses (unicode-range)."""
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
            r"\s*\n\s*", "", drawing[drawing.index(">", drawing.index("<svg")) + 1 : drawing.rindex("</svg>")]
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
