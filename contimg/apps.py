from django.apps import AppConfig

from contimg.checks import register_checks


class ContimgConfig(AppConfig):
    name = "contimg"

    def ready(self) -> None:
        register_checks()
