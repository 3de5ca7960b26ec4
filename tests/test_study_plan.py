"""A study file becomes the same list of trials everywhere, matched in pairs; mistakes are found before one runs."""

from pathlib import Path
from typing import Any

import pytest
from studies import write_study

from ifir_lightning.errors import InputError
from ifir_lightning.studies.files import read_study
from ifir_lightning.studies.plan import Axis, trials
from ifir_lightning.studies.recipes import recipe_of


def test_a_grid_has_every_point_once_for_every_seed_and_head(tmp_path: Path) -> None:
    listed = trials(read_study(write_study(tmp_path)))
    assert [trial.name for trial in listed if trial.head == "late" and trial.seed == 0] == [
        f"late-{number:03d}-seed0" for number in range(4)
    ]
    # the plain head has no width: its two rates are trained once each, not once per width
    plain = [trial for trial in listed if trial.head == "plain" and trial.seed == 0]
    assert [(trial.point, dict(trial.values)) for trial in plain] == [(0, {"rate": 1e-3}), (2, {"rate": 1e-2})]
    assert len(listed) == 2 * (4 + 2)


def test_without_cross_one_axis_is_varied_at_a_time_against_its_first_choices(tmp_path: Path) -> None:
    axes = {
        "rate": {"key": "model.optimizer.learning_rate", "choices": [1e-3, 1e-2, 1e-1]},
        "width": {"key": "model.pooling.init_args.dim", "choices": [8, 4], "heads": ["late"]},
        "length": {"choices": {"long": {}, "short": {"budget": 160}}},
    }
    study = read_study(write_study(tmp_path, kind="negatives", axes=axes, cross=False, seeds=[0]))
    by_head = {head: [each for each in trials(study) if each.head == head] for head in study.heads}
    assert [dict(trial.values) for trial in by_head["late"]] == [
        {"rate": 1e-3, "width": 8, "length": "long"},
        {"rate": 1e-2},
        {"rate": 1e-1},
        {"width": 4},
        {"length": "short"},
    ]
    assert [trial.point for trial in by_head["plain"]] == [0, 1, 2, 4]  # it has no width
    assert dict(by_head["plain"][0].values) == {"rate": 1e-3, "length": "long"}
    recipes = [recipe_of(study, trial, tmp_path) for trial in by_head["late"]]
    settings = [
        (r["model"]["optimizer"]["learning_rate"], r["model"]["pooling"]["init_args"]["dim"], r["trainer"]["max_steps"])
        for r in recipes
    ]
    assert settings == [(1e-3, 8, 20), (1e-2, 8, 20), (1e-1, 8, 20), (1e-3, 4, 20), (1e-3, 8, 10)]


def test_a_trials_recipe_is_the_base_with_its_settings(tmp_path: Path) -> None:
    study = read_study(write_study(tmp_path))
    trial = next(trial for trial in trials(study) if trial.name == "late-003-seed1")
    recipe = recipe_of(study, trial, tmp_path / "run")
    assert recipe["model"]["optimizer"]["learning_rate"] == 1e-2
    assert recipe["model"]["pooling"]["init_args"]["dim"] == 8
    assert recipe["seed_everything"] == 1
    assert recipe["trainer"]["default_root_dir"] == str(tmp_path / "run")
    assert recipe["trainer"]["max_steps"] == 320 // 16
    plain = next(trial for trial in trials(study) if trial.head == "plain")
    assert recipe_of(study, plain, tmp_path)["model"]["scorer"] == {"class_path": "Cosine"}


def test_every_trial_sees_the_budget_of_queries_whatever_its_batch(tmp_path: Path) -> None:
    batches = {"batch": {"key": "data.global_batch_size", "choices": [8, 32]}}
    study = read_study(write_study(tmp_path, axes=batches))
    recipes = [recipe_of(study, trial, tmp_path) for trial in trials(study)]
    assert {(r["data"]["global_batch_size"], r["trainer"]["max_steps"]) for r in recipes} == {(8, 40), (32, 10)}


def test_a_step_of_several_batches_counts_all_of_their_queries(tmp_path: Path) -> None:
    """Of 16 queries each: 320 are 5 steps of 4 batches, and Lightning counts batches until it validates."""
    study = read_study(write_study(tmp_path, settings={"trainer.accumulate_grad_batches": 4}))
    trainer = recipe_of(study, trials(study)[0], tmp_path)["trainer"]
    assert (trainer["max_steps"], trainer["val_check_interval"]) == (5, 20)
    study = read_study(write_study(tmp_path, settings={"trainer.accumulate_grad_batches": "4"}))
    with pytest.raises(InputError, match=r"has trainer.accumulate_grad_batches '4'; allowed is a number of 1 or more"):
        recipe_of(study, trials(study)[0], tmp_path)


def test_a_factor_multiplies_the_budget(tmp_path: Path) -> None:
    axes = {"length": {"choices": {"once": {}, "twice": {"budget": {"times": 2}}}}}
    study = read_study(write_study(tmp_path, axes=axes, heads={"late": {}}, seeds=[0]))
    recipes = [recipe_of(study, trial, tmp_path) for trial in trials(study)]
    assert [recipe["trainer"]["max_steps"] for recipe in recipes] == [20, 40]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"budget": "many"}, "plain-000-seed0 has the budget 'many'; allowed are numbers"),
        ({"budget": 0}, "plain-000-seed0 has the budget 0; allowed are numbers"),
        (
            {"budget": {"times": "1e1"}},
            "multiplies budget, which is 320, by '1e1'; allowed are two numbers .YAML takes",
        ),
    ],
)
def test_a_budget_that_cannot_be_counted_is_refused(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    study = read_study(write_study(tmp_path, settings=settings))
    with pytest.raises(InputError, match=message):
        recipe_of(study, trials(study)[0], tmp_path)


def test_random_points_are_the_same_for_every_head_and_do_not_move_with_their_number(tmp_path: Path) -> None:
    axes = {"rate": {"key": "model.optimizer.learning_rate", "log_uniform": [1e-4, 1e-2]}}
    few = trials(read_study(write_study(tmp_path, axes=axes, points=3)))
    many = trials(read_study(write_study(tmp_path, axes=axes, points=5)))
    rates = {trial.name: trial.values["rate"] for trial in many}
    assert all(rates[trial.name] == trial.values["rate"] for trial in few)
    assert all(rates[f"late-{n:03d}-seed0"] == rates[f"plain-{n:03d}-seed1"] for n in range(5))
    assert len(set(rates.values())) == 5
    assert all(1e-4 <= rate < 1e-2 for rate in rates.values())


def test_a_range_is_drawn_on_its_scale() -> None:
    assert Axis(key="k", log_uniform=(1e-4, 1e-2)).at(0.5) == pytest.approx(1e-3)
    assert Axis(key="k", uniform=(0.0, 10.0)).at(0.25) == 2.5
    assert 1 < Axis(key="k", uniform=(1.0, 1.0001)).at(0.5) < Axis(key="k", uniform=(1.0, 1.0001)).at(0.9) < 1.0001
    assert Axis(key="k", log_uniform=(1.23444e-5, 1e-2)).at(0.0) >= 1.23444e-5  # four digits lie below the range
    assert Axis(key="k", uniform=(0.0, 3.14159)).at(0.99999999) <= 3.14159  # four digits lie above it
    assert [Axis(key="k", choices=("a", "b", "c")).at(share) for share in (0.0, 0.34, 0.99)] == ["a", "b", "c"]


def test_a_named_choice_sets_several_keys_and_a_factor_multiplies_what_was_drawn(tmp_path: Path) -> None:
    temperature = "model.loss.init_args.temperature"
    axes = {
        "temperature": {"key": temperature, "choices": [0.1, 0.2]},
        "reduction": {
            "choices": {"mean": {}, "sum": {"model.scorer.init_args.reduction": "sum", temperature: {"times": 24}}}
        },
    }
    study = read_study(write_study(tmp_path, axes=axes, heads={"late": {}}, seeds=[0]))
    models = [recipe_of(study, trial, tmp_path)["model"] for trial in trials(study)]
    assert [model["loss"]["init_args"]["temperature"] for model in models] == pytest.approx([0.1, 2.4, 0.2, 4.8])
    assert models[1]["scorer"] == {"class_path": "S", "init_args": {"reduction": "sum"}}
    # without an axis for it, the factor multiplies what the recipe says
    study = read_study(write_study(tmp_path, axes={"reduction": axes["reduction"]}, heads={"late": {}}, seeds=[0]))
    assert recipe_of(study, trials(study)[1], tmp_path)["model"]["loss"]["init_args"]["temperature"] == 24 * 0.05


RATE = {"key": "model.optimizer.learning_rate", "choices": [1e-3]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "cooking"}, "kind 'cooking'; allowed are sensitivity"),
        ({"recipe": "no/such.yaml"}, "recipe no/such.yaml, which is no file"),
        ({"heads": {}}, "no head"),
        ({"budget": 0}, "budget 0; allowed"),
        ({"seeds": []}, "no seed"),
        ({"points": 0}, "points 0; allowed"),
        ({"points": 2, "cross": False}, "points and cross: false; allowed is one of the two"),
        ({"colour": "red"}, "the study has the key 'colour'; allowed are question"),
        ({"axes": {"rate": RATE | {"colour": 1}}}, "axis 'rate' has the key 'colour'"),
        ({"axes": {"rate": 3}}, "axis 'rate' is 3; allowed are the keys"),
        ({"axes": {"rate": {"key": "k", "log_uniform": [1e-3, 1e-2]}}}, "without choices, and no number of points"),
        ({"axes": {"rate": RATE | {"uniform": [0, 1]}}}, "allowed is one of choices, uniform, log_uniform"),
        ({"axes": {"rate": {"key": "k", "uniform": [2, 1]}}, "points": 1}, "two rising numbers"),
        ({"axes": {"rate": {"key": "k", "log_uniform": [0, 1]}}, "points": 1}, "two rising numbers"),
        ({"axes": {"rate": {"choices": [1]}}}, "a key goes with a list"),
        ({"axes": {"rate": {"key": "k", "choices": []}}}, "without a choice"),
        ({"axes": {"rate": RATE | {"heads": ["weighed"]}}}, "for heads ('weighed',)"),
        ({"question": None}, "the study lacks the key 'question'; needed are question, kind"),
        ({"axes": None}, "lacks the key 'axes'"),
        ({"recipe": None}, "lacks the key 'recipe'"),
        ({"axes": [RATE]}, "axes is [{"),
        ({"heads": ["late"]}, "heads is ['late']; allowed is name: settings"),
        ({"heads": {"a/b": {}}}, "the head 'a/b'; allowed are letters"),
        ({"heads": {"late": "MaxSim"}}, "the head 'late': 'MaxSim'; allowed are settings"),
        ({"seeds": 3}, "seeds 3, of which"),
        ({"seeds": ["one"]}, "whole numbers"),
        ({"budget": "many"}, "budget 'many'; allowed"),
        ({"question": True}, "the question True; allowed is a text: put it in quotes"),
        ({"heads": {1: {}}}, "the head 1; allowed are letters"),
        ({"heads": {"_late": {}}}, "the head '_late'; allowed are letters"),  # no legend shows it
        ({"axes": {3: RATE}}, "the axis 3; allowed is a text: put it in quotes"),
        ({"budget": {"times": 2}}, "budget {'times': 2}; allowed"),
        ({"points": "3"}, "points '3'; allowed is 1 or more"),
        ({"decay_share": "0.2"}, "decay_share '0.2'; allowed is more than 0"),
        ({"cross": "no"}, "cross 'no'; allowed are true and false"),
        ({"settings": ["a"]}, "settings ['a']; allowed are settings by their dotted keys"),
        ({"heads": {"late": {3: 4}}}, "the head 'late': {3: 4}; allowed are settings by their dotted keys"),
        ({"cross": False}, "kind sensitivity and cross: false; allowed is it with points or every combination"),
        (
            {"kind": "data-demand"},
            "kind data-demand and 2 axes varied together, of which no power law holds; allowed is",
        ),
        ({"kind": "data-demand", "points": 9}, "kind data-demand and 2 axes varied together"),
        ({"seeds": [0, 1, 0]}, "seeds (0, 1, 0); allowed is each once"),
        (
            {"axes": {"rate": RATE | {"choices": [1, 2, 1.0]}}},
            "axis 'rate' with the choices [1, 2, 1.0]; allowed is each",
        ),
        (
            {"axes": {"rate": RATE | {"choices": [[1], [1]]}}},
            "axis 'rate' with the choices [[1], [1]]; allowed is each",
        ),
        ({"axes": {"rate": RATE | {"choices": 3}}}, "axis 'rate' without a choice, but 3; allowed is a list"),
        ({"axes": {"rate": RATE | {"key": 3}}}, "axis 'rate' with the key 3; allowed is a dotted"),
        ({"axes": {"rate": RATE | {"heads": 3}}}, "axis 'rate' for heads 3"),
        ({"axes": {"loss": {"choices": {"x": None, "y": {}}}}}, "with the choice 'x': None; allowed are settings"),
        ({"axes": {"rate": {"key": "k", "uniform": 3}}, "points": 1}, "from 3; allowed are two rising numbers"),
        ({"axes": {"rate": {"key": "k", "uniform": []}}, "points": 1}, "from (); allowed are two rising numbers"),
    ],
)
def test_a_mistake_in_the_file_is_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        read_study(write_study(tmp_path, **changes))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("ways", "message"),
    [
        (
            "log_uniform: [3e-5, 5e-3]",
            "axis 'rate' from ('3e-5', '5e-3'); allowed are two rising numbers (YAML takes 1e-5",
        ),
        ("log_uniform: [1.0e-5, 1e-3]", "axis 'rate' from (1e-05, '1e-3'); allowed are two rising numbers (YAML takes"),
        (
            "choices: [1.0e-5, 3e-5]",
            "axis 'rate' with the text '3e-5'; allowed are numbers (YAML takes 1e-5 for a text",
        ),
    ],
)
def test_numbers_that_yaml_takes_for_texts_are_named(tmp_path: Path, ways: str, message: str) -> None:
    file = write_study(tmp_path, axes={}, points=2)
    file.write_text(file.read_text().replace("axes: {}", f"axes:\n  rate:\n    key: k\n    {ways}"))
    with pytest.raises(InputError) as caught:
        read_study(file)
    assert message in str(caught.value)


def test_no_file_and_no_yaml(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read_study(tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_text("a: [")
    with pytest.raises(InputError, match=r"bad\.yaml cannot be read"):
        read_study(tmp_path / "bad.yaml")


@pytest.mark.parametrize("recipe", ["just words", "data: {path: x}", "data: {global_batch_size: 8}", "a: ["])
def test_a_recipe_without_a_batch_or_a_trainer_is_refused(tmp_path: Path, recipe: str) -> None:
    study = read_study(write_study(tmp_path, heads={"late": {}}, axes={}))
    study.recipe.write_text(recipe)
    with pytest.raises(InputError, match=r"recipe\.yaml"):
        recipe_of(study, trials(study)[0], tmp_path)


def test_a_setting_inside_a_number_is_refused(tmp_path: Path) -> None:
    study = read_study(write_study(tmp_path, settings={"seed_everything.deep": 1}))
    with pytest.raises(InputError, match="seed_everything is 0 in the recipe"):
        recipe_of(study, trials(study)[0], tmp_path)
    study = read_study(write_study(tmp_path, settings={"model.loss.init_args.alpha": {"times": 2}}))
    with pytest.raises(
        InputError, match=r"multiplies model.loss.init_args.alpha, which is None, by 2; allowed are two"
    ):
        recipe_of(study, trials(study)[0], tmp_path)
