from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import Any

from django.core.management.base import CommandParser
from django.core.serializers.json import DjangoJSONEncoder
from django.utils import timezone

from contimg.commands import ContimgCommand, utc_time
from contimg.intervals import refuse_reversed
from qa.drift import Strip, raise_alerts, strips
from qa.models import Alert
from qa.serializers import AlertSerializer

AGAIN = timedelta(hours=6)  # a step at the end of what was looked at before shows only now


class Command(ContimgCommand):
    help = "Look for what left its control limits or stepped, in every dec strip, and raise alerts. Safe to repeat."

    def add_arguments(self, parser: CommandParser) -> None:
        day_ago = timezone.now() - timedelta(days=1)
        parser.add_argument("--from", dest="observed_from", type=utc_time, default=day_ago, help="default: a day ago")
        parser.add_argument(
            "--until", dest="observed_until", type=utc_time, default=timezone.now(), help="default: now"
        )
        parser.add_argument("--json", action="store_true", dest="as_json", help="print them as JSON")

    def handle(self, *, observed_from: datetime, observed_until: datetime, as_json: bool, **options: Any) -> None:
        refuse_reversed(observed_from, observed_until)
        new: list[Alert] = []
        for dec_deg in strips(observed_from=observed_from, observed_until=observed_until):
            since = observed_from - AGAIN
            new += raise_alerts(strip=Strip(dec_deg, since, observed_until), since=since)
        if as_json:
            self.stdout.write(json.dumps(AlertSerializer(new, many=True).data, cls=DjangoJSONEncoder))
            return
        for alert in new:
            self.stdout.write(
                f"{alert}, dec strip {alert.pointing_dec_deg:.2f} deg: {alert.value:.4g}, expected {alert.expected:.4g}"
            )
        self.stdout.write(f"{len(new)} new alerts.")
