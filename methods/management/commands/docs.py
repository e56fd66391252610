from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand

from methods.models import TrainingMethod
from methods.schema import Field, method_fields, plain

HEAD = """# Methods and their parameters

Written by `make docs` from the schemas that the form, the API and the engine read; edit those, not this page.
Names in `code` are what the API and `spec.json` take.
"""

COLUMNS = (
    "| Field | Name | Default | Typical | Allowed | What it does |\n|---|---|---|---|---|---|\n"
)


class Command(BaseCommand):
    help = "Write docs/methods.md anew from the schemas of the methods that come with the platform."

    def handle(self, *args: Any, **options: Any) -> None:
        from methods.builtin import BUILTIN

        pages = [method_page(TrainingMethod(**values)) for values in BUILTIN]
        path = settings.BASE_DIR / "docs" / "methods.md"
        path.write_text(HEAD + "".join(pages))

        if options["verbosity"]:
            self.stdout.write(f"Wrote {path.relative_to(settings.BASE_DIR)}.")


def method_page(method: TrainingMethod) -> str:
    """One method: what it is for, and a table for each group of its fields. Defaults are those of a
    GPU worker."""
    on_gpu = method_fields(method, device="cuda")
    on_cpu = method_fields(method, device="cpu")
    by_group: dict[str, list[str]] = {}
    for name, field in on_gpu.items():
        if not field.hidden:
            by_group.setdefault(field.group, []).append(row(field, on_cpu[name]))

    text = (
        f"\n## {method.name} (`{method.slug}`)\n\n{method.description}\n\n"
        f"Needs: {method.needs}. Cost: {method.cost}.\n"
    )
    for group, rows in by_group.items():
        text += f"\n### {group}\n\n{COLUMNS}{''.join(rows)}"

    return text


def row(field: Field, on_cpu: Field) -> str:
    default = with_unit(field, field.default)
    if on_cpu.default != field.default:
        default += f" ({with_unit(on_cpu, on_cpu.default)} on CPU)"

    typical = "–"
    if field.typical:
        typical = " to ".join(plain(edge, field.percent) for edge in field.typical)

    choices = ", ".join(f"{title} (`{value}`)" for value, title in field.choices)
    cells = (
        field.title,
        f"`{field.name}`",
        default,
        typical,
        field.range_text() or choices or "–",
        field.help,
    )
    escaped = [cell.replace("|", "\\|") for cell in cells]

    return f"| {' | '.join(escaped)} |\n"


def with_unit(field: Field, value: Any) -> str:
    return f"{field.shown(value)} {field.unit_of(value)}".strip()
