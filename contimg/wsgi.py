"""WSGI entry point: `granian --interface wsgi contimg.wsgi:application`."""

import contextlib
import gc
import os
import sys

from django.conf import settings
from django.core.wsgi import get_wsgi_application

from contimg.counting import share_counters
from contimg.idle import each_second

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "contimg.settings")
# Whitenoise warns of a folder that is not there. This one is empty until somebody runs collectstatic, which nobody has
# to; where it cannot be made the warning is right.
with contextlib.suppress(OSError):
    settings.STATIC_ROOT.mkdir(parents=True, exist_ok=True)
# The web processes are children of the server, and each tells what all of them count. Without a folder each would tell
# its own, which is better than not to serve. Who has loaded prometheus_client already counts in memory.
if "prometheus_client" not in sys.modules:
    with contextlib.suppress(OSError):
        share_counters(role="web", server_pid=os.getppid())
application = get_wsgi_application()

# Before the first request, which would wait for it: the addresses with all their views, and the index of the sky with
# astropy behind it, take 1.4 s.
import cdshealpix  # noqa: E402, F401

import contimg.urls  # noqa: E402, F401
from contimg.breakers import tend  # noqa: E402 - which count
from contimg.metrics import tell_pool  # noqa: E402

each_second(tend)
each_second(tell_pool)

# What is loaded by now lives as long as the process. Left to the collector, each of its full rounds would stop all
# threads for 0.1 s (docs/measurements.md, "The API").
gc.collect()
gc.freeze()
