"""What a healthy image could have is kept without the noise limit of the policy that judged it."""

from django.db import migrations, models
from django.db.models import Min

CHUNK_ROWS = 1000


def keep_without_the_policy(apps, schema_editor):
    rules = apps.get_model("qa", "Rule").objects.filter(
        subject_kind="image", metric="rms_over_thermal", grade="marginal", comparison__in=("gt", "ge")
    )
    warns_at = dict(rules.order_by().values_list("policy").annotate(Min("limit")))
    assessments = apps.get_model("qa", "Assessment").objects
    rows = assessments.filter(circumstances__has_key="reach").only("policy", "metrics", "circumstances")
    while some := list(rows[:CHUNK_ROWS]):  # it takes the key from each
        for row in some:
            reach = row.circumstances.pop("reach")
            if "dynamic_range" in reach:
                row.metrics["dynamic_range_at_thermal_noise"] = reach["dynamic_range"][0] * warns_at[row.policy_id]
        assessments.bulk_update(some, ["metrics", "circumstances"])


class Migration(migrations.Migration):
    dependencies = [("qa", "0004_policy_version_2")]
    operations = [
        migrations.AlterField(
            model_name="assessment",
            name="circumstances",
            field=models.JSONField(default=dict, help_text="By metric: why it was skipped, and where the worst is."),
        ),
        migrations.RunPython(keep_without_the_policy, migrations.RunPython.noop, elidable=True),
    ]
