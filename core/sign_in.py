"""Signing in, also on a full disk."""

from __future__ import annotations

import logging
from typing import Any

from django.contrib.auth import login
from django.contrib.auth.views import LoginView
from django.db import DatabaseError
from django.http import HttpResponse, HttpResponseRedirect

from core.outages import is_disk_full

logger = logging.getLogger("deepextension.sign_in")


class SignInView(LoginView):
    def form_valid(self, form: Any) -> HttpResponse:
        try:
            login(self.request, form.get_user())
        except DatabaseError as error:
            # The session exists by then (core.sessions). Only the date of the last sign-in and an
            # entry of the lock-out's log are missing, and nobody is kept out for those.
            if not is_disk_full(error) or not self.request.user.is_authenticated:
                raise

            logger.warning("%s signed in while the disk is full", form.get_user().pk)

        return HttpResponseRedirect(self.get_success_url())
