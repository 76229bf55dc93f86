"""All settings. Every value comes from the environment (or a `.env` file beside manage.py); README lists each one.

Wrong values are explained at start by the system checks in `contimg/checks.py`, so parsing here never raises for a
value of ours: an unparsable one is kept as None and reported by name.
"""

import importlib.util
import os
import re
import secrets
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import environ
from django.core.exceptions import ImproperlyConfigured

from contimg.observability import logging_config

BASE_DIR = Path(__file__).resolve().parent.parent


class _Environment(environ.Env):
    """Remembers every name that was asked for: the names that settings have."""

    names: set[str] = set()

    def get_value(self, var: Any, *args: Any, **kwargs: Any) -> Any:
        self.names.add(var)
        return super().get_value(var, *args, **kwargs)


env = _Environment()
_ENV_FILE = BASE_DIR / env.str("CONTIMG_ENV_FILE", default=".env")
if "CONTIMG_ENV_FILE" in os.environ and not _ENV_FILE.is_file():
    raise ImproperlyConfigured(f"CONTIMG_ENV_FILE names {_ENV_FILE.name}, which is not a file; correct the path.")
env.read_env(_ENV_FILE)

# Values that could not be parsed, as {name: (value, expected)}; contimg.checks turns them into messages.
UNPARSABLE: dict[str, tuple[str, str]] = {}


def _number(name: str, default: float, kind: type = float) -> Any:
    raw = env.str(name, default="")
    try:
        return kind(raw or default)
    except ValueError:
        UNPARSABLE[name] = (raw, "a whole number" if kind is int else "a number")
        return kind(default)


def _flag(name: str, default: bool) -> bool:
    raw = env.str(name, default="").lower()
    if raw in ("", "1", "true", "yes", "on", "0", "false", "no", "off"):
        return default if raw == "" else raw in ("1", "true", "yes", "on")
    UNPARSABLE[name] = (raw, "true or false")
    return default


def _rate(name: str, default: str) -> str:
    raw = env.str(name, default="") or default
    if re.fullmatch(r"[1-9]\d*/(s|sec|second|m|min|minute|h|hour|d|day)", raw):
        return raw
    UNPARSABLE[name] = (raw, "a rate, as in 1200/min")
    return default


def _networks(name: str, default: str) -> list[IPv4Network | IPv6Network]:
    raw = env.str(name, default=default)
    try:
        return [ip_network(word.strip()) for word in raw.split(",") if word.strip()]
    except ValueError:
        UNPARSABLE[name] = (raw, "addresses or networks separated by commas, as in 127.0.0.0/8,10.1.2.3")
        return []


# --- where things are ------------------------------------------------------------------------------------------
VAR_DIR = BASE_DIR / env.str("CONTIMG_VAR_DIR", default="var")
CONTIMG_PRODUCTS_ROOT = BASE_DIR / env.str("CONTIMG_PRODUCTS_ROOT", default=str(VAR_DIR / "products"))


def _secret_key() -> str:
    """The key from the environment, else one made once and kept readable only by this user."""
    given = env.str("CONTIMG_SECRET_KEY", default="")
    if given:
        return given
    keep = VAR_DIR / "secret_key"
    try:
        VAR_DIR.mkdir(parents=True, exist_ok=True)
        try:
            with os.fdopen(os.open(keep, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
                out.write(secrets.token_urlsafe(64))
        except FileExistsError:
            pass
        return keep.read_text() or secrets.token_urlsafe(64)
    except OSError:
        UNPARSABLE["CONTIMG_VAR_DIR"] = (str(VAR_DIR), "a folder that this user may write to")
        return secrets.token_urlsafe(64)


# --- Django ------------------------------------------------------------------------------------------------------
SECRET_KEY = _secret_key()
DEBUG = _flag("CONTIMG_DEBUG", False)
ALLOWED_HOSTS = env.list("CONTIMG_ALLOWED_HOSTS", default=["localhost", "127.0.0.1", "[::1]"])
CSRF_TRUSTED_ORIGINS = env.list("CONTIMG_TRUSTED_ORIGINS", default=[])

INSTALLED_APPS = [
    "contimg.apps.AdminConfig",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "django_prometheus",
    "health_check",
    "rest_framework",
    "django_filters",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "drf_standardized_errors",
    "django_linear_migrations",
    "django_tasks",
    "django_tasks_db",
    "contimg",
    "access",
    "observations",
    "calibration",
    "images",
    "sources",
    "qa",
    "provenance",
    "batch",
]

MIDDLEWARE = [
    "contimg.observability.RequestMiddleware",
    "django_prometheus.middleware.PrometheusBeforeMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "contimg.middleware.ConditionalMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "contimg.middleware.AddressMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "django_prometheus.middleware.PrometheusAfterMiddleware",
]
LOGIN_REDIRECT_URL = LOGOUT_REDIRECT_URL = "/"
ROOT_URLCONF = "contimg.urls"
WSGI_APPLICATION = "contimg.wsgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "contimg" / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]

if not env.str("DATABASE_URL", default="sqlite:").startswith(("sqlite:", "postgres:", "postgresql:")):
    raise ImproperlyConfigured("DATABASE_URL must begin with sqlite: or postgres:, as in postgres://user@host/name.")
for _name, _schemes in {
    "CONTIMG_REDIS_URL": ("redis://", "rediss://"),
    "CONTIMG_BROKER_URL": ("amqp://", "amqps://", "redis://", "rediss://"),
}.items():
    if (_address := env.str(_name, default="")) and not _address.startswith(_schemes):
        raise ImproperlyConfigured(f"{_name} must begin with {' or '.join(_schemes)}, and go on with a host.")
for _name in ("DATABASE_URL", "CONTIMG_REDIS_URL", "CONTIMG_BROKER_URL"):
    try:
        urlsplit(env.str(_name, default="")).port  # noqa: B018 - which raises for what is none
    except ValueError:  # whose text may have the password
        raise ImproperlyConfigured(f"{_name} has a host or a port that is none, as in //host:5432/name.") from None
CONTIMG_DB_POOL_SIZE = _number("CONTIMG_DB_POOL_SIZE", 8, int)
CONTIMG_LEASE_S = _number("CONTIMG_LEASE_S", 60)
DATABASES = {"default": env.db_url("DATABASE_URL", default=f"sqlite:///{VAR_DIR / 'contimg.sqlite3'}")}
_database = DATABASES["default"]
if _database["ENGINE"] == "django.db.backends.sqlite3":
    _database["ENGINE"] = "django_prometheus.db.backends.sqlite3"
    # IMMEDIATE: a transaction that begins by reading and then writes cannot wait for the lock and fails at once
    # under load (measured: 405 of 1600 failed without it, none with it).
    _database["CONN_MAX_AGE"] = None  # opening the file costs 1 ms of CPU, for each request and each item
    _database["OPTIONS"] = {
        "transaction_mode": "IMMEDIATE",
        "timeout": 20,
        "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
    }
elif _database["ENGINE"] == "django.db.backends.postgresql":
    if importlib.util.find_spec("psycopg") is None:
        raise ImproperlyConfigured(
            "DATABASE_URL names PostgreSQL and its driver is not installed; "
            "run `pip install --require-hashes -r requirements/prod.txt`."
        )
    _database["ENGINE"] = "contimg.postgresql"
    # A machine that freezes in the middle of a record holds its item's row, and the sweepers of all others wait for it:
    # who is silent in a transaction for a whole lease counts as dead there too.
    _silence = f"-c idle_in_transaction_session_timeout={1000 * CONTIMG_LEASE_S:.0f}"
    _options = _database.get("OPTIONS", {})
    # A server whose host vanished is given up after so long; without it, after the two hours that TCP waits.
    _vanished = {
        "connect_timeout": 5, "tcp_user_timeout": 15_000, "keepalives_idle": 10, "keepalives_interval": 5,
        "keepalives_count": 3,
    }  # fmt: skip
    _database["OPTIONS"] = {
        **_vanished,
        **_options,
        "options": f"{_silence} {_options.get('options', '')}".strip(),
        # Who asks begins anew to connect; else the pool's pauses grow to minutes while the database is away.
        "pool": {"min_size": 1, "max_size": CONTIMG_DB_POOL_SIZE, "timeout": 5, "reconnect_timeout": 5},
    }
# Shared by all processes: the throttles count in it. A cache that does not answer must not hold up a request.
if _redis_url := env.str("CONTIMG_REDIS_URL", default=""):
    if importlib.util.find_spec("redis") is None:
        raise ImproperlyConfigured(
            "CONTIMG_REDIS_URL is set and the Redis client is not installed; "
            "run `pip install --require-hashes -r requirements/prod.txt`."
        )
    _limits = {"socket_connect_timeout": 0.2, "socket_timeout": 0.2}
    _cache: dict[str, Any] = {"BACKEND": "contimg.redis_cache.Cache", "LOCATION": _redis_url, "OPTIONS": _limits}
else:
    _cache = {"BACKEND": "contimg.cache.SQLiteCache", "LOCATION": str(VAR_DIR / "cache.sqlite3")}
CACHES = {"default": {**_cache, "KEY_PREFIX": "contimg"}}

DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 12}},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
]

LANGUAGE_CODE = "en"
USE_I18N = False
FORMAT_MODULE_PATH = ["contimg.formats"]
USE_TZ = True
TIME_ZONE = "UTC"

STATIC_URL = "static/"
STATIC_ROOT = VAR_DIR / "static"
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": "whitenoise.storage.CompressedStaticFilesStorage"},
}
WHITENOISE_USE_FINDERS = True  # a fresh checkout serves the admin's styles without collectstatic

# Safe unless told otherwise: behind HTTPS set CONTIMG_HTTPS=true (the production default when DEBUG is off and a
# host other than this machine is allowed).
_LOCAL_ONLY = set(ALLOWED_HOSTS) <= {"localhost", "127.0.0.1", "[::1]", "testserver"}
HTTPS = _flag("CONTIMG_HTTPS", not DEBUG and not _LOCAL_ONLY)
SECURE_SSL_REDIRECT = HTTPS
SECURE_REDIRECT_EXEMPT = [r"^health/", r"^metrics$"]  # asked on this machine, past the proxy
SESSION_COOKIE_SECURE = HTTPS
CSRF_COOKIE_SECURE = HTTPS
CSRF_FAILURE_VIEW = "contimg.api.errors.csrf_failure"
SECURE_HSTS_SECONDS = 31_536_000 if HTTPS else 0
SECURE_HSTS_INCLUDE_SUBDOMAINS = HTTPS
SECURE_HSTS_PRELOAD = HTTPS
# The proxy has to set both headers itself: X-Forwarded-Proto, and its client as the last of X-Forwarded-For.
CONTIMG_BEHIND_PROXY = _flag("CONTIMG_BEHIND_PROXY", False)
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https") if CONTIMG_BEHIND_PROXY else None
CONTIMG_TRUSTED_ADDRESSES = _networks("CONTIMG_TRUSTED_ADDRESSES", "127.0.0.0/8,::1")

DATA_UPLOAD_MAX_MEMORY_SIZE = 8_000_000  # a batch of 100 000 named subjects takes 4.5 MB

# --- API -----------------------------------------------------------------------------------------------------------
CONTIMG_PUBLIC_READ = _flag("CONTIMG_PUBLIC_READ", True)
CONTIMG_THROTTLE_ANON = _rate("CONTIMG_THROTTLE_ANON", "1200/min")
CONTIMG_THROTTLE_TOKEN = _rate("CONTIMG_THROTTLE_TOKEN", "6000/min")
CONTIMG_THROTTLE_LOGIN = _rate("CONTIMG_THROTTLE_LOGIN", "10/min")
CONTIMG_QUERY_LIMIT_S = _number("CONTIMG_QUERY_LIMIT_S", 3)
REST_FRAMEWORK = {
    "DEFAULT_RENDERER_CLASSES": [
        "contimg.api.renderers.JSONRenderer",
        "rest_framework.renderers.BrowsableAPIRenderer",
    ],
    "DEFAULT_PARSER_CLASSES": ["contimg.api.parsers.JSONParser"],
    "DEFAULT_AUTHENTICATION_CLASSES": ["access.authentication.TokenAuthentication", "access.authentication.Session"],
    "DEFAULT_PERMISSION_CLASSES": ["access.permissions.HasScope"],
    "DEFAULT_THROTTLE_CLASSES": ["access.throttles.Throttle"],
    "DEFAULT_PAGINATION_CLASS": "contimg.api.pagination.KeysetPagination",
    "DEFAULT_FILTER_BACKENDS": ["contimg.api.filters.Filtering", "contimg.api.filters.Ordering"],
    "DEFAULT_CONTENT_NEGOTIATION_CLASS": "contimg.api.negotiation.Negotiation",
    "DEFAULT_SCHEMA_CLASS": "contimg.api.schema.Schema",
    # Stays this function: drf-standardized-errors adds errors to the schema only where it finds it.
    "EXCEPTION_HANDLER": "drf_standardized_errors.handler.exception_handler",
    "TEST_REQUEST_DEFAULT_FORMAT": "json",
}
_ERRORS = ["400", "401", "403", "404", "405", "406", "429", "500", "503"]
DRF_STANDARDIZED_ERRORS = {
    "EXCEPTION_HANDLER_CLASS": "contimg.api.errors.ProblemHandler",
    "EXCEPTION_FORMATTER_CLASS": "contimg.api.errors.ProblemFormatter",
    "ENABLE_IN_DEBUG_FOR_UNHANDLED_EXCEPTIONS": True,
    "ALLOWED_ERROR_STATUS_CODES": _ERRORS,
    "ERROR_SCHEMAS": dict.fromkeys(_ERRORS, "contimg.api.errors.ProblemSerializer"),
}
SPECTACULAR_SETTINGS = {
    "TITLE": "contimg",
    "DESCRIPTION": "Continuum images, sources and light curves of the DSA-110, and how they were made.",
    "VERSION": "1",
    "LICENSE": {"name": "BSD-3-Clause"},
    "SCHEMA_PATH_PREFIX": "/api/v1",
    "SERVE_INCLUDE_SCHEMA": False,
    "SWAGGER_UI_DIST": "SIDECAR",  # no network needed
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    "REDOC_DIST": "SIDECAR",
    "COMPONENT_SPLIT_REQUEST": False,
    "POSTPROCESSING_HOOKS": [
        "drf_spectacular.hooks.postprocess_schema_enums",
        "contimg.api.described.complete",
    ],
    "ENUM_NAME_OVERRIDES": {
        "GradeEnum": "contimg.models.Grade",
        "ImageKindEnum": "images.models.Image.Kind",
        "CalibrationKindEnum": "calibration.models.CalibrationTable.Kind",
        "NodeKindEnum": "provenance.reach.NAMES",
        "QuarantineKindEnum": "provenance.models.NODE_COLUMNS",
        "SubjectKindEnum": "qa.models.SubjectKind",
        "StageEnum": "batch.models.StageName",
        "WorkKindEnum": "batch.models.SUBJECT_COLUMNS",
        "ItemStateEnum": "batch.models.State",
        "BatchStateEnum": "batch.models.BatchState",
    },
}

# --- logs ----------------------------------------------------------------------------------------------------------
CONTIMG_LOG_FORMAT = env.str("CONTIMG_LOG_FORMAT", default="console")
CONTIMG_LOG_LEVEL = env.str("CONTIMG_LOG_LEVEL", default="INFO").upper()
CONTIMG_SLOW_QUERY_MS = _number("CONTIMG_SLOW_QUERY_MS", 500)
CONTIMG_SLOW_REQUEST_MS = _number("CONTIMG_SLOW_REQUEST_MS", 2000)
# A collector's address, as http://127.0.0.1:4318 (OTLP over HTTP); empty: nothing is traced, and nothing loaded for it.
CONTIMG_OTLP_ENDPOINT = env.str("CONTIMG_OTLP_ENDPOINT", default="")
if CONTIMG_OTLP_ENDPOINT and not CONTIMG_OTLP_ENDPOINT.startswith(("http://", "https://")):
    raise ImproperlyConfigured("CONTIMG_OTLP_ENDPOINT must begin with http:// or https://, and go on with a host.")
if CONTIMG_OTLP_ENDPOINT and importlib.util.find_spec("opentelemetry") is None:
    raise ImproperlyConfigured(
        "CONTIMG_OTLP_ENDPOINT is set and OpenTelemetry is not installed; "
        "run `pip install --require-hashes -r requirements/prod.txt`."
    )
CONTIMG_TRACE_SHARE = _number("CONTIMG_TRACE_SHARE", 0.1)
CONTIMG_WORKER_METRICS = env.str("CONTIMG_WORKER_METRICS", default="")  # host:port; empty: workers are not scraped
LOGGING = logging_config(log_format=CONTIMG_LOG_FORMAT, level=CONTIMG_LOG_LEVEL)

# --- the pipeline ------------------------------------------------------------------------------------------------
# A group that still lacks subbands is taken when nothing new has come for this long; a complete one at once.
CONTIMG_SETTLE_S = _number("CONTIMG_SETTLE_S", 600)
CONTIMG_MIN_SUBBANDS = _number("CONTIMG_MIN_SUBBANDS", 12, int)
CONTIMG_ENGINE_THREADS = _number("CONTIMG_ENGINE_THREADS", os.cpu_count() or 1, int)
CONTIMG_SEFD_JY = _number("CONTIMG_SEFD_JY", 6500)
CONTIMG_DEC_STRIP_TOLERANCE_DEG = _number("CONTIMG_DEC_STRIP_TOLERANCE_DEG", 0.25)
CONTIMG_CALIBRATION_VALIDITY_H = _number("CONTIMG_CALIBRATION_VALIDITY_H", 12)
CONTIMG_REFERENCE_ANTENNA = env.str("CONTIMG_REFERENCE_ANTENNA", default="")
CONTIMG_IMAGER = env.str("CONTIMG_IMAGER", default="embedded")
CONTIMG_WSCLEAN_BINARY = env.str("CONTIMG_WSCLEAN_BINARY", default="wsclean")
CONTIMG_IMAGE_SIZE_PX = _number("CONTIMG_IMAGE_SIZE_PX", 4800, int)
CONTIMG_PIXEL_ARCSEC = _number("CONTIMG_PIXEL_ARCSEC", 3)
CONTIMG_ROBUST = _number("CONTIMG_ROBUST", 0.5)
CONTIMG_NITER = _number("CONTIMG_NITER", 100_000, int)
CONTIMG_FLUX_SYSTEMATIC = _number("CONTIMG_FLUX_SYSTEMATIC", 0.02)
CONTIMG_REFERENCE_CATALOGUE = env.str("CONTIMG_REFERENCE_CATALOGUE", default="")  # empty: the first that was imported
CONTIMG_SPECTRAL_INDEX = _number("CONTIMG_SPECTRAL_INDEX", -0.7)

# --- files over HTTP -----------------------------------------------------------------------------------------------
CONTIMG_RENDITIONS_MB = _number("CONTIMG_RENDITIONS_MB", 500)

# --- keeping, in days; 0 is for ever -------------------------------------------------------------------------------
CONTIMG_KEEP_LOGS_DAYS = _number("CONTIMG_KEEP_LOGS_DAYS", 0)
CONTIMG_KEEP_SUPERSEDED_DAYS = _number("CONTIMG_KEEP_SUPERSEDED_DAYS", 0)
CONTIMG_KEEP_RAW_SETS_DAYS = _number("CONTIMG_KEEP_RAW_SETS_DAYS", 0)
CONTIMG_KEEP_RESIDUALS_DAYS = _number("CONTIMG_KEEP_RESIDUALS_DAYS", 0)

# --- work ----------------------------------------------------------------------------------------------------------
CONTIMG_STAGES = "batch.stages.STAGES"
CONTIMG_LOG_DIR = BASE_DIR / env.str("CONTIMG_LOG_DIR", default=str(VAR_DIR / "logs"))
CONTIMG_SWEEP_S = _number("CONTIMG_SWEEP_S", 10)
CONTIMG_DRAIN_S = _number("CONTIMG_DRAIN_S", 30)
CONTIMG_MAX_TRIES = _number("CONTIMG_MAX_TRIES", 5, int)
CONTIMG_MAX_KILLS = _number("CONTIMG_MAX_KILLS", 2, int)
CONTIMG_WORKER_STAGES = tuple(filter(None, env.list("CONTIMG_WORKER_STAGES", default=[])))  # none: all
CONTIMG_COURIER = env.str("CONTIMG_COURIER", default="database")
CONTIMG_BROKER_URL = env.str("CONTIMG_BROKER_URL", default="amqp://guest:guest@127.0.0.1:5672//")
CONTIMG_QUEUE = env.str("CONTIMG_QUEUE", default="contimg")
COURIERS = {"database": "django_tasks_db.DatabaseBackend", "celery": "batch.celery_backend.CeleryBackend"}
TASKS = {  # without a list of queues any is allowed: each stage has one, and an installation may have its own stages
    "default": {"BACKEND": COURIERS.get(CONTIMG_COURIER, COURIERS["database"]), "QUEUES": []},
}

# Names in the environment that look like settings and are none; contimg.checks says which may have been meant.
SETTING_NAMES = frozenset(env.names)
UNKNOWN_NAMES = sorted(
    name
    for name in os.environ
    if name.startswith("CONTIMG_") and not name.startswith("CONTIMG_TEST_") and name not in SETTING_NAMES
)
