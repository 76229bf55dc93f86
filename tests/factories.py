"""Rows that the constraints accept, with everything they hang on. Override what the test is about."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta

import factory
from django.contrib.auth.models import User
from django.utils import timezone
from factory.django import DjangoModelFactory

from access.models import AuditEntry, Token
from batch.models import Attempt, Batch, Item, Output, Pause, Worker
from calibration.models import AntennaFlag, AppliedFlags, AppliedTable, CalibrationTable, Calibrator, FlagTable
from contimg.mjd import MJD_EPOCH
from contimg.models import BreakerState
from contimg.sky import healpix_index
from images.models import Image, ImageEdge, MosaicTile
from observations.epochs import HOUR, OVERLAP
from observations.models import DataRoot, Epoch, MeasurementSet, SubbandFile, SubbandGroup
from provenance.models import Quarantine
from qa.models import Alert, Assessment, Finding, Policy, Review, Rule
from sources.models import Catalogue, Comparison, Measurement, ReferenceCatalogue, ReferenceSource, Source

FIRST_TILE = datetime(2026, 3, 1, 6, 0, 0, tzinfo=UTC)
TILE = timedelta(seconds=309)


def digest(word: object) -> str:
    return hashlib.sha256(str(word).encode()).hexdigest()


def mjd(time: datetime | None) -> float | None:
    return None if time is None else (time - MJD_EPOCH).total_seconds() / 86_400


def _healpix(row):
    return healpix_index(row.ra_deg, row.dec_deg)


class UserFactory(DjangoModelFactory):
    class Meta:
        model = User

    username = factory.Sequence(lambda n: f"user{n}")


class TokenFactory(DjangoModelFactory):
    class Meta:
        model = Token

    user = factory.SubFactory(UserFactory)
    name = "a script"
    prefix = factory.Sequence(lambda n: f"t{n:07d}")
    digest = factory.Sequence(lambda n: digest(f"token {n}"))
    scope = "read"
    expires_at = factory.LazyFunction(lambda: timezone.now() + timedelta(days=30))


class AuditEntryFactory(DjangoModelFactory):
    class Meta:
        model = AuditEntry

    actor = factory.SubFactory(UserFactory)
    actor_name = factory.SelfAttribute("actor.username")
    token = factory.SubFactory(TokenFactory, user=factory.SelfAttribute("..actor"))
    channel = "api"
    action = "batch.cancel"
    object_kind = "batch"
    object_id = 1
    request_id = "abc-123"
    address = "192.0.2.1"


class _Product(DjangoModelFactory):
    class Meta:
        abstract = True

    size_bytes = 1000
    checksum = factory.Sequence(lambda n: digest(f"content {n}"))
    recipe = factory.Sequence(lambda n: digest(f"recipe {n}"))
    parameters = {"threads": 1}
    versions = {"contimg": "0.1.0"}


class DataRootFactory(DjangoModelFactory):
    class Meta:
        model = DataRoot

    path = factory.Sequence(lambda n: f"/data/night{n}")


class SubbandGroupFactory(DjangoModelFactory):
    class Meta:
        model = SubbandGroup

    started_at = factory.Sequence(lambda n: FIRST_TILE + n * TILE)
    duration_s = 309.0
    observed_at = factory.LazyAttribute(lambda row: row.started_at + timedelta(seconds=row.duration_s / 2))
    ra_deg = factory.Sequence(lambda n: (120 + 1.29 * n) % 360)
    dec_deg = 16.2
    pointing_dec_deg = 16.1
    healpix = factory.LazyAttribute(_healpix)
    n_files = 16
    n_subbands = 16
    size_bytes = 16 * 145_000_000
    last_file_at = factory.LazyAttribute(lambda row: row.started_at + timedelta(minutes=10))


class EpochFactory(DjangoModelFactory):
    class Meta:
        model = Epoch

    started_at = factory.Sequence(lambda n: FIRST_TILE + n * timedelta(hours=1))
    tiles_from = factory.LazyAttribute(lambda row: row.started_at - OVERLAP)
    tiles_until = factory.LazyAttribute(lambda row: row.started_at + HOUR + OVERLAP)
    dec_deg = 16.1


class SubbandFileFactory(DjangoModelFactory):
    class Meta:
        model = SubbandFile

    root = factory.SubFactory(DataRootFactory)
    group = factory.SubFactory(SubbandGroupFactory)
    subband = factory.Sequence(lambda n: n % 16)
    started_at = factory.LazyAttribute(lambda row: row.group.started_at if row.group else FIRST_TILE)
    named_at = factory.SelfAttribute("started_at")
    relative_path = factory.LazyAttributeSequence(
        lambda row, n: f"{n}/{row.named_at:%Y-%m-%dT%H:%M:%S}_sb{row.subband or 0:02d}.hdf5"
    )
    duration_s = 309.0
    pointing_dec_deg = 16.1
    frequency_hz = 1.4e9
    n_antennas = 96
    n_channels = 48
    n_integrations = 24
    size_bytes = 145_000_000
    modified_at = factory.SelfAttribute("started_at")


class MeasurementSetFactory(_Product):
    class Meta:
        model = MeasurementSet

    group = factory.SubFactory(SubbandGroupFactory)
    calibrated_from = None
    path = factory.Sequence(lambda n: f"measurement_sets/{n}.ms")
    name = factory.LazyAttribute(lambda row: row.group.name)
    observed_at = factory.SelfAttribute("group.observed_at")
    mjd = factory.LazyAttribute(lambda row: mjd(row.observed_at))
    duration_s = 309.0
    integration_s = 12.885
    ra_deg = factory.SelfAttribute("group.ra_deg")
    dec_deg = factory.SelfAttribute("group.dec_deg")
    pointing_dec_deg = 16.1
    healpix = factory.LazyAttribute(_healpix)
    frequency_hz = 1.405e9
    bandwidth_hz = 187.5e6
    n_antennas = 3
    n_channels = 768
    antennas = ["pad1", "pad2", "pad3"]
    flagged_fraction = 0.05


class CalibratedSetFactory(MeasurementSetFactory):
    calibrated_from = factory.SubFactory(MeasurementSetFactory)
    group = factory.SelfAttribute("calibrated_from.group")


class CalibratorFactory(DjangoModelFactory):
    class Meta:
        model = Calibrator

    name = factory.Sequence(lambda n: f"calibrator {n}")
    ra_deg = 202.7845
    dec_deg = 30.5092
    healpix = factory.LazyAttribute(_healpix)
    flux_coefficients = [1.2481, -0.4507, -0.1798, 0.0357]
    reference = "Perley & Butler 2017, ApJS 230, 7"


class FlagTableFactory(_Product):
    class Meta:
        model = FlagTable

    measurement_set = factory.SubFactory(MeasurementSetFactory)
    path = factory.Sequence(lambda n: f"flags/{n}.h5")
    flagged_fraction = 0.05
    antenna_fractions = {"pad1": 0.05}
    channel_fractions = [0.05]


class CalibrationTableFactory(_Product):
    class Meta:
        model = CalibrationTable

    kind = CalibrationTable.Kind.BANDPASS
    set_name = factory.Sequence(lambda n: f"cal_{n}")
    path = factory.Sequence(lambda n: f"calibration_tables/{n}.bcal")
    source_measurement_set = factory.SubFactory(MeasurementSetFactory)
    flag_table = factory.SubFactory(FlagTableFactory, measurement_set=factory.SelfAttribute("..source_measurement_set"))
    calibrator = factory.SubFactory(CalibratorFactory)
    solved_at = factory.SelfAttribute("source_measurement_set.observed_at")
    valid_from = factory.LazyAttribute(lambda row: row.solved_at - timedelta(hours=12))
    valid_until = factory.LazyAttribute(lambda row: row.solved_at + timedelta(hours=12))
    dec_deg = 16.1
    reference_antenna = "pad1"
    solver = "stefcal"
    version = "0.1.0"
    metrics = {"snr": 40.0}
    grade = "good"


class AppliedTableFactory(DjangoModelFactory):
    class Meta:
        model = AppliedTable

    measurement_set = factory.SubFactory(CalibratedSetFactory)
    table = factory.SubFactory(CalibrationTableFactory)


class ImageFactory(DjangoModelFactory):
    """A tile. `kind="external", measurement_set=None` for another."""

    class Meta:
        model = Image

    kind = Image.Kind.TILE
    measurement_set = factory.SubFactory(CalibratedSetFactory)
    name = factory.Sequence(lambda n: f"tile {n}")
    path = factory.Sequence(lambda n: f"images/{n}.fits")
    size_bytes = 1000
    checksum = factory.Sequence(lambda n: digest(f"image {n}"))
    recipe = factory.Sequence(lambda n: digest(f"image recipe {n}"))
    engine = "embedded"
    observed_at = factory.LazyAttribute(lambda row: row.measurement_set.observed_at if row.measurement_set else None)
    mjd = factory.LazyAttribute(lambda row: mjd(row.observed_at))
    epoch = factory.LazyAttribute(
        lambda row: row.observed_at and row.observed_at.replace(minute=0, second=0, microsecond=0)
    )
    pointing_dec_deg = factory.LazyAttribute(
        lambda row: row.measurement_set.pointing_dec_deg if row.measurement_set else None
    )
    ra_deg = factory.LazyAttribute(lambda row: row.measurement_set.ra_deg if row.measurement_set else 10.0)
    dec_deg = factory.LazyAttribute(lambda row: row.measurement_set.dec_deg if row.measurement_set else 10.0)
    healpix = factory.LazyAttribute(_healpix)
    radius_deg = 1.5
    frequency_hz = 1.405e9
    bandwidth_hz = 187.5e6
    width_px = 1280
    height_px = 1280
    pixel_arcsec = 6.0
    bmaj_arcsec = 30.0
    bmin_arcsec = 20.0
    bpa_deg = -5.0
    unit = "Jy/beam"
    rms_jy_per_beam = 0.0005
    peak_jy_per_beam = 0.25
    thermal_rms_jy_per_beam = 0.0004
    finite_fraction = 1.0
    is_primary_beam_corrected = True
    grade = "good"


class MosaicFactory(ImageFactory):
    kind = Image.Kind.MOSAIC
    measurement_set = None
    mosaic_of = factory.SubFactory(EpochFactory)
    name = factory.LazyAttribute(lambda row: f"mosaic {row.mosaic_of}")
    pointing_dec_deg = factory.SelfAttribute("mosaic_of.dec_deg")
    noise_path = factory.Sequence(lambda n: f"images/{n}_noise.fits")
    observed_at = factory.LazyAttribute(lambda row: row.mosaic_of.started_at + timedelta(minutes=30))
    thermal_rms_jy_per_beam = None
    engine = "mosaic"


class ImageEdgeFactory(DjangoModelFactory):
    class Meta:
        model = ImageEdge

    image = factory.SubFactory(MosaicFactory)
    number = 0
    normal_x, normal_y, normal_z, offset = 1.0, 0.0, 0.0, -1.0


class MosaicTileFactory(DjangoModelFactory):
    class Meta:
        model = MosaicTile

    mosaic = factory.SubFactory(MosaicFactory)
    tile = factory.SubFactory(ImageFactory)
    rms_jy_per_beam = 0.0005


class SourceFactory(DjangoModelFactory):
    class Meta:
        model = Source

    ra_deg = factory.Sequence(lambda n: (150 + 0.1 * n) % 360)
    dec_deg = 16.3
    name = factory.Sequence(lambda n: f"DSA J{n:06d}+161800")
    position_err_arcsec = 0.5
    healpix = factory.LazyAttribute(_healpix)
    n_measurements = 6
    flux_mean_jy = 0.05
    flux_max_jy = 0.06
    eta = 1.1
    v = 0.03
    first_seen_at = FIRST_TILE
    last_seen_at = FIRST_TILE + timedelta(days=5)


class MeasurementFactory(DjangoModelFactory):
    class Meta:
        model = Measurement

    source = factory.SubFactory(SourceFactory)
    image = factory.SubFactory(ImageFactory)
    is_forced = True
    observed_at = factory.SelfAttribute("image.observed_at")
    mjd = factory.SelfAttribute("image.mjd")
    ra_deg = factory.SelfAttribute("source.ra_deg")
    dec_deg = factory.SelfAttribute("source.dec_deg")
    position_err_arcsec = 0.5
    healpix = factory.LazyAttribute(_healpix)
    flux_jy = 0.05
    flux_err_jy = 0.001
    peak_jy_per_beam = 0.04
    rms_jy_per_beam = 0.0005
    primary_beam = 0.8


class CatalogueFactory(DjangoModelFactory):
    class Meta:
        model = Catalogue

    image = factory.SubFactory(ImageFactory)
    recipe = factory.Sequence(lambda n: digest(f"catalogue {n}"))
    engine = "pybdsf"
    n_detected = 20
    n_forced = 25
    n_new_sources = 1


class ReferenceCatalogueFactory(DjangoModelFactory):
    class Meta:
        model = ReferenceCatalogue

    name = factory.Sequence(lambda n: f"NVSS {n}")
    frequency_hz = 1.4e9
    epoch_jyear = 1995.0
    checksum = factory.Sequence(lambda n: digest(f"reference {n}"))
    parameters = {"frame": "icrs", "columns": {"ra": {"column": "RAJ2000", "unit": "deg"}}}
    n_rows = 2
    n_sources = 1
    left_out = {"no_flux": 1}
    imported_at = FIRST_TILE


class ReferenceSourceFactory(DjangoModelFactory):
    class Meta:
        model = ReferenceSource

    catalogue = factory.SubFactory(ReferenceCatalogueFactory)
    row = factory.Sequence(lambda n: n + 1)
    designation = factory.Sequence(lambda n: f"{n:06d}+161800")
    ra_deg = factory.Sequence(lambda n: (150 + 0.1 * n) % 360)
    dec_deg = 16.3
    position_err_arcsec = 0.6
    healpix = factory.LazyAttribute(_healpix)
    flux_jy = 0.05
    flux_err_jy = 0.002


class PolicyFactory(DjangoModelFactory):
    class Meta:
        model = Policy

    name = "test"
    version = factory.Sequence(lambda n: 1000 + n)
    is_active = False
    activated_at = factory.LazyAttribute(lambda row: timezone.now() if row.is_active else None)


class RuleFactory(DjangoModelFactory):
    class Meta:
        model = Rule

    policy = factory.SubFactory(PolicyFactory)
    subject_kind = "image"
    name = factory.Sequence(lambda n: f"rule {n}")
    metric = "rms_over_thermal"
    comparison = Rule.Comparison.ABOVE
    limit = 1.8
    grade = "marginal"
    reason = "healthy data come out at 1.5"


class AssessmentFactory(DjangoModelFactory):
    """Of an image. `image=None, calibration_table=...` for a table."""

    class Meta:
        model = Assessment

    policy = factory.SubFactory(PolicyFactory, activated_at=factory.LazyFunction(timezone.now))
    image = factory.SubFactory(ImageFactory)
    grade = "good"
    metrics = {"rms_over_thermal": 1.25}


class FindingFactory(DjangoModelFactory):
    class Meta:
        model = Finding

    assessment = factory.SubFactory(AssessmentFactory)
    rule = "noise"
    metric = "rms_over_thermal"
    value = 1.25
    comparison = "gt"
    limit = 1.8
    outcome = "pass"
    grade = "marginal"
    reason = "healthy data come out at 1.5"


class BatchFactory(DjangoModelFactory):
    """Of one ready item, unless its counts are given."""

    class Meta:
        model = Batch

    stage = "convert"
    owner = factory.SubFactory(UserFactory)
    n_ready = 1
    n_total = 1


class ItemFactory(DjangoModelFactory):
    class Meta:
        model = Item

    batch = factory.SubFactory(BatchFactory)
    stage = "convert"
    group = factory.SubFactory(SubbandGroupFactory)
    writes_to = factory.LazyAttribute(lambda item: f"tile {item.group.pk}")


class AttemptFactory(DjangoModelFactory):
    class Meta:
        model = Attempt

    item = factory.SubFactory(ItemFactory)
    number = factory.Sequence(lambda n: n + 1)
    stage = factory.SelfAttribute("item.stage")
    worker = "here.1.2"
    host = "here"
    started_at = FIRST_TILE
    evidence = {
        "inputs": [{"kind": "subband file", "id": 1, "name": "a_sb00.hdf5", "size_bytes": 10, "checksum": digest("a")}],
        "outputs": [],
    }


class PauseFactory(DjangoModelFactory):
    class Meta:
        model = Pause

    stage = factory.Sequence(lambda n: f"stage {n}")
    reason = "the disk is being changed"
    paused_by = "operator"


class WorkerFactory(DjangoModelFactory):
    class Meta:
        model = Worker

    name = factory.Sequence(lambda n: f"here.{n}.2")
    host = "here"
    pid = factory.Sequence(lambda n: n + 1)
    n_processes = 2
    seen_at = factory.LazyFunction(timezone.now)


class BreakerStateFactory(DjangoModelFactory):
    class Meta:
        model = BreakerState

    breaker = "redis-cache"
    process = factory.Sequence(lambda n: f"here.{n}.2")
    is_open = True
    error = "TimeoutError: no answer"
    changed_at = factory.LazyFunction(timezone.now)


class OutputFactory(DjangoModelFactory):
    class Meta:
        model = Output

    attempt = factory.SubFactory(AttemptFactory)
    measurement_set = factory.SubFactory(MeasurementSetFactory)


class AppliedFlagsFactory(DjangoModelFactory):
    class Meta:
        model = AppliedFlags

    measurement_set = factory.SubFactory(MeasurementSetFactory)
    flag_table = factory.SubFactory(FlagTableFactory)


class AntennaFlagFactory(DjangoModelFactory):
    class Meta:
        model = AntennaFlag

    antenna = "103"
    started_at = FIRST_TILE
    reason = "its receiver is warm"


class ComparisonFactory(DjangoModelFactory):
    class Meta:
        model = Comparison

    image = factory.SubFactory(ImageFactory)
    catalogue = factory.SubFactory(ReferenceCatalogueFactory)
    recipe = factory.Sequence(lambda n: digest(f"comparison {n}"))
    n_expected = 12
    n_matched = 12
    flux_ratio = 1.01
    flux_ratio_scatter = 0.05
    completeness = 1.0


class ReviewFactory(DjangoModelFactory):
    class Meta:
        model = Review

    image = factory.SubFactory(ImageFactory)
    reviewer = factory.SubFactory(UserFactory)
    verdict = "good"
    tags = ["rfi"]


class AlertFactory(DjangoModelFactory):
    class Meta:
        model = Alert

    series = "flux_ratio"
    pointing_dec_deg = 16.1
    kind = "step"
    observed_at = factory.Sequence(lambda n: FIRST_TILE + n * TILE)
    value = 1.15
    expected = 1.0
    n = 20


class QuarantineFactory(DjangoModelFactory):
    class Meta:
        model = Quarantine

    calibration_table = factory.SubFactory(CalibrationTableFactory)
    reason = "solved on a resolved source"


ALL = [
    TokenFactory,
    AuditEntryFactory,
    DataRootFactory,
    SubbandGroupFactory,
    EpochFactory,
    SubbandFileFactory,
    MeasurementSetFactory,
    CalibratorFactory,
    FlagTableFactory,
    CalibrationTableFactory,
    AppliedTableFactory,
    AppliedFlagsFactory,
    AntennaFlagFactory,
    ImageFactory,
    ImageEdgeFactory,
    MosaicTileFactory,
    SourceFactory,
    MeasurementFactory,
    CatalogueFactory,
    ComparisonFactory,
    ReferenceCatalogueFactory,
    ReferenceSourceFactory,
    PolicyFactory,
    RuleFactory,
    AssessmentFactory,
    FindingFactory,
    ReviewFactory,
    AlertFactory,
    QuarantineFactory,
    BatchFactory,
    ItemFactory,
    AttemptFactory,
    OutputFactory,
    PauseFactory,
    WorkerFactory,
    BreakerStateFactory,
]
