"""The database itself refuses to change the audit log."""

from django.db import migrations

from access import append_only

TABLE = "access_auditentry"


def install(apps, schema_editor):
    append_only.install(schema_editor, TABLE)


def remove(apps, schema_editor):
    append_only.remove(schema_editor, TABLE)


class Migration(migrations.Migration):
    dependencies = [("access", "0001_initial")]
    operations = [migrations.RunPython(install, remove)]
