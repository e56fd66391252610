"""Who may change, and remove, the account of whom."""

from __future__ import annotations

import copy

from django.contrib.auth.models import User


def rights_of(person: User) -> set[str]:
    """All permissions of an account, those of a closed account too: Django says it has none."""
    open_account = copy.copy(person)
    open_account.is_active = True

    for cache in ("_perm_cache", "_user_perm_cache", "_group_perm_cache"):
        vars(open_account).pop(cache, None)

    return open_account.get_all_permissions()


def may_manage(by: User, person: User) -> bool:
    """Nobody gains rights by taking over an account: its rights have to be among one's own."""
    if by.is_superuser:
        return True

    return not person.is_superuser and rights_of(person) <= by.get_all_permissions()


def may_remove(by: User, person: User) -> bool:
    return by.has_perm("auth.delete_user") and by.pk != person.pk and may_manage(by, person)
