"""Groups for the three roles, with the permissions that their scopes follow from."""

from django.db import migrations

# Django makes permissions after all migrations have run; it finds these here and leaves them.
PERMISSIONS = {
    ("access", "token", "operate"): "Scope operate: create, cancel, retry and pause work",
    ("access", "token", "review"): "Scope review: write reviews",
    ("access", "token", "administer"): "Scope admin: everything",
    ("access", "token", "view_token"): "Can view token",
    ("access", "token", "add_token"): "Can add token",
    ("access", "token", "change_token"): "Can change token",
    ("access", "auditentry", "view_auditentry"): "Can view audit entry",
    ("auth", "user", "view_user"): "Can view user",
    ("auth", "user", "add_user"): "Can add user",
    ("auth", "user", "change_user"): "Can change user",
    ("auth", "group", "view_group"): "Can view group",
}
GROUPS = {
    "operators": ["operate"],
    "reviewers": ["review"],
    "administrators": [codename for _, _, codename in PERMISSIONS if codename not in ("operate", "review")],
}


def make(apps, schema_editor):
    ContentType = apps.get_model("contenttypes", "ContentType")
    Permission = apps.get_model("auth", "Permission")
    Group = apps.get_model("auth", "Group")
    made = {}
    for (app_label, model, codename), name in PERMISSIONS.items():
        content_type, _ = ContentType.objects.get_or_create(app_label=app_label, model=model)
        made[codename], _ = Permission.objects.get_or_create(
            content_type=content_type, codename=codename, defaults={"name": name}
        )
    for name, codenames in GROUPS.items():
        group, _ = Group.objects.get_or_create(name=name)
        group.permissions.add(*(made[codename] for codename in codenames))


def unmake(apps, schema_editor):
    """Groups that have members stay."""
    apps.get_model("auth", "Group").objects.filter(name__in=GROUPS, user=None).delete()


class Migration(migrations.Migration):
    dependencies = [
        ("access", "0002_append_only"),
        ("auth", "0012_alter_user_first_name_max_length"),
        ("contenttypes", "0002_remove_content_type_name"),
    ]
    operations = [migrations.RunPython(make, unmake)]
