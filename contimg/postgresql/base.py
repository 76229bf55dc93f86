"""Django's PostgreSQL backend with django-prometheus' counts, and a cheaper check of what comes out of the pool.

Django's own check is a question to the server, a third of all that a request costs whose answer is kept. Since its
ticket 37075 `OPTIONS["pool"]["check"]` replaces that one; in a Django that has it, this module can go.
"""

from __future__ import annotations

import select
from typing import Any

from django_prometheus.db.backends.postgresql import base


class DatabaseWrapper(base.DatabaseWrapper):
    def get_new_connection(self, conn_params: dict[str, Any]) -> Any:
        """From the pool, without those that their server has closed since: after a restart nobody meets one."""
        connection = super().get_new_connection(conn_params)
        if self.pool:
            for _ in range(self.pool.max_size):  # not without end, should a server talk to each at once
                if not _is_spoken_to(connection):
                    break
                connection.close()
                self.pool.putconn(connection)
                connection = super().get_new_connection(conn_params)
        return connection


def _is_spoken_to(connection: Any) -> bool:
    """Whether there is something to read from a server that nobody has asked: its farewell, or the connection's end."""
    poll = select.poll()
    poll.register(connection.pgconn.socket, select.POLLIN)
    return bool(poll.poll(0))
