"""A rule can be about exactly what is measured."""

from __future__ import annotations

import pytest

from qa.epochs import measured_of_epoch
from qa.metrics import METRICS
from qa.models import SubjectKind
from qa.rules import Measured
from qa.services import measured_of_image, measured_of_table
from tests.factories import CalibrationTableFactory, ComparisonFactory, ImageFactory, MosaicFactory

pytestmark = pytest.mark.django_db


def names(measured: Measured) -> set[str]:
    return {*measured.metrics, *measured.skipped}


def test_the_metrics_of_rules_are_those_that_are_measured():
    compared = ImageFactory()
    ComparisonFactory(image=compared)
    assert names(measured_of_image(compared)) == METRICS[SubjectKind.IMAGE]
    assert names(measured_of_epoch(MosaicFactory())) == METRICS[SubjectKind.EPOCH]
    assert names(measured_of_table(CalibrationTableFactory())) == METRICS[SubjectKind.CALIBRATION_TABLE]
