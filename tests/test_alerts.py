"""Prometheus understands ops/prometheus, every alert fires when it should and only then, and what it reads exists."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from django.conf import settings
from django.urls import get_resolver

from tests.batch.installation import skip_or_fail

PROMETHEUS = Path(settings.BASE_DIR) / "ops" / "prometheus"
RULES = PROMETHEUS / "rules" / "contimg.yml"
CASES = sorted((PROMETHEUS / "tests").glob("*.yml"))


def rules() -> list[dict]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def alerts() -> list[dict]:
    return [rule for rule in rules() if "alert" in rule]


def promtool(*arguments: object) -> None:
    if shutil.which("promtool") is None:
        skip_or_fail("SKIPPED: promtool (Debian package prometheus) is not installed.")
    done = subprocess.run(["promtool", *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_understands_its_configuration_and_the_rules():
    promtool("check", "config", "--lint=all", "--lint-fatal", PROMETHEUS / "prometheus.yml")
    promtool("check", "rules", "--lint=all", "--lint-fatal", RULES)


@pytest.mark.parametrize("cases", CASES, ids=lambda path: path.stem)
def test_alerts_fire_when_they_should(cases):
    promtool("test", "rules", cases)


def test_every_alert_is_tried_in_both_directions():
    tried: dict[str, set[bool]] = {alert["alert"]: set() for alert in alerts()}
    for case in CASES:
        for test in yaml.safe_load(case.read_text())["tests"]:
            for asked in test["alert_rule_test"]:
                tried[asked["alertname"]].add("exp_alerts" in asked)
    assert tried == {name: {True, False} for name in tried}


@pytest.mark.parametrize("alert", alerts(), ids=lambda alert: alert["alert"])
def test_an_alert_says_whom_it_wakes_what_is_so_and_what_to_do(alert):
    assert alert["labels"].keys() == {"severity"}
    assert alert["labels"]["severity"] in ("page", "ticket")
    assert alert["for"]
    said = alert["annotations"]
    assert said.keys() == {"summary", "description", "runbook_url"}
    assert said["summary"].endswith(".")
    assert said["runbook_url"] == f"docs/runbooks/{alert['alert']}.md"


def names_of_views(patterns=None) -> set[str]:
    patterns = get_resolver().url_patterns if patterns is None else patterns
    found: set[str] = set()
    for pattern in patterns:
        inner = getattr(pattern, "url_patterns", None)
        found |= names_of_views(inner) if inner is not None else {pattern.name or ""}
    return found


def test_every_view_that_a_rule_leaves_out_exists():
    for left_out in re.findall(r'view!~"([^"]+)"', RULES.read_text()):
        ways = re.split(r"\|(?![^(]*\))", left_out)  # not those within brackets
        for way in ways:
            head, _, inside = way.partition("(")
            for each in [head + end for end in inside.rstrip(")").split("|")]:
                assert any(re.fullmatch(each, view) for view in names_of_views()), each
