"""The project's settings with everything it writes in a folder of this run, and N+1 detection installed."""

import atexit
import os
import shutil
import tempfile

_folder = tempfile.mkdtemp(prefix="contimg-tests-")
atexit.register(shutil.rmtree, _folder, ignore_errors=True)
os.environ["CONTIMG_VAR_DIR"] = _folder
os.environ.pop("CONTIMG_PRODUCTS_ROOT", None)

from contimg.settings import *  # noqa: E402, F403
from contimg.settings import DATABASES, INSTALLED_APPS  # noqa: E402

if DATABASES["default"]["ENGINE"].endswith("sqlite3"):
    # In memory also with pytest-xdist, which knows only Django's own engine as SQLite.
    DATABASES["default"]["TEST"] = {"NAME": ":memory:"}

INSTALLED_APPS = [*INSTALLED_APPS, "zeal"]
STATIC_ROOT.mkdir()  # noqa: F405  # else whitenoise warns
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
CONTIMG_ENGINE_THREADS = 1
