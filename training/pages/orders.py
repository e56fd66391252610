"""The list of chains and that of sweeps: orders of several trains, narrowed by their status."""

from __future__ import annotations

from typing import Any, ClassVar

import django_filters
from django.core.paginator import Paginator
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views import View

from core.listing import PAGE_ROWS, ListFilter, SortFilter


class OrderFilter(ListFilter):
    """How a list of orders is narrowed, on the page and in the API alike."""

    searched = ("name",)
    owner = django_filters.CharFilter(field_name="owner__username")
    shared = django_filters.BooleanFilter()
    ordering = SortFilter(
        {
            "id": "id",
            "name": "name",
            "status": "status",
            "created_at": "created_at",
            "owner": "owner__username",
        }
    )


class OrderListView(View):
    """Whoever extends it names the filter and the template, and says what a row shows."""

    filter: ClassVar[type[OrderFilter]]
    template_name: ClassVar[str]

    def get(self, request: HttpRequest) -> HttpResponse:
        orders: Any = self.filter._meta.model
        visible = orders.objects.visible_to(request.user)
        matching = self.filter(request.GET, queryset=self.with_listed(visible)).qs
        page = Paginator(matching, PAGE_ROWS).get_page(request.GET.get("page"))
        context = {
            "page": page,
            "rows": [self.row(order) for order in page],
            "any": visible.exists(),
            "statuses": [("", "All"), *orders.Status.choices],
            "one": orders._meta.verbose_name,
            "many": orders._meta.verbose_name_plural,
        }
        return render(request, self.template_name, context)

    def with_listed(self, orders: Any) -> Any:
        """The orders, with what a row reads."""
        raise NotImplementedError

    def row(self, order: Any) -> dict[str, Any]:
        """{"order": the order, and what else the template shows of it}."""
        raise NotImplementedError
