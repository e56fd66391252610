from typing import Any

app_name = "methods"

urlpatterns: list[Any] = []
