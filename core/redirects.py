"""Where a form sends its reader afterwards."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponseRedirect
from django.utils.http import url_has_allowed_host_and_scheme


def redirect_back(request: HttpRequest, default: str) -> HttpResponseRedirect:
    """To the page that the form names in `next`, if that is a page of this site, else to `default`.

    `next` is an address and never the name of a view, which django.shortcuts.redirect would look up
    and fail on after the change was made.
    """
    target = request.POST.get("next", "")
    is_ours = target.startswith("/") and url_has_allowed_host_and_scheme(
        target,
        allowed_hosts={request.get_host()},
        require_https=request.is_secure(),
    )

    return HttpResponseRedirect(target if is_ours else default)
