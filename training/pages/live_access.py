"""Whether a session or a token may still see a train, checked often, by one small query.

The rule itself takes three queries or more, and Django needs longer to build them than the database
to run them. So the rule's last answer is kept together with everything it was made of: the session,
the user's row, groups and permissions. As long as these read the same, and the train is among those
that the user sees, the answer stands.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any

from django.conf import settings
from django.contrib.auth import SESSION_KEY, get_user
from django.contrib.auth.models import Group, User
from django.contrib.sessions.backends.base import SessionBase
from django.contrib.sessions.models import Session
from django.core.exceptions import EmptyResultSet
from django.db import connection
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils import timezone

from accounts.tokens import tokens_valid
from training.models import TrainRun

# Rights may come from places that are not looked at here, such as another back end for sign-in.
LONGEST_SECONDS = 10


@dataclass
class TokenAccess:
    """A program's token and one train."""

    token: str
    pk: int

    def allows(self) -> bool:
        """Whether the API would show the train for this token now."""
        tokens = tokens_valid().filter(pk=self.token, user__is_active=True)
        token = tokens.select_related("user").first()
        if token is None:
            return False

        return TrainRun.objects.visible_to(token.user).filter(pk=self.pk).exists()


@dataclass
class SessionAccess:
    """A session's look at one train."""

    session: str
    pk: int
    user_id: str | None = None
    visible_sql: str = ""
    visible_parameters: tuple[Any, ...] = ()
    state: tuple[Any, ...] | None = None
    until: float = -math.inf

    def allows(self) -> bool:
        """Whether the page of the train would open for this session now."""
        now = time.monotonic()
        if self.state is not None and now < self.until and self._read_state() == self.state:
            return True

        session = import_module(settings.SESSION_ENGINE).SessionStore(self.session)
        if session.is_signed:
            # It began on a full disk and is no row, so the rule is asked each time.
            visible = self._visible(session)
            return visible is not None and visible.exists()

        self.state = self._ask_the_rule(session)
        self.until = now + LONGEST_SECONDS
        return self.state is not None

    def _visible(self, session: SessionBase) -> QuerySet[TrainRun] | None:
        """The train, if the session's user may see it; None where nobody is signed in."""
        request = HttpRequest()
        request.session = session
        user = get_user(request)
        if not user.is_authenticated:
            return None

        return TrainRun.objects.visible_to(user).filter(pk=self.pk)

    def _ask_the_rule(self, session: SessionBase) -> tuple[Any, ...] | None:
        """What the rule's yes was made of; None for a no, and where rights changed meanwhile."""
        self.user_id = session.get(SESSION_KEY)
        self.visible_sql, self.visible_parameters = "SELECT 1", ()
        before = self._read_state()
        visible = self._visible(session)
        if visible is None:
            return None

        try:
            self.visible_sql, self.visible_parameters = visible.values("pk").query.sql_with_params()
        except EmptyResultSet:
            return None

        after = self._read_state()
        return after if after == before else None

    def _read_state(self) -> tuple[Any, ...] | None:
        """None where the session is over, its user is gone, or the train is not visible."""
        now = connection.ops.adapt_datetimefield_value(timezone.now())
        parameters = (self.user_id, self.session, now, *self.visible_parameters)

        with connection.cursor() as cursor:
            cursor.execute(_state_sql() + f" AND EXISTS ({self.visible_sql})", parameters)
            row: tuple[Any, ...] | None = cursor.fetchone()

        return row


@cache
def _state_sql() -> str:
    """All that a session's rights come from. Rows are never changed in place in the tables that are
    counted here, so that their number and the newest id tell of every change."""
    memberships = User.groups.through._meta.db_table
    own = User.user_permissions.through._meta.db_table
    of_groups = Group.permissions.through._meta.db_table
    mine = f"SELECT group_id FROM {memberships} WHERE user_id = u.id"  # noqa: S608
    parts = [
        f"FROM {memberships} WHERE user_id = u.id",
        f"FROM {own} WHERE user_id = u.id",
        f"FROM {of_groups} WHERE group_id IN ({mine})",
    ]

    counts = ", ".join(f"(SELECT COUNT(*) {part}), (SELECT MAX(id) {part})" for part in parts)

    return (
        f"SELECT s.session_data, u.*, {counts} "  # noqa: S608
        f"FROM {Session._meta.db_table} s JOIN {User._meta.db_table} u ON u.id = %s "
        "WHERE s.session_key = %s AND s.expire_date > %s"
    )
