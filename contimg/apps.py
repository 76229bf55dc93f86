from typing import Any

from django.apps import AppConfig
from django.apps import apps as all_apps
from django.apps.registry import Apps
from django.db.models.signals import post_migrate

from contimg.checks import register_checks


class ContimgConfig(AppConfig):
    name = "contimg"

    def ready(self) -> None:
        register_checks()
        post_migrate.connect(_name_installation, sender=self)


def _name_installation(*, using: str, apps: Apps = all_apps, **kwargs: Any) -> None:
    """Not in the migration: after `flush` there has to be one too."""
    try:
        installation = apps.get_model("contimg", "Installation")
    except LookupError:  # the migration is undone
        return
    installation._default_manager.using(using).get_or_create(pk=1)
