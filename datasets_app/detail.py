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
from core.text import clean_label, counted, number_of
from core.tokenizers import Tokenizer, tokenizers_for
from datasets_app.check_queue import checks_ahead
from datasets_app.findings import FindingView, finding_row, findings_of, severities
from datasets_app.forms import columns_offered
from datasets_app.highlights import Highlight
from datasets_app.histogram import Bar, Histogram, histogram
from datasets_app.lengths import lengths_of, tokenizer_choose
from datasets_app.models import Dataset
from datasets_app.panels import panels_context
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
CHART_WIDTH = 440
CHART_LEFT = 44
CHART_TOP = 8
PLOT_WIDTH = CHART_WIDTH - CHART_LEFT
PLOT_HEIGHT = 124
# What a bar of one row among thousands must have to be seen, and the gap between two bars.
LOWEST_BAR = 1.5
BAR_GAP = 2
# About how many labels the chart's horizontal axis has.
X_LABELS = 5


@dataclass(frozen=True)
class Column:
    """One bar of the chart, in the chart's coordinates, with the text that explains it."""

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
    """Rows longer than `limit` tokens. answers: those whose whole answer lies behind the limit.
    longest: (tokens, line) of the longest, the longest first."""

    limit: int
    rows: int = 0
    answers: int = 0
    longest: list[tuple[int, int]] = field(default_factory=list)


@dataclass(frozen=True)
class Note:
    """A sentence about what the chat template does to some rows, and the lines of the first of
    these rows."""

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
    view = query.get("view")
    context: dict[str, Any] = {
        "dataset": dataset,
        "mine": may_change(dataset, reader),
        "format": FORMATS.get(dataset.format),
        "uses": uses_count(dataset),
        "checking": checking,
        "readable": dataset.format in FORMATS,
        "raw": view == "raw",
        "as_tokens": view == "tokens",
    }

    context |= versions_context(dataset, reader)
    context |= panels_context(dataset, reader)

    if checking:
        context["ahead"] = checks_ahead(dataset)
        return context

    if dataset.hub:
        context["retry"] = retry_query(dataset)

    context |= doctor_context(dataset, reader, query)
    context |= lengths_context(dataset, reader, query)
    context |= preview_page(dataset, query)
    context |= problems_page(dataset, query)

    if context["as_tokens"]:
        context |= tokens_page(
            dataset,
            reader,
            query.get("model", ""),
            context["page"].number,
            render="wait" in query,
        )

    may_map = context["mine"] and not context["uses"]
    context |= columns_form(dataset, may_map, query.get("format", ""))

    return context


def columns_form(dataset: Dataset, may_map: bool, asked: str) -> dict[str, Any]:
    """The formats that the columns come nearest to and, where `may_map`, the menus that say which
    column is which. asked: the format that was chosen on the page, "" for none."""
    if not dataset.columns:
        return {}

    near = []
    if not dataset.format:
        near = nearest_formats([column["name"] for column in dataset.columns])
    if not may_map:
        return {"nearest": near}

    slug = asked or dataset.format or near[0].slug
    map_format, columns = columns_offered(dataset, slug)
    return {
        "nearest": near,
        "mapping": bool(asked),
        "map_format": map_format,
        "map_columns": columns,
        "map_formats": FORMATS.values(),
    }


def retry_query(dataset: Dataset) -> str:
    """The query string that fills the import page with what was asked of the hub, to be changed."""
    hub = dataset.hub
    values = {"reference": hub["id"], "name": dataset.name}
    if hub["asked"]:
        values["reference"] += f"@{hub['asked']}"

    for name in ("configuration", "split", "most_rows"):
        if hub[name]:
            values[name] = hub[name]

    return urlencode(values)


def versions_context(dataset: Dataset, reader: User) -> dict[str, Any]:
    """The dataset's other versions, and what made this one."""
    visible = Dataset.objects.visible_to(reader)
    versions = versions_of([dataset], reader).get(dataset.family, [])
    latest = dataset
    is_latest = True

    for version in versions:
        if version.is_latest:
            latest = version.dataset
        if version.dataset.pk == dataset.pk:
            is_latest = version.is_latest

    return {
        "versions": versions,
        "is_latest": is_latest,
        "latest": latest,
        "made_by": made_by(dataset),
        # What a version was made of may be somebody else's.
        "parent": visible.filter(pk=dataset.parent_id or 0).first(),
        "steps": steps_of(dataset),
    }


def doctor_context(dataset: Dataset, reader: User, query: QueryDict) -> dict[str, Any]:
    """Which methods can learn from the dataset, what was found, what would mend it, and what was
    changed."""
    findings = findings_of(dataset)
    safe_count = sum(finding.is_safe for finding in findings)
    beside_findings = {repair.slug for finding in findings for repair in finding.repairs}
    others = [repair for repair in repairs_of(dataset) if repair.slug not in beside_findings]

    context: dict[str, Any] = {
        "readiness": readiness_of(dataset),
        "findings": findings,
        "severities": severities(findings),
        "safe_repairs": safe_repairs_of(dataset),
        "safe_count": safe_count,
        "other_repairs": others,
        "changes": changes_waiting(dataset),
        "aside": rows_aside(dataset, reader)[:ASIDE_ROWS],
    }

    return context | finding_context(dataset, findings, query)


def finding_context(
    dataset: Dataset, findings: list[FindingView], query: QueryDict
) -> dict[str, Any]:
    """The finding that is open, and the one of its rows that is shown."""
    key = query.get("finding")
    opened = next((finding for finding in findings if finding.key == key), None)
    if opened is None or not opened.lines:
        return {"opened": opened}

    number = number_of(query.get("row", "")) or 1
    try:
        row = finding_row(dataset, opened, number)
    except UserError as error:
        return {"opened": opened, "opened_error": error.message}

    return {
        "opened": opened,
        "finding_row": row,
        "highlight": Highlight(kind=opened.kind),
    }


def preview_page(dataset: Dataset, query: QueryDict) -> dict[str, Any]:
    """A page of rows in file order, or the rows that hold what is searched for."""
    paginator = Paginator(range(dataset.row_count), PREVIEW_ROWS)
    page: Page[int] = paginator.get_page(query.get("page"))
    search = clean_label(query.get("search", ""), limit=SEARCH_CHARACTERS)
    context: dict[str, Any] = {"page": page, "rows": [], "row_search": search}

    if search:
        return context | search_context(dataset, search, query.get("after", ""))

    start = max(0, page.start_index() - 1)
    try:
        context["rows"] = rows_seen(dataset, start, PREVIEW_ROWS)
    except UserError as error:
        context["preview_error"] = error.message

    return context


def search_context(dataset: Dataset, search: str, after: str) -> dict[str, Any]:
    """The rows that hold `search`; after: where an earlier page of them ended, "" for the first."""
    try:
        result = rows_search(dataset, search, after)
    except UserError as error:
        return {"search_error": error.message}

    return {
        "found": result,
        "rows": [row.seen for row in result.rows],
        "highlight_search": Highlight(search=search),
        "searched_further": bool(after),
    }


def problems_page(dataset: Dataset, query: QueryDict) -> dict[str, Any]:
    paginator = Paginator(dataset.problems.all(), PROBLEM_ROWS)
    page = paginator.get_page(query.get("problems"))
    return {"problems": page, "problems_kept": paginator.count}


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
    """slug: of the base model to count with. limit: tokens above which rows are named."""
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
        limit=limit,
        rows=rows_over(lengths.rows, limit + 1),
        # An answer that begins behind the limit is cut away whole.
        answers=rows_over(lengths.prompts, limit),
        longest=[(tokens, line) for tokens, line in lengths.longest if tokens > limit],
    )

    return LengthsPanel(
        "ready",
        tokenizers,
        chosen,
        figures=figures,
        chart=chart_make(figures),
        over=over,
        notes=template_notes(RowNotes.read(lengths.notes)),
    )


def template_notes(notes: RowNotes) -> list[Note]:
    lines = {code: finding["lines"] for code, finding in notes.findings.items()}
    # The sentence itself names the first line already.
    lines[REFUSED] = [line for line, _ in notes.refusals[1:]]

    return [Note(text, lines[code]) for code, text in notes.messages()]


def rows_over(counts: dict[str, int], tokens: int) -> int:
    """How many rows have that many tokens or more; `counts`: {"tokens": rows}."""
    return sum(rows for length, rows in counts.items() if int(length) >= tokens)


def chart_make(figures: Histogram) -> Chart | None:
    """The bars as a chart, None where there are none."""
    bars = figures.bars
    if not bars:
        return None

    y_values = _axis_values(figures.highest)
    top = y_values[-1]
    step = PLOT_WIDTH / len(bars)
    columns = [_column(bar, index, step, top) for index, bar in enumerate(bars)]

    x_ticks = []
    every = max(1, round(len(bars) / X_LABELS))
    for index in range(0, len(bars), every):
        x = round(CHART_LEFT + index * step, 1)
        x_ticks.append((x, f"{bars[index].low:,}"))

    y_ticks = [(round(_y(value, top), 1), _short_number(value)) for value in y_values]

    return Chart(columns, x_ticks, y_ticks)


def _column(bar: Bar, index: int, step: float, top: int) -> Column:
    left = CHART_LEFT + index * step
    bottom = CHART_TOP + PLOT_HEIGHT
    height = 0.0
    if bar.rows:
        height = max(bar.rows / top * PLOT_HEIGHT, LOWEST_BAR)

    rows = counted(bar.rows, "row")
    return Column(
        x=round(left + BAR_GAP / 2, 2),
        y=round(bottom - height, 2),
        width=round(max(step - BAR_GAP, 1), 2),
        height=round(height, 2),
        text=f"{bar.low:,} to {bar.high:,} tokens: {rows}",
    )


def _y(value: int, top: int) -> float:
    return CHART_TOP + PLOT_HEIGHT - value / top * PLOT_HEIGHT


def _short_number(value: int) -> str:
    """An axis label of at most six characters: 1,500; 20 k; 2.5 M."""
    if value >= 1_000_000:
        return f"{value / 1_000_000:g} M"
    if value >= 10_000:
        return f"{value / 1_000:g} k"

    return f"{value:,}"


def _axis_values(highest: int) -> list[int]:
    """What the vertical axis is labelled with: from 0 to `highest` or more, in three to five round
    steps (1, 2, 5, 10, 20, 50 …)."""
    step = 1
    while step * 4 < highest:
        first_digit = int(str(step)[0])
        step = step // 2 * 5 if first_digit == 2 else step * 2

    return list(range(0, highest + step, step))
