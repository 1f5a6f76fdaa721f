"""django-hordak: double entry in Django, as it is shipped: `Account.transfer_to` in `transaction.atomic`, 16 threads.

It checks no balance and locks no account (a balance is the sum of the legs), so that it does less than the others.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import asyncpg
import django
from django.conf import settings

_THREADS = 16
_DATABASE = "hordak"

# Accounts of no tree, many at once: what the ORM makes one by one.
_FILL = """
insert into hordak_account (uuid, name, code, full_code, type, currencies, is_bank_account, lft, rght, tree_id, level)
select gen_random_uuid(), n::text, n::text, n::text, 'AS', '["USD"]', false, 1, 2, n, 0
from generate_series(1, $1::int) n
"""


class DjangoHordak:
    """A database of its own in the same server; each thread has its connection."""

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        self._pool = pool

    @classmethod
    async def open(cls, dsn: str, accounts: int) -> DjangoHordak:
        connection = await asyncpg.connect(dsn)
        await connection.execute(f"create database {_DATABASE}")
        await connection.close()
        _configure(dsn)
        pool = ThreadPoolExecutor(_THREADS)
        await asyncio.get_running_loop().run_in_executor(pool, _migrate)
        parts = urlsplit(dsn)
        connection = await asyncpg.connect(parts._replace(path=f"/{_DATABASE}").geturl())
        await connection.execute("alter table hordak_account disable trigger user")  # they rebuild codes row by row
        await connection.execute(_FILL, accounts)
        await connection.execute("alter table hordak_account enable trigger user")
        await connection.execute("vacuum analyze")
        await connection.close()
        return cls(pool)

    async def transfer(self, _number: int, debit: int, credit: int, amount: int) -> None:
        await asyncio.get_running_loop().run_in_executor(self._pool, _transfer, debit, credit, amount)

    async def close(self) -> None:
        self._pool.shutdown()


def _configure(dsn: str) -> None:
    parts = urlsplit(dsn)
    where = parse_qs(parts.query)
    database: dict[str, Any] = {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": _DATABASE,
        "USER": unquote(parts.username or ""),
        "PASSWORD": unquote(parts.password or ""),
        "HOST": where["host"][0],
        "PORT": where["port"][0],
        "CONN_MAX_AGE": None,
    }
    settings.configure(
        DATABASES={"default": database},
        INSTALLED_APPS=["django.contrib.contenttypes", "django.contrib.auth", "mptt", "hordak"],
        USE_TZ=True,
        DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
        DEFAULT_CURRENCY="USD",
        CURRENCIES=["USD"],
    )
    django.setup()


def _migrate() -> None:
    from django.core.management import call_command

    call_command("migrate", verbosity=0, interactive=False)


def _transfer(debit: int, credit: int, amount: int) -> None:
    from django.db import transaction
    from hordak.models import Account
    from moneyed import Money

    with transaction.atomic():
        both = Account.objects.in_bulk((debit, credit))
        both[debit].transfer_to(both[credit], Money(amount, "USD"))
