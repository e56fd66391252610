"""The button "Try it with the sample", on pages and in the API."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import reverse
from django.views import View
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from core.api import errors
from core.errors import UserError
from core.redirects import redirect_back
from core.requests import reader_of
from training.train.starter_train import sample_train


class TrySampleView(View):
    """Makes the sample dataset and opens the form of a short train, filled in. Nothing is
    started."""

    def post(self, request: HttpRequest) -> HttpResponse:
        try:
            sample = sample_train(by=reader_of(request))
        except UserError as error:
            messages.error(request, error.message)
            return redirect_back(request, reverse("training:list"))

        messages.success(
            request,
            "Everything is filled in for a first train of a few minutes. Press Run the Train.",
        )
        query = {"sample": 1, "dataset": sample.dataset.pk, "base_model": sample.base_model.pk}
        return redirect(f"{reverse('training:form', args=[sample.method.slug])}?{urlencode(query)}")


class SampleTrainSerializer(serializers.Serializer[Any]):
    name = serializers.CharField()
    method = serializers.CharField(source="method.slug")
    base_model = serializers.CharField(source="base_model.slug")
    dataset = serializers.CharField(source="dataset.slug")
    parameters = serializers.DictField()


class SampleTrainView(APIView):
    @extend_schema(request=None, responses={200: SampleTrainSerializer, **errors(400, 401, 507)})
    def post(self, request: Request) -> Response:
        """Make the sample dataset and answer the body of a short first train with it. Nothing is
        started."""
        sample = sample_train(by=reader_of(request))
        return Response(SampleTrainSerializer(sample).data)
