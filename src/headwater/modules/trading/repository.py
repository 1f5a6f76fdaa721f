"""The verbs of trading: run commands against the market, read the order book and the market.

Matching and settlement happen in one function of the database (`migrations/0003_matching.sql`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated
from uuid import UUID

import msgspec
from sqlalchemy import ColumnElement, select

from headwater.kernel.cached import Tag, cached, json_of
from headwater.kernel.errors import MissingReference, NotFound, StateConflict, VersionConflict
from headwater.kernel.pages import JsonPage, Page
from headwater.kernel.postgres import Postgres, Runner
from headwater.kernel.queries import Queries
from headwater.kernel.repository import Repository
from headwater.kernel.rows import shape
from headwater.kernel.transaction import Transaction, run
from headwater.modules.blockchain.models import Asset
from headwater.modules.trading.commands import Answer, Cancel, Outcome, Place, call_of
from headwater.modules.trading.desk import Desk
from headwater.modules.trading.models import Order, OrderStatus, Side, Trade

QUERIES = Queries.load(__package__)

DEPTH_MAX = 500
"""Price levels a side that one answer may show."""

_Count = Annotated[int, msgspec.Meta(ge=0)]


class Level(msgspec.Struct, frozen=True):
    """The orders that wait at one price: how many, and the quantity they still want."""

    price: int
    quantity: int
    orders: _Count


class OrderBook(msgspec.Struct, frozen=True):
    """What waits to be bought (bids, highest first) and sold (asks, lowest first), by price level.

    `spread` is best ask less best bid, and null when a side is empty. It is never negative: orders that cross meet.
    """

    asset_id: UUID
    bids: list[Level]
    asks: list[Level]
    best_bid: int | None
    best_ask: int | None
    spread: int | None


class Market(msgspec.Struct, frozen=True):
    """One asset's market: its best prices now, and what was traded."""

    asset_id: UUID
    symbol: str
    name: str
    resting_orders: _Count
    best_bid: int | None
    best_ask: int | None
    spread: int | None
    last_price: int | None
    trades: _Count
    traded_quantity: int
    traded_value: int


class MarketSummary(msgspec.Struct, frozen=True):
    """The whole market: orders by status, what was traded, and the most traded assets."""

    orders_open: _Count
    orders_partially_filled: _Count
    orders_filled: _Count
    orders_cancelled: _Count
    trades: _Count
    traded_value: int
    markets: list[Market]


class _Totals(msgspec.Struct, frozen=True):
    orders_open: int
    orders_partially_filled: int
    orders_filled: int
    orders_cancelled: int
    trades: int
    traded_value: int


class TradeRepository(Repository[Trade]):
    """The fills. Written by the matcher alone."""


class TradingRepository(Repository[Order]):
    """Orders and the book they make. Prices and amounts are in minor units, quantities in the asset's smallest unit."""

    def __init__(self, postgres: Postgres) -> None:
        super().__init__(postgres)
        self._trades = TradeRepository(postgres)

    async def run(self, tx: Transaction, commands: Sequence[Place | Cancel]) -> list[Outcome]:
        """Run commands in the order given, by one statement, and tell what became of each.

        Orders are matched by price, then by time, at the price of the one that waited. What an order needs is reserved
        in the ledger, and each fill moves through an escrow there, in the caller's transaction. A refused command
        changes nothing and stops nothing. Raises InvalidValue for a malformed price or quantity, before anything runs.

        The markets of the commands are locked until the transaction ends, then the accounts. A transaction of several
        calls can therefore meet another one crosswise: put the commands into one call, or open it with
        `Headwater.run`, which runs again after a deadlock.
        """
        tx.require_block("run()")
        if not commands:
            return []
        name, arguments = call_of(commands)
        return await tx.fetch(QUERIES[name], into=Outcome, **arguments)

    async def submit(self, command: Place | Cancel) -> Outcome:
        """Run one command, committed when this returns. Concurrent callers travel together, in the order they came.

        Raises InvalidValue for a malformed price or quantity, Unreachable when the connection broke: the command may
        then have been committed or not.
        """
        call_of([command])
        desk = self.postgres.loaders.get(Desk)
        if desk is None:
            desk = self.postgres.loaders[Desk] = Desk(self._run_alone)
        assert isinstance(desk, Desk)
        return await desk.submit(command)

    async def _run_alone(self, commands: Sequence[Place | Cancel]) -> list[Outcome]:
        return await run(self.postgres, lambda tx: self.run(tx, commands))

    async def place_order(
        self, tx: Transaction, *, user_id: UUID, asset_id: UUID, side: Side, price: int, quantity: int
    ) -> Order:
        """Place an order, and return it as it stands after it was matched. One statement.

        Raises MissingReference for an unknown user or asset, InvalidValue for a price or quantity out of range,
        StateConflict when the user cannot pay for it.
        """
        place = Place(user_id=user_id, asset_id=asset_id, side=side, price=price, quantity=quantity)
        [outcome] = await self.run(tx, [place])
        if outcome.outcome is Answer.NO_USER:
            raise MissingReference(
                "trading.orders: there is no such user.", remedy="Check the id.", columns=["user_id"]
            )
        if outcome.outcome is Answer.NO_ASSET:
            raise MissingReference(
                "trading.orders: there is no such asset.", remedy="Check the id.", columns=["asset_id"]
            )
        if outcome.outcome is Answer.INSUFFICIENT_FUNDS:
            raise _cannot_pay(place)
        return _order(outcome)

    async def cancel_order(self, tx: Transaction, order_id: UUID, *, version: int | None = None) -> Order:
        """Take what is not filled yet out of the book, and give back what it reserved. One statement, which a fill at
        the same moment cannot pass.

        Raises NotFound; StateConflict for an order that is filled or cancelled; VersionConflict if `version` is not its
        version any more.
        """
        [outcome] = await self.run(tx, [Cancel(order_id=order_id, version=version)])
        if outcome.outcome is Answer.CANCELLED:
            return _order(outcome)
        if outcome.outcome is Answer.NO_ORDER:
            raise NotFound(f"There is no order {order_id}.", remedy="Check the id.", order_id=str(order_id))
        current = _order(outcome)
        if outcome.outcome is Answer.NOT_OPEN:
            raise StateConflict(
                f"The order {order_id} is {current.status.value} and cannot be cancelled.",
                remedy="Only an open or partially filled order can be cancelled.",
                order_id=str(order_id),
                status=current.status.value,
            )
        raise VersionConflict(
            f"The order {order_id} has version {current.version}, not {version}: it has changed since it was read.",
            current=current,
            remedy="Read it again and decide anew.",
            current_version=current.version,
        )

    async def trades(
        self, asset_id: UUID, *, limit: int = 50, cursor: str | None = None, tx: Runner | None = None
    ) -> Page[Trade]:
        """A page of the trades of an asset, the newest first."""
        return await self._trades.list(
            Trade.asset_id == asset_id, order=(Trade.executed_at.desc(),), limit=limit, cursor=cursor, tx=tx
        )

    async def orders(
        self,
        *,
        user_id: UUID | None = None,
        asset_id: UUID | None = None,
        side: Side | None = None,
        status: OrderStatus | None = None,
        limit: int = 50,
        cursor: str | None = None,
        tx: Runner | None = None,
    ) -> Page[Order]:
        """A page of orders, the newest first, narrowed by what is given."""
        where = _fitting(user_id, asset_id, side, status)
        return await self.list(*where, order=(Order.created_at.desc(),), limit=limit, cursor=cursor, tx=tx)

    async def orders_json(
        self,
        *,
        user_id: UUID | None = None,
        asset_id: UUID | None = None,
        side: Side | None = None,
        status: OrderStatus | None = None,
        limit: int = 50,
        cursor: str | None = None,
        tx: Runner | None = None,
    ) -> JsonPage[Order]:
        """The page that `orders` gives, as JSON."""
        where = _fitting(user_id, asset_id, side, status)
        return await self.list_json(*where, order=(Order.created_at.desc(),), limit=limit, cursor=cursor, tx=tx)

    @cached(
        "order_book",
        tags=lambda asset_id, depth: (Tag(Order, asset_id=asset_id), Tag(Asset, id=asset_id)),
        ttl_seconds=60,
    )
    async def order_book(self, asset_id: UUID, depth: int = 20, *, tx: Runner | None = None) -> OrderBook:
        """The best `depth` price levels of each side, both as of one moment. Raises NotFound for an unknown asset."""
        runner = tx or self.postgres
        rows = await runner.fetch(QUERIES["order_book"], asset_id=asset_id, depth=depth)
        if not rows and await runner.fetch_value(select(Asset.id).where(Asset.id == asset_id)) is None:
            raise NotFound(f"There is no asset {asset_id}.", remedy="Check the id.", asset_id=str(asset_id))
        sides: dict[str, list[Level]] = {"buy": [], "sell": []}
        for row in rows:
            sides[row.side].append(Level(price=int(row.price), quantity=int(row.quantity), orders=row.orders))
        bids, asks = sides["buy"], sides["sell"]
        return OrderBook(
            asset_id=asset_id,
            bids=bids,
            asks=asks,
            best_bid=bids[0].price if bids else None,
            best_ask=asks[0].price if asks else None,
            spread=asks[0].price - bids[0].price if bids and asks else None,
        )

    order_book_json = json_of(order_book)

    @cached("market_analytics", tags=lambda limit: (Tag(Order), Tag(Trade), Tag(Asset)), ttl_seconds=1800)
    async def market_summary(self, *, limit: int = 20, tx: Runner | None = None) -> MarketSummary:
        """Orders by status, what was traded, and the `limit` most traded assets."""
        runner = tx or self.postgres
        totals: _Totals = await runner.fetch_one(QUERIES["market_totals"], into=_Totals)
        markets: list[Market] = await runner.fetch(QUERIES["markets"], into=Market, limit=limit)
        return MarketSummary(**msgspec.structs.asdict(totals), markets=markets)

    market_summary_json = json_of(market_summary)


def _order(outcome: Outcome) -> Order:
    """The order of an outcome, as the value that reads return."""
    order: Order = shape(Order).restore([getattr(outcome, name) for name in shape(Order).names])
    return order


def _cannot_pay(place: Place) -> StateConflict:
    buying = place.side is Side.BUY
    need = place.price * place.quantity if buying else place.quantity
    what = "the market's currency" if buying else "the asset"
    return StateConflict(
        f"The user {place.user_id} cannot pay for the order: it needs {need} of {what}.",
        remedy="Credit the account of the user in the ledger, cancel other orders, or place a smaller one.",
        user_id=str(place.user_id),
        asset_id=str(place.asset_id),
        needed=need,
        status=Answer.INSUFFICIENT_FUNDS.value,
    )


def _fitting(
    user_id: UUID | None, asset_id: UUID | None, side: Side | None, status: OrderStatus | None
) -> list[ColumnElement[bool]]:
    return [
        column == wanted
        for column, wanted in (
            (Order.user_id, user_id),
            (Order.asset_id, asset_id),
            (Order.side, side),
            (Order.status, status),
        )
        if wanted is not None
    ]
