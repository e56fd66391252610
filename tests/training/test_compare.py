"""Compare: what differs, what came out, who may see it."""

import pytest

from methods.models import TrainingMethod
from methods.services import methods_install
from training.models import Sample
from training.pages.answers import shared_prompts
from training.pages.colours import colours_choose, colours_parse, is_dashed
from training.pages.compare import ids_parse, outcome_rows, setting_rows
from training.train.verdict import comparability, measured_alike, verdict


def parameters(**changes):
    return {
        "learning_rate": 2e-4,
        "evaluation_split": 0.05,
        "seed": 42,
        "max_samples": None,
        "max_tokens": 512,
    } | changes


@pytest.fixture
def two(make_train):
    first = make_train(
        name="first",
        status="finished",
        parameters=parameters(),
        best_value=1.3,
        best_step=80,
        last_evaluation={"eval_loss": 1.3},
        last_metrics={"loss": 1.2, "tokens_per_second": 100},
    )
    second = make_train(
        name="second",
        status="finished",
        parameters=parameters(learning_rate=1e-4),
        best_value=1.2,
        best_step=60,
        last_evaluation={"eval_loss": 1.4},
        last_metrics={"loss": 1.25, "tokens_per_second": 90},
        copied_from=first,
    )
    return first, second


def address(*trains):
    return f"/trains/compare/?ids={','.join(str(run.pk) for run in trains)}"


def test_ids_are_read_once_each_and_in_order():
    assert ids_parse("3, 5,3,x,-1,٣,8") == [3, 5, 8]


def test_what_differs_from_the_baseline_is_marked_and_the_rest_is_the_same(two):
    rows = {row.title: row for row in setting_rows(list(two), two[0])}

    assert [cell.text for cell in rows["Learning rate"].cells] == ["2e-4", "1e-4"]
    assert [cell.mark for cell in rows["Learning rate"].cells] == [False, True]
    assert rows["Max tokens"].same
    assert not rows["Learning rate"].same


def test_the_best_of_each_measure_is_marked_and_missing_measures_are_left_out(two):
    rows = {row.title: row for row in outcome_rows(list(two))}

    assert [cell.mark for cell in rows["Best eval loss"].cells] == [False, True]
    assert [cell.mark for cell in rows["Last eval loss"].cells] == [True, False]
    assert [cell.mark for cell in rows["Tokens a second"].cells] == [True, False]
    assert "Model size" not in rows


def test_a_train_that_failed_early_is_not_the_fastest(two, make_train):
    failed = make_train(status="failed", last_metrics={"tokens_per_second": 500})

    rows = {row.title: row for row in outcome_rows([*two, failed])}

    assert [cell.mark for cell in rows["Tokens a second"].cells] == [True, False, False]


def test_the_verdict_names_the_lowest_eval_loss_and_that_it_rose_since(two):
    found = verdict(list(two))

    assert found.best == two[1]
    assert (
        found.headline
        == f"#{two[1].pk} reaches the lowest eval loss, 1.200 at step 60, then gets worse."
    )
    assert "0.100 above it" in found.text


def test_an_untrained_model_is_nobodys_best(two, make_train):
    """The best evaluation of one that only got worse is that before its first step."""
    worse = make_train(
        status="finished",
        parameters=parameters(),
        best_value=1.21,
        best_step=0,
        last_evaluation={"eval_loss": 1.9},
    )

    found = verdict([*two, worse])

    assert f"#{two[0].pk} is next, 0.100 above it" in found.text
    assert f"#{worse.pk} has no eval loss better than before training." in found.text
    rows = {row.title: row for row in outcome_rows([*two, worse])}
    assert [cell.text for cell in rows["Best eval loss"].cells] == ["1.300", "1.200", "–"]


def test_a_few_held_out_rows_say_nothing_about_which_is_best(two):
    for run in two:
        run.facts = {"eval_rows": 3}

    found = verdict(list(two))

    assert found.best is None
    assert "may be chance" in found.text


def test_losses_of_two_methods_are_not_compared(two):
    two[1].method = type(two[1].method)(slug="dpo", name="DPO", recipe="dpo")

    assert not measured_alike(list(two))
    assert "cannot be compared" in comparability(list(two))
    assert not any(
        cell.mark for row in outcome_rows(list(two)) for cell in row.cells if "loss" in row.title
    )


def test_the_api_says_what_the_page_says(client, alice, two):
    client.force_login(alice)
    answer = client.get(f"/api/v1/trains/compare/?ids={two[0].pk},{two[1].pk}").json()

    found = verdict(list(two))
    assert answer["verdict"] == {"headline": found.headline, "text": found.text, "best": two[1].pk}
    assert answer["comparability"] == comparability(list(two))


def test_it_says_what_was_measured(two, make_train):
    assert (
        comparability(list(two))
        == "Measured on the same held-out rows, so eval loss can be compared."
    )
    unmeasured = make_train(status="finished", parameters=parameters())
    assert (
        comparability([*two, unmeasured])
        == "Only 2 of these 3 trains were measured on held-out rows."
    )
    assert (
        comparability([unmeasured, unmeasured])
        == "None of these trains has been measured on held-out rows."
    )


def test_a_unit_is_that_of_the_trains_own_method(two):
    """GRPO's batches are answers; beside it, those of LoRA stay rows."""
    methods_install()
    for run, slug in zip(two, ("grpo", "lora"), strict=True):
        run.method = TrainingMethod.objects.get(slug=slug)
        run.parameters = {"batch_size": 2 if slug == "lora" else 8}

    (row,) = [row for row in setting_rows(list(two), two[0]) if row.title == "Batch size"]

    assert [(cell.text, cell.unit) for cell in row.cells] == [("8", "answers"), ("2", "rows")]


@pytest.mark.parametrize(
    "ids", [[1, 2, 3], [5, 10, 15, 20], list(range(1, 9)), [3, 8, 13, 18, 23, 28, 33, 38]]
)
def test_colours_differ_and_stay_when_trains_come_and_go(ids):
    slots = colours_choose(ids, {})
    assert len(set(slots.values())) == len(ids)
    assert sum(map(is_dashed, slots.values())) == max(0, len(ids) - 5)
    assert colours_choose(list(reversed(ids)), {}) == slots

    rest = ids[1:]
    assert colours_choose(rest, slots) == {pk: slots[pk] for pk in rest}
    more = colours_choose([99, *rest], slots)
    assert {pk: more[pk] for pk in rest} == {pk: slots[pk] for pk in rest}
    assert len(set(more.values())) == len(more)


def test_colours_are_read_from_an_address_and_nonsense_is_passed_over():
    assert colours_parse("3,1", [7, 8]) == {7: 3, 8: 1}
    assert colours_parse("3,3,x,99,0,-1", [7, 8, 9, 10, 11, 12]) == {7: 3}


def test_links_to_other_comparisons_keep_the_colours(client, alice, two):
    client.force_login(alice)
    first, second = two
    page = client.get(f"{address(first, second)}&colours=4,2").content.decode()

    assert f"?ids={second.pk}&amp;colours=2" in page
    assert "compare-chip series-4" in page


def test_losses_on_other_rows_are_not_ranked(two):
    two[1].parameters["seed"] = 7

    assert not measured_alike(list(two))
    assert verdict(list(two)).best is None


def test_prompts_that_two_trains_answered_stand_side_by_side(two):
    first, second = two
    for run, prompt, text in [
        (first, "hi", "one"),
        (second, "hi", "two"),
        (first, "alone", "three"),
    ]:
        Sample.objects.create(
            run=run, seq=Sample.objects.count(), index=0, stage="after", prompt=prompt, text=text
        )

    found = shared_prompts([first, second])

    assert [item.prompt for item in found] == ["hi"]
    assert [answer.text for answer in found[0].answers] == ["one", "two"]


def test_the_page_shows_only_differences_until_asked_for_all(client, alice, two):
    client.force_login(alice)

    page = client.get(address(*two)).content.decode()
    everything = client.get(f"{address(*two)}&all=1").content.decode()

    assert "Compare 2 trains" in page
    assert f"differ from the baseline, #{two[0].pk}" in page
    assert 'compare-table all"' not in page
    assert 'compare-table all"' in everything


def test_another_baseline_can_be_chosen(client, alice, two):
    client.force_login(alice)

    page = client.get(f"{address(*two)}&baseline={two[1].pk}").content.decode()

    assert f"differ from the baseline, #{two[1].pk}" in page


@pytest.mark.parametrize("count", [0, 1, 9])
def test_too_few_and_too_many_are_explained(client, alice, make_train, count):
    client.force_login(alice)
    trains = [make_train(name=f"t{number}") for number in range(count)]

    page = client.get(address(*trains)).content.decode()

    assert {
        0: "No trains to compare yet",
        1: "A comparison needs two trains",
        9: "9 trains are too many",
    }[count] in page


def test_a_stranger_and_an_unknown_id_find_nothing(client, alice, bob, two):
    client.force_login(bob)
    assert client.get(address(*two)).status_code == 404
    assert client.get(f"/trains/compare/series/?ids={two[0].pk}").status_code == 404

    client.force_login(alice)
    assert client.get(f"{address(*two)},999").status_code == 404


def test_eight_trains_need_as_many_queries_as_two(
    client, alice, make_train, django_assert_max_num_queries
):
    client.force_login(alice)
    trains = [make_train(name=f"t{number}", parameters=parameters()) for number in range(8)]

    with django_assert_max_num_queries(12):
        assert client.get(address(*trains)).status_code == 200


def test_trains_are_chosen_on_the_page_itself(client, alice, bob, make_train):
    client.force_login(alice)
    first, second = make_train(name="alpha"), make_train(name="beta")
    make_train(name="canary", owner=bob)
    page = client.get("/trains/compare/").content.decode()
    assert f'value="{first.pk}"' in page
    assert "canary" not in page

    # What is ticked stays ticked while somebody searches for more.
    found = client.get(
        f"/trains/compare/?id={first.pk}&id={second.pk}&search=none&choose=1"
    ).content.decode()
    assert found.count("checked") == 2
    assert "No other train matches" in found

    compared = client.get(f"/trains/compare/?id={first.pk}&id={second.pk}")
    assert [column["run"].name for column in compared.context["columns"]] == ["alpha", "beta"]
