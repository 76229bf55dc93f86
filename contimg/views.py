"""The start page. Wiring: sees every app."""

from __future__ import annotations

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe

from calibration.models import CalibrationTable
from contimg.api.counts import count
from images.models import Image
from observations.models import MeasurementSet, SubbandGroup
from sources.models import Measurement, Source

RESOURCES = {
    "subband-group": SubbandGroup.objects.all(),
    "measurement-set": MeasurementSet.objects.all(),
    "calibration-table": CalibrationTable.objects.all(),
    "image": Image.objects.all(),
    "source": Source.objects.all(),
    "measurement": Measurement.objects.all(),
}
N_PREVIEWS = 8


@require_safe
def start(request: HttpRequest) -> HttpResponse:
    may_read = settings.CONTIMG_PUBLIC_READ or request.user.is_authenticated
    context = {
        "counts": [
            {"list": f"{name}-list", "name": queryset.model._meta.verbose_name_plural, **count(queryset)}
            for name, queryset in RESOURCES.items()
        ],
        "images": Image.objects.latest_with_preview()[:N_PREVIEWS],
    }
    return render(request, "contimg/start.html", context if may_read else {})
