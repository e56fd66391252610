"""Trained models as trees: each below the model that it was trained from."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from django.core.paginator import Page, Paginator
from django.db.models import QuerySet

from core.listing import PAGE_ROWS
from models_app.models import BaseModel
from models_app.services import parent_of

# Deeper ones are drawn as deep as this.
DEEPEST = 4
# A chain of models longer than this would be a circle, which the database does not refuse.
LONGEST = 1000


@dataclass(frozen=True)
class Node:
    """A listed model. `top`: the id of the model that its tree stands on, which is not listed: a
    base model, or one that a filter left out. `depth`: 0 for what was trained from that."""

    pk: int
    top: int | None
    depth: int


def nodes(rows: Iterable[tuple[int, int | None, str]], tops: dict[int, str]) -> list[Node]:
    """Models in the order of their trees. rows: id, parent's id and name. tops: names of the
    parents that are not listed, as far as they are known to the reader; the others come last."""
    listed = sorted(rows, key=lambda row: (row[2].casefold(), row[0]))
    ids = {pk for pk, _, _ in listed}
    below: defaultdict[int | None, list[int]] = defaultdict(list)
    roots: defaultdict[int | None, list[int]] = defaultdict(list)

    for pk, parent, _ in listed:
        group = below if parent in ids else roots
        group[parent].append(pk)

    def known_first(top: int | None) -> tuple[bool, str]:
        name = tops.get(top or 0, "")
        return (not name, name.casefold())

    found: list[Node] = []
    for top in sorted(roots, key=known_first):
        for root in roots[top]:
            found.extend(_branch(root, top, below))

    return found


def _branch(root: int, top: int | None, below: dict[int | None, list[int]]) -> Iterator[Node]:
    """A model and all that was trained from it. No recursion: chains may be long."""
    waiting = [(root, 0)]
    while waiting:
        pk, depth = waiting.pop()
        yield Node(pk, top, depth)
        children = below.get(pk, []) if depth < LONGEST else []
        waiting.extend((child, depth + 1) for child in reversed(children))


def tree_page(rows: QuerySet[BaseModel], reader: Any, number: str | None) -> Page[Any]:
    """A page of trained models in the order of their trees, with as many queries for any number.
    Each model gets `depth`, and the first of a tree `top`: the model that it stands on, None where
    the reader may not see that."""
    listed: list[tuple[int, int | None, str]] = list(
        rows.order_by().values_list("pk", "parent_id", "name")
    )
    tops = _tops(listed, reader)
    names = {pk: model.title for pk, model in tops.items()}
    page: Page[Any] = Paginator(nodes(listed, names), PAGE_ROWS).get_page(number)

    models = rows.in_bulk([node.pk for node in page.object_list])
    shown: list[BaseModel] = []
    before: Any = object()

    for node in page.object_list:
        # One may have been deleted meanwhile.
        if (model := models.get(node.pk)) is None:
            continue

        drawn: Any = model
        drawn.depth = min(node.depth, DEEPEST)
        drawn.begins_tree = node.top != before
        drawn.top = tops.get(node.top or 0)
        before = node.top
        shown.append(model)

    page.object_list = shown
    return page


def parents_name(models: Iterable[Any], reader: Any) -> None:
    """Give each of a flat list `shown_parent`, None where the reader may not see it."""
    for model in models:
        model.shown_parent = parent_of(model, reader)


def _tops(listed: Iterable[tuple[int, int | None, str]], reader: Any) -> dict[int, BaseModel]:
    """The parents that are not listed themselves and that the reader may see."""
    ids = {pk for pk, _, _ in listed}
    wanted = {parent for _, parent, _ in listed if parent is not None} - ids
    visible = BaseModel.objects.visible_to(reader).filter(pk__in=wanted)
    return {model.pk: model for model in visible.only("name", "version")}


def ancestors_of(model: BaseModel, reader: Any) -> list[BaseModel]:
    """The models that it was trained from, the first one first, as far as the reader may see
    them: none before one that is hidden."""
    found: list[BaseModel] = []
    parent = model.parent_id

    while parent is not None and len(found) < LONGEST:
        row = BaseModel.objects.visible_to(reader).filter(pk=parent).first()
        if row is None:
            break

        found.append(row)
        parent = row.parent_id

    return found[::-1]
