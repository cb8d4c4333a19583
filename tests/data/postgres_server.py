"""A PostgreSQL server of a test's own: a new cluster in a temporary folder, gone afterwards."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

USER, PASSWORD = "chronoward", "hunter2:/@ü"
_DEBIAN = Path("/usr/lib/postgresql")


def find_binaries() -> Path | None:
    """The folder of initdb and pg_ctl; Debian keeps them, a folder a version, off the PATH."""
    found = shutil.which("initdb")
    places = [Path(found).resolve().parent] if found else []
    places += sorted(_DEBIAN.glob("*/bin"), key=lambda place: int(place.parent.name), reverse=True)
    return next((place for place in places if (place / "pg_ctl").exists()), None)


def unprivileged() -> dict[str, Any]:
    """Whom the server runs as, as arguments of subprocess: it refuses to be root."""
    if os.geteuid() != 0:
        return {}
    names = {entry.pw_name for entry in pwd.getpwall()}
    account = pwd.getpwnam("postgres" if "postgres" in names else "nobody")
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}


@dataclass(frozen=True)
class Server:
    """A running server; the local socket needs no password, the port asks for `PASSWORD`."""

    folder: Path
    port: int

    @property
    def uri(self) -> str:
        """Of the database `postgres`, over the socket."""
        return f"postgresql://{USER}@/postgres?host={self.folder}&port={self.port}"


@contextmanager
def running(binaries: Path) -> Iterator[Server]:
    """Makes a cluster, starts it, and stops and removes it again."""
    account = unprivileged()
    # A socket's path may have 107 bytes, pytest's folders are longer and closed to other accounts.
    folder = Path(tempfile.mkdtemp(prefix="chronoward-pg-", dir="/tmp"))
    if account:
        os.chown(folder, account["user"], account["group"])
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])

    def run(*command: str) -> None:
        subprocess.run(
            [str(binaries / command[0]), *command[1:]],
            cwd=folder,
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=60,
            **account,
        )

    cluster = str(folder / "cluster")
    (folder / "password").write_text(PASSWORD + "\n", encoding="utf-8")
    (folder / "password").chmod(0o644)
    try:
        run(
            *("initdb", "-D", cluster, "-U", USER, "--pwfile", str(folder / "password")),
            *("--auth-local=trust", "--auth-host=scram-sha-256"),
            *("--no-sync", "-E", "UTF8", "--locale=C"),
        )
        options = f"-F -p {port} -k {folder} -c listen_addresses=127.0.0.1"
        run("pg_ctl", "-D", cluster, "-w", "-l", str(folder / "log"), "-o", options, "start")
        try:
            yield Server(folder, port)
        finally:
            run("pg_ctl", "-D", cluster, "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder)
