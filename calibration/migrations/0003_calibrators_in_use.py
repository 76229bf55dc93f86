"""3C123 is no point to this array and is retired: kept for the tables that were solved on it, used for no more.

It has lobes some 45 arcsec across and 23 arcsec between its hot spots; the beam is 14. In two equal points 23 arcsec
apart the array of 96 antennas has baselines on which nothing is left of the flux, the gains of its outermost antennas
come out at 0.05 and phases scatter by 44 deg. Solved on the hot spots of the others, as two points 4-5 arcsec apart
(3C295, Scaife & Heald 2012, MNRAS 423, L30) or 6 (3C196), the outermost gains are 6-13% low, the median one 0.1%, and
what is calibrated with them comes out 2-3% high. So those stay, for strips that have no better one.

3C295's position stays too. It is that of the radio emission, which lies on both sides of the host galaxy: 0.2 arcsec
from the middle of the two points, 0.4 from the VLA list (14h11m20.647s +52d12m09.14s), 1.1 from the galaxy (NED).
"""

from django.db import migrations, models

RETIRED = "3C123"
WHY = ". Retired: its lobes span 45 arcsec, so that it is no point to baselines of 2.7 km"


def retire(apps, schema_editor):
    for row in apps.get_model("calibration", "Calibrator").objects.filter(name=RETIRED):
        row.is_retired, row.reference = True, row.reference + WHY
        row.save()


def restore(apps, schema_editor):
    for row in apps.get_model("calibration", "Calibrator").objects.filter(name=RETIRED):
        row.reference = row.reference.removesuffix(WHY)
        row.save()


class Migration(migrations.Migration):
    dependencies = [("calibration", "0002_calibrators")]
    operations = [
        migrations.AddField(
            model_name="calibrator",
            name="is_retired",
            field=models.BooleanField(
                default=False, help_text="Neither solved on nor subtracted from images; `reference` says why."
            ),
        ),
        migrations.RunPython(retire, restore),
    ]
