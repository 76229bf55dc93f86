"""Dashboards load in Grafana's JSON model; every metric that they, the rules and the documents name exists."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import yaml
from django.conf import settings
from django.utils import timezone
from prometheus_client.parser import text_string_to_metric_families

from batch import metrics
from contimg.breakers import Breaker
from provenance.backups import take_backup
from tests.factories import (
    AttemptFactory,
    CalibrationTableFactory,
    ComparisonFactory,
    ImageFactory,
    ItemFactory,
    MeasurementSetFactory,
    SubbandGroupFactory,
    WorkerFactory,
)
from tests.test_alerts import CASES, alerts, promtool, rules
from tests.test_docs import rows

pytest_plugins = ["tests.batch.installation"]
GRAFANA = Path(settings.BASE_DIR) / "ops" / "grafana"
FILES = sorted((GRAFANA / "dashboards").glob("*.json"))
UNITS = {"none", "s", "h", "bytes", "Bps", "reqps", "ops", "percentunit", "si:Jy/beam"}
WIDTH = 24  # columns of Grafana's grid
OF_PROMETHEUS = {"up", "ALERTS"}
OF_HISTOGRAM = re.compile(r"_(bucket|sum|count)$")


def dashboards() -> dict[str, dict]:
    return {path.stem: json.loads(path.read_text()) for path in FILES}


def panels() -> list[tuple[str, dict]]:
    return [(name, panel) for name, dashboard in dashboards().items() for panel in dashboard["panels"]]


def cells(panel: dict) -> set[tuple[int, int]]:
    place = panel["gridPos"]
    return {
        (x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + place["h"])
    }


# --- the model -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", [path.stem for path in FILES])
def test_a_dashboard_is_one_of_grafanas(name):
    dashboard = dashboards()[name]
    assert dashboard["uid"] == f"contimg-{name}"
    assert {"title", "schemaVersion", "time", "refresh", "panels", "templating", "annotations"} <= dashboard.keys()
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(ids) == len(set(ids))
    taken = [cell for panel in dashboard["panels"] for cell in cells(panel)]
    assert len(taken) == len(set(taken)), "two panels overlap"
    assert max(x for x, _ in taken) < WIDTH


@pytest.mark.parametrize(
    ("name", "panel"), panels(), ids=lambda value: value if isinstance(value, str) else value["id"]
)
def test_a_panel_has_a_title_a_unit_and_queries_of_our_source(name, panel):
    assert panel["type"] in ("stat", "timeseries")
    assert panel["title"]
    assert panel["fieldConfig"]["defaults"]["unit"] in UNITS
    assert (
        panel["datasource"]["uid"]
        == yaml.safe_load((GRAFANA / "provisioning" / "datasources" / "contimg.yml").read_text())["datasources"][0][
            "uid"
        ]
    )
    references = [target["refId"] for target in panel["targets"]]
    assert references
    assert len(references) == len(set(references))


def test_panels_turn_red_where_alerts_fire():
    """A threshold is a number of the rule that the panel names; of a count, above 0 is 1 and more."""
    by_name = {alert["alert"]: alert["expr"] for alert in alerts()}
    shown = set()
    for name, panel in panels():
        steps = panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
        limits = {step["value"] for step in steps if step["value"] is not None}
        named = [alert for alert in by_name if re.search(rf"\b{alert}\b", panel["description"])]
        numbers = {float(n) for alert in named for n in re.findall(r"[<>=] (?:bool )?(\d[\d.e]*)", by_name[alert])}
        assert limits <= numbers | ({1} if 0 in numbers else set()), (name, panel["title"])
        shown |= set(named)
    assert shown == by_name.keys(), "an alert without a panel"


def test_provisioning_names_the_folder_of_the_dashboards():
    (provider,) = yaml.safe_load((GRAFANA / "provisioning" / "dashboards" / "contimg.yml").read_text())["providers"]
    assert provider["options"]["path"].removeprefix("/opt/contimg/") == str(
        (GRAFANA / "dashboards").relative_to(settings.BASE_DIR)
    )


def test_prometheus_understands_every_query(tmp_path):
    queries = [target["expr"] for _, panel in panels() for target in panel["targets"]]
    named = [{"record": f"panel:{n}", "expr": query} for n, query in enumerate(queries)]
    (tmp_path / "queries.yml").write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": named}]}))
    promtool("check", "rules", tmp_path / "queries.yml")


# --- the metrics ---------------------------------------------------------------------------------------------------
@pytest.fixture
def scraped(install, client, tmp_path) -> dict[str, set[frozenset[str]]]:
    """The label names of each sample that a service which has done a little of everything tells."""
    install("sqlite")
    now = timezone.now()
    ComparisonFactory(image=ImageFactory(rms_jy_per_beam=1e-3, thermal_rms_jy_per_beam=1e-3), flux_ratio=1.0)
    CalibrationTableFactory()
    SubbandGroupFactory()
    MeasurementSetFactory(size_bytes=10)
    ItemFactory(stage="image", state="ready")
    ItemFactory(stage="image", state="failed", error_code="bad_visibilities", finished_at=now)
    done = ItemFactory(state="done", finished_at=now)
    AttemptFactory(item=done, finished_at=now, outcome="done", duration_s=60.0, input_bytes=10)
    WorkerFactory(host="away", name="away.1.a_1", seen_at=now - timedelta(minutes=9))
    metrics.item_ended(stage="image", state="done", seconds=1, read_bytes=1)
    metrics.WAIT_SECONDS.labels("image").observe(1)
    Breaker("cache")
    take_backup(folder=tmp_path / "backups", told=lambda *_: None)
    client.get("/api/v1/images/")
    found: dict[str, set[frozenset[str]]] = {}
    for path in ("/metrics", "/health/?format=openmetrics"):
        for family in text_string_to_metric_families(client.get(path).content.decode()):
            for sample in family.samples:
                if not sample.name.endswith("_created"):  # when it began
                    found.setdefault(sample.name, set()).add(frozenset(sample.labels))
    return found


def documented() -> dict[str, str]:
    """Each metric of the table, written out (`contimg_pool_size`, `_max` are two), with its cell of kind and labels."""
    found = {}
    for first, kind, *_ in rows("docs/operations.md", "Metrics"):
        head, *ends = re.findall(r"`(\w+)`", first)
        whole = [head] + [end if not end.startswith("_") else head.rpartition("_")[0] + end for end in ends]
        found |= dict.fromkeys(whole, kind)
    return found


def metrics_in(query: str) -> Iterator[str]:
    """What is neither a function, a word of the language, a label, a text nor a number."""
    bare = re.sub(r"\b(by|on|without|ignoring) ?\([^)]*\)|\{[^}]*\}|\[[^\]]*\]|\"[^\"]*\"", " ", query)
    for name, bracket in re.findall(r"\b([a-zA-Z_:][\w:]*)\b(\s*\()?", bare):
        if not bracket and name not in ("and", "or", "unless", "by", "on", "bool", "offset"):
            yield name


def asked() -> set[str]:
    queries = [rule["expr"] for rule in rules()] + [t["expr"] for _, panel in panels() for t in panel["targets"]]
    recorded = {rule["record"] for rule in rules() if "record" in rule}
    return {name for query in queries for name in metrics_in(query)} - recorded - OF_PROMETHEUS


def test_every_metric_of_a_rule_or_a_panel_is_told(scraped):
    assert asked() - scraped.keys() == set()


def test_every_documented_metric_is_told_and_every_metric_of_ours_is_documented(scraped):
    told = {OF_HISTOGRAM.sub("", name) for name in scraped}
    assert documented().keys() - told == set()
    assert {name for name in told if name.startswith("contimg_")} - documented().keys() == set()


def test_the_documents_have_the_labels_of_each_metric(scraped):
    for name, kind in documented().items():
        series = next(sample for sample in scraped if OF_HISTOGRAM.sub("", sample) == name)
        for labels in scraped[series]:
            for label in labels - {"le"}:
                assert re.search(rf"\b{label}\b", kind), (name, label)


def test_the_alerts_are_tried_with_the_labels_that_there_are(scraped):
    """`pid` is that of one of several processes, and a target's own labels are Prometheus's."""
    for case in CASES:
        for test in yaml.safe_load(case.read_text())["tests"]:
            for series in test["input_series"]:
                name, _, inside = series["series"].partition("{")
                labels = set(re.findall(r"(\w+)=", inside)) - {"job", "instance", "pid"}
                assert name in OF_PROMETHEUS or labels in scraped[name], series["series"]
