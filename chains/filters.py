"""How lists of chains are narrowed, on the page and in the API alike."""

from __future__ import annotations

from chains.models import Chain
from core.listing import ChoicesFilter
from training.pages.orders import OrderFilter


class ChainFilter(OrderFilter):
    status = ChoicesFilter(choices=Chain.Status.choices)

    class Meta:
        model = Chain
        fields: tuple[str, ...] = ()
