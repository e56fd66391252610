"""Pages of base models: the list, adding one, and one model."""

from __future__ import annotations

from typing import Any

from django.contrib.auth.models import User
from django.core.paginator import Paginator
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils.decorators import method_decorator
from django.views import View
from django.views.decorators.csrf import csrf_exempt, csrf_protect

from core.errors import UserError
from core.listing import PAGE_ROWS
from core.ownership import may_change, may_delete
from core.parts import load_again, page_or_part, wants_part
from core.requests import reader_of, row_or_404
from core.row_actions import RowActionView
from core.upload import DiskUploadHandler, ReceivedFile
from models_app.filters import BaseModelFilter
from models_app.folder_list import folders_offered
from models_app.folders import allowed_roots
from models_app.models import BaseModel
from models_app.origin import built_on, origin_of
from models_app.panels import panels_context
from models_app.passport import passport_download
from models_app.services import (
    DESCRIPTION_LIMIT,
    model_add,
    model_archive,
    model_delete,
    model_import_cancel,
    model_restore,
    model_retry,
    model_update,
)
from models_app.standing import in_use_text, is_needed_now
from models_app.tree import parents_name, tree_page

# Title, what to sort by, class.
COLUMNS = (
    ("Model", "name", ""),
    ("Status", "status", ""),
    ("Architecture", "architecture", "model-architecture"),
    ("Parameters", "parameter_count", "num"),
    ("Context", "context_length", "model-context num"),
    ("Size", "size_bytes", "num"),
    ("Licence", "", "model-licence"),
    ("Trains", "", "model-trains num"),
)
TRAINED_COLUMNS = (
    ("Model", "name", ""),
    ("Status", "status", ""),
    ("Method", "", "model-method"),
    ("Parameters", "parameter_count", "model-parameters num"),
    ("Size", "size_bytes", "num"),
    ("Licence", "", "model-licence"),
    ("Trains", "", "model-trains num"),
)
TRAINED = "trained"
# Source, title, icon.
WAYS = (
    (BaseModel.Source.HUB.value, "Hugging Face", "world"),
    (BaseModel.Source.FOLDER.value, "Local folder", "folder"),
    (BaseModel.Source.GGUF.value, "GGUF file", "file-upload"),
)


class ModelPage(View):
    """The models that this reader may see; a stranger's is a 404."""

    @property
    def reader(self) -> User:
        return reader_of(self.request)

    def models(self) -> QuerySet[BaseModel]:
        return BaseModel.objects.visible_to(self.request.user).with_related()


@method_decorator(page_or_part, name="dispatch")
class ModelListView(ModelPage):
    def get(self, request: HttpRequest) -> HttpResponse:
        models = self.models()
        query = request.GET.copy()
        shows_trained = query.pop("origin", [""])[-1] == TRAINED
        filtered = BaseModelFilter(query, queryset=models)
        rows = filtered.qs if filtered.is_valid() else models.filter(archived_at=None)
        base_models = rows.exclude(source=BaseModel.Source.TRAIN)
        trained = rows.filter(source=BaseModel.Source.TRAIN)
        number = query.get("page")

        if not shows_trained:
            page = Paginator(base_models, PAGE_ROWS).get_page(number)
        elif query.get("ordering"):
            page = Paginator(trained, PAGE_ROWS).get_page(number)
            parents_name(page.object_list, self.reader)
        else:
            page = tree_page(trained, self.reader, number)

        context = {
            "page": page,
            "importing": any(model.status == BaseModel.Status.IMPORTING for model in page),
            "shows_trained": shows_trained,
            "columns": TRAINED_COLUMNS if shows_trained else COLUMNS,
            "origins": (
                ("", "Base models", base_models.count(), not shows_trained),
                (TRAINED, "Trained here", trained.count(), shows_trained),
            ),
            "any": models.exists(),
            "archived": request.GET.get("archived") == "true",
            "archived_count": models.exclude(archived_at=None).count(),
            "ordering": request.GET.get("ordering", ""),
            "statuses": [("", "All"), *BaseModel.Status.choices],
        }

        if not wants_part(request):
            return render(request, "models/list.html", context)

        # Of a filter none may be left, which the page has words for.
        if not page.object_list:
            return load_again()

        return render(request, "models/_rows.html", context)


# The body is read under this page's own limits first, and only then asked for its token.
@method_decorator(csrf_exempt, name="dispatch")
class ModelAddView(ModelPage):
    """`?way=`: from where the model is added, a source of BaseModel.ADDED."""

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        request.upload_handlers = [DiskUploadHandler(request)]
        try:
            request.POST  # noqa: B018 - reads the body
        except UserError as error:
            return self.page(BaseModel.Source.GGUF.value, {}, error)

        return csrf_protect(super().dispatch)(request, *args, **kwargs)

    def get(self, request: HttpRequest) -> HttpResponse:
        way = known_source(request.GET.get("way", ""))
        return self.page(way, {})

    def post(self, request: HttpRequest) -> HttpResponse:
        source = known_source(request.POST.get("source", ""))
        values = {
            "reference": request.POST.get("reference", ""),
            "name": request.POST.get("name", ""),
        }

        file = request.FILES.get("file")
        if not isinstance(file, ReceivedFile):
            file = None

        try:
            model = model_add(owner=self.reader, source=source, file=file, **values)
        except UserError as error:
            return self.page(source, values, error)

        return redirect(model)

    def page(
        self, way: str, values: dict[str, str], error: UserError | None = None
    ) -> HttpResponse:
        errors = error.fields if error else {}
        context: dict[str, Any] = {
            "ways": WAYS,
            "way": way,
            "values": values,
            "errors": errors,
            "whole": " ".join(errors.get("", [])),
        }

        if way == BaseModel.Source.FOLDER:
            context["roots"] = allowed_roots()
            context["folders"] = folders_offered()

        status = error.status if error else 200

        return render(self.request, "models/add.html", context, status=status)


def known_source(source: str) -> str:
    """The source if people can add models from it, else the hub."""
    return source if source in BaseModel.ADDED else BaseModel.Source.HUB.value


class ModelDetailView(ModelPage):
    def get(self, request: HttpRequest, pk: int) -> HttpResponse:
        model = row_or_404(self.models(), pk)
        context = {
            "model": model,
            "made": origin_of(model, self.reader),
            "built": built_on(model, self.reader),
            "may_change": may_change(model, self.reader),
            "most": DESCRIPTION_LIMIT,
            "in_use": in_use_text(model, self.reader) if may_delete(model, self.reader) else "",
            "is_needed_now": is_needed_now(model),
            **panels_context(model, self.reader),
        }

        return render(request, "models/detail.html", context)


class ModelPassportView(ModelPage):
    def get(self, request: HttpRequest, pk: int) -> HttpResponse:
        return passport_download(row_or_404(self.models(), pk), self.reader)


class ModelActionView(RowActionView[BaseModel]):
    """A button of a model's page. The service that it calls says who may press it."""

    def get_row(self, request: HttpRequest, pk: int) -> BaseModel:
        visible = BaseModel.objects.visible_to(request.user)
        return row_or_404(visible.with_related(), pk)


class ModelUpdateView(ModelActionView):
    def change(self, request: HttpRequest, model: BaseModel) -> str:
        model_update(
            model=model,
            by=reader_of(request),
            name=request.POST.get("name"),
            description=request.POST.get("description"),
        )
        return "Saved."


class ModelArchiveView(ModelActionView):
    def change(self, request: HttpRequest, model: BaseModel) -> str:
        model_archive(model=model, by=reader_of(request))
        return f"{model.title} is archived: it is no longer offered for new trains."


class ModelRestoreView(ModelActionView):
    def change(self, request: HttpRequest, model: BaseModel) -> str:
        model_restore(model=model, by=reader_of(request))
        return f"{model.title} is offered again."


class ModelRetryView(ModelActionView):
    def change(self, request: HttpRequest, model: BaseModel) -> str:
        model_retry(model=model, by=reader_of(request))
        return "Trying again."


class ModelCancelView(ModelActionView):
    def change(self, request: HttpRequest, model: BaseModel) -> str:
        model_import_cancel(model=model, by=reader_of(request))
        return f"The {model.work} is being cancelled."


class ModelDeleteView(ModelActionView):
    def change(self, request: HttpRequest, model: BaseModel) -> str:
        model_delete(model=model, by=reader_of(request))
        return f"{model.title} and its files are deleted."

    def address_done(self, request: HttpRequest, model: BaseModel) -> str:
        return reverse("models:list")
