"""How lists of sweeps are narrowed, on the page and in the API alike."""

from __future__ import annotations

from core.listing import ChoicesFilter
from sweeps.models import Sweep
from training.pages.orders import OrderFilter


class SweepFilter(OrderFilter):
    status = ChoicesFilter(choices=Sweep.Status.choices)

    class Meta:
        model = Sweep
        fields: tuple[str, ...] = ()
