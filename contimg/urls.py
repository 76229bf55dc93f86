"""Every address of the service. Wiring: sees every app."""

from django.contrib import admin
from django.contrib.auth.views import LoginView, LogoutView
from django.urls import include, path
from django.views.generic import RedirectView
from drf_spectacular.views import SpectacularAPIView, SpectacularRedocView, SpectacularSwaggerView

from access.gates import throttled_login
from access.viewsets import AuditViewSet
from batch.viewsets import (
    AssessmentViewSet,
    BatchViewSet,
    ImageBatchViewSet,
    ItemViewSet,
    PauseViewSet,
    PolicyViewSet,
    QuarantineViewSet,
    WorkerViewSet,
)
from calibration.viewsets import (
    AntennaFlagViewSet,
    CalibrationTableViewSet,
    CalibratorViewSet,
    MeasurementSetAntennaViewSet,
)
from contimg import health, views
from contimg.api.viewsets import Router
from contimg.stats import StatsView
from images.viewsets import EpochViewSet, ImageViewSet
from observations.viewsets import MeasurementSetViewSet, SubbandGroupViewSet
from provenance.viewsets import (
    CalibrationTableProvenanceViewSet,
    EpochProvenanceViewSet,
    ImageProvenanceViewSet,
    ImpactView,
    MeasurementSetProvenanceViewSet,
    SubbandGroupProvenanceViewSet,
)
from qa.viewsets import AlertViewSet, DriftView, ReviewViewSet
from sources.viewsets import (
    ImageMeasurementViewSet,
    MeasurementViewSet,
    ReferenceCatalogueViewSet,
    ReferenceSourceViewSet,
    SourceViewSet,
)

router = Router()
router.pages = ("stats", "drift", "impact", "schema", "docs", "redoc")
router.register("subband-groups", SubbandGroupViewSet, "subband-group")
router.register("measurement-sets", MeasurementSetViewSet, "measurement-set")
router.register("calibrators", CalibratorViewSet, "calibrator")
router.register("calibration-tables", CalibrationTableViewSet, "calibration-table")
router.register("antenna-flags", AntennaFlagViewSet, "antenna-flag")
router.register("images", ImageViewSet, "image")
router.register("epochs", EpochViewSet, "epoch")
router.register("sources", SourceViewSet, "source")
router.register("measurements", MeasurementViewSet, "measurement")
router.register("reference-catalogues", ReferenceCatalogueViewSet, "reference-catalogue")
router.register("reference-sources", ReferenceSourceViewSet, "reference-source")
router.register("assessments", AssessmentViewSet, "assessment")
router.register("policies", PolicyViewSet, "policy")
router.register("alerts", AlertViewSet, "alert")
router.register("reviews", ReviewViewSet, "review")
router.register("batches", BatchViewSet, "batch")
router.register("items", ItemViewSet, "item")
router.register("quarantines", QuarantineViewSet, "quarantine")
router.register("pauses", PauseViewSet, "pause")
router.register("workers", WorkerViewSet, "worker")
router.register("audit", AuditViewSet, "audit")

# What the apps of the resources themselves know nothing of.
product_actions = Router()
product_actions.include_root_view = False
product_actions.register("subband-groups", SubbandGroupProvenanceViewSet, "subband-group")
product_actions.register("measurement-sets", MeasurementSetProvenanceViewSet, "measurement-set")
product_actions.register("measurement-sets", MeasurementSetAntennaViewSet, "measurement-set-of")
product_actions.register("calibration-tables", CalibrationTableProvenanceViewSet, "calibration-table")
product_actions.register("images", ImageProvenanceViewSet, "image")
product_actions.register("epochs", EpochProvenanceViewSet, "epoch")
product_actions.register("images", ImageMeasurementViewSet, "image-measured")
product_actions.register("images", ImageBatchViewSet, "image-made")

# Of everybody with a password; the admin's own is of staff alone.
LOGINS = [
    path("login/", throttled_login(LoginView.as_view(template_name="rest_framework/login.html")), name="login"),
    path("logout/", LogoutView.as_view(), name="logout"),
]

READ_ONLY = ["get", "head"]  # they have no other, and DRF's OPTIONS would want a template

admin.autodiscover()
urlpatterns = [
    path("", views.start, name="start"),
    path("api/", RedirectView.as_view(pattern_name="api-root")),
    path("api/v1/drift/", DriftView.as_view(), name="drift"),
    path("api/v1/stats/", StatsView.as_view(), name="stats"),
    path("api/v1/impact/", ImpactView.as_view(), name="impact"),
    path("api/v1/", include(router.urls)),
    path("api/v1/", include(product_actions.urls)),
    path("api/v1/schema/", SpectacularAPIView.as_view(http_method_names=READ_ONLY), name="schema"),
    path("api/v1/docs/", SpectacularSwaggerView.as_view(http_method_names=READ_ONLY), name="docs"),
    path("api/v1/redoc/", SpectacularRedocView.as_view(http_method_names=READ_ONLY), name="redoc"),
    path("api/auth/", include((LOGINS, "rest_framework"))),
    path("admin/login/", throttled_login(admin.site.login)),
    path("admin/", admin.site.urls),
    path("health/", health.Details.as_view(), name="health"),
    path("health/live", health.live, name="live"),
    path("health/ready", health.Health.as_view(), name="ready"),
    path("metrics", health.Metrics.as_view(), name="metrics"),
]

handler400 = "contimg.api.errors.bad_request"
handler403 = "contimg.api.errors.permission_denied"
handler404 = "contimg.api.errors.not_found"
handler500 = "contimg.api.errors.server_error"
