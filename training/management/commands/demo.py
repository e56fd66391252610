from __future__ import annotations

import signal
import sys
import time
from datetime import timedelta
from typing import Any

import requests
from django.contrib.auth import get_user_model
from django.core.management.base import BaseCommand, CommandError, CommandParser
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from accounts.tokens import token_create
from core.serving import CannotServe, address, platform
from training.train.demo_rows import DESCRIPTION, NAME, demo_jsonl, follows_format
from training.train.starter_train import PARAMETERS

TRAIN = {
    "name": "help-desk-format",
    "method": "lora",
    "base_model": "smollm2-135m-instruct",
    "parameters": PARAMETERS,
    "notes": (
        "The demo: a help desk's house format. Copy it, change the learning rate, and compare the "
        "two."
    ),
}
ENDED = ("finished", "failed", "stopped")
BAR = 30
# For the merge and the comparison, on a slow machine.
MODEL_SECONDS = 300


class Command(BaseCommand):
    help = (
        "Serve the platform and run the main job through its API: a LoRA train on the demo dataset, "
        "and the model that it makes."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--exit", action="store_true", help="Leave once the train has finished."
        )

    def handle(self, *args: Any, **options: Any) -> None:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            with platform(self.stdout.write) as server:
                self.main_job()
                if options["exit"]:
                    return

                self.stdout.write(f"\nDeepExtension is at {address()} (Ctrl-C stops it).")
                server.wait()
        except CannotServe as error:
            raise CommandError(str(error)) from error
        except KeyboardInterrupt:
            self.stdout.write("Stopped.")

    def main_job(self) -> None:
        with Api() as api:
            dataset = self.dataset(api)
            run = self.train(api, dataset)
            if run["status"] not in ENDED:
                run = self.follow(api, run)

            if run["status"] != "finished":
                error = run["error"] or {"message": f"The train was {run['status']}.", "advice": ""}
                raise CommandError(f"{error['message']} {error['advice']}\n{address(run['url'])}")

            self.show(api, run)
            self.show_model(self.model(api, run))

    def dataset(self, api: Api) -> dict[str, Any]:
        """The demo dataset once it is checked. It is uploaded where it is not there yet."""
        datasets = api.named("datasets/", NAME)
        if not datasets:
            self.stdout.write("Uploading the demo dataset …")
            uploaded = api.post(
                "datasets/",
                files={"file": ("help-desk.jsonl", demo_jsonl())},
                data={"name": NAME, "description": DESCRIPTION},
            )
            datasets = [uploaded]

        dataset: dict[str, Any] = api.poll(
            f"datasets/{datasets[0]['id']}/",
            until=lambda row: row["status"] != "checking",
        )
        if dataset["status"] != "ready":
            raise CommandError(f"The demo dataset cannot be used: {dataset['error']}")

        return dataset

    def train(self, api: Api, dataset: dict[str, Any]) -> dict[str, Any]:
        """The demo's train: the finished one, else one that waits or runs, else a new one."""
        trains = api.named("trains/", str(TRAIN["name"]))
        finished = [row for row in trains if row["status"] == "finished"]
        active = [row for row in trains if row["status"] not in ENDED]

        for present in (finished, active):
            if present:
                return present[-1]

        run: dict[str, Any] = api.post(
            "trains/",
            json=TRAIN | {"dataset": dataset["id"]},
            headers={"Idempotency-Key": f"demo-{len(trains)}"},
        )
        return run

    def follow(self, api: Api, run: dict[str, Any]) -> dict[str, Any]:
        self.stdout.write(f"Training. Watch it at {address(run['url'])}")
        is_terminal = sys.stdout.isatty()
        shown = ""

        while run["status"] not in ENDED:
            time.sleep(0.5)
            run = api.get(f"trains/{run['id']}/")
            line = progress_line(run)
            # On a terminal one line that changes; in a file a line for each phase and tenth.
            state = line if is_terminal else f"{run['phase']}{int(run['progress'] * 10)}"
            if state == shown:
                continue

            shown = state
            if is_terminal:
                self.stdout.write(f"\r{line}\033[K", ending="")
            else:
                self.stdout.write(line)

            self.stdout.flush()

        if is_terminal:
            self.stdout.write("")

        return run

    def show(self, api: Api, run: dict[str, Any]) -> None:
        samples = api.get(f"trains/{run['id']}/samples/")
        prompts = {row["index"]: row["prompt"] for row in samples}
        before = {row["index"]: row["text"] for row in samples if row["stage"] == "before"}
        after = {row["index"]: row["text"] for row in samples if row["stage"] == "after"}

        for index, text in after.items():
            self.stdout.write(f"\n  Asked   {prompts[index].strip()}")
            self.stdout.write(f"  Before  {indented(before.get(index, ''))}")
            self.stdout.write(f"  After   {indented(text)}")

        metrics = api.get(f"trains/{run['id']}/metrics/")["rows"]
        losses = [row["values"]["eval_loss"] for row in metrics if row["split"] == "eval"]
        seconds = run["duration_seconds"]

        self.stdout.write(
            f"\nLoss on held-out rows {losses[0]:.3f} -> {losses[-1]:.3f} in {seconds:.0f} s. "
            f"Fixed format followed: {followed(before)} before, {followed(after)} after."
        )
        self.stdout.write(f"The train's page: {address(run['url'])}")

    def model(self, api: Api, run: dict[str, Any]) -> dict[str, Any]:
        """The model that was made of the train, merged and compared with what was trained. It is
        made where it is not there yet."""
        made = [
            row
            for row in api.rows("models/", origin="trained")
            if row["trained_from"].get("train") == run["id"]
        ]
        usable = [row for row in made if row["status"] != "failed"]
        if not usable:
            self.stdout.write("\nMerging the adapter into the base model, and comparing …")
            usable = [self.made_again(api, made[-1]) if made else self.made_new(api, run)]

        return dict(
            api.poll(
                f"models/{usable[-1]['id']}/",
                until=lambda row: row["status"] != "importing",
                seconds=MODEL_SECONDS,
            )
        )

    def made_new(self, api: Api, run: dict[str, Any]) -> dict[str, Any]:
        return dict(api.post(f"trains/{run['id']}/merge/", json={})["model"])

    def made_again(self, api: Api, failed: dict[str, Any]) -> dict[str, Any]:
        return dict(api.post(f"models/{failed['id']}/retry/"))

    def show_model(self, model: dict[str, Any]) -> None:
        if model["status"] != "ready":
            raise CommandError(f"The model could not be made: {model['error']}")

        for check in model["proof"].get("checks", []):
            sign = "passed" if check["passed"] else "FAILED"
            self.stdout.write(f"  {sign}  {check['name']}: {check['detail']}")

        if model["proof"].get("passed") is not True:
            raise CommandError(f"The model differs from what was trained: {address(model['url'])}")

        self.stdout.write(f"The model's page: {address(model['url'])}")


def followed(answers: dict[int, str]) -> str:
    count = sum(map(follows_format, answers.values()))
    return f"{count} of {len(answers)}"


def progress_line(run: dict[str, Any]) -> str:
    progress = run["progress"]
    done = "█" * round(BAR * progress)
    parts = [
        f"[{done:·<{BAR}}] {progress:4.0%}",
        run["phase"] or run["status"],
    ]

    if run["step"]:
        parts.append(f"step {run['step']} of {run['total_steps']}")

    loss = run["last_metrics"].get("loss")
    if loss is not None:
        parts.append(f"loss {loss:.3f}")
    if run["eta_seconds"]:
        parts.append(f"about {run['eta_seconds']:.0f} s left")

    return "  ".join(parts)


def indented(text: str) -> str:
    return "\n          ".join(text.strip().splitlines()) or "(nothing)"


class Api:
    """The platform's own API as its first superuser, with a token that lives as long as this
    command."""

    def __enter__(self) -> Api:
        superusers = get_user_model().objects.filter(is_superuser=True, is_active=True)
        user = superusers.order_by("pk").first()
        if user is None:
            raise CommandError("There is no account yet. Run: make setup")

        self.token, text = token_create(user=user, name="make demo", lifetime=timedelta(hours=2))
        self.session = requests.Session()
        # A machine that is short of memory for a moment may not answer in time.
        self.session.mount("http://", HTTPAdapter(max_retries=Retry(3)))
        self.session.headers["Authorization"] = f"Token {text}"

        return self

    def __exit__(self, *details: object) -> None:
        self.session.close()
        self.token.delete()

    def named(self, path: str, name: str) -> list[dict[str, Any]]:
        """What a list has of exactly this name."""
        rows = self.get(path, search=name)["results"]
        return [row for row in rows if row["name"] == name]

    def rows(self, path: str, **query: Any) -> list[dict[str, Any]]:
        """All rows of a list, page by page."""
        rows: list[dict[str, Any]] = []
        page = 1
        while True:
            answer = self.get(path, page=page, **query)
            rows += answer["results"]
            if answer["next"] is None:
                return rows

            page += 1

    def get(self, path: str, **query: Any) -> Any:
        response = self.session.get(address(f"/api/v1/{path}"), params=query, timeout=30)
        return self.content(response)

    def post(self, path: str, **body: Any) -> Any:
        response = self.session.post(address(f"/api/v1/{path}"), timeout=60, **body)
        return self.content(response)

    def content(self, response: requests.Response) -> Any:
        if not response.ok:
            raise CommandError(
                f"{response.request.method} {response.url} answered {response.status_code}: "
                f"{response.text}"
            )

        return response.json()

    def poll(self, path: str, *, until: Any, seconds: float = 120) -> Any:
        deadline = time.monotonic() + seconds
        while not until(answer := self.get(path)):
            if time.monotonic() > deadline:
                raise CommandError(f"{path} was not ready after {seconds:.0f} s.")

            time.sleep(0.3)

        return answer
