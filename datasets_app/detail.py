"""What a dataset's page shows."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

from django.contrib.auth.models import AbstractBaseUser, AnonymousUser, User
from django.core.paginator import Page, Paginator
from django.http import QueryDict

from core.errors import UserError
from core.ownership import may_change
from core.text import clean_label, number_of
from core.tokenizers import Tokenizer, tokenizers_for
from datasets_app.check_queue import checks_ahead
from datasets_app.findings import FindingView, finding_row, findings_of, severities
from datasets_app.forms import columns_offered
from datasets_app.highlights import Highlight
from datasets_app.histogram import Bar, Histogram, histogram
from datasets_app.lengths import lengths_of, tokenizer_choose
from datasets_app.models import Dataset
from datasets_app.preview import rows_seen
from datasets_app.readiness import readiness_of
from datasets_app.repairing import long_repairs_of, repairs_of, safe_repairs_of
from datasets_app.row_changes import changes_waiting, rows_aside
from datasets_app.row_finding import SEARCH_CHARACTERS, rows_search
from datasets_app.services import uses_count
from datasets_app.token_page import PREVIEW_ROWS, tokens_page
from datasets_app.versions import made_by, steps_of, versions_of
from engine.chat.row_notes import REFUSED, RowNotes
from engine.rows.format_detection import nearest_formats
from engine.rows.formats import FORMATS

PROBLEM_ROWS = 20
# Rows that were set aside, as the page lists them.
ASIDE_ROWS = 50
# What the forms of most methods offer as the longest row.
USUAL_LIMIT = 1024

# The chart is drawn at about the size at which it is shown, so that its text has the size of other
# charts' axes.
CHART_WIDTH, CHART_LEFT, CHART_TOP = 440, 44, 8
PLOT_WIDTH, PLOT_HEIGHT = CHART_WIDTH - CHART_LEFT, 124


@dataclass(frozen=True)
class Column:
    """One bar of the chart, in its coordinates, and the text that says what it stands for."""

    x: float
    y: float
    width: float
    height: float
    text: str


@dataclass(frozen=True)
class Chart:
    columns: list[Column]
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]


@dataclass(frozen=True)
class Over:
    """Rows over a limit of tokens, those whose answer lies behind it whole, and (tokens, line) of
    the longest."""

    limit: int
    rows: int = 0
    answers: int = 0
    longest: list[tuple[int, int]] = field(default_factory=list)


@dataclass(frozen=True)
class Note:
    """What the chat template does to some rows: a sentence, and the lines of the first."""

    text: str
    lines: list[int]


@dataclass(frozen=True)
class LengthsPanel:
    """state: none (no model to count with), waiting, error or ready."""

    state: str
    tokenizers: list[Tokenizer]
    chosen: Tokenizer | None
    error: str = ""
    figures: Histogram = field(default_factory=Histogram)
    chart: Chart | None = None
    over: Over | None = None
    notes: list[Note] = field(default_factory=list)


def detail_page(dataset: Dataset, reader: User, query: QueryDict) -> dict[str, Any]:
    checking = dataset.status == Dataset.Status.CHECKING
    context: dict[str, Any] = {
        "dataset": dataset,
        "mine": may_change(dataset, reader),
        "format": FORMATS.get(dataset.format),
        "uses": uses_count(dataset),
        "checking": checking,
        "readable": dataset.format in FORMATS,
        "raw": query.get("view") == "raw",
        "as_tokens": query.get("view") == "tokens",
    }

    context |= versions_context(dataset, reader)

    if checking:
        return context | {"ahead": checks_ahead(dataset)}
    if dataset.hub:
        context["retry"] = retry_query(dataset)

    context |= doctor_context(dataset, reader, query)
    context |= lengths_context(dataset, reader, query)
    context |= preview_page(dataset, query) | problems_page(dataset, query)
    if context["as_tokens"]:
        wanted = "wait" in query
        context |= tokens_page(
            dataset, reader, query.get("model", ""), context["page"].number, render=wanted
        )

    return context | columns_form(
        dataset, context["mine"] and not context["uses"], query.get("format", "")
    )


def columns_form(dataset: Dataset, may: bool, asked: str) -> dict[str, Any]:
    """The menus that say which column is which, where they may be used, and what the columns come
    nearest to."""
    if not dataset.columns:
        return {}

    near = [] if dataset.format else nearest_formats([column["name"] for column in dataset.columns])
    if not may:
        return {"nearest": near}

    chosen, columns = columns_offered(dataset, asked or dataset.format or near[0].slug)
    return {
        "nearest": near,
        "mapping": bool(asked),
        "map_format": chosen,
        "map_columns": columns,
        "map_formats": FORMATS.values(),
    }


def retry_query(dataset: Dataset) -> str:
    """What the page that fetches from the hub is to be filled with, to change what was asked
    for."""
    hub = dataset.hub
    reference = f"{hub['id']}@{hub['asked']}" if hub["asked"] else hub["id"]
    asked = {name: hub[name] for name in ("configuration", "split", "most_rows") if hub[name]}

    return urlencode({"reference": reference, "name": dataset.name, **asked})


def versions_context(dataset: Dataset, reader: User) -> dict[str, Any]:
    """The dataset's other versions, and what made this one."""
    versions = versions_of([dataset], reader).get(dataset.family, [])
    here = next((version for version in versions if version.dataset.pk == dataset.pk), None)

    return {
        "versions": versions,
        "is_latest": here is None or here.is_latest,
        "latest": next((version.dataset for version in versions if version.is_latest), dataset),
        "made_by": made_by(dataset),
        # What a version was made of may be somebody else's.
        "parent": Dataset.objects.visible_to(reader).filter(pk=dataset.parent_id or 0).first(),
        "steps": steps_of(dataset),
    }


def doctor_context(dataset: Dataset, reader: User, query: QueryDict) -> dict[str, Any]:
    """Which methods can learn from it, what was found, what would mend it, and what was changed."""
    findings = findings_of(dataset)
    shown = {repair.slug for finding in findings for repair in finding.repairs}
    safe = safe_repairs_of(dataset)
    context: dict[str, Any] = {
        "readiness": readiness_of(dataset),
        "findings": findings,
        "severities": severities(findings),
        "safe_repairs": safe,
        "safe_count": sum(finding.is_safe for finding in findings),
        # The others stand beside their finding.
        "other_repairs": [repair for repair in repairs_of(dataset) if repair.slug not in shown],
        "changes": changes_waiting(dataset),
        "aside": rows_aside(dataset, reader)[:ASIDE_ROWS],
    }

    return context | finding_context(dataset, findings, query)


def finding_context(
    dataset: Dataset, findings: list[FindingView], query: QueryDict
) -> dict[str, Any]:
    """The finding that is open, with the row that is looked at."""
    opened = next((finding for finding in findings if finding.key == query.get("finding")), None)
    if opened is None or not opened.lines:
        return {"opened": opened}

    try:
        row = finding_row(dataset, opened, number_of(query.get("row", "")) or 1)
    except UserError as error:
        return {"opened": opened, "opened_error": error.message}

    return {"opened": opened, "finding_row": row, "highlight": Highlight(kind=opened.kind)}


def preview_page(dataset: Dataset, query: QueryDict) -> dict[str, Any]:
    """A page of rows in file order, or those that hold what is searched for."""
    page: Page[int] = Paginator(range(dataset.row_count), PREVIEW_ROWS).get_page(query.get("page"))
    search = clean_label(query.get("search", ""), limit=SEARCH_CHARACTERS)
    context: dict[str, Any] = {"page": page, "rows": [], "row_search": search}

    if not search:
        try:
            rows = rows_seen(dataset, max(0, page.start_index() - 1), PREVIEW_ROWS)
        except UserError as error:
            return context | {"preview_error": error.message}

        return context | {"rows": rows}

    try:
        found = rows_search(dataset, search, query.get("after", ""))
    except UserError as error:
        return context | {"search_error": error.message}

    return context | {
        "found": found,
        "rows": [row.seen for row in found.rows],
        "highlight_search": Highlight(search=search),
        "searched_further": bool(query.get("after")),
    }


def problems_page(dataset: Dataset, query: QueryDict) -> dict[str, Any]:
    problems = dataset.problems.all()
    page = Paginator(problems, PROBLEM_ROWS).get_page(query.get("problems"))
    return {"problems": page, "problems_kept": page.paginator.count}


def lengths_context(
    dataset: Dataset, reader: AbstractBaseUser | AnonymousUser, query: QueryDict
) -> dict[str, Any]:
    limit = number_of(query.get("limit", "")) or USUAL_LIMIT
    return {
        "lengths": lengths_panel(dataset, reader, query.get("model", ""), limit),
        "long_repairs": long_repairs_of(dataset),
        "mine": may_change(dataset, reader),
    }


def lengths_panel(
    dataset: Dataset, reader: AbstractBaseUser | AnonymousUser, slug: str, limit: int
) -> LengthsPanel:
    tokenizers = tokenizers_for(reader)
    chosen = tokenizer_choose(reader, slug) or tokenizer_choose(reader)
    lengths = lengths_of(dataset, chosen)
    if lengths is None:
        return LengthsPanel("none", tokenizers, chosen)
    if lengths.error:
        return LengthsPanel("error", tokenizers, chosen, error=lengths.error)
    if not lengths.ready:
        return LengthsPanel("waiting", tokenizers, chosen)

    figures = histogram(lengths.rows)
    over = Over(
        limit,
        rows_over(lengths.rows, limit + 1),
        # An answer that begins behind the limit is cut away whole.
        rows_over(lengths.prompts, limit),
        [(tokens, line) for tokens, line in lengths.longest if tokens > limit],
    )

    chart, notes = chart_make(figures), template_notes(RowNotes.read(lengths.notes))

    return LengthsPanel(
        "ready", tokenizers, chosen, figures=figures, chart=chart, over=over, notes=notes
    )


def template_notes(notes: RowNotes) -> list[Note]:
    lines = {code: found["lines"] for code, found in notes.findings.items()}
    # The first line stands in the sentence already.
    lines[REFUSED] = [line for line, _ in notes.refusals[1:]]
    return [Note(text, lines[code]) for code, text in notes.messages()]


def rows_over(counts: dict[str, int], tokens: int) -> int:
    """Rows with that many tokens or more."""
    return sum(rows for length, rows in counts.items() if int(length) >= tokens)


def chart_make(figures: Histogram) -> Chart | None:
    if not figures.bars:
        return None

    top, steps = _axis(figures.highest)
    step = PLOT_WIDTH / len(figures.bars)
    columns = [_column(bar, index, step, top) for index, bar in enumerate(figures.bars)]
    every = max(1, round(len(figures.bars) / 5))
    x_ticks = [
        (round(CHART_LEFT + index * step, 1), f"{bar.low:,}")
        for index, bar in enumerate(figures.bars)
        if index % every == 0
    ]

    y_ticks = [(round(_y(value, top), 1), _short(value)) for value in steps]

    return Chart(columns, x_ticks, y_ticks)


def _column(bar: Bar, index: int, step: float, top: int) -> Column:
    # A bar of one row among thousands must still be seen.
    height = max(bar.rows / top * PLOT_HEIGHT, 1.5) if bar.rows else 0
    text = f"{bar.low:,} to {bar.high:,} tokens: {bar.rows:,} row{'' if bar.rows == 1 else 's'}"
    return Column(
        x=round(CHART_LEFT + index * step + 1, 2),
        y=round(CHART_TOP + PLOT_HEIGHT - height, 2),
        width=round(max(step - 2, 1), 2),
        height=round(height, 2),
        text=text,
    )


def _y(value: int, top: int) -> float:
    return CHART_TOP + PLOT_HEIGHT - value / top * PLOT_HEIGHT


def _short(value: int) -> str:
    """An axis label of at most six characters: 1,500; 20 k; 2.5 M."""
    for size, unit in ((1_000_000, "M"), (1_000, "k")):
        if value >= 10 * size or (unit == "M" and value >= size):
            return f"{value / size:g} {unit}"

    return f"{value:,}"


def _axis(highest: int) -> tuple[int, list[int]]:
    """(top of the axis, its ticks): three to five whole round steps."""
    step = 1
    while step * 4 < highest:
        first = int(str(step)[0])
        step = step * 2 if first in (1, 5) else step // 2 * 5

    ticks = list(range(0, highest + step, step))
    return ticks[-1], ticks
