"""Limits on guessing passwords, which an outsider cannot turn against the owner of an account.

Failures are counted within a quarter of an hour, in four ways:

    for one account from one address     SIGN_IN_FAILURE_LIMIT
    from one address, any accounts       five times as many: one address that tries many names
    for one account, any addresses       five times as many: many addresses that try one name
    for one account from a known browser SIGN_IN_FAILURE_LIMIT

A person who comes from a known address (one that signed in successfully before) is held to the
first limit alone, and one who comes with a known browser (a signed cookie) to the last alone: an
attack on the account from elsewhere locks neither out. The scheme is OWASP's "device cookies",
https://owasp.org/www-community/Slow_Down_Online_Guessing_Attacks_with_Device_Cookies

A try is counted before the password is checked, and uncounted if it was right. Counting afterwards,
as lock-out libraries do, lets as many tries through at once as there are threads."""

from __future__ import annotations

import hashlib
import logging
import math
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.contrib.auth import get_user_model
from django.db import DatabaseError, IntegrityError, transaction
from django.db.models import F, QuerySet
from django.http import HttpRequest
from django.utils import timezone

from accounts.browsers import browser_of
from accounts.models import KnownAddress, SignInCounter
from core.addresses import client_address
from core.errors import UserError
from core.outages import is_disk_full

logger = logging.getLogger("deepextension.sign_in")

WINDOW = timedelta(minutes=15)
# One address may be an office, and one account be mistyped by several people's password managers.
SPRAY_FACTOR = 5
RESETS_PER_WINDOW = 5
KNOWN_FOR = timedelta(days=180)
KNOWN_ADDRESSES = 50

Kind = SignInCounter.Kind


class TooManyTries(UserError):
    """Locked for `retry_after` more seconds."""

    def __init__(self, until: datetime) -> None:
        self.until = until
        self.retry_after = max(1, round((until - timezone.now()).total_seconds()))
        super().__init__(
            f"Too many failed sign-ins. Try again in {minutes(self.retry_after)}.",
            code="locked_out",
            status=429,
        )


def minutes(seconds: int) -> str:
    """ "1 minute", "12 minutes": rounded up, so that nobody comes back too early."""
    count = math.ceil(seconds / 60)
    plural = "" if count == 1 else "s"

    return f"{count} minute{plural}"


@dataclass(frozen=True)
class Counted:
    """One counter that a try adds to."""

    kind: Kind
    key: str
    limit: int

    @property
    def rows(self) -> QuerySet[SignInCounter]:
        """Its row in the database, if there is one."""
        return SignInCounter.objects.filter(kind=self.kind, key=self.key)

    def uncount(self) -> None:
        """Take one try back."""
        self.rows.filter(count__gt=0).update(count=F("count") - 1)


class Attempt:
    """One try of a password, counted already. Ends with `succeeded`, `failed` or `withdrawn`.

    reached: the counters that reached their limit by this try.
    """

    def __init__(self, counters: list[Counted], address: str, reached: list[Counted]) -> None:
        self.counters = counters
        self.address = address
        self.reached = reached

    @classmethod
    def begin(cls, request: HttpRequest, username: str) -> Attempt:
        """Count a try. Raises TooManyTries, and counts nothing, where a limit has been reached."""
        address = client_address(request)
        counters = _counters(request, username, address)

        try:
            return cls(counters, address, reached=_count(counters))
        except DatabaseError as error:
            if not is_disk_full(error):
                raise

            # Somebody has to sign in to make room on the disk. accounts.hashers still limits how
            # fast one can guess.
            return cls([], address, reached=[])

    def succeeded(self, user: Any) -> None:
        """The right password: this person's own failures are forgotten, those of others stay
        counted."""
        with _full_disk_ignored():
            self._forget(user)

    def _forget(self, user: Any) -> None:
        own = (Kind.PAIR, Kind.BROWSER)
        for counter in self.counters:
            if counter.kind in own:
                counter.rows.delete()
            else:
                counter.uncount()

        if self.counters:
            known_address_remember(user, self.address)

    def failed(self) -> None:
        """Log each lock-out once. Names that no account has are not logged: people type passwords
        into the wrong field."""
        for counter in self.reached:
            logger.warning("%s", _report(counter, self.address))

    def withdrawn(self) -> None:
        """The password was not checked after all."""
        with _full_disk_ignored():
            for counter in self.counters:
                counter.uncount()


@contextmanager
def _full_disk_ignored() -> Iterator[None]:
    """Somebody has to sign in to make room on the disk; failures that could not be uncounted expire
    by themselves."""
    try:
        yield
    except DatabaseError as error:
        if not is_disk_full(error):
            raise


def _counters(request: HttpRequest, username: str, address: str) -> list[Counted]:
    """The counters that this try adds to, always in the same order, so that two transactions that
    lock rows one after the other cannot deadlock."""
    limit = settings.SIGN_IN_FAILURE_LIMIT
    spray_limit = SPRAY_FACTOR * limit
    account = account_key(username)
    user = get_user_model().objects.filter(username=username).first()

    browser = browser_of(request, user)
    if browser:
        return [Counted(Kind.BROWSER, f"{account} in {browser}", limit)]

    pair = Counted(Kind.PAIR, f"{account} from {address}", limit)
    if user is not None and known_address(user, address):
        return [pair]

    return [
        Counted(Kind.ADDRESS, address, spray_limit),
        Counted(Kind.ACCOUNT, account, spray_limit),
        pair,
    ]


def account_key(username: str) -> str:
    """The name of an account as counters keep it; a digest for a name that no account has."""
    name = unicodedata.normalize("NFKC", username).casefold()
    if get_user_model().objects.filter(username__iexact=name).exists():
        return name

    digest = hashlib.sha256(name.encode()).hexdigest()
    return f"unknown name {digest[:16]}"


def _count(counters: list[Counted]) -> list[Counted]:
    """Add one to each counter, to all or none, and return those that reached their limit by it.
    Raises TooManyTries."""
    with transaction.atomic():
        return [counter for counter in counters if _count_one(counter)]


def _count_one(counter: Counted) -> bool:
    """Whether this was the last try within the limit. Raises TooManyTries where there is none
    left."""
    now = timezone.now()
    expires_at = now + WINDOW
    rows = counter.rows

    # Each of these is one atomic UPDATE: of tries at the same moment none is lost.
    valid = rows.filter(expires_at__gt=now)
    last = valid.filter(count=counter.limit - 1)
    if last.update(count=counter.limit, expires_at=expires_at):
        return True
    if valid.filter(count__lt=counter.limit).update(count=F("count") + 1):
        return False
    if rows.filter(expires_at__lte=now).update(count=1, expires_at=expires_at):
        return counter.limit == 1

    row = rows.first()
    if row is not None:
        raise TooManyTries(row.expires_at)

    try:
        with transaction.atomic():
            SignInCounter.objects.create(
                kind=counter.kind,
                key=counter.key,
                count=1,
                expires_at=expires_at,
            )
    except IntegrityError:
        # Another request created it this moment.
        return _count_one(counter)

    return counter.limit == 1


def _report(counter: Counted, address: str) -> str:
    """A line for the log about a lock-out."""
    what = {
        Kind.ADDRESS: f"address {address} has tried too many passwords and is locked out",
        Kind.ACCOUNT: (
            f"account {counter.key} is under attack from several addresses, the last one "
            f"{address}; it is locked for addresses and browsers that never signed in to it"
        ),
        Kind.PAIR: f"account {counter.key} is locked out",
        Kind.BROWSER: f"account {counter.key}, at {address}, is locked out",
    }[counter.kind]

    return (
        f"Sign-in: {what} for {minutes(int(WINDOW.total_seconds()))}, after {counter.limit} "
        "failures."
    )


def known_address(user: Any, address: str) -> bool:
    """Whether this person signed in from there within KNOWN_FOR."""
    since = timezone.now() - KNOWN_FOR
    rows = KnownAddress.objects.filter(user=user, address=address, last_seen__gt=since)

    return rows.exists()


def known_address_remember(user: Any, address: str) -> None:
    """Store that this person signed in from there; the oldest addresses are forgotten."""
    now = timezone.now()
    addresses = KnownAddress.objects.filter(user=user)
    addresses.update_or_create(user=user, address=address, defaults={"last_seen": now})

    newest = addresses.order_by("-last_seen").values_list("pk", flat=True)
    kept = list(newest[:KNOWN_ADDRESSES])
    addresses.exclude(pk__in=kept).delete()

    SignInCounter.objects.filter(expires_at__lt=now - WINDOW).delete()


def account_unlock(username: str) -> None:
    """Forget all failures for this account."""
    account = account_key(username)
    rows = SignInCounter.objects

    # A user name holds no space, so that these are the keys of this account alone.
    rows.filter(kind=Kind.ACCOUNT, key=account).delete()
    rows.filter(kind=Kind.PAIR, key__startswith=f"{account} from ").delete()
    rows.filter(kind=Kind.BROWSER, key__startswith=f"{account} in ").delete()


def reset_count(request: HttpRequest, email: str) -> None:
    """Limit how many mails somebody can have sent, from one address and to one. Raises
    TooManyTries."""
    normal = email.strip().casefold()
    digest = hashlib.sha256(normal.encode()).hexdigest()[:32]

    by_address = Counted(Kind.RESET_ADDRESS, client_address(request), RESETS_PER_WINDOW)
    by_account = Counted(Kind.RESET_ACCOUNT, digest, RESETS_PER_WINDOW)
    _count([by_address, by_account])
