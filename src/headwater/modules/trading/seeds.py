"""Seeds of trading: a market with a past and a book that has depth on both sides and does not cross.

Traders have in the ledger what their orders need. In the demo what is filled has moved through escrows, and the last
two markets settle on release, so that there are escrows to decide. The trades of the load profile are from before the
ledger: they have no escrow.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import count, islice
from typing import Any
from uuid import UUID

from sqlalchemy import select

from headwater.kernel.seeds import FIRST_KEY, LAST_KEY, Sowing
from headwater.kernel.transaction import Transaction
from headwater.modules.blockchain.models import Asset, PriceFeed
from headwater.modules.identity.models import User
from headwater.modules.ledger.repository import LedgerRepository, Move, id_of
from headwater.modules.trading.markets import MarketRepository, token_of
from headwater.modules.trading.models import (
    Escrow,
    EscrowState,
    OpenMarket,
    Order,
    OrderStatus,
    Settlement,
    Side,
    Trade,
)

MARKETS = 12
"""Assets that get a market in the demo profile."""
LOAD_MARKETS = 200
"""Assets that get a market in the load profile, beside those of the demo."""
LEVELS = 10
LOAD_SHARE = 0.35
"""Which part of the rows of `load:N` are orders and trades."""
LOAD_FIRST = 1_000_001
"""Numbers from here on belong to the load profile, so that it can be planted beside the demo."""

TRADERS = 5
"""Users who trade one asset in the load profile."""
ON_RELEASE = 2
"""Markets of the demo that settle when an escrow is released."""
_MOVES = 1_000

Row = Mapping[str, Any]


async def seed(sowing: Sowing) -> None:
    """Orders in every status for the first assets, and the trades that explain what is filled."""
    users = await sowing.tx.fetch(
        select(User.id).where(User.id.between(FIRST_KEY, LAST_KEY)).order_by(User.id).limit(1_000)
    )
    newest = (
        select(PriceFeed.price)
        .where(PriceFeed.symbol == Asset.symbol, PriceFeed.observed_at <= sowing.now)
        .order_by(PriceFeed.observed_at.desc(), PriceFeed.id.desc())
        .limit(1)
        .scalar_subquery()
    )
    assets = await sowing.tx.fetch(
        select(Asset.id, newest.label("price"))
        .where(Asset.id.between(FIRST_KEY, LAST_KEY))
        .order_by(Asset.id)
        .limit(MARKETS if sowing.profile == "demo" else MARKETS + LOAD_MARKETS)
    )
    if len(users) < 2 or not assets:
        return
    user_ids, asset_ids = [row.id for row in users], [row.id for row in assets]
    if sowing.profile == "demo":
        mids = [max(1_000, int((row.price or 250) * 100)) for row in assets]
        orders, trades = _Demo(sowing, user_ids, asset_ids, mids).grow()
        escrows = list(_escrows(sowing, orders, trades, asset_ids[-ON_RELEASE:]))
        desk = _Desk(sowing.tx, asset_ids)
        sowing.added["trading.markets"] = await desk.open(asset_ids[-ON_RELEASE:])
        await desk.endow(orders)
        await desk.settle(trades, escrows)
        await sowing.plant(Order, orders, total=len(orders))  # the book takes the open ones in, and reserves for them
        await sowing.plant(Trade, trades, total=len(trades))
        await sowing.plant(Escrow, escrows, total=len(escrows))
        return
    asset_ids = asset_ids[MARKETS:] or asset_ids  # those of the demo have their prices
    pairs = max(1, int(sowing.rows * LOAD_SHARE / 2.25))  # a pair is two orders, and every fourth one a trade
    desk = _Desk(sowing.tx, asset_ids)
    sowing.added["trading.markets"] = await desk.open(())
    await desk.endow(row for row in _load_orders(sowing, user_ids, asset_ids, pairs))
    await sowing.plant(Order, _load_orders(sowing, user_ids, asset_ids, pairs), total=2 * pairs)
    await sowing.plant(Trade, _load_trades(sowing, asset_ids, pairs), total=(pairs + 3) // 4)


class _Desk:
    """Opens the markets, and moves in the ledger what the seeded orders need and what the seeded trades have moved.

    The transfers have ids of their own that follow from what they are for: sowing again moves nothing again, and
    `clear`, which leaves the ledger's history alone, does not stumble over them.
    """

    def __init__(self, tx: Transaction, asset_ids: list[UUID]) -> None:
        self._tx = tx
        self._ledger = LedgerRepository(tx.postgres)
        self._markets = MarketRepository(tx.postgres)
        self._asset_ids = asset_ids
        self._open: dict[UUID, OpenMarket] = {}
        self._accounts: dict[tuple[UUID, str], int] = {}

    async def open(self, on_release: Sequence[UUID]) -> int:
        """Open the markets that are not open yet; how many these were."""
        opened = 0
        for asset_id in self._asset_ids:
            found = await self._markets.find(asset_id, tx=self._tx)
            if found is None:
                settlement = Settlement.ON_RELEASE if asset_id in on_release else Settlement.IMMEDIATE
                found = await self._markets.open_market(self._tx, asset_id, settlement=settlement)
                opened += 1
            self._open[asset_id] = found
        return opened

    async def endow(self, orders: Iterable[Row]) -> None:
        """Issue to each trader what all of their orders are worth: money for the buys, tokens for the sells."""
        needs: dict[tuple[UUID, str], int] = defaultdict(int)
        owners: dict[str, set[UUID]] = defaultdict(set)
        profile = 0
        for order in orders:
            market = self._open[order["asset_id"]]
            buying = order["side"] is Side.BUY
            code = market.currency if buying else token_of(order["asset_id"])
            needs[order["user_id"], code] += order["quantity"] * (order["price"] if buying else 1)
            for asset in (market.currency, token_of(order["asset_id"])):
                owners[asset].add(order["user_id"])
            profile += 1
        for code, users in sorted(owners.items()):
            accounts = await self._ledger.accounts(self._tx, "user", sorted(users), code)
            self._accounts |= {(user, code): account.id for user, account in accounts.items()}
        issuances: dict[str, int] = {}
        for code in sorted(owners):
            account = await self._ledger.account(self._tx, "system", None, code, purpose="issuance", credit_limit=None)
            issuances[code] = account.id
        await self._post(
            Move(
                id=id_of("seed", "trading", profile, user, code),
                debit=issuances[code],
                credit=self._accounts[user, code],
                amount=amount,
            )
            for (user, code), amount in sorted(needs.items())
        )

    async def settle(self, trades: list[Row], escrows: list[Row]) -> None:
        """Move what was traded into escrow, and out of it where the escrow is settled."""
        moves: list[Move] = []
        for trade, escrow in zip(trades, escrows, strict=True):
            market, token = self._open[trade["asset_id"]], token_of(trade["asset_id"])
            buyer, seller = escrow["buyer_id"], escrow["seller_id"]
            held = (
                ("money", market.currency, market.money_escrow, escrow["amount"], buyer, seller),
                ("tokens", token, market.token_escrow, trade["quantity"], seller, buyer),
            )
            for what, code, account, amount, payer, receiver in held:
                paid = id_of("seed", "trade", trade["id"], what)
                moves.append(Move(id=paid, debit=self._accounts[payer, code], credit=account, amount=amount))
                to = {EscrowState.RELEASED: receiver, EscrowState.REFUNDED: payer}.get(escrow["state"])
                if to is not None:
                    out = id_of("escrow", escrow["id"], what)
                    moves.append(Move(id=out, debit=account, credit=self._accounts[to, code], amount=amount))
        await self._post(moves)

    async def _post(self, moves: Iterable[Move]) -> None:
        waiting = iter(moves)
        while some := list(islice(waiting, _MOVES)):
            for receipt in await self._ledger.post(self._tx, some):
                receipt.or_raise()


def _escrows(sowing: Sowing, orders: list[Row], trades: list[Row], on_release: list[UUID]) -> Iterator[Row]:
    """An escrow for each trade: released, or held, disputed or refunded where the market settles on release."""
    user_of = {order["id"]: order["user_id"] for order in orders}
    waiting = (EscrowState.HELD, EscrowState.DISPUTED, EscrowState.REFUNDED)
    # The first is one to decide: the examples of the routes show it.
    numbers = count(1)
    later = count(len(trades) + 1)
    for trade in trades:
        held = trade["asset_id"] in on_release
        number = next(numbers) if held else next(later)
        state = waiting[(number - 1) % 3] if held else EscrowState.RELEASED
        settled = state in (EscrowState.RELEASED, EscrowState.REFUNDED)
        yield {
            "id": sowing.key("trading.escrows", number),
            "trade_id": trade["id"],
            "buyer_id": user_of[trade["buy_order_id"]],
            "seller_id": user_of[trade["sell_order_id"]],
            "amount": trade["price"] * trade["quantity"],
            "state": state,
            "settled_at": trade["executed_at"] if settled else None,
            "created_at": trade["executed_at"],
            "updated_at": trade["executed_at"],
        }


class _Demo:
    """Grows the demo market asset by asset, numbering what it plants."""

    def __init__(self, sowing: Sowing, user_ids: list[UUID], asset_ids: list[UUID], mids: list[int]) -> None:
        self.sowing = sowing
        self.random = sowing.random
        self.user_ids = user_ids[:200]
        self.markets = list(zip(asset_ids, mids, strict=True))
        self.orders: list[Row] = []
        self.trades: list[Row] = []

    def grow(self) -> tuple[list[Row], list[Row]]:
        """All orders and all trades, around what the oracles say each asset is worth."""
        for asset_id, mid in self.markets:
            tick = max(10, mid // 200)
            self._book(asset_id, mid, tick)
            self._past(asset_id, mid, tick)
        return self.orders, self.trades

    def _book(self, asset_id: UUID, mid: int, tick: int) -> None:
        """Open orders on both sides, deeper away from the middle; the best of each side is partly filled."""
        for level in range(LEVELS):
            for side, price in ((Side.BUY, mid - tick * (level + 1)), (Side.SELL, mid + tick * (level + 1))):
                for _ in range(self.random.choice((1, 1, 2, 3))):
                    self._order(asset_id, side, price, 5 * self.random.randrange(1, 6 + 3 * level))
        for side, price in ((Side.BUY, mid - tick), (Side.SELL, mid + tick)):
            quantity = 10 * self.random.randrange(3, 12)
            self._fill(asset_id, side, price, quantity, quantity // self.random.choice((2, 3)))

    def _past(self, asset_id: UUID, mid: int, tick: int) -> None:
        """What is over: orders that were filled, and some that were cancelled."""
        for _ in range(6):
            side = self.random.choice((Side.BUY, Side.SELL))
            quantity = 5 * self.random.randrange(1, 12)
            self._fill(asset_id, side, mid + self.random.randrange(-3, 4) * tick // 2, quantity, quantity)
        for side, price in ((Side.BUY, mid - 2 * tick), (Side.SELL, mid + 3 * tick)):
            self._order(asset_id, side, price, 20, status=OrderStatus.CANCELLED)
        self._fill(asset_id, Side.BUY, mid, 40, 10, cancelled=True)

    def _fill(
        self, asset_id: UUID, side: Side, price: int, quantity: int, filled: int, *, cancelled: bool = False
    ) -> None:
        """A resting order that another one met, wholly or in part, and their trade."""
        if cancelled:
            status = OrderStatus.CANCELLED
        else:
            status = OrderStatus.FILLED if filled == quantity else OrderStatus.PARTIALLY_FILLED
        maker = self._order(asset_id, side, price, quantity, filled=filled, status=status)
        other = Side.SELL if side is Side.BUY else Side.BUY
        taker = self._order(
            asset_id, other, price, filled, filled=filled, status=OrderStatus.FILLED, not_by=maker["user_id"]
        )
        buy, sell = (maker, taker) if side is Side.BUY else (taker, maker)
        self.trades.append(
            {
                "id": self.sowing.key("trading.trades", len(self.trades) + 1),
                "asset_id": asset_id,
                "buy_order_id": buy["id"],
                "sell_order_id": sell["id"],
                "taker_side": other,
                "price": price,
                "quantity": filled,
                "executed_at": taker["created_at"],
            }
        )

    def _order(
        self,
        asset_id: UUID,
        side: Side,
        price: int,
        quantity: int,
        *,
        filled: int = 0,
        status: OrderStatus = OrderStatus.OPEN,
        not_by: UUID | None = None,
    ) -> Row:
        number = len(self.orders) + 1
        user_id = self.random.choice(self.user_ids)
        while user_id == not_by:
            user_id = self.random.choice(self.user_ids)
        placed = self.sowing.now - timedelta(days=20) + timedelta(minutes=17 * number)
        row = {
            "id": self.sowing.key("trading.orders", number),
            "user_id": user_id,
            "asset_id": asset_id,
            "side": side,
            "price": price,
            "quantity": quantity,
            "filled_quantity": filled,
            "status": status,
            "cancelled_at": placed + timedelta(hours=5) if status is OrderStatus.CANCELLED else None,
            "created_at": placed,
            "updated_at": placed,
        }
        self.orders.append(row)
        return row


def _load_orders(sowing: Sowing, user_ids: list[UUID], asset_ids: list[UUID], pairs: int) -> Iterator[Row]:
    """Pairs of a buy and a sell order: every fourth is filled, every sixteenth cancelled, the others rest apart."""
    for pair, asset_id, mid, quantity, placed in _pairs(sowing, asset_ids, pairs):
        offset = 1 + pair % 200
        filled = pair % 4 == 0
        cancelled = pair % 16 == 1
        for side, price in ((Side.BUY, mid - offset), (Side.SELL, mid + offset)):
            status = OrderStatus.FILLED if filled else OrderStatus.CANCELLED if cancelled else OrderStatus.OPEN
            number = LOAD_FIRST + 2 * pair + (side is Side.SELL)
            yield {
                "id": sowing.key("trading.orders", number),
                "user_id": user_ids[(asset_ids.index(asset_id) + number % TRADERS) % len(user_ids)],
                "asset_id": asset_id,
                "side": side,
                "price": mid if filled else price,
                "quantity": quantity,
                "filled_quantity": quantity if filled else 0,
                "status": status,
                "cancelled_at": placed if cancelled else None,
                "created_at": placed,
                "updated_at": placed,
            }


def _load_trades(sowing: Sowing, asset_ids: list[UUID], pairs: int) -> Iterator[Row]:
    """The trade of every filled pair."""
    for pair, asset_id, mid, quantity, placed in _pairs(sowing, asset_ids, pairs):
        if pair % 4 == 0:
            yield {
                "id": sowing.key("trading.trades", LOAD_FIRST + pair),
                "asset_id": asset_id,
                "buy_order_id": sowing.key("trading.orders", LOAD_FIRST + 2 * pair),
                "sell_order_id": sowing.key("trading.orders", LOAD_FIRST + 2 * pair + 1),
                "taker_side": Side.SELL,
                "price": mid,
                "quantity": quantity,
                "executed_at": placed,
            }


def _pairs(sowing: Sowing, asset_ids: list[UUID], pairs: int) -> Iterator[tuple[int, UUID, int, int, datetime]]:
    """The same pairs in every pass: number, asset, middle price, quantity, instant."""
    repeatable = random.Random("trading/load")  # noqa: S311  # repeatable on purpose
    mids = [repeatable.randrange(1_000, 40_000) * 10 for _ in asset_ids]
    step = timedelta(days=365) / pairs
    begin = sowing.now - timedelta(days=365)
    for pair, quantity in zip(range(pairs), (repeatable.randrange(1, 500) for _ in count()), strict=False):
        which = pair * 104_729 % len(asset_ids)
        yield pair, asset_ids[which], mids[which], quantity, begin + step * pair
