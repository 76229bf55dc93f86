"""The built-in calibrators: positions of the ICRF and VLA lists, flux densities of Perley & Butler 2017.

log10(S/Jy) = sum_i a_i (log10(nu/GHz))^i, Table 6 of R. A. Perley and B. J. Butler, ApJS 230, 7 (2017),
doi:10.3847/1538-4365/aa6df9. Not all are points to the array's beam of 14 arcsec: see 0003, which retires 3C123.
"""

from django.db import migrations

PB2017 = "Perley & Butler 2017, ApJS 230, 7, table 6; position: VLA calibrator list (J2000)"
CALIBRATORS = [
    ("3C48", 24.4220808, 33.1597594, [1.3253, -0.7553, -0.1914, 0.0498]),
    ("3C123", 69.2682500, 29.6705000, [1.8017, -0.7884, -0.1035, -0.0248, 0.0090]),
    ("3C138", 80.2911917, 16.6394586, [1.0088, -0.4981, -0.1552, -0.0102, 0.0223]),
    ("3C147", 85.6505746, 49.8520094, [1.4516, -0.6961, -0.2007, 0.0640, -0.0464, 0.0289]),
    ("3C196", 123.4001379, 48.2173778, [1.2872, -0.8530, -0.1534, -0.0200, 0.0201]),
    ("3C286", 202.7845329, 30.5091550, [1.2481, -0.4507, -0.1798, 0.0357]),
    ("3C295", 212.8359583, 52.2026444, [1.4701, -0.7658, -0.2780, -0.0347, 0.0399]),
    ("3C380", 277.3824208, 48.7461564, [1.2320, -0.7909, 0.0947, 0.0976, -0.1794, -0.1566]),
]


def install(apps, schema_editor):
    from contimg.sky import healpix_indices

    calibrator = apps.get_model("calibration", "Calibrator")
    cells = healpix_indices([row[1] for row in CALIBRATORS], [row[2] for row in CALIBRATORS])
    calibrator.objects.bulk_create(
        calibrator(name=name, ra_deg=ra, dec_deg=dec, healpix=cell, flux_coefficients=flux, reference=PB2017)
        for (name, ra, dec, flux), cell in zip(CALIBRATORS, cells, strict=True)
    )


def remove(apps, schema_editor):
    apps.get_model("calibration", "Calibrator").objects.filter(
        name__in=[row[0] for row in CALIBRATORS], tables=None
    ).delete()


class Migration(migrations.Migration):
    dependencies = [("calibration", "0001_initial")]
    operations = [migrations.RunPython(install, remove)]
