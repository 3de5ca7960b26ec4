"""What a report says of results that are few, or of points of which some trainings failed."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from studies import write_study

from ifir_lightning.comparison import pictures as comparison
from ifir_lightning.studies import pictures
from ifir_lightning.studies.answers import answer
from ifir_lightning.studies.files import read_study
from ifir_lightning.studies.page import study_page
from ifir_lightning.studies.plan import Axis, Study, Trial, trials
from ifir_lightning.studies.words import place_text, size_text


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """Two heads, two seeds; an axis ``rate`` of both heads, and ``width`` of ``late`` alone."""
    return read_study(write_study(tmp_path, kind="negatives"))


def result(trial: Trial, p_mrr: float = 10.0) -> dict[str, Any]:
    place = {"head": trial.head, "point": trial.point, "seed": trial.seed, "values": dict(trial.values)}
    return place | {"status": "finished", "seconds": 1.0, "step": 20, "p_mrr": p_mrr, "score_b": 50.0}


def page_of(study: Study, found: list[dict[str, Any]]) -> str:
    content = answer(study, found)
    assert json.loads(json.dumps(content)) == content
    return study_page(content, list(study.heads), list(study.axes))


def test_the_best_point_is_one_of_which_every_seed_finished(study: Study) -> None:
    """Of ``plain``, point 1 has the higher score, of the one seed that did not diverge."""
    search = replace(study, kind="search", axes={"rate": study.axes["rate"]})
    whole = [result(trial, 20.0 + trial.point) for trial in trials(search)]
    content = answer(search, whole)
    assert [(best["head"], best["point"]) for best in content["best"]] == [("plain", 1), ("late", 1)]
    assert "Points to choose from: 2 for every head." in page_of(search, whole)
    failed = {"status": "diverged", "message": "x"}
    some = [each | failed if (each["head"], each["point"], each["seed"]) == ("plain", 1, 1) else each for each in whole]
    content = answer(search, some)
    assert [(best["head"], best["point"]) for best in content["best"]] == [("plain", 0), ("late", 1)]
    assert "Points to choose from: 1 for plain, 2 for late." in page_of(search, some)


def test_what_changes_are_compared_with_has_every_axis(study: Study) -> None:
    """``width`` too, which the first head does without."""
    alone = replace(study, cross=False)
    page = page_of(alone, [result(trial) for trial in trials(alone)])
    assert "One thing changed against rate 0.001, width 4; paired by seed" in page


def test_an_axis_on_which_nothing_has_finished_has_no_picture(study: Study) -> None:
    page = page_of(study, [result(trial) for trial in trials(study) if trial.head == "plain"])
    assert page.count("<svg") == 2
    assert "No trial on the axis width has finished." in page


@pytest.mark.parametrize("kind", ["negatives", "sensitivity", "search"])
@pytest.mark.parametrize("choices", [([0.9, 0.95], [0.9, 0.999]), ({"times": 1}, {"times": 2})])
def test_choices_may_be_lists_and_factors(kind: Any, choices: tuple[Any, ...], study: Study) -> None:
    listed = replace(study, kind=kind, axes={"betas": Axis("model.optimizer.learning_rate", choices)})
    found = [result(trial, float(trial.point)) for trial in trials(listed)]
    assert str(choices[1]) in page_of(listed, found).replace("&#x27;", "'") or kind == "sensitivity"
    if kind == "sensitivity":
        assert answer(listed, found)["sensitivity"]["late"]["p_mrr"]["importance"] == {"betas": 1.0}


@pytest.mark.parametrize(
    ("changes", "lines"),
    [
        ({"cross": False}, ["-", "-"]),
        ({}, ["-", "None"]),  # late has two widths at each rate
        ({"axes": {"rate": Axis("model.rate", (False, True))}}, ["None", "None"]),  # no numbers
        ({"points": 30, "axes": {"rate": Axis("model.rate", log_uniform=(1e-3, 1e-2))}}, ["None", "None"]),
    ],
)
def test_a_line_joins_listed_places_with_one_point_each(
    changes: dict[str, Any], lines: list[str], study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And each place is a tick; of 30 that are drawn they would be a black bar."""
    varied = replace(study, **changes)
    content = answer(varied, [result(trial) for trial in trials(varied)])
    drawn = Figure().subplots()
    monkeypatch.setattr(pictures, "draw_svg", lambda draw, **_: draw(drawn))
    pictures.draw_points(content, list(study.heads), "rate", "p_mrr")
    assert [each.lines[0].get_linestyle() for each in drawn.containers] == lines
    assert len(drawn.get_xticks()) < 10
    assert "axes" in changes or drawn.get_xticks().tolist() == [1e-3, 1e-2]


def test_no_interval_leaves_the_scale_of_its_metric(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two seeds far apart it would be hundreds of points wide; bars end where the intervals of the tables do."""
    varied = replace(study, cross=False)
    found = [
        result(trial, [-90.0, 90.0][trial.seed]) | {"score_b": [1.0, 99.0][(trial.seed + trial.point) % 2]}
        for trial in trials(varied)
    ]
    content = answer(varied, found)
    assert {(each[key]["low"], each[key]["high"]) for each in content["points"] for key in ("p_mrr", "score_b")} == {
        (-100.0, 100.0),
        (0.0, 100.0),
    }
    change = content["changes"][0]["score_b"]
    assert (change["mean"], change["low"], change["high"]) == (0.0, -100.0, 100.0)
    assert "cut off at the ends of the scale" in page_of(varied, found)
    drawn = Figure().subplots()
    monkeypatch.setattr(pictures, "draw_svg", lambda draw, **_: draw(drawn))
    pictures.draw_points(content, list(study.heads), "rate", "score_b")
    ends = [segment[:, 1].tolist() for each in drawn.containers for segment in each.lines[2][0].get_segments()]
    assert ends == [[0.0, 100.0]] * 4


@pytest.mark.parametrize("heads", [("w",), ("bi-encoder", "late-interaction", "weighted"), tuple("abcdefgh")])
def test_a_legend_lies_over_the_axes_and_inside_the_picture(
    heads: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Error bars that fill the axes leave no place for it there; the axes keep theirs, however many heads there are."""
    whole = {"mean": 50.0, "low": 0.0, "high": 100.0}
    curve = {"mean": [0.0, 100.0], "low": [0.0, 0.0], "high": [100.0, 100.0]}
    points = [{"head": head, "values": {"n": n}, "score_b": whole} for head in heads for n in (1, 2)]
    best = {"best_of": curve["mean"], "best_of_low": curve["low"], "best_of_high": curve["high"]}
    drawn: list[Axes] = []

    def draw_svg(draw: Callable[[Axes], None], height: float, **_: str) -> None:
        drawn.append(Figure(figsize=(4.6, height), layout="constrained").subplots())
        draw(drawn[-1])

    for module in (pictures, comparison):
        monkeypatch.setattr(module, "draw_svg", draw_svg)
    pictures.draw_points({"points": points, "points_drawn": False}, heads, "n", "score_b")
    pictures.draw_best_of({head: {"score_b": best} for head in heads}, "score_b")
    curves = [{"recipe": head, "steps": [0, 1], "score_b": curve} for head in heads]
    comparison.draw_curves({"curves": curves}, "score_b", "steps")
    assert len(drawn) == 3
    for axes in drawn:
        axes.figure.draw_without_rendering()
        legend, plotted = axes.get_legend().get_window_extent(), axes.get_window_extent()
        assert [text.get_text() for text in axes.get_legend().get_texts()] == list(heads)
        assert legend.y0 >= plotted.y1
        assert plotted.height >= 200  # of 300 or 320
        ends = axes.figure.bbox
        assert ends.x0 <= legend.x0 < legend.x1 <= ends.x1
        assert legend.y1 <= ends.y1


def test_names_of_axes_and_places_are_no_formulas(study: Study) -> None:
    named = replace(
        study, axes={"a$b_{$c": Axis("model.loss", {"$x_{$": {"model.loss": "one"}, "other": {"model.loss": "two"}})}
    )
    page = page_of(named, [result(trial) for trial in trials(named)])
    (picture, *_) = re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL)
    assert "a$b_{$c" in picture
    assert "$x_{$" in picture


@pytest.mark.parametrize("places", [(0, 1, 2, 4), (-3, 1, 2, 4)])
def test_a_law_leaves_out_and_names_a_place_where_it_has_no_value(places: tuple[int, ...], study: Study) -> None:
    """40 - 20 / n."""
    demand = replace(study, kind="data-demand", axes={"number": Axis("data.groups.group_size", places)})
    scores = {n: 40.0 - 20.0 / n if n > 0 else 3.0 for n in places}
    found = [result(trial, scores[trial.values["number"]]) for trial in trials(demand)]
    ours = answer(demand, found)["data_demand"][0]
    assert ours["left_out"] == [places[0]]
    law = ours["heads"]["late"]["law"]
    assert (law["limit"], law["gap"], law["rate"]) == pytest.approx((40.0, 20.0, 1.0), rel=0.02)
    assert f"Left out, since the curve has no value there: {places[0]}." in page_of(demand, found)
    few = [each for each in found if each["values"]["number"] != 4]
    assert answer(demand, few)["data_demand"] == []
    again = [each | {"point": each["point"] + 10} for each in few]  # four points, but of two sizes
    assert answer(demand, few + again)["data_demand"] == []


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (None, "never"),
        (0.0, "0"),
        (0.25, "0.25"),
        (10.4, "10.4"),
        (123456789.0, "123,456,789"),
        (2.5e9, "2.5 billion"),
        (2.789e14, "279 trillion"),
        (9.999e14, "1,000 trillion"),
        (5.1e31, "5.10 x 10^31"),
        (2.3e-7, "2.30 x 10^-7"),
    ],
)
def test_a_size_in_words(size: float | None, text: str) -> None:
    assert size_text(size) == text


def test_a_place_is_called_what_recipes_call_it_unless_it_is_large() -> None:
    assert [place_text(each) for each in (3e-5, 0.25, 12800, 1.234e6, "KL", None)] == [
        "3e-05",
        "0.25",
        "12800",
        "1,234,000",
        "KL",
        "None",
    ]


def test_no_number_of_a_law_is_a_power_of_ten_that_only_programs_write(study: Study) -> None:
    """Over sizes of millions a curve that bends early has a gap of 10^16 points."""
    scores = {1_000_000: 10.0, 2_000_000: 38.0, 4_000_000: 40.0}
    demand = replace(study, kind="data-demand", axes={"queries": Axis("budget", tuple(scores))})
    page = page_of(demand, [result(trial, scores[trial.values["queries"]]) for trial in trials(demand)])
    assert "9.54 x 10^15 [9.54 x 10^15, 9.54 x 10^15]" in page
    assert not re.search(r"\de[+-]\d", page)
