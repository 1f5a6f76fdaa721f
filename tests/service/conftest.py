"""A small module of its own, `shop`, served from a real database, so that these tests depend on no other module."""

from __future__ import annotations

import asyncio
import enum
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Annotated, Any
from uuid import UUID

import asyncpg
import httpx
import msgspec
import pytest
import pytest_asyncio
import uvicorn
from sqlalchemy import CheckConstraint, ForeignKey, Index
from sqlalchemy.orm import Mapped, mapped_column
from sqlalchemy.schema import CreateTable

from headwater.kernel.caller import Caller
from headwater.kernel.errors import NotFound, StateConflict, Unauthenticated
from headwater.kernel.lifecycle import Headwater
from headwater.kernel.models import Keyed, Model, Timestamped, Versioned
from headwater.kernel.module import Module, System
from headwater.kernel.repository import Repository
from headwater.kernel.resource import resource
from headwater.kernel.routes import Route
from headwater.kernel.settings import Settings
from headwater.kernel.transaction import Transaction
from headwater.service.app import create_app


class PartColour(enum.StrEnum):
    """What a product looks like."""

    RED = "red"
    BLUE = "blue"


class Part(Keyed, Timestamped, Versioned, Model, schema="shop_test"):
    """Something to buy."""

    __tablename__ = "products"
    __table_args__ = (
        CheckConstraint("stock >= 0", name="stock"),
        Index("products_colour_idx", "colour"),
    )

    sku: Mapped[str] = mapped_column(unique=True)
    name: Mapped[str] = mapped_column(info={"meta": msgspec.Meta(min_length=1, max_length=200)})
    price: Mapped[Decimal]
    stock: Mapped[int] = mapped_column(server_default="0", info={"meta": msgspec.Meta(ge=0, le=1_000_000)})
    colour: Mapped[PartColour | None]
    tags: Mapped[list[str]] = mapped_column(server_default="{}")
    specifications: Mapped[dict[str, Any]] = mapped_column(server_default="{}")
    cost: Mapped[int] = mapped_column(server_default="7", info={"private": True})


class Remark(Keyed, Model, schema="shop_test"):
    """A remark on a product. It has no version."""

    __tablename__ = "notes"

    part_id: Mapped[UUID] = mapped_column(ForeignKey("shop_test.products.id"), index=True)
    said: Mapped[str]


class Sale(msgspec.Struct, kw_only=True):
    """How many to sell."""

    quantity: Annotated[int, msgspec.Meta(ge=1)]


class Lines(msgspec.Struct, kw_only=True):
    """Nested input."""

    lines: list[Sale]
    comment: str = ""


class Total(msgspec.Struct, kw_only=True):
    """An answer that is no entity."""

    quantity: int
    products: list[Part]


class Ends(msgspec.Struct, kw_only=True):
    """Query parameters of several kinds."""

    ids: list[int] = []
    exact: bool = False
    above: float | None = None
    colour: PartColour | None = None


class Seen(msgspec.Struct, kw_only=True):
    """The query as it arrived."""

    ids: list[int]
    exact: bool
    above: float | None
    colour: PartColour | None


async def sell(part_id: UUID, body: Sale, tx: Transaction, products: Repository[Part]) -> Part:
    product = await products.lock(tx, part_id)
    if product.stock < body.quantity:
        raise StateConflict(f"Only {product.stock} are left.", remedy="Order fewer.", stock=product.stock)
    return (await products.update(tx, part_id, stock=product.stock - body.quantity)).new


async def count_up(body: Lines, products: Repository[Part]) -> Total:
    page = await products.list()
    return Total(quantity=sum(line.quantity for line in body.lines), products=list(page.items))


async def echo(query: Ends) -> Seen:
    return Seen(ids=query.ids, exact=query.exact, above=query.above, colour=query.colour)


async def read_number(number: int) -> Seen:
    if number == 404:
        raise NotFound("There is no such number.")
    return Seen(ids=[number], exact=True, above=None, colour=None)


async def whoami(caller: Caller | None) -> dict[str, Any]:
    return {"name": caller.name if caller else None}


async def break_down() -> None:
    raise RuntimeError("secret inside")


class Gates:
    """Lets a test hold requests inside a handler."""

    def __init__(self) -> None:
        self.inside = 0
        self.entered = asyncio.Condition()
        self.open = asyncio.Event()

    async def wait_for(self, inside: int) -> None:
        async with self.entered:
            await self.entered.wait_for(lambda: self.inside >= inside)


_gates: dict[int, Gates] = {}


async def hold(headwater: Headwater) -> None:
    gates = _gates[id(headwater)]
    async with gates.entered:
        gates.inside += 1
        gates.entered.notify_all()
    try:
        await gates.open.wait()
    finally:
        gates.inside -= 1


PRODUCT = {
    "id": "0198c0de-0000-7000-8000-000000000001",
    "sku": "HD-20",
    "name": "Harmonic drive",
    "price": "129.50",
    "stock": 4,
    "colour": "red",
    "tags": ["drive"],
    "specifications": {"ratio": 100},
    "created_at": "2026-01-01T00:00:00Z",
    "updated_at": "2026-01-01T00:00:00Z",
    "version": 1,
}

ROUTES: tuple[Route, ...] = (
    *resource(Part, path="/v1/shop/products", module="shop", examples=PRODUCT),
    *resource(Remark, path="/v1/shop/notes", module="shop", read_scope=True),
    Route(
        method="POST",
        path="/v1/shop/products/{part_id}/sales",
        handler=sell,
        summary="Sell some",
        scope="shop:part:sell",
        raises=(NotFound, StateConflict),
        body_example={"quantity": 1},
    ),
    Route(method="POST", path="/v1/shop/totals", handler=count_up, summary="Add up", public=True),
    Route(method="GET", path="/v1/shop/echo", handler=echo, summary="Say the query"),
    Route(method="GET", path="/v1/shop/whoami", handler=whoami, summary="Say who asks"),
    Route(method="GET", path="/v1/shop/numbers/{number}", handler=read_number, summary="Say the number"),
    Route(method="GET", path="/v1/shop/numbers/largest", handler=break_down, summary="Fail"),
    Route(method="GET", path="/v1/shop/hold", handler=hold, summary="Wait"),
)

SHOP = Module(name="shop", package="shop", summary="A shop for tests.")
vars(SHOP)["routes"] = ROUTES
vars(SHOP)["models"] = (Part, Remark)
vars(SHOP)["seed"] = None
SYSTEM = System("shop", [SHOP], "A shop.")

SELLER = Caller(id=UUID(int=1), name="seller", scopes=frozenset({"shop:*:*"}))
OTHER = Caller(id=UUID(int=2), name="other", scopes=frozenset({"shop:*:*"}))
READER = Caller(id=UUID(int=3), name="reader", scopes=frozenset({"shop:*:read"}))
KEYS = {"seller-key": SELLER, "other-key": OTHER, "reader-key": READER}


async def authenticate(key: str) -> Caller:
    """Three keys are known."""
    if key not in KEYS:
        raise Unauthenticated("The key is not known.")
    return KEYS[key]


_TABLES = [
    "create schema shop_test",
    "create schema headwater",
    "create type partcolour as enum ('red', 'blue')",
    """create table headwater.idempotency_key (
        caller_id uuid not null, key text not null, route text not null, request_sha256 bytea not null, status int,
        headers jsonb, body bytea, created_at timestamptz not null default now(), primary key (caller_id, key))""",
]


@pytest_asyncio.fixture
async def shop_database(empty_database: str) -> str:
    """A database with the tables of the shop and the kernel's table of idempotency keys."""
    from headwater.kernel.rows import DIALECT

    connection = await asyncpg.connect(empty_database)
    try:
        for statement in _TABLES:
            await connection.execute(statement)
        for model in (Part, Remark):
            await connection.execute(str(CreateTable(model.__table__).compile(dialect=DIALECT)))
    finally:
        await connection.close()
    return empty_database


@pytest.fixture
def shop_settings(shop_database: str) -> Settings:
    return Settings(database_url=shop_database)


@pytest_asyncio.fixture
async def shop(shop_settings: Settings) -> AsyncIterator[Headwater]:
    """The shop's open data layer."""
    async with Headwater.open(SYSTEM, shop_settings) as opened:
        yield opened


@pytest.fixture
def gates(shop: Headwater) -> Gates:
    """Holds requests to /v1/shop/hold until it is opened."""
    return _gates.setdefault(id(shop), Gates())


@pytest.fixture
def app(shop: Headwater) -> Any:
    return create_app(shop, authenticate=authenticate)


def client_of(app: Any, key: str | None = None) -> httpx.AsyncClient:
    """A client that talks to the app in this process."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://shop", headers=headers)


@pytest_asyncio.fixture
async def anyone(app: Any) -> AsyncIterator[httpx.AsyncClient]:
    """A client without a key."""
    async with client_of(app) as client:
        yield client


@pytest_asyncio.fixture
async def seller(app: Any) -> AsyncIterator[httpx.AsyncClient]:
    """A client that may do everything in the shop."""
    async with client_of(app, "seller-key") as client:
        yield client


@pytest_asyncio.fixture
async def product(shop: Headwater) -> Part:
    """One product with four in stock."""
    async with shop.transaction() as tx:
        return await shop.repository(Part).create(
            tx, sku="HD-20", name="Harmonic drive", price=Decimal("129.50"), stock=4, colour=PartColour.RED
        )


@asynccontextmanager
async def serve(app: Any) -> AsyncIterator[str]:
    """The app behind a real uvicorn on a port of its own; its address."""
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(app, http="httptools", log_level="error", lifespan="off", timeout_graceful_shutdown=2)
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        await serving
        listener.close()
