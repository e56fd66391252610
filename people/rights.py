"""Who may change or remove whose account."""

from __future__ import annotations

import copy

from django.contrib.auth.models import User


def rights_of(person: User) -> set[str]:
    """All permissions of an account, also of a closed one, for which Django gives none."""
    open_account = copy.copy(person)
    open_account.is_active = True

    # Django keeps what it found for the closed account on the object.
    for cache in ("_perm_cache", "_user_perm_cache", "_group_perm_cache"):
        vars(open_account).pop(cache, None)

    return open_account.get_all_permissions()


def may_manage(by: User, person: User) -> bool:
    """Nobody gains rights by taking over an account: its rights have to be among one's own."""
    if by.is_superuser:
        return True

    return not person.is_superuser and rights_of(person) <= by.get_all_permissions()


def may_remove(by: User, person: User) -> bool:
    if by.pk == person.pk:
        return False

    return by.has_perm("auth.delete_user") and may_manage(by, person)
