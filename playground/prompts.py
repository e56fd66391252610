"""Prompts of the data behind a model that it was not trained on, to be asked with a click."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from django.contrib.auth.models import User

from core.text import clean_text, counted
from datasets_app.models import Dataset
from datasets_app.preview import PreviewRow, rows_numbered, rows_seen
from datasets_app.row_finding import SEARCH_CHARACTERS, rows_search
from exports.models import Export
from models_app.models import BaseModel
from playground.held_out import held_out_rows
from serving.targets import Target
from training.models import Sample, TrainRun

ROWS = 24


@dataclass(frozen=True)
class Prompt:
    """text: the last question. reference: the answer of the data, "" for none. system: the row's
    own system prompt. earlier: turns of the row before the question, which are not asked.
    is_cut: whether the question is longer than what is shown of it."""

    text: str
    reference: str = ""
    system: str = ""
    earlier: int = 0
    is_cut: bool = False

    def holds(self, words: str) -> bool:
        """words: casefolded."""
        return any(words in text.casefold() for text in (self.text, self.reference, self.system))


@dataclass(frozen=True)
class Prompts:
    """note: what these are, in a sentence; why there are none, where there are none. next: where the
    next ones begin, "" behind the last. can_search: whether there are any to search in."""

    prompts: list[Prompt]
    note: str
    next: str = ""
    can_search: bool = False


# As engine.rows.preview ends a text that it shortens.
CUT = " …"
NO_TRAIN = "This model was not trained here, so there are no held-out prompts."
NO_QUESTIONS = "The rows of {} are plain text, without a question to ask."


def prompts_of(key: str, reader: User, after: str = "", search: str = "") -> Prompts:
    """Prompts behind a target: from the evaluation dataset of its train where it had one, else the
    rows that the train held out. Of a dataset that `reader` may not see, and where nobody knows which
    rows those are, the ones that the train answered, as its own page shows them.

    after: as an earlier answer gave it as `next`. search: a text that they hold. Raises UserError:
    404 for what is no target, and as datasets_app.preview does.
    """
    run = train_behind(Target.parse(key), reader)
    if run is None:
        return Prompts([], NO_TRAIN)

    search = clean_text(search).strip()[:SEARCH_CHARACTERS]
    dataset = run.evaluation_dataset or run.dataset
    if not _may_read(dataset, reader):
        return _sampled(run, search)
    if dataset.format == "text":
        return Prompts([], NO_QUESTIONS.format(dataset.title))
    if run.evaluation_dataset is not None:
        return _of_evaluation(run, dataset, after, search)

    numbers = held_out_rows(run)
    if not numbers:
        return _sampled(run, search)

    return _of_split(run, numbers, after, search)


def _may_read(dataset: Dataset, reader: User) -> bool:
    return Dataset.objects.visible_to(reader).filter(pk=dataset.pk).exists()


def _of_evaluation(run: TrainRun, dataset: Dataset, after: str, search: str) -> Prompts:
    note = f"Rows of {dataset.title}, on which {run.name} was evaluated."
    if dataset.pk == run.dataset_id:
        note = f"Rows of {dataset.title}, on which {run.name} was evaluated and also trained."

    if search:
        found = rows_search(dataset, search, after, rows=ROWS)
        prompts = _prompts(row.seen for row in found.rows)
        return Prompts(prompts, note, found.next, can_search=True)

    start = _start(after)
    prompts = _prompts(rows_seen(dataset, start, ROWS))
    following = start + ROWS

    return Prompts(
        prompts, note, str(following) if following < dataset.row_count else "", can_search=True
    )


def _of_split(run: TrainRun, numbers: list[int], after: str, search: str) -> Prompts:
    """A train holds at most 200 rows out: all of them are looked through."""
    start = _start(after)
    note = (
        f"{counted(len(numbers), 'row')} of {run.dataset.title} that {run.name} held out, and was "
        "not trained on."
    )

    if search:
        words = search.casefold()
        rows = _prompts(rows_numbered(run.dataset, numbers))
        matching = [prompt for prompt in rows if prompt.holds(words)]
        page, count = matching[start : start + ROWS], len(matching)
    else:
        page = _prompts(rows_numbered(run.dataset, numbers[start : start + ROWS]))
        count = len(numbers)

    following = start + ROWS
    return Prompts(page, note, str(following) if following < count else "", can_search=True)


def _start(after: str) -> int:
    return int(after) if after.isdecimal() and after.isascii() and len(after) < 16 else 0


def _sampled(run: TrainRun, search: str) -> Prompts:
    """Those that the train answered, all at once: there are few."""
    samples = Sample.objects.filter(run=run, stage__in=("before", "after"))
    by_index: dict[int, Prompt] = {}
    for sample in samples.order_by("index", "seq"):
        by_index.setdefault(sample.index, Prompt(sample.prompt, sample.reference))

    prompts = list(by_index.values())
    if not prompts:
        return Prompts([], f"{run.name} kept no prompts.")

    if run.facts.get("eval_rows"):
        note = f"Held out when {run.name} was trained: the sample prompts that it answered then."
    else:
        note = f"Nothing was held out: {run.name} was trained on these rows."

    words = search.casefold()
    return Prompts([prompt for prompt in prompts if prompt.holds(words)], note, can_search=True)


def train_behind(target: Target, reader: User) -> TrainRun | None:
    """The train that made what is asked, where `reader` may see it."""
    pk: Any = target.pk
    if target.kind == "export":
        export = Export.objects.visible_to(reader).filter(pk=pk).select_related("model").first()
        pk = export.model.trained_from.get("train") if export is not None else None
    elif target.kind == "model":
        model = BaseModel.objects.visible_to(reader).filter(pk=pk).first()
        pk = model.trained_from.get("train") if model is not None else None

    if not isinstance(pk, int):
        return None

    visible = TrainRun.objects.visible_to(reader).select_related(
        "dataset", "evaluation_dataset", "method"
    )
    return visible.filter(pk=pk).first()


def _prompts(rows: Iterable[PreviewRow]) -> list[Prompt]:
    """Of those rows that have one."""
    prompts = [_of_row(row) for row in rows]
    return [prompt for prompt in prompts if prompt is not None]


def _of_row(row: PreviewRow) -> Prompt | None:
    """The last question of a row and the answer to it."""
    example = row.example
    if example is None or not example.messages:
        return None

    turns = list(example.messages)
    answer = ""
    if example.chosen:
        answer = _text(example.chosen[-1])
    elif turns[-1].get("role") == "assistant":
        answer = _text(turns.pop())

    system = ""
    if turns and turns[0].get("role") == "system":
        system = _text(turns.pop(0))

    while turns and turns[-1].get("role") != "user":
        turns.pop()
    if not turns or not _text(turns[-1]):
        return None

    text = _text(turns[-1])
    is_cut = row.shortened and text.endswith(CUT)
    return Prompt(text, answer, system, len(turns) - 1, is_cut)


def _text(turn: dict[str, Any]) -> str:
    content = turn.get("content")
    return content if isinstance(content, str) else ""
