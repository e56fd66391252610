"""Settings: one file, read from the environment, strict. docs/settings.md describes each variable.

State lives under one folder, DEEPEXTENSION_HOME (default: var/ beside manage.py): database,
uploads, models, runs, the embedded Redis and its socket, the generated secret key."""

import hashlib
import os
import tempfile
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

import environ
from csp.constants import NONE, SELF
from django.core.exceptions import ImproperlyConfigured

from engine.storage.settings import StorageSettings

env = environ.Env()

BASE_DIR = Path(__file__).resolve().parent.parent
HOME = Path(env("DEEPEXTENSION_HOME", default=str(BASE_DIR / "var"))).expanduser().resolve()
HOME.mkdir(parents=True, exist_ok=True, mode=0o700)

HOST = env("HOST", default="127.0.0.1")
PORT = env.int("PORT", default=8000)
WEB_PROCESSES = env.int("WEB_PROCESSES", default=2)
WEB_THREADS = env.int("WEB_THREADS", default=8)
# Limits of one process, see core/web. Uploads and downloads have threads of their own.
WEB_TRANSFERS = env.int("WEB_TRANSFERS", default=32)
WEB_CONNECTIONS = env.int("WEB_CONNECTIONS", default=2000)
WEB_CONNECTIONS_PER_ADDRESS = env.int("WEB_CONNECTIONS_PER_ADDRESS", default=200)
FORWARDED_ALLOW_IPS = env.list("FORWARDED_ALLOW_IPS", default=["127.0.0.1", "::1"])
HTTPS = env.bool("DEEPEXTENSION_HTTPS", default=False)
DEBUG = env.bool("DEBUG", default=False)


def _secret_key() -> str:
    """From the environment, otherwise created once and kept in HOME, readable by its owner only."""
    if key := env("SECRET_KEY", default=""):
        if len(key) < 32:
            raise ImproperlyConfigured(
                "SECRET_KEY has fewer than 32 characters. Leave it unset to have one made."
            )

        return str(key)

    path = HOME / "secret_key"
    try:
        # Exclusive creation: of two processes starting together one writes, both read the same key.
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as stream:
            stream.write(os.urandom(48).hex())
    except FileExistsError:
        pass

    return path.read_text()


SECRET_KEY = _secret_key()
SECRET_KEY_FALLBACKS = env.list("SECRET_KEY_FALLBACKS", default=[])
ALLOWED_HOSTS = env.list("ALLOWED_HOSTS", default=["localhost", "127.0.0.1", "[::1]"])
if "*" in ALLOWED_HOSTS and not DEBUG:
    raise ImproperlyConfigured("ALLOWED_HOSTS=* is not allowed outside DEBUG. Name the hosts.")
CSRF_TRUSTED_ORIGINS = env.list("CSRF_TRUSTED_ORIGINS", default=[])

INSTALLED_APPS = [
    "core",
    "jobs",
    "accounts",
    "datasets_app",
    "models_app",
    "exports",
    "methods",
    "training",
    "chains",
    "sweeps",
    "serving",
    "playground",
    "openai_api",
    "people",
    "deepextension.apps.DeepExtensionAdminConfig",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "whitenoise.runserver_nostatic",
    "django.contrib.staticfiles",
    "django_filters",
    "rest_framework",
    "knox",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "django_rq",
    "csp",
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "csp.middleware.CSPMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.auth.middleware.LoginRequiredMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "core.middleware.ReaderTimeZoneMiddleware",
    "accounts.middleware.SignInMiddleware",
    "core.middleware.QueuePagesMiddleware",
]

ROOT_URLCONF = "deepextension.urls"
ASGI_APPLICATION = "deepextension.asgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
            "builtins": ["core.templatetags.display"],
        },
    }
]

# Database. SQLite in WAL mode lets readers read beside one writer; IMMEDIATE makes a writer wait for
# its turn at the start of a transaction, where waiting is possible, and not in the middle, where it
# fails at once.
DATABASES = {"default": env.db("DATABASE_URL", default=f"sqlite:///{HOME / 'db.sqlite3'}")}
# A thread of the web server keeps its connection for a minute: to open one costs as much as most
# answers.
DATABASES["default"] |= {"CONN_MAX_AGE": 60, "CONN_HEALTH_CHECKS": True}
if DATABASES["default"]["ENGINE"] == "django.db.backends.sqlite3":
    DATABASES["default"]["OPTIONS"] = {
        "transaction_mode": "IMMEDIATE",
        "timeout": 20,
        "init_command": "PRAGMA journal_mode=WAL;PRAGMA synchronous=NORMAL;",
    }
elif DATABASES["default"]["ENGINE"] == "django.db.backends.postgresql":
    # A server that stopped answering is an error after seconds, and not after the quarter of an hour
    # that TCP would wait: supervisors of trains have other work to do meanwhile.
    _waits = {
        "connect_timeout": 3,
        "tcp_user_timeout": 20_000,
        "keepalives_idle": 20,
        "keepalives_interval": 5,
    }
    DATABASES["default"]["OPTIONS"] = _waits | DATABASES["default"].get("OPTIONS", {})
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

# Queue. Without REDIS_URL the embedded server listens on a socket in HOME; a socket's path may hold
# about 100 bytes, so that a deep HOME gets a folder of its own under the temporary directory.
EMBEDDED_REDIS = not env("REDIS_URL", default="")
_socket_folder = HOME
if len(str(HOME / "run" / "gateway.sock")) > 100:
    _digest = hashlib.sha256(str(HOME).encode()).hexdigest()[:16]
    _socket_folder = Path(tempfile.gettempdir()) / f"deepextension-{os.getuid()}-{_digest}"
REDIS_SOCKET = _socket_folder / "redis.sock"
REDIS_URL = env("REDIS_URL", default=f"unix://{REDIS_SOCKET}")
# Where the gateway of model servers listens.
GATEWAY_SOCKET = HOME / "run" / "gateway.sock"
if len(str(GATEWAY_SOCKET)) > 100:
    GATEWAY_SOCKET = _socket_folder / "gateway.sock"
TRAINS_QUEUE = "trains"
# What notifies the workers of a Ray cluster.
CLUSTER_QUEUE = "trains-cluster"
# No time limit by RQ (its default is 180 s): a train may take days, and the platform has deadlines
# of its own. JSON in place of RQ's pickle, and jobs that name only functions of ours: whoever can
# write to Redis still cannot run code of their own. See core.queue_jobs.
RQ = {"JOB_CLASS": "core.queue_jobs.RegisteredJob"}
RQ_QUEUES = {
    name: {
        "URL": REDIS_URL,
        "DEFAULT_TIMEOUT": -1,
        "SERIALIZER": "rq.serializers.JSONSerializer",
    }
    for name in (TRAINS_QUEUE, CLUSTER_QUEUE)
}
# Background work (checks, imports, counts) that takes longer is ended; see jobs.services.
BACKGROUND_LIMIT_MINUTES = env.float("DEEPEXTENSION_BACKGROUND_MINUTES", default=360)
if BACKGROUND_LIMIT_MINUTES <= 0:
    raise ImproperlyConfigured("DEEPEXTENSION_BACKGROUND_MINUTES is a number of minutes above 0.")
# How long a job of the background workers is kept after its end, with its log. Notices of it are
# tried for a day.
JOBS_KEPT_DAYS = env.int("DEEPEXTENSION_JOBS_KEPT_DAYS", default=30)
if JOBS_KEPT_DAYS < 2:
    raise ImproperlyConfigured("DEEPEXTENSION_JOBS_KEPT_DAYS is a number of days, 2 or more.")

# The raw pages of the queue are at /admin/queue/, and not a second time within the admin.
RQ_SHOW_ADMIN_LINK = False

# Trains. Seconds between two stages of a stop (stop file, SIGTERM, SIGKILL).
STOP_GRACE_SECONDS = env.int("STOP_GRACE_SECONDS", default=120)
# How often a train that lost its worker is queued again by itself.
RESUMES = env.int("DEEPEXTENSION_RESUMES", default=2)
# The most trains that one sweep may make.
SWEEP_TRAINS = env.int("DEEPEXTENSION_SWEEP_TRAINS", default=200)
# Workers of one slot use a device one after the other, those of different slots at once.
WORKER_SLOT = env("DEEPEXTENSION_WORKER_SLOT", default="0")
# On a machine without GPUs: into how many devices its processors are divided, see core.devices.
CPU_DEVICES = env.int("DEEPEXTENSION_CPU_DEVICES", default=1)
if not 1 <= CPU_DEVICES <= 64:
    raise ImproperlyConfigured("DEEPEXTENSION_CPU_DEVICES is a number from 1 to 64.")
# How many training workers `manage.py serve` starts; 0: one for each device.
TRAIN_WORKERS = env.int("DEEPEXTENSION_TRAIN_WORKERS", default=0)
if TRAIN_WORKERS < 0:
    raise ImproperlyConfigured(
        "DEEPEXTENSION_TRAIN_WORKERS is 0 (one for each device) or a number of workers."
    )
# A Ray cluster, see jobs.devices.cluster. The address is that of its dashboard, where jobs are handed
# in; the token is for the process that hands a train in, and for no other.
RAY_ADDRESS = env("DEEPEXTENSION_RAY_ADDRESS", default="").rstrip("/")
RAY_TOKEN = env("DEEPEXTENSION_RAY_TOKEN", default="")
_ray = urlsplit(RAY_ADDRESS)
if RAY_ADDRESS and (_ray.scheme not in ("http", "https") or not _ray.hostname):
    raise ImproperlyConfigured("DEEPEXTENSION_RAY_ADDRESS is no http or https address.")
if _ray.username or _ray.password:
    raise ImproperlyConfigured(
        "DEEPEXTENSION_RAY_ADDRESS holds no password: the token is DEEPEXTENSION_RAY_TOKEN."
    )
# How many trains run at once on its devices.
RAY_LANES = env.int("DEEPEXTENSION_RAY_LANES", default=2)
if not 1 <= RAY_LANES <= 16:
    raise ImproperlyConfigured("DEEPEXTENSION_RAY_LANES is a number from 1 to 16.")
# Of a cluster without GPUs: how many processors a device has; 0: as many as the smallest node.
RAY_CPUS_PER_DEVICE = env.int("DEEPEXTENSION_RAY_CPUS_PER_DEVICE", default=0)
if RAY_CPUS_PER_DEVICE < 0:
    raise ImproperlyConfigured("DEEPEXTENSION_RAY_CPUS_PER_DEVICE is 0 or a number of processors.")
# How long a lost node may take to come back, and how long a train goes on whose client is silent; 0 for
# what engine.cluster has as usual.
RAY_RETURN_SECONDS = env.int("DEEPEXTENSION_RAY_RETURN_SECONDS", default=0)
RAY_LEASE_SECONDS = env.int("DEEPEXTENSION_RAY_LEASE_SECONDS", default=0)
if RAY_RETURN_SECONDS < 0 or RAY_LEASE_SECONDS < 0:
    raise ImproperlyConfigured(
        "DEEPEXTENSION_RAY_RETURN_SECONDS and DEEPEXTENSION_RAY_LEASE_SECONDS are seconds."
    )
# {name of an engine.messages.health.Thresholds: another value}, checked by training.checks.
try:
    HEALTH_THRESHOLDS = {
        name.strip(): float(value)
        for name, _, value in (
            part.partition("=") for part in env.list("DEEPEXTENSION_HEALTH", default=[])
        )
    }
except ValueError as error:
    raise ImproperlyConfigured(
        f"DEEPEXTENSION_HEALTH is to be written like spike=5,kl=0.5: {error}."
    ) from error
# Without a heartbeat for so long, a supervisor on another host counts as lost.
HEARTBEAT_LIMIT_SECONDS = env.int("HEARTBEAT_LIMIT_SECONDS", default=90)

# Notices of ended trains. PUBLIC_URL: how people reach the platform, for links.
PUBLIC_URL = env("DEEPEXTENSION_URL", default=f"http://127.0.0.1:{PORT}")
WEBHOOK_URL = env("DEEPEXTENSION_WEBHOOK_URL", default="")
WEBHOOK_SECRET = env("DEEPEXTENSION_WEBHOOK_SECRET", default="")
if WEBHOOK_URL and not WEBHOOK_URL.startswith(("https://", "http://")):
    raise ImproperlyConfigured("DEEPEXTENSION_WEBHOOK_URL is no http or https address.")
MAIL_FROM = env("DEEPEXTENSION_MAIL_FROM", default="")
vars().update(env.email_url("EMAIL_URL", default="smtp://localhost:25"))
EMAIL_TIMEOUT = 10

# Sign-in, see accounts.lockout. X-Forwarded-For is trusted as far as our own proxies wrote it.
SESSION_ENGINE = "core.sessions"
AUTHENTICATION_BACKENDS = ["accounts.backends.PasswordBackend"]
SIGN_IN_FAILURE_LIMIT = env.int("SIGN_IN_FAILURE_LIMIT", default=10)
TRUSTED_PROXY_COUNT = env.int("TRUSTED_PROXY_COUNT", default=0)
if SIGN_IN_FAILURE_LIMIT < 1 or TRUSTED_PROXY_COUNT < 0:
    raise ImproperlyConfigured(
        "SIGN_IN_FAILURE_LIMIT is at least 1, and TRUSTED_PROXY_COUNT at least 0."
    )
PASSWORD_HASHERS = ["accounts.hashers.GatedPBKDF2PasswordHasher"]
PASSWORD_RESET_TIMEOUT = 3600
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in (
        "UserAttributeSimilarityValidator",
        "MinimumLengthValidator",
        "CommonPasswordValidator",
    )
] + [{"NAME": "accounts.validators.EndTokensOnChange"}]
LOGIN_URL = "login"
LOGIN_REDIRECT_URL = "training:list"
LOGOUT_REDIRECT_URL = "login"

# API
REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "accounts.authentication.TokenAuthentication",
        "rest_framework.authentication.SessionAuthentication",
    ],
    "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated"],
    "DEFAULT_FILTER_BACKENDS": ["core.listing.StrictFilterBackend"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PAGINATION_CLASS": "core.api.Pagination",
    "NUM_PROXIES": TRUSTED_PROXY_COUNT,
    # Views that take files have parsers of their own.
    "DEFAULT_PARSER_CLASSES": ["core.parsers.JSONParser"],
    "DEFAULT_SCHEMA_CLASS": "core.openapi.Schema",
    "EXCEPTION_HANDLER": "core.api.exception_handler",
    # The schema describes what a resource takes. DRF's answer to OPTIONS would look rows up by rules
    # of its own.
    "DEFAULT_METADATA_CLASS": None,
    "TEST_REQUEST_DEFAULT_FORMAT": "json",
    "STRICT_JSON": True,
    # ?format= is a filter of the datasets and not a choice of renderers.
    "URL_FORMAT_OVERRIDE": None,
}
TOKEN_DAYS = env.int("TOKEN_DAYS", default=90)
TOKENS_PER_PERSON = env.int("TOKENS_PER_PERSON", default=50)
# Of each token that has no limit of its own; 0 for none.
REQUESTS_PER_MINUTE = env.int("DEEPEXTENSION_REQUESTS_PER_MINUTE", default=0)
if REQUESTS_PER_MINUTE < 0:
    raise ImproperlyConfigured("DEEPEXTENSION_REQUESTS_PER_MINUTE is 0 (no limit) or more.")
KNOX_TOKEN_MODEL = "accounts.Token"  # noqa: S105 - a model
REST_KNOX = {"TOKEN_TTL": timedelta(days=TOKEN_DAYS), "AUTO_REFRESH": False}
# knox's own table is not used. Its migrations would have to run after ours, and in older homes ran
# before them.
MIGRATION_MODULES = {"knox": None}
SPECTACULAR_SETTINGS = {
    "TITLE": "DeepExtension",
    "DESCRIPTION": "Fine-tune language models: datasets, base models, methods and trains.",
    "VERSION": "1",
    "SERVE_INCLUDE_SCHEMA": False,
    "POSTPROCESSING_HOOKS": [
        "drf_spectacular.hooks.postprocess_schema_enums",
        "deepextension.api_summaries.summaries_add",
    ],
    "SWAGGER_UI_SETTINGS": {
        "deepLinking": True,
        "docExpansion": "list",
        "defaultModelsExpandDepth": 0,
    },
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    "SCHEMA_PATH_PREFIX": "/api/v1",
    "COMPONENT_SPLIT_REQUEST": True,
    "SERVE_PERMISSIONS": ["rest_framework.permissions.IsAuthenticated"],
    "ENUM_NAME_OVERRIDES": {
        "TrainStatusEnum": "training.models.TrainRun.Status",
        "DatasetStatusEnum": "datasets_app.models.Dataset.Status",
        "ModelStatusEnum": "models_app.models.BaseModel.Status",
        "ExportStatusEnum": "exports.models.Export.Status",
        "ExportFormatEnum": "exports.models.Export.Format",
    },
}

# Pages and files
STATIC_URL = "/static/"
STATICFILES_DIRS = [BASE_DIR / "static"]
STATIC_ROOT = HOME / "static"
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": "whitenoise.storage.CompressedManifestStaticFilesStorage"},
}
FILE_UPLOAD_TEMP_DIR = HOME / "tmp"
FILE_UPLOAD_TEMP_DIR.mkdir(exist_ok=True, mode=0o700)
UPLOAD_LIMIT_BYTES = env.int("UPLOAD_LIMIT_GB", default=20) * 10**9
DISK_RESERVE_BYTES = env.int("DISK_RESERVE_MB", default=500) * 10**6
MODEL_ROOTS = [
    Path(root).expanduser().resolve() for root in env.list("DEEPEXTENSION_MODEL_ROOTS", default=[])
]
# Passed to the process that downloads, and to no other. HF_TOKEN_USERS: for whose downloads.
HF_TOKEN = env("HF_TOKEN", default="")
HF_TOKEN_USERS = env("HF_TOKEN_USERS", default="operators")
if HF_TOKEN_USERS not in ("operators", "everybody"):
    raise ImproperlyConfigured("HF_TOKEN_USERS is operators or everybody.")

# What nodes share that see no common folder, see engine.storage. Passed to the process that hands a
# train in to a cluster, and to no other. Read here so that a mistake is told at the start.
try:
    STORAGE = StorageSettings.from_environment(
        {
            "DEEPEXTENSION_STORAGE": env("DEEPEXTENSION_STORAGE", default=""),
            "DEEPEXTENSION_STORAGE_ENDPOINT": env("DEEPEXTENSION_STORAGE_ENDPOINT", default=""),
            "DEEPEXTENSION_STORAGE_REGION": env("DEEPEXTENSION_STORAGE_REGION", default=""),
            "DEEPEXTENSION_STORAGE_KEY": env("DEEPEXTENSION_STORAGE_KEY", default=""),
            "DEEPEXTENSION_STORAGE_SECRET": env("DEEPEXTENSION_STORAGE_SECRET", default=""),
            "DEEPEXTENSION_STORAGE_CACHE_GB": env("DEEPEXTENSION_STORAGE_CACHE_GB", default=""),
        }
    )
except ValueError as error:
    raise ImproperlyConfigured(str(error)) from error

# Exports. An Ollama in which models are created by a button.
OLLAMA_URL = env("DEEPEXTENSION_OLLAMA_URL", default="")
if OLLAMA_URL and not OLLAMA_URL.startswith(("https://", "http://")):
    raise ImproperlyConfigured("DEEPEXTENSION_OLLAMA_URL is no http or https address.")
# Whether licences that forbid commercial use are warned of.
COMMERCIAL_USE = env.bool("DEEPEXTENSION_COMMERCIAL_USE", default=True)

LANGUAGE_CODE = "en-gb"
TIME_ZONE = "UTC"
USE_TZ = True
USE_I18N = False
DATE_FORMAT = "j M Y"
TIME_FORMAT = "H:i"
DATETIME_FORMAT = "j M Y, H:i"

# Security. Scripts and styles come from this host only, none inline.
CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": [SELF],
        "script-src": [SELF],
        "style-src": [SELF],
        "img-src": [SELF, "data:"],
        "font-src": [SELF],
        "connect-src": [SELF],
        "object-src": [NONE],
        "base-uri": [NONE],
        "form-action": [SELF],
        "frame-ancestors": [NONE],
    }
}
SECURE_CONTENT_TYPE_NOSNIFF = True
X_FRAME_OPTIONS = "DENY"
SESSION_COOKIE_HTTPONLY = True
# Two copies on one host differ by port only, and cookies ignore ports.
SESSION_COOKIE_NAME = f"deepextension_session_{PORT}"
CSRF_COOKIE_NAME = f"deepextension_csrf_{PORT}"
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = SECURE_SSL_REDIRECT = HTTPS
SECURE_HSTS_SECONDS = 31_536_000 if HTTPS else 0
SECURE_HSTS_INCLUDE_SUBDOMAINS = SECURE_HSTS_PRELOAD = HTTPS
if HTTPS:
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "{asctime} {levelname} {name}: {message}", "style": "{"}},
    # /healthz answers 503 while the platform starts, and logs what is missing itself.
    "filters": {
        "not_unavailable": {
            "()": "django.utils.log.CallbackFilter",
            "callback": lambda record: getattr(record, "status_code", None) != 503,
        }
    },
    "handlers": {
        "console": {
            "class": "logging.StreamHandler",
            "formatter": "line",
            "filters": ["not_unavailable"],
        }
    },
    "root": {"handlers": ["console"], "level": env("LOG_LEVEL", default="WARNING")},
    "loggers": {"deepextension": {"level": env("LOG_LEVEL", default="INFO")}},
}
