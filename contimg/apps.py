from django.apps import AppConfig


class ContimgConfig(AppConfig):
    name = "contimg"
