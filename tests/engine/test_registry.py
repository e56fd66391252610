"""A recipe is registered once, in engine.schema.registry, and whatever lacks a part of it is found
here."""

import importlib
import inspect
import pkgutil
from pathlib import Path

import pytest
from transformers import AutoTokenizer

import engine.recipes
import engine.schema
from engine.chat.render import Renderer
from engine.contract.rundir import DataFile
from engine.data import cache
from engine.loading.lm_head import TRAINERS
from engine.process.preload import MODULES
from engine.rows.formats import FORMATS
from engine.schema.options import CATALOGUES
from engine.schema.registry import CUSTOM, RECIPES, more_options
from engine.schema.train import TrainParameters
from methods.builtin import BUILTIN

ROOT = Path(__file__).parents[2]


def modules(package):
    for item in pkgutil.iter_modules(package.__path__):
        yield importlib.import_module(f"{package.__name__}.{item.name}")


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=list(RECIPES))
class TestOfEachRecipe:
    def test_its_module_trains_with_its_config(self, recipe):
        module = importlib.import_module(recipe.module)
        assert list(inspect.signature(module.train).parameters) == ["job"]
        config = pkgutil.resolve_name(recipe.trainer_config)
        assert getattr(module, config.__name__) is config
        assert getattr(module, recipe.parameters.__name__) is recipe.parameters

    def test_its_formats_are_known_and_its_name_is_not_taken(self, recipe):
        assert recipe.formats
        assert set(recipe.formats) <= set(FORMATS)
        assert recipe.name != CUSTOM

    def test_its_other_options_are_in_its_catalogue(self, recipe):
        assert set(more_options(recipe.name)) == set(recipe.options)

    def test_it_is_imported_ahead(self, recipe):
        assert recipe.module in MODULES

    def test_its_trainer_gets_the_fast_output_layer_where_it_asks_for_one(self, recipe):
        module, _, _ = recipe.trainer_config.partition(":")
        trainer = module.replace("_config", "_trainer")
        asks = hasattr(importlib.import_module(trainer), "add_fused_lm_head")
        assert asks == (trainer in TRAINERS)

    def test_people_can_choose_it_and_read_about_it(self, recipe):
        slugs = [values["slug"] for values in BUILTIN if values["recipe"] == recipe.name]
        assert slugs
        page = (ROOT / "docs" / "methods.md").read_text()
        assert [slug for slug in slugs if f"(`{slug}`)" not in page] == []

    def test_its_name_says_the_same_everywhere(self, recipe):
        assert RECIPES[recipe.name] is recipe
        assert recipe.parameters.__module__ == f"engine.schema.{recipe.name}"


def test_parameters_that_no_recipe_has_are_found():
    declared = set()
    for module in modules(engine.schema):
        for value in vars(module).values():
            if inspect.isclass(value) and issubclass(value, TrainParameters):
                declared |= {value.recipe} if "recipe" in vars(value) else set()

    assert declared == set(RECIPES)


def test_a_module_that_trains_and_is_not_registered_is_found():
    trains = {module.__name__ for module in modules(engine.recipes) if hasattr(module, "train")}
    assert trains == {recipe.module for recipe in RECIPES.values()}


def test_no_catalogue_is_left_of_a_recipe_that_is_gone():
    assert {path.stem for path in CATALOGUES.glob("*.json")} == set(RECIPES)


def test_each_recipe_has_a_cache_of_its_own_whatever_it_says_of_its_rows(tiny, tmp_path):
    renderer = Renderer(AutoTokenizer.from_pretrained(tiny), warn=lambda code, message: None)
    data = DataFile("rows.jsonl", "0" * 64, "jsonl", "preference", cache=str(tmp_path))
    paths = {cache._path(name, data, renderer, {"max_tokens": 64}) for name in RECIPES}
    assert None not in paths
    assert len(paths) == len(RECIPES)
