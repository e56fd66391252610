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

A try is counted before the password is looked at and given back when it was right. Counting
afterwards, as lock-out libraries do, lets as many tries through at once as there are threads."""

from __future__ import annotations

import hashlib
import logging
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.conf import settings
from django.contrib.auth import get_user_model
from django.db import DatabaseError, IntegrityError, transaction
from django.db.models import F
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
    count = -(-seconds // 60)
    return f"{count} minute{'s' if count != 1 else ''}"


@dataclass(frozen=True)
class Counted:
    """One counter that a try adds to."""

    kind: Kind
    key: str
    limit: int


class Attempt:
    """One try of a password, counted already. Ends with `succeeded`, `failed` or `withdrawn`."""

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

            # Somebody has to sign in to make room. accounts.hashers still bounds how fast one can
            # guess.
            return cls([], address, reached=[])

    def succeeded(self, user: Any) -> None:
        """The right password: what this person mistyped is forgotten, what others tried stays
        counted."""
        with _full_disk_is_no_obstacle():
            self._forget(user)

    def _forget(self, user: Any) -> None:
        own = (Kind.PAIR, Kind.BROWSER)
        for counter in self.counters:
            rows = SignInCounter.objects.filter(kind=counter.kind, key=counter.key)
            if counter.kind in own:
                rows.delete()
            else:
                rows.filter(count__gt=0).update(count=F("count") - 1)

        if self.counters:
            known_address_remember(user, self.address)

    def failed(self) -> None:
        """Tell the operator once for each lock-out. Names that are no account's are not written
        down: people type passwords into the wrong field."""
        for counter in self.reached:
            logger.warning("%s", _report(counter, self.address))

    def withdrawn(self) -> None:
        """The password was not looked at after all."""
        with _full_disk_is_no_obstacle():
            for counter in self.counters:
                counted = SignInCounter.objects.filter(
                    kind=counter.kind, key=counter.key, count__gt=0
                )
                counted.update(count=F("count") - 1)


@contextmanager
def _full_disk_is_no_obstacle() -> Iterator[None]:
    """Somebody has to sign in to make room; what could not be written down is counted a little
    longer."""
    try:
        yield
    except DatabaseError as error:
        if not is_disk_full(error):
            raise


def _counters(request: HttpRequest, username: str, address: str) -> list[Counted]:
    """What this try adds to, always in the same order: two transactions that lock rows in turn
    cannot block each other for ever."""
    limit = settings.SIGN_IN_FAILURE_LIMIT
    account = account_key(username)
    user = get_user_model().objects.filter(username=username).first()

    browser = browser_of(request, user)
    if browser:
        return [Counted(Kind.BROWSER, f"{account} in {browser}", limit)]

    pair = Counted(Kind.PAIR, f"{account} from {address}", limit)
    if user is not None and known_address(user, address):
        return [pair]

    everywhere = Counted(Kind.ACCOUNT, account, SPRAY_FACTOR * limit)
    here = Counted(Kind.ADDRESS, address, SPRAY_FACTOR * limit)
    return [here, everywhere, pair]


def account_key(username: str) -> str:
    """The name of an account as it is counted. A name that no account has is kept as a digest
    only."""
    name = unicodedata.normalize("NFKC", username).casefold()
    if get_user_model().objects.filter(username__iexact=name).exists():
        return name

    return f"unknown name {hashlib.sha256(name.encode()).hexdigest()[:16]}"


def _count(counters: list[Counted]) -> list[Counted]:
    """Add one to each, all or none, and return those that have reached their limit by it. Raises
    TooManyTries."""
    with transaction.atomic():
        return [counter for counter in counters if _count_one(counter)]


def _count_one(counter: Counted) -> bool:
    """Whether this was the last try within the limit. Raises TooManyTries where there is none
    left."""
    now = timezone.now()
    rows = SignInCounter.objects.filter(kind=counter.kind, key=counter.key)

    # Each line is one UPDATE, which the database carries out whole: of tries at the same moment
    # none is lost.
    if rows.filter(expires_at__gt=now, count=counter.limit - 1).update(
        count=counter.limit, expires_at=now + WINDOW
    ):
        return True

    if rows.filter(expires_at__gt=now, count__lt=counter.limit).update(count=F("count") + 1):
        return False
    if rows.filter(expires_at__lte=now).update(count=1, expires_at=now + WINDOW):
        return counter.limit == 1

    row = rows.first()
    if row is not None:
        raise TooManyTries(row.expires_at)

    try:
        with transaction.atomic():
            SignInCounter.objects.create(
                kind=counter.kind, key=counter.key, count=1, expires_at=now + WINDOW
            )
    except IntegrityError:
        # Somebody else was first by a moment.
        return _count_one(counter)

    return counter.limit == 1


def _report(counter: Counted, address: str) -> str:
    what = {
        Kind.ADDRESS: f"address {address} has tried too many passwords and is locked out",
        Kind.ACCOUNT: (
            f"account {counter.key} is under attack from several addresses, the last one "
            f"{address}; it is locked for "
            "addresses and browsers that never signed in to it"
        ),
        Kind.PAIR: f"account {counter.key} is locked out",
        Kind.BROWSER: f"account {counter.key}, at {address}, is locked out",
    }[counter.kind]

    return (
        f"Sign-in: {what} for {minutes(int(WINDOW.total_seconds()))}, after {counter.limit} "
        "failures."
    )


def known_address(user: Any, address: str) -> bool:
    return KnownAddress.objects.filter(
        user=user, address=address, last_seen__gt=timezone.now() - KNOWN_FOR
    ).exists()


def known_address_remember(user: Any, address: str) -> None:
    """Note that this person signed in from there; the oldest addresses are forgotten."""
    KnownAddress.objects.update_or_create(
        user=user, address=address, defaults={"last_seen": timezone.now()}
    )
    kept = (
        KnownAddress.objects.filter(user=user).order_by("-last_seen").values_list("pk", flat=True)
    )
    KnownAddress.objects.filter(user=user).exclude(pk__in=list(kept[:KNOWN_ADDRESSES])).delete()
    SignInCounter.objects.filter(expires_at__lt=timezone.now() - WINDOW).delete()


def account_unlock(username: str) -> None:
    """Forget all failures for this account. Its name ends where " from " or " in " begins, and
    holds no blank."""
    account = account_key(username)
    rows = SignInCounter.objects
    rows.filter(kind=Kind.ACCOUNT, key=account).delete()
    rows.filter(kind=Kind.PAIR, key__startswith=f"{account} from ").delete()
    rows.filter(kind=Kind.BROWSER, key__startswith=f"{account} in ").delete()


def reset_count(request: HttpRequest, email: str) -> None:
    """Limit how many mails somebody can have sent, from one address and to one. Raises
    TooManyTries."""
    digest = hashlib.sha256(email.strip().casefold().encode()).hexdigest()[:32]
    _count(
        [
            Counted(Kind.RESET_ADDRESS, client_address(request), RESETS_PER_WINDOW),
            Counted(Kind.RESET_ACCOUNT, digest, RESETS_PER_WINDOW),
        ]
    )
