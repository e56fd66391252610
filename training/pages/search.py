"""Search over everything that somebody may open: trains, datasets, base models, methods, what apps
above this one have, pages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from django.contrib.auth.models import User
from django.db.models import Case, IntegerField, Q, QuerySet, Value, When
from django.urls import NoReverseMatch, reverse

from core.requests import integer_of
from core.text import counted
from datasets_app.models import Dataset
from methods.models import TrainingMethod
from models_app.models import BaseModel
from training.models import TrainLabel, TrainRun

MOST_OF_A_KIND = 6
LONGEST_QUERY = 100


@dataclass(frozen=True)
class Hit:
    """`note`: what tells it from others of its name. `icon`: a name of the icon sprite."""

    title: str
    note: str
    url: str
    icon: str


@dataclass(frozen=True)
class HitGroup:
    """`more`: the address of all hits of this kind, "" where they are all here."""

    kind: str
    title: str
    hits: list[Hit]
    more: str = ""


# Those of apps above this one.
_also: list[Callable[[User, str], HitGroup]] = []


def search_also(source: Callable[[User, str], HitGroup]) -> None:
    """Have `source` find its own for a person and a text. For an app to call once, when it is
    ready."""
    _also.append(source)


# (title, icon, URL name, words that people look for, whether only operators have it)
PAGES: tuple[tuple[str, str, str, str, bool], ...] = (
    ("Model Training", "activity", "training:list", "trains runs list home", False),
    ("Chains", "link", "chains:list", "chains stages gates several", False),
    (
        "Sweeps",
        "adjustments-horizontal",
        "sweeps:list",
        "sweeps hyperparameters search values tune best",
        False,
    ),
    ("Start a New Train", "plus", "training:new", "new train fine-tune run create", False),
    ("Queue", "list-details", "training:queue", "waiting line position pause order", False),
    (
        "Jobs",
        "list-check",
        "jobs:list",
        "background work tasks checks imports waiting running ended log stop",
        False,
    ),
    (
        "Compare trains",
        "columns-3",
        "training:compare",
        "comparison difference side by side",
        False,
    ),
    ("Datasets", "database", "datasets:list", "data files rows", False),
    ("Upload a dataset", "upload", "datasets:upload", "add data file new dataset", False),
    ("Models", "cube", "models:list", "base models weights", False),
    ("Add a base model", "plus", "models:add", "import hub new model gguf", False),
    ("Methods", "puzzle", "methods:list", "lora sft dpo kto grpo ppo recipes", False),
    ("API", "api", "api-docs", "programs rest openapi swagger token", False),
    (
        "Account",
        "user",
        "accounts:account",
        "account password token e-mail notices hugging face",
        False,
    ),
    ("Administration", "shield-lock", "admin:index", "admin users accounts operators", True),
)


def search_everything(*, user: User, text: str) -> list[HitGroup]:
    """Groups with at least one hit, in a fixed order; none for a blank text. Shows what `user` may
    see and no more."""
    words = " ".join(text.split())
    words = words[:LONGEST_QUERY]
    if not words:
        return []

    groups = [
        _trains(user, words),
        _datasets(user, words),
        _models(user, words),
        _methods(words),
        *(source(user, words) for source in _also),
        _pages(user, words),
    ]
    return [group for group in groups if group.hits]


def _trains(user: User, words: str) -> HitGroup:
    labelled = TrainLabel.objects.filter(name__icontains=words).values("run")
    matches = words_match(words, "name") | Q(pk=_number(words)) | Q(pk__in=labelled)
    rows = TrainRun.objects.visible_to(user).filter(matches).select_related("method", "base_model")
    rows = rows.only(
        "name", "status", "created_at", "method__name", "base_model__name", "base_model__version"
    )

    def hit(run: TrainRun) -> Hit:
        parts = (
            f"#{run.pk}",
            run.method.name,
            run.base_model.title,
            run.get_status_display(),
        )
        return Hit(run.name, " · ".join(parts), run.get_absolute_url(), "activity")

    return hit_group("trains", "Trains", rows, words, hit, reverse("training:list"))


def _datasets(user: User, words: str) -> HitGroup:
    matches = words_match(words, "name", "file_name") | Q(labels__name__icontains=words)
    rows = Dataset.objects.visible_to(user).filter(archived_at=None).filter(matches).distinct()
    rows = rows.only("name", "version", "row_count", "status")

    def hit(dataset: Dataset) -> Hit:
        note = dataset.get_status_display()
        if dataset.row_count:
            note = counted(dataset.row_count, "row")

        return Hit(dataset.title, note, dataset.get_absolute_url(), "database")

    return hit_group("datasets", "Datasets", rows, words, hit, reverse("datasets:list"))


def _models(user: User, words: str) -> HitGroup:
    matches = words_match(words, "name", "reference")
    rows = BaseModel.objects.visible_to(user).filter(archived_at=None).filter(matches)
    rows = rows.only("name", "version", "slug", "architecture", "status")

    def hit(model: BaseModel) -> Hit:
        parts = [model.architecture, model.get_status_display()]
        note = " · ".join(filter(None, parts))
        return Hit(model.title, note, model.get_absolute_url(), "cube")

    return hit_group("models", "Models", rows, words, hit, reverse("models:list"))


def _methods(words: str) -> HitGroup:
    matches = words_match(words, "name", "slug", "tagline")
    rows = TrainingMethod.objects.offered().filter(matches).only("name", "slug", "tagline")

    def hit(method: TrainingMethod) -> Hit:
        url = reverse("training:form", args=[method.slug])
        return Hit(method.name, method.tagline, url, "puzzle")

    return hit_group("methods", "Methods", rows, words, hit, reverse("methods:list"))


def _pages(user: User, words: str) -> HitGroup:
    wanted = words.lower()
    hits = []

    for title, icon, name, known_as, for_operators in PAGES:
        if for_operators and not user.is_staff:
            continue

        begins = any(word.startswith(wanted) for word in known_as.split())
        if not begins and wanted not in title.lower():
            continue

        try:
            url = reverse(name)
        except NoReverseMatch:
            continue

        hits.append(Hit(title, "", url, icon))

    return HitGroup("pages", "Pages", hits[:MOST_OF_A_KIND])


def words_match(words: str, *fields: str) -> Q:
    """Each word somewhere in the fields."""
    every_word = Q()
    for word in words.split():
        anywhere = Q()
        for field in fields:
            anywhere |= Q(**{f"{field}__icontains": word})

        every_word &= anywhere

    return every_word


def _number(words: str) -> int:
    """The id of a train that "#7" and "7" mean; -1 for anything else."""
    number = integer_of(words.removeprefix("#"))
    return -1 if number is None else number


def hit_group(
    kind: str,
    title: str,
    rows: QuerySet[Any],
    words: str,
    hit: Callable[[Any], Hit],
    address: str,
) -> HitGroup:
    """The best hits first: the very id, then names that begin with the words, then the newest."""
    rank = Case(
        When(pk=_number(words), then=Value(0)),
        When(name__istartswith=words, then=Value(1)),
        default=Value(2),
        output_field=IntegerField(),
    )

    ranked = rows.annotate(search_rank=rank).order_by("search_rank", "-pk")
    # One more than is shown says whether there are more.
    best = list(ranked[: MOST_OF_A_KIND + 1])
    more = ""

    # The page of methods has no search.
    if len(best) > MOST_OF_A_KIND and kind != "methods":
        more = f"{address}?search={quote(words)}"

    hits = [hit(row) for row in best[:MOST_OF_A_KIND]]
    return HitGroup(kind, title, hits, more)
