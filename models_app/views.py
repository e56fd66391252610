"""Pages of base models: the list, adding one, and one model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.contrib import messages
from django.contrib.auth.models import User
from django.core.paginator import Paginator
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils.decorators import method_decorator
from django.views import View
from django.views.decorators.csrf import csrf_exempt, csrf_protect

from core.errors import UserError
from core.listing import PAGE_ROWS
from core.ownership import may_change
from core.upload import DiskUploadHandler, ReceivedFile
from models_app.filters import BaseModelFilter
from models_app.folder_list import folders_offered
from models_app.folders import allowed_roots
from models_app.models import BaseModel
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
WAYS = (
    (BaseModel.Source.HUB.value, "Hugging Face", "world"),
    (BaseModel.Source.FOLDER.value, "Local folder", "folder"),
    (BaseModel.Source.GGUF.value, "GGUF file", "file-upload"),
)


class ModelPage(View):
    """The models that this reader may see; a stranger's is a 404."""

    @property
    def reader(self) -> User:
        assert isinstance(self.request.user, User)
        return self.request.user

    def models(self) -> QuerySet[BaseModel]:
        return BaseModel.objects.visible_to(self.request.user).with_related()

    def model(self) -> BaseModel:
        pk = self.kwargs["pk"]
        model = self.models().filter(pk=pk).first() if pk < 2**63 else None
        if model is None:
            raise Http404

        return model


class ModelListView(ModelPage):
    def get(self, request: HttpRequest) -> HttpResponse:
        narrowed = BaseModelFilter(request.GET, queryset=self.models())
        rows = narrowed.qs if narrowed.is_valid() else self.models().filter(archived_at=None)
        page = Paginator(rows, PAGE_ROWS).get_page(request.GET.get("page"))
        context = {
            "page": page,
            "columns": COLUMNS,
            "any": self.models().exists(),
            "archived": request.GET.get("archived") == "true",
            "archived_count": self.models().exclude(archived_at=None).count(),
            "ordering": request.GET.get("ordering", ""),
            "statuses": [("", "All"), *BaseModel.Status.choices],
            "origins": [("", "All models"), ("base", "Base models"), ("trained", "Trained here")],
        }

        return render(request, "models/list.html", context)


# The body is read under this page's own limits first, and only then asked for its token.
@method_decorator(csrf_exempt, name="dispatch")
class ModelAddView(ModelPage):
    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        request.upload_handlers = [DiskUploadHandler(request)]
        try:
            request.POST  # noqa: B018 - reads the body
        except UserError as error:
            return self.page(BaseModel.Source.GGUF.value, {}, error)

        return csrf_protect(super().dispatch)(request, *args, **kwargs)

    def get(self, request: HttpRequest) -> HttpResponse:
        way = request.GET.get("way", "")
        return self.page(way if way in BaseModel.ADDED else BaseModel.Source.HUB.value, {})

    def post(self, request: HttpRequest) -> HttpResponse:
        source = request.POST.get("source", "")
        if source not in BaseModel.ADDED:
            source = BaseModel.Source.HUB.value

        values = {name: request.POST.get(name, "") for name in ("reference", "name")}
        file = request.FILES.get("file")
        try:
            model = model_add(
                owner=self.reader,
                source=source,
                file=file if isinstance(file, ReceivedFile) else None,
                **values,
            )
        except UserError as error:
            return self.page(source, values, error)

        return redirect(model)

    def page(
        self, way: str, values: dict[str, str], error: UserError | None = None
    ) -> HttpResponse:
        context: dict[str, Any] = {
            "ways": WAYS,
            "way": way,
            "values": values,
            "errors": error.fields if error else {},
            "whole": " ".join(error.fields.get("", [])) if error else "",
        }

        if way == BaseModel.Source.FOLDER:
            context |= {"roots": allowed_roots(), "folders": folders_offered()}

        return render(
            self.request, "models/add.html", context, status=error.status if error else 200
        )


class ModelDetailView(ModelPage):
    def get(self, request: HttpRequest, pk: int) -> HttpResponse:
        model = self.model()
        context = {
            "model": model,
            "may_change": may_change(model, self.reader),
            "most": DESCRIPTION_LIMIT,
        }

        return render(request, "models/detail.html", context)


class ModelChangeView(ModelPage):
    """One change, then back to the model with a word about it."""

    change: Callable[..., object]
    done = ""
    http_method_names = ("post",)

    def values(self) -> dict[str, Any]:
        return {}

    def target(self, model: BaseModel) -> str:
        return model.get_absolute_url()

    def post(self, request: HttpRequest, pk: int) -> HttpResponseRedirect:
        model = self.model()
        page, name = model.get_absolute_url(), model.name
        try:
            type(self).change(model=model, by=self.reader, **self.values())
        except UserError as error:
            messages.error(request, error.message)
            return HttpResponseRedirect(page)

        messages.success(request, self.done.format(name=name))
        return HttpResponseRedirect(self.target(model))


class ModelUpdateView(ModelChangeView):
    change = staticmethod(model_update)
    done = "Saved."

    def values(self) -> dict[str, Any]:
        return {
            name: self.request.POST[name]
            for name in ("name", "description")
            if name in self.request.POST
        }


class ModelArchiveView(ModelChangeView):
    change = staticmethod(model_archive)
    done = "{name} is archived: it is no longer offered for new trains."


class ModelRestoreView(ModelChangeView):
    change = staticmethod(model_restore)
    done = "{name} is offered again."


class ModelRetryView(ModelChangeView):
    change = staticmethod(model_retry)
    done = "Trying again."


class ModelCancelView(ModelChangeView):
    change = staticmethod(model_import_cancel)
    done = "The import is being cancelled."


class ModelDeleteView(ModelChangeView):
    change = staticmethod(model_delete)
    done = "{name} and its files are gone."

    def target(self, model: BaseModel) -> str:
        return reverse("models:list")
