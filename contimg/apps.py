from typing import Any

from django.apps import AppConfig
from django.apps import apps as all_apps
from django.apps.registry import Apps
from django.contrib.admin import autodiscover
from django.contrib.admin.apps import SimpleAdminConfig
from django.contrib.admin.checks import check_admin_app, check_dependencies
from django.core.checks import CheckMessage, Tags, register
from django.db.models.signals import post_migrate

from contimg.checks import register_checks


class AdminConfig(SimpleAdminConfig):
    """The admin is read by what serves or checks it and not by every command and child of a worker.

    With it come the API's classes, and a process takes half as long again to start (docs/measurements.md). Not super's
    `ready`, which checks a site on which nothing is registered yet.
    """

    def ready(self) -> None:
        register(check_dependencies, Tags.admin)
        register(_check_admin, Tags.admin)


def _check_admin(**kwargs: Any) -> list[CheckMessage]:
    autodiscover()
    return check_admin_app(**kwargs)


class ContimgConfig(AppConfig):
    name = "contimg"
    default = True  # Django finds more than one here

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
