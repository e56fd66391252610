"""What every list has, on the page and in the API alike: a search, an order without ties, archived
rows apart, facets to narrow it by; and the slugs by which its rows are found."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import django_filters
from django.db.models import F, Q, QuerySet
from django.http import QueryDict
from django.utils.text import slugify
from django_filters.rest_framework import DjangoFilterBackend
from rest_framework.exceptions import ValidationError
from rest_framework.request import Request

PAGE_ROWS = 25
# Of a filter's value, beside the list that it narrows.
VALUE_CHARACTERS = 60


class StrictFilterBackend(DjangoFilterBackend):
    """Filters of the API: a blank or malformed value is refused, where a page's form may leave a
    field blank."""

    def filter_queryset(
        self, request: Request, queryset: QuerySet[Any], view: Any
    ) -> QuerySet[Any]:
        filterset: type[django_filters.FilterSet] | None = self.get_filterset_class(view, queryset)

        if filterset is not None:
            for name, item in filterset.base_filters.items():
                for value in request.query_params.getlist(name):
                    self._check(name, item, value)

        rows: QuerySet[Any] = super().filter_queryset(request, queryset, view)
        return rows

    def _check(self, name: str, item: Any, value: str) -> None:
        is_text = isinstance(item, django_filters.CharFilter)
        if not value and not is_text:
            raise ValidationError({name: ["Give a value, or leave this parameter out."]})

        is_boolean = isinstance(item, django_filters.BooleanFilter)
        if is_boolean and value.lower() not in ("true", "false"):
            raise ValidationError({name: ["Give true or false."]})


class ChoicesFilter(django_filters.MultipleChoiceFilter):
    """Any of several values of a row's own column. No row can match twice, so the default SELECT
    DISTINCT would only compare wide rows for nothing."""

    def __init__(self, **options: Any) -> None:
        options.setdefault("distinct", False)
        super().__init__(**options)


class SortFilter(django_filters.OrderingFilter):
    """`?ordering=name` or `-name`; rows without a value come last in either direction.

    columns: {name in the address: field path}. computed: {name in the address: expressions to sort
    by, the most significant one first}, for what is no column; the direction applies to the last of
    them only.
    """

    def __init__(
        self,
        columns: Mapping[str, str],
        computed: Mapping[str, Sequence[Any]] | None = None,
        **options: Any,
    ) -> None:
        self.columns = dict(columns)
        self.computed = dict(computed or {})

        # {field path: name in the address}, as django-filter takes it.
        names = {path: name for name, path in self.columns.items()}
        for name in self.computed:
            names[f"computed:{name}"] = name

        super().__init__(fields=names, **options)

    def filter(self, rows: QuerySet[Any], value: Iterable[str] | None) -> QuerySet[Any]:
        order: list[Any] = []

        for item in value or ():
            name = item.removeprefix("-")
            is_descending = item.startswith("-")

            if name in self.computed:
                *groups, last = self.computed[name]
                order.extend(expression.asc() for expression in groups)
            else:
                last = F(self.columns[name])

            if is_descending:
                order.append(last.desc(nulls_last=True))
            else:
                order.append(last.asc(nulls_last=True))

        if not order:
            return rows

        return rows.order_by(*order)


class ListFilter(django_filters.FilterSet):
    """`searched`: the fields that `search` looks into; "#7" and "7" find the row of that id too."""

    searched: ClassVar[tuple[str, ...]] = ()
    search = django_filters.CharFilter(method="search_for", label="Words, or #id")

    def filter_queryset(self, queryset: QuerySet[Any]) -> Any:
        rows = super().filter_queryset(queryset)
        order = rows.query.order_by or rows.model._meta.ordering
        names = {str(item) for item in order}

        key = rows.model._meta.pk.name
        if key in names or f"-{key}" in names:
            return rows

        # Without a tie-breaker, a row may be on two pages and another on none.
        return rows.order_by(*order, key)

    def search_for(self, rows: QuerySet[Any], name: str, value: str) -> QuerySet[Any]:
        return rows.filter(self.search_words(value))

    def search_words(self, value: str) -> Q:
        """The condition for a search; a subclass may add to it."""
        matches = Q()
        for field in self.searched:
            matches |= Q(**{f"{field}__icontains": value})

        number = value.removeprefix("#")
        # More digits than an id may have are an error to the database.
        if number.isascii() and number.isdigit() and len(number) < 19:
            matches |= Q(pk=int(number))

        return matches


class ArchivableFilter(ListFilter):
    """For rows with `archived_at`."""

    archived = django_filters.BooleanFilter(
        method="show_archived", label="Only archived ones, which are otherwise left out"
    )

    def filter_queryset(self, queryset: QuerySet[Any]) -> Any:
        rows = super().filter_queryset(queryset)
        if self.form.cleaned_data.get("archived"):
            return rows

        return rows.filter(archived_at=None)

    def show_archived(self, rows: QuerySet[Any], name: str, value: bool) -> QuerySet[Any]:
        if not value:
            return rows

        return rows.exclude(archived_at=None)


@dataclass(frozen=True)
class Facet:
    """A filter by one of the values that occur. choices: (value, label). value: the chosen one, ""
    for none."""

    name: str
    title: str
    choices: list[tuple[str, str]]
    value: str

    @property
    def label(self) -> str:
        """The label of the chosen value."""
        labels = dict(self.choices)
        return labels.get(self.value, self.value)


class ActiveFilter(NamedTuple):
    """A filter that is set. link: the list's address without it."""

    title: str
    value: str
    link: str


def active_filters(
    query: QueryDict, facets: Iterable[Facet], texts: Mapping[str, str] | None = None
) -> list[ActiveFilter]:
    """Every filter that is set in `query`. texts: {name: title} of those that are typed and not
    chosen, the search by default."""
    titles = texts or {"search": "Search"}
    values = [(name, title, query.get(name, "")) for name, title in titles.items()]
    values += [(facet.name, facet.title, facet.label) for facet in facets]
    active = []

    for name, title, value in values:
        if not value:
            continue

        others = query.copy()
        others.pop(name, None)
        # Which page there was says nothing about a longer list.
        others.pop("page", None)

        shown = value[:VALUE_CHARACTERS]
        link = f"?{others.urlencode()}"
        active.append(ActiveFilter(title, shown, link))

    return active


def slug_free(
    rows: QuerySet[Any],
    name: str,
    *,
    fallback: str,
    limit: int = 120,
    reserved: Collection[str] = (),
    endings: tuple[str, ...] = (),
) -> str:
    """A slug for `name` that none of `rows` has, numbered where it is taken or ends in one of
    `endings`.

    It is never a number alone, which would be taken for an id, and none of `reserved`. fallback:
    what a row is called, for names without a letter. limit: characters of the name that are kept.
    """
    stem = slugify(name)[:limit].strip("-_") or fallback
    if stem.isdigit() or stem in reserved:
        stem = f"{fallback}-{stem}"

    taken = set(rows.filter(slug__startswith=stem).values_list("slug", flat=True))
    slug = stem
    number = 1

    while slug in taken or slug.endswith(endings):
        number += 1
        slug = f"{stem}-{number}"

    return slug
