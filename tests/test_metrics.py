"""The page that Prometheus reads."""

from __future__ import annotations

import re

import pytest

from hub.errors import CLOSINGS, REFUSALS
from hub.metrics import Counter, CounterBy, Gauge, Histogram, Metrics

SAMPLE = re.compile(r'^[a-z_]+(\{[a-z]+="(?:[^"\\\n]|\\.)*"(?:,[a-z]+="(?:[^"\\\n]|\\.)*")*\})? (\+Inf|[0-9.e+-]+)$')


def test_every_line_is_a_sample_a_help_or_a_type():
    for line in Metrics(version='1"\\\n', python="3.11").render().splitlines():
        assert line.startswith(("# HELP hub_", "# TYPE hub_")) or SAMPLE.match(line), line


def test_the_page_ends_with_a_newline_and_names_each_metric_once():
    metrics = Metrics()
    page = metrics.render()
    assert page.endswith("\n")
    names = re.findall(r"^# TYPE (\S+)", page, re.M)
    assert len(names) == len(set(names)) == len(metrics.all())


def test_names_follow_the_customs():
    for metric in Metrics().all():
        assert metric.name.endswith("_total") is (metric.kind == "counter"), metric.name
        assert metric.help.endswith("."), metric.name


def test_a_counter_adds_up():
    counter = Counter("hub_x_total", "X.")
    counter.add()
    counter.add(2)
    assert counter.get() == 3
    assert list(counter.lines()) == ["hub_x_total 3"]


def test_a_counter_by_label_shows_every_value_from_the_start():
    counter = CounterBy("hub_x_total", "X.", "code", ["a", "b"])
    counter.add("a", 2)
    assert list(counter.lines()) == ['hub_x_total{code="a"} 2', 'hub_x_total{code="b"} 0']


def test_a_label_value_that_nobody_declared_is_our_mistake():
    with pytest.raises(AssertionError):
        CounterBy("hub_x_total", "X.", "code", ["a"]).add("anna@example.org")


def test_a_gauge_is_what_it_was_last_told_or_what_it_reads():
    gauge = Gauge("hub_x", "X.")
    gauge.set(5)
    gauge.set(0.25)
    assert list(gauge.lines()) == ["hub_x 0.25"]
    gauge.read_from(lambda: 7)
    assert list(gauge.lines()) == ["hub_x 7"]


@pytest.mark.parametrize("number, first, second", [(0.5, 1, 1), (1, 1, 1), (1.5, 0, 1), (2, 0, 1), (2.5, 0, 0)])
def test_a_histogram_counts_what_is_not_above_each_bound(number, first, second):
    histogram = Histogram("hub_x", "X.", (1.0, 2.0))
    histogram.observe(number)
    assert list(histogram.lines())[:3] == [
        f'hub_x_bucket{{le="1"}} {first}',
        f'hub_x_bucket{{le="2"}} {second}',
        'hub_x_bucket{le="+Inf"} 1',
    ]


def test_a_histogram_keeps_sum_and_count():
    histogram = Histogram("hub_x", "X.", (1.0,))
    histogram.observe(0.5)
    histogram.observe(3)
    assert histogram.get() == (2, 3.5)
    assert list(histogram.lines())[-2:] == ["hub_x_sum 3.5", "hub_x_count 2"]


def test_every_refusal_and_closing_can_be_counted():
    metrics = Metrics()
    for code in REFUSALS:
        metrics.refusals.add(code)
        metrics.drafts.add(code)
    for name in CLOSINGS:
        metrics.closings.add(name)
    metrics.drafts.add("appended")
    assert 'hub_closings_total{closing="revoked"} 1' in metrics.render()
    assert 'hub_drafts_total{answer="conflict"} 1' in metrics.render()


def test_two_hubs_in_one_process_do_not_share_numbers():
    one, other = Metrics(), Metrics()
    one.pages.add()
    assert (one.pages.get(), other.pages.get()) == (1, 0)


def test_many_numbers_at_once_are_counted_as_one_by_one() -> None:
    one_by_one, at_once = Histogram("a", "A.", (1.0, 2.0)), Histogram("a", "A.", (1.0, 2.0))
    numbers = [0.5, 1.0, 1.5, 2.0, 2.5, 1.0]
    for number in numbers:
        one_by_one.observe(number)
    at_once.observe_all(numbers[:4])
    at_once.observe_all(numbers[4:])
    at_once.observe_all([])
    assert list(at_once.lines()) == list(one_by_one.lines()) and at_once.get() == (6, 8.5)
