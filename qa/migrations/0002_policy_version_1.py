"""Policy version 1: the thresholds in use, with where each comes from."""

from django.db import migrations

IMAGE = [
    ("dynamic_range_excellent", "dynamic_range", "le", 1000, "good", "excellent images have a dynamic range above 1000"),
    ("dynamic_range_good", "dynamic_range", "le", 100, "marginal", "good images have a dynamic range above 100"),
    ("dynamic_range_marginal", "dynamic_range", "le", 30, "poor", "below 30 sidelobes and noise cannot be told apart"),
    ("noise_high", "rms_over_thermal", "gt", 1.8, "marginal", "healthy simulated tiles come out at 1.3 of the weighted "
     "thermal noise; 1.8 leaves room for flagged data"),
    ("noise_excessive", "rms_over_thermal", "gt", 3.0, "poor", "three times the thermal noise is interference or "
     "calibration, not receivers"),
    ("mostly_blank", "finite_fraction", "lt", 0.5, "poor", "less than half of the pixels have a value"),
    ("noise_measured", "rms_jy_per_beam", "lt", 0, "poor", "an image without a noise estimate has no grade"),
    ("peak_measured", "peak_jy_per_beam", "lt", 0, "poor", "the brightest pixel is below zero"),
]  # fmt: skip
TABLE = [
    ("flagged_some", "flagged_fraction", "ge", 0.10, "good", "excellent tables have under 10% of solutions flagged"),
    ("flagged_many", "flagged_fraction", "ge", 0.30, "marginal", "good tables have under 30% of solutions flagged"),
    ("flagged_most", "flagged_fraction", "ge", 0.50, "poor", "half of the solutions or more are flagged"),
    ("snr_low", "median_snr", "lt", 5, "marginal", "solutions below a signal to noise of 5 add their own noise"),
    ("snr_too_low", "median_snr", "lt", 3, "poor", "below 3 a solution is not a detection of the calibrator"),
    ("amplitude_low", "median_amplitude", "lt", 0.1, "marginal", "the gain scale is not that of this system"),
    ("amplitude_high", "median_amplitude", "gt", 10, "marginal", "the gain scale is not that of this system"),
    ("phase_scatter_high", "phase_scatter_deg", "gt", 30, "marginal", "after each antenna's mean and delay slope are "
     "removed, healthy phases scatter by a few degrees"),
    ("phase_scatter_random", "phase_scatter_deg", "gt", 90, "poor", "uniformly random phases scatter by 104 degrees"),
    ("window_flagged", "worst_window_flagged_fraction", "gt", 0.8, "marginal", "a spectral window is almost all flagged"),
    ("window_channels_flagged", "worst_window_bad_channel_fraction", "gt", 0.5, "marginal", "over half of the channels "
     "of a spectral window are more than half flagged"),
]  # fmt: skip


def install(apps, schema_editor):
    policy = apps.get_model("qa", "Policy").objects.create(
        name="standard",
        version=1,
        is_active=True,
        note="The thresholds of the first operations, from the literature and from simulated nights.",
    )
    rule = apps.get_model("qa", "Rule")
    for kind, rows in (("image", IMAGE), ("calibration_table", TABLE)):
        rule.objects.bulk_create(
            rule(
                policy=policy, subject_kind=kind, name=name, metric=metric, comparison=comparison, limit=limit,
                grade=grade, reason=reason,
            )  # fmt: skip
            for name, metric, comparison, limit, grade, reason in rows
        )


def remove(apps, schema_editor):
    apps.get_model("qa", "Policy").objects.filter(name="standard", version=1, assessments=None).delete()


class Migration(migrations.Migration):
    dependencies = [("qa", "0001_initial")]
    operations = [migrations.RunPython(install, remove)]
