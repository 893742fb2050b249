"""Where a search keeps what it asked for and was told: a journal below the output folder, or a database by its URL."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cnd.errors import UserError


def journal(path: Path, mend: bool = False) -> Any:
    """Optuna's storage in a file; its lock belongs to the operating system, so a killed process leaves none behind.

    Args:
        mend: cut off a last line that was being written when its process was killed; only for the one writer.
    """
    import optuna
    from filelock import FileLock
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

    optuna.logging.set_verbosity(optuna.logging.WARNING)

    class Lock(JournalFileOpenLock):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__(str(path))
            self._lock = FileLock(path.with_name(f".{path.name}.lock"))

        def acquire(self) -> bool:
            self._lock.acquire()
            return True

        def release(self) -> None:
            self._lock.release()

    if mend and path.is_file():
        with path.open("rb+") as file:
            content = file.read()
            file.truncate(content.rfind(b"\n") + 1)
    return JournalStorage(JournalFileBackend(str(path), Lock()))


def database(url: str) -> Any:
    """Optuna's storage in a database: ``sqlite:////shared/searches.db``, ``postgresql+psycopg2://user@host/searches``.

    Raises:
        UserError: there is no such database, or it does not let us in; the password is not in the message.
    """
    import optuna
    from sqlalchemy.exc import SQLAlchemyError

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    shown = without_password(url)
    try:
        return optuna.storages.RDBStorage(url)
    except (SQLAlchemyError, ImportError, ValueError, RuntimeError) as error:
        remedy = "name a database as SQLAlchemy does"
        if isinstance(error, ImportError):
            remedy = (
                "its driver is not installed; pip install 'cnd-decoding[postgres]' brings postgresql+psycopg2://..."
            )
        raise UserError(f"--storage {shown}: cannot be used ({_reason(error, url)}); {remedy}") from None


@contextlib.contextmanager
def answering(url: str | None) -> Iterator[None]:
    """While a search uses a database; None: a file.

    Raises:
        UserError: it no longer answers.
    """
    try:
        yield
    except Exception as error:
        if url is None or not _of_the_database(error):
            raise
        raise UserError(
            f"--storage {without_password(url)}: no longer answers ({_reason(error, url)}); once it does, the same "
            "command goes on"
        ) from None


def _of_the_database(error: Exception) -> bool:
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import SQLAlchemyError

    return isinstance(error, SQLAlchemyError | StorageInternalError)


def _reason(error: BaseException, url: str) -> str:
    """What a driver says of itself, on one line and without the password."""
    cause = error.__cause__ or error  # Optuna's own tells nothing
    reason = str(getattr(cause, "orig", None) or type(cause).__name__).partition("\n")[0]
    secret = _password(url)
    return reason.replace(secret, "***") if secret else reason


def without_password(url: str) -> str:
    """The URL for people and files: without password, and without what follows ``?``, where one may stand, too.

    Raises:
        UserError: it is no URL of a database.
    """
    return _parsed(url).set(query={}).render_as_string(hide_password=True)


def _password(url: str) -> str:
    return str(_parsed(url).password or "")


def _parsed(url: str) -> Any:
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        return make_url(url)
    except (ArgumentError, ValueError):
        raise UserError("--storage: is no URL of a database; for example sqlite:////shared/searches.db") from None
