from typing import Any

app_name = "models"

urlpatterns: list[Any] = []
