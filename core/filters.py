"""What every list has, on the page and in the API alike: a search, an order without ties, and
archived rows apart."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import django_filters
from django.db.models import F, Q, QuerySet
from django_filters.rest_framework import DjangoFilterBackend
from rest_framework.exceptions import ValidationError
from rest_framework.request import Request


class StrictFilterBackend(DjangoFilterBackend):
    """Filters of the API: a value that is none is refused, where a page's form may leave a field
    blank."""

    def filter_queryset(
        self, request: Request, queryset: QuerySet[Any], view: Any
    ) -> QuerySet[Any]:
        filters: type[django_filters.FilterSet] | None = self.get_filterset_class(view, queryset)
        for name, item in (filters.base_filters if filters else {}).items():
            for value in request.query_params.getlist(name):
                self._check(name, item, value)

        rows: QuerySet[Any] = super().filter_queryset(request, queryset, view)
        return rows

    def _check(self, name: str, item: Any, value: str) -> None:
        if not value and not isinstance(item, django_filters.CharFilter):
            raise ValidationError({name: ["Give a value, or leave this parameter out."]})

        if isinstance(item, django_filters.BooleanFilter) and value.lower() not in (
            "true",
            "false",
        ):
            raise ValidationError({name: ["Give true or false."]})


class ChoicesFilter(django_filters.MultipleChoiceFilter):
    """Any of several values of a row's own column. No row comes twice by that, so none is compared
    with the others, as is the default: rows are wide."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**{"distinct": False} | given)


class SortFilter(django_filters.OrderingFilter):
    """`?ordering=name` or `-name`; rows without a value come last in either direction.

    columns: {name in the address: field path}. computed: {name in the address: expressions to sort
    by, the first one first}, for what is no column; only the last of them turns with the direction.
    """

    def __init__(
        self,
        columns: Mapping[str, str],
        computed: Mapping[str, Sequence[Any]] | None = None,
        **options: Any,
    ) -> None:
        self.computed = dict(computed or {})
        self.columns = dict(columns)
        fields = [(path, name) for name, path in self.columns.items()]
        fields += [(f"computed:{name}", name) for name in self.computed]
        super().__init__(fields=fields, **options)

    def filter(self, rows: QuerySet[Any], value: Iterable[str] | None) -> QuerySet[Any]:
        order: list[Any] = []
        for wanted in value or ():
            name = wanted.removeprefix("-")
            *before, last = self.computed.get(name) or (F(self.columns[name]),)
            turned = (
                last.desc(nulls_last=True) if wanted.startswith("-") else last.asc(nulls_last=True)
            )
            order += [*(item.asc() for item in before), turned]

        return rows.order_by(*order) if order else rows


class ListFilter(django_filters.FilterSet):
    """`searched`: the fields that `search` looks into; "#7" and "7" find the row of that id too."""

    searched: ClassVar[tuple[str, ...]] = ()
    search = django_filters.CharFilter(method="search_for", label="Words, or #id")

    def filter_queryset(self, queryset: QuerySet[Any]) -> Any:
        rows = super().filter_queryset(queryset)
        # Equal ones keep one order, so that no row is on two pages.
        order = rows.query.order_by or rows.model._meta.ordering
        return (
            rows if {"id", "-id"} & {str(item) for item in order} else rows.order_by(*order, "id")
        )

    def search_for(self, rows: QuerySet[Any], name: str, value: str) -> QuerySet[Any]:
        return rows.filter(self.search_words(value))

    def search_words(self, value: str) -> Q:
        words = Q()
        for field in self.searched:
            words |= Q(**{f"{field}__icontains": value})

        number = value.removeprefix("#")
        if number.isascii() and number.isdigit() and len(number) < 19:
            words |= Q(pk=int(number))

        return words


class ArchivableFilter(ListFilter):
    """For rows with `archived_at`."""

    archived = django_filters.BooleanFilter(
        method="show_archived", label="Only archived ones; they are left out else"
    )

    def filter_queryset(self, queryset: QuerySet[Any]) -> Any:
        rows = super().filter_queryset(queryset)
        return rows if self.form.cleaned_data.get("archived") else rows.filter(archived_at=None)

    def show_archived(self, rows: QuerySet[Any], name: str, value: bool) -> QuerySet[Any]:
        return rows.exclude(archived_at=None) if value else rows


class OwnedFilter(ArchivableFilter):
    """For rows with `archived_at` that belong to people."""

    owner = django_filters.CharFilter(field_name="owner__username")
    shared = django_filters.BooleanFilter()
