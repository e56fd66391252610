"""Rewards in the form, in the plan, tried before the train, and reported while it runs."""

import json
import shutil
from threading import Thread
from urllib.parse import urlencode

import pytest
from bs4 import BeautifulSoup
from django.http import QueryDict

from core import programs
from core.errors import UserError
from core.store import trials_folder
from datasets_app.models import Dataset
from engine.contract.rundir import MODEL, read_spec
from engine.rewards.registry import REWARDS
from engine.rewards.trial import ANSWERS
from methods.models import TrainingMethod
from methods.schema import method_fields, rewards_text
from methods.services import methods_install, parameters_validate
from models_app.models import BaseModel
from training.form.controls import parameters_read
from training.jobs import run_trial
from training.models import Sample, TrainRun
from training.pages.answers import completions_of
from training.pages.chart_table import CHARTS, NOT_CHARTED, charts_table
from training.train import trial
from training.train.judgement import judge_rewards
from training.train.plan import train_plan
from training.train.reward_resources import resources_of
from training.train.services import train_create
from training.train.trial import trial_cancel, trial_read, trial_run, trial_start

NUMBERS = [{"function": "numeric_answer", "parameters": {"answer_tag": "answer"}}]
TWO = [
    *NUMBERS,
    {
        "function": "tag_format",
        "weight": 0.5,
        "parameters": {"tags": "think, answer", "strict": True},
    },
]
from tests.markup import typed


@pytest.fixture
def methods(db):
    methods_install()
    return {method.slug: method for method in TrainingMethod.objects.all()}


@pytest.fixture
def model(db):
    model = BaseModel.objects.create(
        name="Tiny",
        slug="tiny",
        source="gguf",
        reference="tiny.gguf",
        status="ready",
        context_length=512,
        linear_modules=["q_proj"],
        tokenizer_sha256="1" * 64,
        shared=True,
    )
    # Ids begin at 1 in every test: another one's model may have left its files here.
    shutil.rmtree(model.path, ignore_errors=True)
    model.path.mkdir(parents=True)
    return model


@pytest.fixture
def make_dataset(alice):
    def make(rows=None, **fields):
        values = {
            "owner": alice,
            "name": "Sums",
            "slug": "sums",
            "file_name": "x.jsonl",
            "file_type": "jsonl",
            "size_bytes": 3,
            "sha256": "5" * 64,
            "status": "ready",
            "format": "question-answer",
            "row_count": 40,
        }
        dataset = Dataset.objects.create(**values | fields)
        dataset.path.parent.mkdir(parents=True, exist_ok=True)
        rows = rows or [{"question": f"{n} + 1?", "answer": f"#### {n + 1}"} for n in range(8)]
        dataset.path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return dataset

    return make


def resolved(method, **given):
    return parameters_validate(method, {"rewards": NUMBERS} | given)


def planned(method, model, dataset, **given):
    return train_plan(
        method=method,
        base_model=model,
        dataset=dataset,
        evaluation_dataset=None,
        parameters=resolved(method, **given),
    )


class TestForm:
    def page(self, client, **query):
        return BeautifulSoup(
            client.get(f"/trains/new/grpo/?{urlencode(query)}").content, "html.parser"
        )

    def posted(self, soup):
        """What a browser would send of the page as it stands."""
        form = soup.select_one("form.train-form")
        for template in form.select("template"):
            template.decompose()
        pairs = []
        for item in form.select("input[name], select[name], textarea[name]"):
            unset = item.get("type") in ("checkbox", "radio") and not item.has_attr("checked")
            if unset or item.has_attr("disabled"):
                continue
            if item.name == "select":
                option = item.select_one("option[selected]") or item.select_one("option")
                pairs.append((item["name"], option["value"] if option else ""))
            elif item.name == "textarea":
                pairs.append((item["name"], typed(item.text)))
            else:
                default = "on" if item.get("type") == "checkbox" else ""
                pairs.append((item["name"], item.get("value", default)))
        return pairs

    def test_a_copy_has_the_same_rewards_and_posts_them(
        self, client, alice, methods, model, make_dataset
    ):
        make_dataset()
        method = methods["grpo"]
        run = TrainRun.objects.create(
            owner=alice,
            name="first",
            method=method,
            base_model=model,
            dataset=Dataset.objects.get(),
            parameters=resolved(method, rewards=TWO, learning_rate=3e-5),
            status="finished",
        )
        client.force_login(alice)
        soup = self.page(client, copy=run.pk)
        assert len(soup.select("[data-reward-rows] [data-reward-row]")) == 2
        assert len(soup.select("template[data-reward]")) == len(REWARDS)
        data = QueryDict(urlencode(self.posted(soup)))
        found = parameters_read(method_fields(method), data)
        assert parameters_validate(method, found) == run.parameters

    def test_a_function_of_the_menu_can_be_added_without_a_script(
        self, client, alice, methods, model, make_dataset
    ):
        make_dataset()
        client.force_login(alice)
        pairs = self.posted(self.page(client))
        pairs = [
            (name, "length_window" if name == "rewards-new-function" else value)
            for name, value in pairs
        ]
        response = client.post(
            "/trains/new/grpo/", urlencode(pairs), "application/x-www-form-urlencoded"
        )
        assert response.status_code == 302, response.content.decode()[-2000:]
        (choice,) = TrainRun.objects.get().parameters["rewards"]
        assert choice == {
            "function": "length_window",
            "weight": 1.0,
            "parameters": {"unit": "words", "shortest": 1, "longest": 200},
        }

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({}, "at least one reward"),
            (
                {"rewards-key": "0", "rewards-0-function": "regex", "rewards-0-p-pattern": "("},
                "no regular expression",
            ),
            ({"rewards-key": "0", "rewards-0-function": "nope"}, "There is no reward"),
            (
                {"rewards-key": "0", "rewards-0-function": "chrf", "rewards-0-weight": "much"},
                "valid number",
            ),
            ({"rewards-key": "0", "rewards-0-function": "reward_model"}, "Model is needed"),
        ],
    )
    def test_what_cannot_be_used_is_said_beside_the_rewards(
        self, client, alice, methods, model, make_dataset, changes, words
    ):
        make_dataset()
        client.force_login(alice)
        pairs = self.posted(self.page(client)) + list(changes.items())
        response = client.post(
            "/trains/new/grpo/", urlencode(pairs), "application/x-www-form-urlencoded"
        )
        assert response.status_code == 400
        beside = BeautifulSoup(response.content, "html.parser").select_one(
            '[data-messages="rewards"]'
        )
        assert words in str(beside)

    def test_what_needs_a_gpu_is_shown_and_not_offered(self, client, alice, methods):
        client.force_login(alice)
        soup = self.page(client)
        assert soup.select_one("#id-use_vllm").has_attr("disabled")
        assert "Needs a GPU" in soup.select_one("#help-quantization").text
        with pytest.raises(UserError, match="GPU"):
            resolved(methods["grpo"], use_vllm=True)


class TestPlan:
    def test_steps_are_counted_in_prompts(self, methods, model, make_dataset):
        plan = planned(
            methods["grpo"], model, make_dataset(), batch_size=8, num_generations=4, epochs=2
        )
        assert (plan.effective_batch, plan.train_rows, plan.eval_rows) == (8, 38, 2)
        assert (plan.steps_per_epoch, plan.steps) == (19, 38)
        assert not plan.errors
        again = planned(methods["ppo"], model, Dataset.objects.get(), batch_size=8, ppo_epochs=3)
        assert (again.steps_per_epoch, again.steps) == (4 * 3, 12)

    def test_a_step_that_takes_more_prompts_than_there_are_is_refused(
        self, methods, model, make_dataset
    ):
        plan = planned(methods["ppo"], model, make_dataset(), batch_size=64)
        assert "each step takes 64" in plan.errors["batch_size"]

    def test_prompt_and_answer_must_fit_the_context(self, methods, model, make_dataset):
        plan = planned(
            methods["grpo"], model, make_dataset(), max_prompt_tokens=500, max_completion_tokens=100
        )
        assert "600" in plan.errors["max_completion_tokens"]
        assert plan.fixes["max_completion_tokens"][0]["set"] == {"max_completion_tokens": 12}

    def test_rewards_with_a_reference_need_one(self, methods, model, make_dataset):
        dataset = make_dataset(rows=[{"prompt": "Hi"}], format="prompt-only")
        assert "Numeric answer" in planned(methods["grpo"], model, dataset).errors["rewards"]
        length = [{"function": "length_window"}]
        assert not planned(methods["grpo"], model, dataset, rewards=length).errors

    @pytest.mark.parametrize("size", [1, 3, 6, 10])
    def test_batches_that_generations_do_not_divide_name_those_that_work(self, methods, size):
        with pytest.raises(UserError) as refused:
            resolved(methods["grpo"], batch_size=size, num_generations=4)
        text = refused.value.fields["batch_size"][0]
        assert f"{size} × accumulation 1 = {size} answers" in text
        near = text.split("batch size of ")[1].split(".")[0].split(",")[0].split(" or ")
        for other in near:
            assert resolved(methods["grpo"], batch_size=int(other), num_generations=4)

    def test_one_generation_is_refused(self, methods):
        with pytest.raises(UserError, match="at least 2"):
            resolved(methods["grpo"], num_generations=1)

    def test_all_weights_at_an_adapters_rate_are_warned_about(self, methods, model, make_dataset):
        dataset = make_dataset(format="preference")
        found = [
            train_plan(
                method=methods["dpo"],
                base_model=model,
                dataset=dataset,
                evaluation_dataset=None,
                parameters=parameters_validate(methods["dpo"], {"adapter": adapter}),
            ).warnings.get("learning_rate", "")
            for adapter in ("none", "lora")
        ]
        assert "5e-7" in found[0]
        assert found[1] == ""

    def test_a_pair_is_two_rated_answers(self, methods, model, make_dataset):
        dataset = make_dataset(format="preference")
        parameters = parameters_validate(methods["kto"], {"evaluation_split": 0.0})
        plan = train_plan(
            method=methods["kto"],
            base_model=model,
            dataset=dataset,
            evaluation_dataset=None,
            parameters=parameters,
        )
        assert plan.train_rows == 80


class TestResources:
    @pytest.fixture
    def scorer(self, alice, methods, model, make_dataset):
        run = TrainRun.objects.create(
            owner=alice,
            name="taste",
            method=methods["reward"],
            base_model=model,
            dataset=make_dataset(),
            parameters={},
            status="finished",
        )
        shutil.rmtree(run.directory, ignore_errors=True)
        (run.directory / MODEL).mkdir(parents=True)
        (run.directory / MODEL / "adapter_config.json").write_text("{}")
        return run

    def chosen(self, run):
        return {
            "rewards": [
                {"function": "reward_model", "weight": 1.0, "parameters": {"model": run.pk}}
            ]
        }

    def test_a_reward_model_comes_with_the_model_it_adapts(self, scorer, alice, model):
        (resource,) = resources_of(self.chosen(scorer), alice).values()
        assert resource.path == str(scorer.directory / MODEL)
        assert (resource.base_path, resource.name) == (str(model.path), "taste")

    def test_it_stands_in_the_spec(self, scorer, alice, methods, model):
        run, _ = train_create(
            owner=alice,
            name="by taste",
            method=methods["ppo"],
            base_model=model,
            dataset=Dataset.objects.get(),
            parameters=self.chosen(scorer),
        )
        assert list(read_spec(run.directory).resources) == [f"reward_model:{scorer.pk}"]

    def test_another_train_or_a_strangers_is_none(self, scorer, alice, bob):
        with pytest.raises(UserError, match="no finished reward model"):
            resources_of(self.chosen(scorer), bob)
        TrainRun.objects.update(status="failed")
        with pytest.raises(UserError, match="no finished reward model"):
            resources_of(self.chosen(scorer), alice)

    def test_a_judge_that_nobody_set_up_is_said(self, alice, monkeypatch):
        monkeypatch.delenv("DEEPEXTENSION_JUDGE_URL", raising=False)
        with pytest.raises(UserError, match="operator"):
            resources_of(
                {"rewards": [{"function": "llm_judge", "weight": 1.0, "parameters": {}}]}, alice
            )


class TestTrial:
    def start(self, alice, method, model, dataset, **given):
        return trial_start(by=alice, method=method, base_model=model, dataset=dataset, **given)

    def test_typed_answers_are_scored(self, alice, bob, methods, model, make_dataset):
        answers = ["<answer>1</answer>", "2", "", "x"]
        key = self.start(
            alice,
            methods["grpo"],
            model,
            make_dataset(),
            parameters={"rewards": TWO},
            answers=[*answers, "y"],
        )
        assert trial_read(by=alice, key=key) == {
            "done": False,
            "cancelled": False,
            "rows": 5,
            "answers": [],
            "error": "",
        }
        assert run_trial(key) == ""
        found = trial_read(by=alice, key=key)
        assert (found["done"], found["error"], len(found["answers"])) == (True, "", 5)
        assert [answer["rewards"]["numeric_answer"]["value"] for answer in found["answers"]] == [
            1,
            0,
            0,
            0,
            0,
        ]
        assert [answer["text"] for answer in found["answers"]][:4] == answers
        assert trial_read(by=bob, key=key) is None

    def test_a_second_trial_takes_the_place_of_the_first(self, alice, methods, model, make_dataset):
        dataset = make_dataset()
        keys = [
            self.start(
                alice,
                methods["grpo"],
                model,
                dataset,
                parameters={"rewards": NUMBERS},
                answers=["1"],
            )
            for _ in range(2)
        ]
        assert trial_read(by=alice, key=keys[0]) is None
        assert [folder.name for folder in trials_folder().glob(f"{alice.pk}-*")] == [keys[1]]
        trial_run(keys[0])

    @pytest.mark.long
    def test_a_base_model_that_cannot_answer_says_why(self, alice, methods, model, make_dataset):
        key = self.start(
            alice, methods["grpo"], model, make_dataset(), parameters={"rewards": NUMBERS}
        )
        assert "config.json" in run_trial(key)
        assert "config.json" in trial_read(by=alice, key=key)["error"]

    def test_at_its_time_limit_it_keeps_the_answers_that_it_has(
        self, alice, methods, model, make_dataset, monkeypatch
    ):
        key = self.started_and_stuck(alice, methods, model, make_dataset, monkeypatch)
        monkeypatch.setattr("training.train.trial.SECONDS", 0)
        trial_run(key)
        found = trial_read(by=alice, key=key)
        assert (found["done"], found["rows"], len(found["answers"])) == (True, 5, 2)
        assert "The 2 answers that it has are kept." in found["error"]

    def test_a_cancelled_trial_ends_its_program_and_keeps_its_answers(
        self, client, alice, bob, methods, model, make_dataset, monkeypatch
    ):
        key = self.started_and_stuck(alice, methods, model, make_dataset, monkeypatch)
        working = Thread(target=trial_run, args=(key,))
        working.start()
        try:
            client.force_login(bob)
            assert client.delete(f"/api/v1/trains/try-rewards/{key}/").status_code == 404
            assert working.is_alive()
        finally:
            client.force_login(alice)
            assert client.delete(f"/api/v1/trains/try-rewards/{key}/").status_code == 204
            working.join(20)
        assert not working.is_alive()
        found = client.get(f"/api/v1/trains/try-rewards/{key}/").json()
        assert (found["done"], found["cancelled"], found["error"], len(found["answers"])) == (
            True,
            True,
            "",
            2,
        )

    def test_one_that_was_cancelled_before_its_turn_never_starts(
        self, alice, methods, model, make_dataset
    ):
        key = self.start(
            alice,
            methods["grpo"],
            model,
            make_dataset(),
            parameters={"rewards": NUMBERS},
            answers=["1"],
        )
        assert trial_cancel(by=alice, key=key)
        trial_run(key)
        assert trial_read(by=alice, key=key)["answers"] == []

    def started_and_stuck(self, alice, methods, model, make_dataset, monkeypatch):
        """A trial with two answers whose program works on a third one for ever."""
        key = self.start(
            alice, methods["grpo"], model, make_dataset(), parameters={"rewards": NUMBERS}
        )
        lines = "".join(json.dumps({"text": text}) + "\n" for text in ("one", "two"))
        (trials_folder() / key / ANSWERS).write_text(lines)
        self.program_is("import time; time.sleep(600)", monkeypatch)
        return key

    def program_is(self, source, monkeypatch):
        """In place of engine.rewards."""
        folder = trials_folder().parent / "programs"
        folder.mkdir(exist_ok=True)
        (folder / "stand_in.py").write_text(source)
        monkeypatch.setattr(programs.settings, "BASE_DIR", folder)
        monkeypatch.setattr("training.train.trial.PROGRAM", "stand_in")

    @pytest.mark.parametrize(
        ("source", "error"),
        [
            ("while True: print('x' * 1000)", "The trial printed too much and was ended."),
            ("bytearray(2 << 30)", "The trial needed more memory than it may use and was ended."),
            ("import os; os.kill(os.getpid(), 9)", "The trial was killed, most likely for lack of"),
        ],
        ids=["prints without end", "takes too much memory", "is killed"],
    )
    def test_a_program_beyond_its_limits_is_ended_and_its_answers_are_kept(
        self, alice, methods, model, make_dataset, monkeypatch, source, error
    ):
        key = self.started_and_stuck(alice, methods, model, make_dataset, monkeypatch)
        self.program_is(source, monkeypatch)
        monkeypatch.setattr("training.train.trial.SECONDS", 20)
        monkeypatch.setattr("training.train.trial.MEMORY_BYTES", 1 << 30)
        monkeypatch.setattr(programs, "MOST_OUTPUT_BYTES", 10**6)
        trial_run(key)

        result = trial_read(by=alice, key=key)
        assert result["error"].startswith(error)
        assert len(result["answers"]) == 2

    def test_what_a_reward_function_prints_is_no_report(
        self, alice, methods, model, make_dataset, monkeypatch
    ):
        key = self.started_and_stuck(alice, methods, model, make_dataset, monkeypatch)
        self.program_is("""print('x', end=''); print('\\n{"done": {}}')""", monkeypatch)
        trial_run(key)
        # The stand-in wrote no result, and none was written for it.
        assert trial_read(by=alice, key=key)["done"] is False

    def test_models_count_in_what_a_trial_may_take(self, alice, methods, model, make_dataset):
        key = self.start(
            alice, methods["grpo"], model, make_dataset(), parameters={"rewards": NUMBERS}
        )
        before = trial._memory_bytes(trials_folder() / key)
        (model.path / "model.safetensors").write_bytes(b"x" * 1000)
        assert trial._memory_bytes(trials_folder() / key) == before + 6000

    @pytest.mark.parametrize(
        ("slug", "given", "field"),
        [
            ("dpo", {"parameters": {}}, "dataset"),
            ("grpo", {"parameters": {}}, "rewards"),
            ("grpo", {"parameters": {"rewards": NUMBERS}, "answers": ["x"] * 6}, "answers"),
        ],
    )
    def test_what_cannot_be_tried_is_refused(
        self, alice, methods, model, make_dataset, slug, given, field
    ):
        with pytest.raises(UserError) as refused:
            self.start(alice, methods[slug], model, make_dataset(), **given)
        assert field in refused.value.fields

    def test_the_api_starts_one_and_tells_it(
        self, client, alice, bob, methods, model, make_dataset
    ):
        make_dataset()
        client.force_login(alice)
        body = {
            "method": "grpo",
            "base_model": "tiny",
            "dataset": "sums",
            "parameters": {"rewards": NUMBERS},
            "answers": ["1"],
        }
        started = client.post("/api/v1/trains/try-rewards/", body, "application/json")
        assert started.status_code == 202, started.content
        address = f"/api/v1/trains/try-rewards/{started.json()['key']}/"
        assert client.get(address).json()["done"] is False
        refused = client.post(
            "/api/v1/trains/try-rewards/", body | {"parameters": {}}, "application/json"
        )
        assert "parameters.rewards" in refused.json()["error"]["fields"]
        client.force_login(bob)
        assert client.get(address).status_code == 404
        assert client.get("/api/v1/trains/try-rewards/..%2Fx/").status_code == 404


class TestWhileItTrains:
    @pytest.fixture
    def run(self, alice, methods, model, make_dataset):
        parameters = resolved(methods["grpo"], rewards=TWO)
        run = TrainRun.objects.create(
            owner=alice,
            name="sums",
            method=methods["grpo"],
            base_model=model,
            dataset=make_dataset(),
            parameters=parameters,
            status="running",
        )
        for seq, (step, right, tags) in enumerate([(1, 0, 0.5), (1, 1, 0), (3, None, 1)], 1):
            Sample.objects.create(
                run=run,
                seq=seq,
                index=seq,
                step=step,
                stage="completion",
                prompt="Q",
                text=f"A{seq}",
                rewards={"numeric_answer": right, "tag_format": tags},
            )
        return run

    def test_completions_are_told_by_step_the_best_first(self, run):
        latest = completions_of(run, "")
        assert (latest["step"], latest["steps"]) == (3, [1, 3])
        assert latest["rows"][0]["values"] == [None, 1]
        first = completions_of(run, "1")
        assert [(row["sample"].text, row["total"]) for row in first["rows"]] == [
            ("A2", 1.0),
            ("A1", 0.25),
        ]
        assert completions_of(run, "99' OR")["step"] == 3

    def test_the_page_and_the_api_show_them(self, client, alice, bob, run):
        client.force_login(alice)
        page = client.get(f"/trains/{run.pk}/evaluation/").content.decode()
        assert "Answers it learns from" in page
        assert "Numeric answer" in page
        assert client.get(f"/trains/{run.pk}/completions/?step=1").content.count(b"A1") == 1
        results = client.get(f"/api/v1/trains/{run.pk}/completions/?step=1").json()["results"]
        assert [row["text"] for row in results] == ["A1", "A2"]
        assert client.get(f"/api/v1/trains/{run.pk}/completions/?step=x").status_code == 400
        client.force_login(bob)
        assert client.get(f"/trains/{run.pk}/completions/").status_code == 404
        assert client.get(f"/api/v1/trains/{run.pk}/completions/").status_code == 404

    def test_the_overview_says_the_rewards_in_words(self, client, alice, run):
        client.force_login(alice)
        words = "Numeric answer (answer tag answer), 0.5 × Tags (nothing else On)"
        assert rewards_text(run.parameters["rewards"]) == words
        assert words in client.get(f"/trains/{run.pk}/").content.decode()

    def test_the_chart_of_the_objective_stands_first(self, run):
        assert [
            chart["name"] for chart in charts_table(run.objective) if chart["place"] == "main"
        ] == ["reward"]
        assert [chart["name"] for chart in charts_table() if chart["place"] == "main"] == ["loss"]
        assert len(charts_table()) == len(charts_table(run.objective)) == len(CHARTS)

    def test_no_metric_is_charted_and_left_out(self):
        charted = {name for chart in CHARTS for name in (chart.train, chart.eval) if name}
        assert not charted & set(NOT_CHARTED)

    @pytest.mark.parametrize(
        ("rewards", "same", "headline"),
        [
            ([], None, "Too early to say."),
            ([0.1] * 3, 0.0, "Too early to say."),
            ([0.1, 0.1, 0.2, 0.4, 0.6, 0.7], 0.2, "The reward has risen."),
            ([0.7, 0.6, 0.4, 0.2, 0.1, 0.1], 0.2, "The reward has fallen."),
            ([0.5] * 9, 0.0, "The reward has not changed clearly."),
            ([0.0] * 9, 1.0, "There is nothing to learn from."),
        ],
    )
    def test_the_judgement_speaks_of_rewards(self, rewards, same, headline):
        points = list(enumerate(rewards, 1))
        assert judge_rewards(points, [], same=same, status="running").headline == headline
