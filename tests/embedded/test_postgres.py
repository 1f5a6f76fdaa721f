"""The embedded PostgreSQL: made, started, stopped, and never in its own way after something was killed."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from headwater.embedded.home import Home
from headwater.embedded.postgres import EmbeddedPostgres
from headwater.embedded.processes import ended, living_in
from headwater.kernel.errors import RefusedError, Unreachable

PARENT = """
import asyncio, sys
from headwater.embedded.postgres import EmbeddedPostgres
async def main():
    async with EmbeddedPostgres(sys.argv[1], durable=False):
        print("ready", flush=True)
        await asyncio.sleep(600)
asyncio.run(main())
"""


@pytest.fixture(scope="module")
def made_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cluster for the tests of this file; each starts and stops it."""
    return tmp_path_factory.mktemp("postgres") / "home"


@pytest.fixture
def killed_parent(made_home: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that has started the cluster. The test kills it."""
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(made_home)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    assert parent.stdout.readline() == "ready\n"
    yield parent
    parent.kill()
    parent.wait()
    parent.stdout.close()


async def answer(dsn: str, question: str = "select 1") -> object:
    connection = await asyncpg.connect(dsn)
    try:
        return await connection.fetchval(question)
    finally:
        await connection.close()


async def until(dsn: str, question: str) -> None:
    """Ask until the answer is yes."""
    async with asyncio.timeout(30):
        while not await answer(dsn, question):
            pass


def sleeper(*, user: int | None = None) -> subprocess.Popen[bytes]:
    """Some process that has nothing to do with us."""
    return subprocess.Popen(["sleep", "600"], user=user)


async def test_it_answers_on_loopback_and_on_its_socket_with_a_password_and_nowhere_else(made_home: Path) -> None:
    async with EmbeddedPostgres(made_home, durable=False) as postgres:
        assert await answer(postgres.dsn) == 1
        assert await answer(postgres.socket_dsn, "show listen_addresses") == "127.0.0.1"
        assert await answer(postgres.dsn, "show data_checksums") == "on"
        with pytest.raises(asyncpg.InvalidPasswordError):
            await answer(postgres.dsn.replace("headwater:", "headwater:x"))
        with pytest.raises(asyncpg.InvalidPasswordError):
            await answer(postgres.socket_dsn.replace("headwater:", "headwater:x"))
        assert (made_home / "postgres.secret").stat().st_mode & 0o077 == 0
        assert postgres.port < 32768
    assert not living_in(made_home / "postgres", "postgres")


async def test_nothing_in_its_configuration_can_make_it_listen_elsewhere(made_home: Path) -> None:
    postgres = EmbeddedPostgres(made_home, durable=False)
    await postgres.start()
    await answer(postgres.dsn, "alter system set listen_addresses = '*'")
    await postgres.stop()
    await postgres.start()
    try:
        assert await answer(postgres.dsn, "show listen_addresses") == "127.0.0.1"
    finally:
        await postgres.stop()


async def test_rows_and_port_survive_a_stop(made_home: Path) -> None:
    async with EmbeddedPostgres(made_home, durable=False) as postgres:
        port = postgres.port
        await answer(postgres.dsn, "create table kept as select 7 as number")
    async with EmbeddedPostgres(made_home, durable=False) as postgres:
        assert await answer(postgres.dsn, "select number from kept") == 7
        assert postgres.port == port


async def test_a_taken_port_makes_it_choose_another(made_home: Path) -> None:
    async with EmbeddedPostgres(made_home, durable=False) as postgres:
        port = postgres.port
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", port))
        taken.listen()
        async with EmbeddedPostgres(made_home, durable=False) as postgres:
            assert postgres.port != port
            assert await answer(postgres.dsn) == 1


async def test_a_parent_killed_with_sigkill_takes_the_server_with_it(
    made_home: Path, killed_parent: subprocess.Popen[str]
) -> None:
    servers = living_in(made_home / "postgres", "postgres")
    assert len(servers) > 1
    killed_parent.kill()
    assert await ended(servers, within_seconds=30)


async def test_after_a_killed_parent_the_next_start_succeeds_at_once(
    made_home: Path, killed_parent: subprocess.Popen[str]
) -> None:
    killed_parent.kill()
    async with EmbeddedPostgres(made_home, durable=False) as postgres:
        assert await answer(postgres.dsn) == 1


async def test_a_killed_postmaster_with_a_busy_child_does_not_stop_the_next_start(made_home: Path) -> None:
    async with EmbeddedPostgres(made_home, durable=False) as postgres:
        connection = await asyncpg.connect(postgres.dsn)
        # A loop without a wait does not notice that the postmaster has gone.
        busy = asyncio.create_task(connection.execute("do $$ begin loop null; end loop; end $$"))
        await until(postgres.dsn, "select count(*) = 1 from pg_stat_activity where query like 'do %'")
        postmaster = postgres.identity
        assert postmaster is not None
        os.kill(postmaster.pid, signal.SIGKILL)
        assert await ended([postmaster], within_seconds=10)
        assert postgres.died
        assert living_in(made_home / "postgres", "postgres"), "the busy child goes on"
        await postgres.start()
        assert await answer(postgres.dsn) == 1
        with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
            await busy


@pytest.mark.parametrize("whose", ["nobody's", "another process'"])
async def test_stale_lock_files_do_not_stop_it(made_home: Path, whose: str) -> None:
    async with EmbeddedPostgres(made_home, durable=False) as postgres:
        port = postgres.port
    gone = sleeper()
    gone.kill()
    gone.wait()
    # The server runs as another user than root; only a process of that user makes PostgreSQL believe the file.
    lives = sleeper(user=65534 if os.geteuid() == 0 else None)
    try:
        pid = gone.pid if whose == "nobody's" else lives.pid
        text = f"{pid}\n{made_home}/postgres\n1700000000\n{port}\n{made_home}/run\n127.0.0.1\n"
        for path in (made_home / "postgres" / "postmaster.pid", made_home / "run" / f".s.PGSQL.{port}.lock"):
            path.write_text(text)
            if os.geteuid() == 0:
                os.chown(path, 65534, 65534)
        async with EmbeddedPostgres(made_home, durable=False) as postgres:
            assert await answer(postgres.dsn) == 1
        assert lives.poll() is None, "a process that only has the number is left alone"
    finally:
        lives.kill()
        lives.wait()


async def test_a_recorded_number_that_now_belongs_to_another_process_is_left_alone(made_home: Path) -> None:
    other = sleeper()
    try:
        Home(made_home).write("postgres", {"port": 20000, "pid": other.pid, "started": "boot:1"})
        postgres = EmbeddedPostgres(made_home, durable=False)
        assert not postgres.running
        await postgres.start()
        await postgres.stop()
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


async def test_an_initdb_that_was_killed_half_way_is_begun_again(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    home.prepare()
    (home.folder("postgres.new") / "PG_VERSION").write_text("18\n")
    async with EmbeddedPostgres(home, durable=False) as postgres:
        assert await answer(postgres.dsn) == 1
    assert not (home.path / "postgres.new").exists()


async def test_a_home_with_a_long_path_and_strange_letters_works(tmp_path: Path) -> None:
    home = tmp_path / ("a home, with 'quotes' and \"more\" % " + "x" * 60)
    async with EmbeddedPostgres(home, durable=False) as postgres:
        assert await answer(postgres.dsn) == 1
        assert await answer(postgres.socket_dsn) == 1


async def test_a_cluster_of_another_version_is_refused(tmp_path: Path, made_home: Path) -> None:
    async with EmbeddedPostgres(made_home, durable=False):
        pass
    version = made_home / "postgres" / "PG_VERSION"
    version.write_text("17\n")
    try:
        with pytest.raises(RefusedError, match="was made by PostgreSQL 17"):
            await EmbeddedPostgres(made_home).start()
    finally:
        version.write_text("18\n")


async def test_a_server_that_cannot_start_says_why_in_its_own_words(made_home: Path) -> None:
    async with EmbeddedPostgres(made_home, durable=False):
        pass
    configuration = made_home / "postgres" / "postgresql.auto.conf"
    before = configuration.read_bytes()
    configuration.write_text("no_such_setting = 1\n")
    try:
        with pytest.raises(Unreachable, match="contains errors"):
            await EmbeddedPostgres(made_home).start()
    finally:
        configuration.write_bytes(before)
    assert not living_in(made_home / "postgres", "postgres")
