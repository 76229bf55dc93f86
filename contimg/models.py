"""What every stored product has in common. Abstract: the tables are in the apps."""

from django.db import models


class Product(models.Model):
    """A file (or CASA directory) that an engine made, immutable once recorded.

    `recipe` identifies what it was made from: a digest over the inputs' recipes, the parameters and the engine.
    The same recipe is the same product, so asking twice for one does the work once.
    `checksum` is over content only: timestamps and history are left out, so two runs can be compared.
    """

    path = models.CharField(max_length=500, unique=True, help_text="Relative to the products root.")
    size_bytes = models.BigIntegerField()
    checksum = models.CharField(max_length=64, help_text="SHA-256 of the content, timestamps left out.")
    recipe = models.CharField(max_length=64, help_text="Digest of inputs, parameters and engine.")
    parameters = models.JSONField(default=dict)
    versions = models.JSONField(default=dict, help_text="Engine and library versions that made it.")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        abstract = True


class Grade(models.TextChoices):
    EXCELLENT = "excellent"
    GOOD = "good"
    MARGINAL = "marginal"
    POOR = "poor"
    UNKNOWN = "unknown"
