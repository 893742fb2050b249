"""Whether a tracking server answers, asked before anything is trained: MLflow itself would try for minutes."""

from __future__ import annotations

import http.client
import socket
import urllib.error
import urllib.request
from urllib.parse import urlsplit

SECONDS = 5.0
PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}  # where a database's URI names none


def silent(uri: str) -> str | None:
    """Why nothing can be written to a store, in words; None where it answers, or is no server that can be asked."""
    parts = urlsplit(uri)
    scheme = parts.scheme.partition("+")[0]
    try:
        if scheme in ("http", "https"):
            urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=SECONDS).close()
        elif scheme in PORTS and parts.hostname:
            socket.create_connection((parts.hostname, parts.port or PORTS[scheme]), SECONDS).close()
    except urllib.error.HTTPError:
        return None  # it answers
    except urllib.error.URLError as error:
        return f"does not answer ({error.reason})"
    except (OSError, http.client.HTTPException) as error:
        return f"does not answer ({error})"
    except ValueError as error:
        return f"is no address ({error})"
    return None
