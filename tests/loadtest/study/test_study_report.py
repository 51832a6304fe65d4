"""How a study's rows become numbers, and the page, the terminal's tables and the Markdown that show them."""

import json
import re
from html.parser import HTMLParser
from itertools import pairwise
from math import isnan, nan

import pytest

from dualmap.loadtest.study.charts import spread
from dualmap.loadtest.study.figures import equal_load
from dualmap.loadtest.study.file import read_studies
from dualmap.loadtest.study.guide import advice, sentence, work_words
from dualmap.loadtest.study.page import study_page
from dualmap.loadtest.study.tables import (
    Capacities,
    at_rate,
    by_objective,
    common_rate,
    curve,
    estimate,
    geometric_mean,
    main_cells,
    paired_ratio,
    standing,
    verdict,
)
from dualmap.loadtest.study.techniques import ablations, sensitivities
from dualmap.loadtest.study.text import amount, markdown_report, text_report
from dualmap.loadtest.virtual.disturbances import DISTURBANCES
from tests.loadtest import fake_study
from tests.loadtest.study.study_rows import capacity, run, study


def test_confidence_is_the_t_interval_of_three_seeds_the_half_range_of_two_and_unknown_for_one():
    assert estimate([1.0, 2.0, 3.0]).half == pytest.approx(4.303 / 3**0.5)
    assert estimate([1.0, 4.0])[:2] == (2.5, 1.5)
    assert isnan(estimate([1.0]).half)
    assert isnan(estimate([nan]).mean)
    assert estimate([1.0, nan, 3.0]).seeds == 2


@pytest.mark.parametrize(
    ("values", "shown"),
    [([12.34], "12.3"), ([12.0, 13.0], "12.5 ± 0.5"), ([0.912], "0.91"), ([123.4, 125.4], "124 ± 1"), ([], "–")],
)
def test_amounts_show_three_digits_and_as_many_decimals_of_their_interval(values, shown):
    assert amount(estimate(values)) == shown


def test_ratios_are_taken_within_each_seed():
    found = paired_ratio({1: 2.0, 2: 20.0, 3: 9.0}, {1: 1.0, 2: 10.0, 4: 1.0})
    assert (found.mean, found.half, found.seeds) == (2.0, 0.0, 2)


def test_a_ratio_to_nothing_is_unknown():
    assert isnan(paired_ratio({1: 2.0}, {1: 0.0}).mean)
    assert isnan(paired_ratio({1: 2.0}, {}).mean)


def test_geometric_means_cancel_twice_and_half():
    assert geometric_mean([2.0, 0.5, nan]) == pytest.approx(1.0)
    assert geometric_mean([0.0, 2.0]) == 0.0
    assert isnan(geometric_mean([]))


def test_the_best_peer_is_neither_dualmap_nor_the_bound():
    rows = [capacity("dualmap", 9), capacity("bound", 12), capacity("a", 5), capacity("dualmap_paper", 6)]
    found = Capacities(rows)
    assert found.best_peer(found.cells[0], 0.9) == "dualmap_paper"
    assert Capacities([capacity("dualmap", 9), capacity("bound", 12)]).best_peer(rows[0].cell, 0.9) is None


def test_ablations_and_varied_constants_are_no_capacity_of_the_policy():
    varied = capacity("dualmap", 1, config={"max_moves": 0})
    ablated = capacity("dualmap", 2, experiment="ablation")
    found = Capacities([capacity("dualmap", 9), varied, ablated, capacity("dualmap", 8, seed=1)])
    assert found.of(varied.cell, 0.9, "dualmap").mean == 8.5


def test_the_verdict_names_the_single_best_peer_and_the_worst_cell():
    rows = [
        *(capacity(p, q, trace="one") for p, q in (("dualmap", 8), ("dualmap_paper", 4), ("a", 4), ("b", 10))),
        *(capacity(p, q, trace="two") for p, q in (("dualmap", 8), ("dualmap_paper", 4), ("a", 8), ("b", 2))),
    ]
    found = verdict(Capacities(rows), 0.9)
    assert found is not None
    assert found.to_paper == pytest.approx(2.0)
    assert (found.peer, found.to_peer) == ("a", pytest.approx(2**0.5))  # a: 2 and 1; b: 0.8 and 4
    assert (found.worst.mean, found.worst_cell.trace, found.worst_peer) == (0.8, "one", "b")
    assert found.to_best == pytest.approx(0.8**0.5)


def test_a_peer_that_skipped_a_cell_cannot_be_the_single_best():
    rows = [
        *(capacity(p, q, trace="one") for p, q in (("dualmap", 8), ("a", 4), ("b", 10))),
        *(capacity(p, q, trace="two") for p, q in (("dualmap", 8), ("a", 4))),
    ]
    found = verdict(Capacities(rows), 0.9)
    assert found is not None
    assert (found.peer, found.peer_cells, found.paper_cells) == ("a", 2, 0)
    assert isnan(found.to_paper)


def test_there_is_no_verdict_without_dualmap_or_without_peers():
    assert verdict(Capacities([capacity("a", 1)]), 0.9) is None
    assert verdict(Capacities([capacity("dualmap", 1), capacity("bound", 2)]), 0.9) is None


def test_policies_stand_by_their_mean_with_dualmap_first_and_the_bound_last():
    rows = [capacity("bound", 9), capacity("a", 2), capacity("b", 3), capacity("dualmap", 1), capacity("c", None)]
    assert standing(Capacities(rows), []) == ["dualmap", "b", "a", "c", "bound"]


def test_a_policy_that_lacks_cells_stands_after_those_that_have_all():
    rows = [capacity("a", 9), capacity("b", 10), capacity("a", 9, trace="another")]
    assert standing(Capacities(rows), []) == ["a", "b"]


def test_main_cells_are_undisturbed_and_prefill_comes_first():
    cells = [
        capacity("a", 1, trace="mooncake_conversation", **fields).cell
        for fields in (
            {"model": "full"},
            {"model": "x-prefill"},
            {"model": "full", "disturbance": "one lost"},
            {"model": "full", "instances": 16},
            {"model": "full", "gateways": 4},
        )
    ]
    assert [cell.model for cell in main_cells(cells)] == ["x-prefill", "full"]
    assert main_cells([]) == []
    assert [cell.trace for cell in main_cells([capacity("a", 1, trace="other").cell])] == ["other"]


def test_policies_are_compared_at_a_rate_that_most_ran_at_near_their_capacity():
    runs = [run(p, q, a) for p in "ab" for q, a in ((1, 1.0), (2, 0.91), (3, 0.2))] + [run("a", 2.5, 0.9)]
    assert common_rate(runs) == 2
    assert isnan(common_rate([]))
    chosen = at_rate([*runs, run("c", 2.05, 0.9), run("d", 4, 0.9)], 2)
    assert {policy: own[0].qps for policy, own in chosen.items()} == {"a": 2, "b": 2, "c": 2.05}


def test_a_rate_of_one_seed_out_of_three_is_no_point_of_the_curve():
    runs = [run("a", q, a, seed) for seed in range(3) for q, a in ((1, 1.0), (2, 0.1 * seed))] + [run("a", 1.5, 0.0, 0)]
    assert curve(runs) == [(1, 1.0), (2, pytest.approx(0.1))]


def test_labels_keep_their_order_their_distance_and_their_frame():
    placed = spread([50, 50, 51, 99, 100], 0, 100, 10)
    assert sorted(placed) == placed
    assert all(b - a >= 10 for a, b in pairwise(placed))
    assert placed[-1] <= 100
    crowded = spread([5.0] * 30, 0, 100, 10)
    assert min(crowded) >= -1e-6
    assert max(crowded) <= 100 + 1e-6


class Page(HTMLParser):
    """Whether tags match, what a page would load, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        named = [value for name, value in attrs if name in ("src", "href", "srcset")]
        self.loads += [value for value in named if not value.startswith("#")]
        self.loads += [tag] if tag in ("script", "link", "img", "iframe") else []
        self.open += [] if tag in ("meta", "br") else [tag]

    def handle_startendtag(self, tag: str, attrs: list) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_of_a_full_study_has_every_section_and_stands_alone(full_study):
    html = study_page(read_studies([full_study]))
    page = Page(html)
    assert page.open == []
    assert page.loads == []
    assert "url(" not in html
    assert "nan" not in html
    assert "Not in these files" not in page.text
    assert "Nothing on this page ran on an accelerator" in page.text
    for name in fake_study.POLICIES:
        assert name in page.text


def test_the_page_escapes_names():
    bad = "<b>&\"'"
    rows = [
        capacity("dualmap", 2, model=bad, disturbance=bad, trace=bad, ttft_p99_s=1.0),
        capacity(bad, 1, model=bad, disturbance=bad, trace=bad, ttft_p99_s=1.0),
        capacity("dualmap", 2, model=bad, trace=bad, ttft_p99_s=1.0),
        capacity(bad, 1, model=bad, trace=bad, ttft_p99_s=1.0),
        *(run(p, q, 0.5, model=bad, trace=bad, ttft_quantiles=[1.0] * 101) for p in ("dualmap", bad) for q in (1, 2)),
        run("dualmap", 1, 0.5, experiment="sensitivity", config={bad: 1}, model=bad, trace=bad),
        run("dualmap", 1, 0.5, experiment="ablation", config={bad: bad}, model=bad, trace=bad),
    ]
    html = study_page(study(*rows))
    assert "<b>&" not in html
    assert Page(html).open == []
    assert bad in Page(html).text
    assert bad not in markdown_report(study(*rows))


@pytest.mark.parametrize(
    "rows",
    [
        [capacity("a", 1)],
        [capacity("dualmap", None), capacity("a", None)],
        [capacity("dualmap", 0), capacity("a", 0)],
        [capacity("dualmap", 1), capacity("a", 2, trace="another")],
        [run("dualmap", 1, 0.5)],
        [run("bound", 1, 0.0, ttft_quantiles=[None] * 101)],
        [run("dualmap", 1, 0.5, experiment="ablation", config={"x": 0})],
        [run("dualmap", 1, 0.5, experiment="sensitivity", config={"x": True})],
        [capacity("dualmap", 1, experiment="ablation", config={"x": 0})],
    ],
)
def test_a_study_of_almost_nothing_still_has_its_reports_and_says_what_would_fill_it(rows):
    page = Page(study_page(study(*rows)))
    assert page.open == []
    assert "Not in these files" in page.text
    assert "nan" not in page.text
    assert "nan" not in text_report(study(*rows)) + markdown_report(study(*rows))


OBJECTIVE_ROWS = [
    *(capacity(p, q, trace="one") for p, q in (("dualmap", 8), ("a", 4), ("b", 10))),
    *(capacity(p, q, trace="one", objective="itl+e2e") for p, q in (("dualmap", 9), ("a", 3), ("b", 2))),
]


def test_capacities_of_two_objectives_are_apart_and_the_first_token_comes_first():
    apart = by_objective(reversed(OBJECTIVE_ROWS))
    assert list(apart) == ["ttft", "itl+e2e"]
    found = {name: verdict(capacities, 0.9) for name, capacities in apart.items()}
    assert {name: (v.peer, v.to_peer, v.cells) for name, v in found.items()} == {
        "ttft": ("b", 0.8, 1),
        "itl+e2e": ("a", pytest.approx(3.0), 1),
    }
    cells = [row.cell for row in OBJECTIVE_ROWS]
    assert [cell.objective for cell in main_cells(cells)] == ["ttft"]
    assert by_objective([]) == {}


def test_a_cell_of_another_objective_has_it_in_its_name_in_every_report():
    rows = study(*OBJECTIVE_ROWS)
    for shown in (text_report(rows), markdown_report(rows), Page(study_page(rows)).text):
        assert "one · m · 8 instances · itl+e2e" in shown
        assert "one · m · 8 instances · ttft" not in shown
    assert "Capacity at 90% within itl+e2e, over 1 cell" in text_report(rows)
    assert "All cells, by itl+e2e" in Page(study_page(rows)).text


def test_the_guide_names_the_best_policy_of_each_kind_of_work():
    rows = [
        *(capacity(p, q, trace="synth:hot", hit_rate=q / 10) for p, q in (("dualmap", 8), ("a", 4), ("bound", 10))),
        *(capacity(p, q, trace="one") for p, q in (("dualmap", 8), ("a", 4), ("b", 10))),
        capacity("a", 4, trace="without dualmap"),
    ]
    one, hot = advice(Capacities(rows), 0.9)
    assert (one.cell.trace, one.best, one.peer, one.to_peer.mean) == ("one", "b", "b", 0.8)
    assert isnan(one.hit_rate)
    assert (hot.best, hot.peer, hot.to_peer.mean, hot.hit_rate, hot.peer_hit_rate) == ("dualmap", "a", 2.0, 0.8, 0.4)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"trace": "mooncake_conversation", "model": "full"}, "chats"),
        ({"trace": "weka_agentic", "model": "full", "slo_s": 20.0}, "coding agents with long contexts, SLO 20 s"),
        (
            {"trace": "synth:hot", "model": "full", "instances": 64},
            "one system prompt for all, other words after it, 64 instances",
        ),
        (
            {"trace": "mine", "model": "small", "disturbance": "signals-200ms", "gateways": 4},
            "mine, small, 4 gateways, signals 200 ms old",
        ),
        ({"trace": "mine", "model": "full", "gateways": 3}, "mine, 3 gateways"),
    ],
)
def test_cells_are_named_in_plain_words(fields, words):
    assert work_words(capacity("a", 1, **fields).cell) == words


def test_every_disturbance_has_plain_words():
    for name in DISTURBANCES:
        words = work_words(capacity("a", 1, disturbance=name).cell).split(", ")
        assert name not in words


def test_the_sentence_has_the_numbers_of_every_objective_and_their_worst_cells():
    said = sentence(by_objective(OBJECTIVE_ROWS), 0.9)
    assert said == (
        "Over 1 cell a fleet behind dualmap bears 0.80 times the traffic of b, the best single peer, and at worst 0.80 "
        "times that of b (one, m); by itl+e2e, over 1 cell, 3.00 times the traffic of a, the best single peer, and at "
        "worst 3.00 times that of a (one, m)."
    )
    assert sentence({}, 0.9) == ""


def test_the_contents_link_to_sections_of_the_page(full_study):
    html = study_page(read_studies([full_study]))
    links = re.findall('href="#([^"]*)"', html)
    assert len(links) > 5
    assert sorted(links) == sorted(set(re.findall('<section id="([^"]*)"', html)))
    assert links[0] == "which-router-for-my-work"


def test_bars_at_equal_load_show_other_objectives_where_runs_have_them():
    runs = [run(p, 1, 0.9, kept={"itl+e2e": share}) for p, share in (("dualmap", 0.5), ("a", 0.75))]
    (within,) = [f for f in equal_load(study(*runs), {"dualmap": "dualmap", "a": "other"}) if "itl+e2e" in f]
    assert within.index("a: 75.0%") < within.index("dualmap: 50.0%")


def test_a_file_without_objectives_is_judged_by_the_first_token(tmp_path):
    (tmp_path / "old").write_text(
        json.dumps(fake_study.HEADER)
        + "\n"
        + '{"kind":"run","trace":"t","policy":"a","instances":8,"seed":0,"model":"m","slo_s":5.0,"qps":1.0,'
        '"requests":10,"attainment":0.9}\n{"kind":"capacity","trace":"t","policy":"a","instances":8,"seed":0,'
        '"model":"m","slo_s":5.0,"attainment":0.9,"qps":1.0}\n'
    )
    found = read_studies([tmp_path / "old"])
    assert found.runs[0].cell == found.capacities[0].cell
    assert found.runs[0].cell.objective == "ttft"
    assert (found.runs[0].kept, found.runs[0].token_goodput) == ({}, None)


def test_ablations_are_measured_against_all_on():
    rows = [capacity("dualmap", 10), capacity("dualmap", 8, experiment="ablation", config={"max_moves": 0})]
    (figure,) = ablations(study(*rows), Capacities(rows))
    assert "max_moves=0" in figure
    assert "8 (-20%)" in figure
    runs = [run("dualmap", 1, 0.9), run("dualmap", 2, 0.1)]
    runs.append(run("dualmap", 1, 0.45, experiment="ablation", config={"max_moves": 0}))
    (figure,) = ablations(study(*runs), Capacities([]))
    assert "45 (-50%)" in figure


def test_each_varied_constant_has_a_panel_with_its_default():
    rows = [
        run("dualmap", 1, 0.9, experiment="sensitivity", config={name: value})
        for name in ("max_moves", "unknown")
        for value in (0, 4, 64)
    ]
    first, second = sensitivities(study(*rows))
    assert "default 16" in first
    assert "default" not in second
