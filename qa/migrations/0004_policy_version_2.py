"""Policy version 2: that of version 1, with the dec strip, single antennas, and what a reference catalogue tells."""

from django.db import migrations
from django.utils import timezone

IMAGE = [
    ("noise_above_strip", "rms_over_strip", "gt", 2.0, "marginal", "twice the running median of its dec strip: the "
     "thermal noise of a strip is that of the receivers and does not double"),
    ("beam_wide", "beam_over_strip", "gt", 1.3, "marginal", "the beam is a third wider than its dec strip's: long "
     "baselines are missing"),
    ("beam_narrow", "beam_over_strip", "lt", 0.7, "marginal", "the beam is a third narrower than its dec strip's: short "
     "baselines are missing"),
    ("duty_low", "duty_fraction", "lt", 0.75, "marginal", "of the integrations that tiles of its dec strip have, and of 16 "
     "subbands, over a quarter is missing"),
    ("data_flagged", "flagged_above_strip", "gt", 0.1, "marginal", "a tenth more of the data is flagged than of other tiles "
     "of its dec strip: interference"),
    ("antenna_gain_off", "worst_antenna_gain_off", "gt", 0.1, "marginal", "an antenna's gain is no longer that of its "
     "table, by 10% beyond five errors: within a night gains keep to a few percent"),
    ("antenna_gains_scatter", "antenna_gain_scatter", "gt", 0.06, "marginal", "the gains of antennas are no longer those of "
     "their table: a fifth of them 30% high scatter by 12%, healthy ones by 2%"),
    ("sky_negative", "negative_excess_over_peak", "gt", 0.1, "marginal", "the sky is not negative: beyond the noise the "
     "lowest pixel is a tenth of the peak deep"),
    ("sky_imbalanced", "negative_excess_over_peak", "gt", 0.5, "poor", "the sky is not negative, and no sidelobe of the "
     "array is half as deep as what it is of"),
]  # fmt: skip
TABLE = [
    ("antenna_flagged", "worst_antenna_flagged_fraction", "gt", 0.8, "marginal", "an antenna has almost no solutions, as "
     "a spectral window at the same limit"),
    ("antenna_phase_noisy", "worst_antenna_phase_scatter_deg", "gt", 60, "marginal", "twice the scatter at which the "
     "median of all antennas warns; uniformly random phases scatter by 104 degrees"),
    ("antenna_unsteady", "worst_antenna_time_phase_scatter_deg", "gt", 30, "marginal", "the phase of an antenna scatters from "
     "integration to integration by so much that it loses 13% of its amplitude"),
]  # fmt: skip
COMPARISON = [
    ("ratio_low", "flux_ratio", "lt", 0.8, "marginal", "the flux scale is more than 20% low; few sources may scatter so"),
    ("ratio_high", "flux_ratio", "gt", 1.2, "marginal", "the flux scale is more than 20% high; few sources may scatter "
     "so"),
    ("ratio_wrong", "flux_ratio_certainly_off", "gt", 0.2, "poor", "the flux scale is more than 20% off, by more than two "
     "errors of the median: tables of another strip gave a ratio of 0.06"),
    ("ratio_stepped_down", "flux_ratio_step", "lt", 0.9, "marginal", "against the median of its dec strip: a step of 15% "
     "lies within 20% of the catalogue"),
    ("ratio_stepped_up", "flux_ratio_step", "gt", 1.1, "marginal", "against the median of its dec strip: a step of 15% "
     "lies within 20% of the catalogue"),
    ("ratio_tilted", "flux_ratio_gradient_at_least_per_deg", "gt", 0.05, "marginal", "the flux ratio changes across the "
     "field, as with a pointing 0.07 deg off"),
    ("ratio_tilted_much", "flux_ratio_gradient_at_least_per_deg", "gt", 0.15, "poor", "the flux ratio changes across the "
     "field, as with a pointing 0.2 deg off"),
    ("positions_off", "astrometric_offset_over_beam", "gt", 0.2, "marginal", "a forced flux a fifth of a beam off its "
     "source is 10% low"),
    ("positions_far_off", "astrometric_offset_over_beam", "gt", 0.5, "poor", "half a beam off its source a forced flux is "
     "half of it"),
    ("incomplete", "completeness", "lt", 0.6, "marginal", "of the sources that should be seen more than 40% are not"),
    ("ratio_absurd", "flux_ratio_max", "gt", 1000, "poor", "no source is a thousand times what the catalogue says: one "
     "of 189 Jy stood for 0.07 Jy"),
    ("peak_unexplained", "peak_over_expected", "gt", 3.0, "marginal", "nothing in the catalogue is a third as bright as the "
     "image's peak, and few sources vary by as much"),
    ("peak_absurd", "peak_over_expected", "gt", 10.0, "poor", "the image's peak is ten times what the catalogue has there"),
    ("peak_low", "expected_over_peak", "gt", 2.0, "marginal", "a lone source of the catalogue is twice as bright as "
     "anything in the image"),
    ("peak_far_too_low", "expected_over_peak", "gt", 5.0, "poor", "a lone source of the catalogue is five times as bright "
     "as anything in the image: it is no image of this field"),
    ("brighter_than_the_image", "brightest_over_peak", "gt", 1.5, "poor", "no source is brighter than the peak of its "
     "image: 189 Jy were measured in one that peaks at 16 Jy"),
]  # fmt: skip
EPOCH = [
    ("held_against_the_sky", "n_sky_gates", "lt", 1, "poor", "", "the noise alone tells no good epoch: its flux scale or "
     "its completeness has to be known"),
    ("ratio_low", "flux_ratio", "lt", 0.8, "poor", "flux_scale", "the median flux ratio to the catalogue is below 0.8"),
    ("ratio_high", "flux_ratio", "gt", 1.2, "poor", "flux_scale", "the median flux ratio to the catalogue is above 1.2"),
    ("ratio_of_few", "flux_ratio_n", "lt", 10, "marginal", "flux_scale", "the median of 3 sources that scatter by 20% is "
     "off by 13%"),
    ("ratio_stepped_down", "flux_ratio_step", "lt", 0.9, "poor", "flux_scale", "against the median of its dec strip: a "
     "step of 15% lies within 20% of the catalogue"),
    ("ratio_stepped_up", "flux_ratio_step", "gt", 1.1, "poor", "flux_scale", "against the median of its dec strip: a "
     "step of 15% lies within 20% of the catalogue"),
    ("ratio_tilted", "flux_ratio_gradient_at_least_per_deg", "gt", 0.05, "marginal", "flux_scale", "the flux ratio "
     "changes across the field, as with a pointing 0.07 deg off"),
    ("ratio_tilted_much", "flux_ratio_gradient_at_least_per_deg", "gt", 0.15, "poor", "flux_scale", "the flux ratio "
     "changes across the field, as with a pointing 0.2 deg off"),
    ("tile_doubtful", "worst_tile_deviation", "gt", 0.1, "marginal", "flux_scale", "a tile has another flux scale than "
     "the others"),
    ("tile_bad", "worst_tile_deviation", "gt", 0.15, "poor", "flux_scale", "a tile has another flux scale than the "
     "others, which the mosaic's median hides"),
    ("incomplete", "completeness", "lt", 0.6, "poor", "completeness", "of the sources that should be seen more than 40% "
     "are not"),
    ("noise_excessive", "rms_jy_per_beam", "gt", 0.0171, "poor", "noise", "twice the 8.54 mJy of an epoch of the real "
     "telescope"),
    ("noise_above_strip", "rms_over_strip", "gt", 1.5, "marginal", "noise", "against the median of its dec strip"),
    ("noise_far_above_strip", "rms_over_strip", "gt", 2.0, "poor", "noise", "twice the median of its dec strip"),
]  # fmt: skip
COLUMNS = ("subject_kind", "name", "metric", "comparison", "limit", "grade", "reason", "gate")


def install(apps, schema_editor):
    policies, rules = apps.get_model("qa", "Policy").objects, apps.get_model("qa", "Rule").objects
    before = policies.filter(name="standard", version=1).first()
    if before is None or policies.filter(name="standard", version=2).exists():
        return
    takes_over = before.is_active
    policies.filter(pk=before.pk).update(is_active=False)
    policy = policies.create(
        name="standard",
        version=2,
        is_active=takes_over,
        activated_at=timezone.now() if takes_over else None,
        note="Version 1, with limits from the dec strip's running median, a tile's duty, single antennas, and what a reference "
        "catalogue tells of images and epochs.",
    )
    kept = list(rules.filter(policy=before).order_by("id").values(*COLUMNS))
    added = [("image", *row[:5], "", row[5]) for row in (*IMAGE, *COMPARISON)] + [("epoch", *row) for row in EPOCH]
    added += [("calibration_table", *row[:5], "", row[5]) for row in TABLE]
    for kind, name, metric, comparison, limit, grade, gate, reason in added:
        values = (kind, name, metric, comparison, limit, grade, reason, gate)
        kept.append(dict(zip(COLUMNS, values, strict=True)))
    rules.bulk_create(rules.model(policy=policy, **row) for row in kept)


def remove(apps, schema_editor):
    policies = apps.get_model("qa", "Policy").objects
    unused = policies.filter(name="standard", version=2, assessments=None)
    was_active = unused.filter(is_active=True).exists()
    unused.delete()
    if was_active:
        policies.filter(name="standard", version=1).update(is_active=True)


class Migration(migrations.Migration):
    dependencies = [("qa", "0003_verdicts")]
    operations = [migrations.RunPython(install, remove)]
