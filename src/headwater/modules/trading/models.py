"""Markets, orders, the book, trades and escrows: the tables of trading."""

from __future__ import annotations

import enum
from datetime import datetime
from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKey, Index, Integer, SmallInteger, func
from sqlalchemy.orm import Mapped, mapped_column

from headwater.kernel.amounts import WholeNumber
from headwater.kernel.models import Keyed, Model, Timestamped, Versioned, native_enum
from headwater.kernel.tracking import Tracked


class Side(enum.Enum):
    """What an order wants to do."""

    BUY = "buy"
    SELL = "sell"


class OrderStatus(enum.Enum):
    """Where an order stands. Filled and cancelled are final."""

    OPEN = "open"
    PARTIALLY_FILLED = "partially_filled"
    FILLED = "filled"
    CANCELLED = "cancelled"


class EscrowState(enum.Enum):
    """What happened to money that waits between a buyer and a seller. Released and refunded are final."""

    HELD = "held"
    RELEASED = "released"
    REFUNDED = "refunded"
    DISPUTED = "disputed"


class Settlement(enum.Enum):
    """When the two sides of a fill get what they traded: at once, or when its escrow is released."""

    IMMEDIATE = "immediate"
    ON_RELEASE = "on_release"


_side = native_enum(Side, name="order_side", schema="trading")
_order_status = native_enum(OrderStatus, name="order_status", schema="trading")
_escrow_state = native_enum(EscrowState, name="escrow_state", schema="trading")
_settlement = native_enum(Settlement, name="settlement", schema="trading")

_KEPT = {"enforced": False}
"""A rule that the matcher keeps by itself, and triggers against every other writer: migrations/0003_constraints.sql."""


class OpenMarket(Model, schema="trading"):
    """The market of one asset: the currency it is traded in, and how its fills settle. Its row locks its book.

    `money_id` and `token_id` are assets of the ledger, the escrows are accounts there; `batches` counts its changes.
    """

    __tablename__ = "markets"

    asset_id: Mapped[UUID] = mapped_column(
        ForeignKey("blockchain.assets.id", info={"message": "trading.markets: there is no such asset."}),
        primary_key=True,
    )
    currency: Mapped[str]
    settlement: Mapped[Settlement] = mapped_column(_settlement, server_default="immediate")
    money_id: Mapped[int] = mapped_column(Integer)
    token_id: Mapped[int] = mapped_column(Integer)
    money_escrow: Mapped[int]
    token_escrow: Mapped[int]
    batches: Mapped[int] = mapped_column(server_default="0")
    opened_at: Mapped[datetime] = mapped_column(server_default=func.now())


class RestingOrder(Model, schema="trading"):
    """The book: what is left of each resting order, its hold in the ledger, and where its proceeds go.

    Only the matcher writes it. It is narrow and apart from `orders`, so that a fill changes one column that no index
    holds. `rank` is the price of a sell and the negative price of a buy: the lowest is the best on both sides. `number`
    says who came first.
    """

    __tablename__ = "resting"
    __table_args__ = (
        CheckConstraint("remaining > 0", name="remaining"),
        Index("resting_priority_idx", "asset_id", "side", "rank", "number", unique=True),
    )

    order_id: Mapped[UUID] = mapped_column(primary_key=True)
    asset_id: Mapped[UUID]
    side: Mapped[Side] = mapped_column(_side)
    rank: Mapped[int] = mapped_column(WholeNumber())
    number: Mapped[int]
    user_id: Mapped[UUID]
    remaining: Mapped[int] = mapped_column(WholeNumber())
    hold_id: Mapped[UUID]
    pays: Mapped[int]
    receives: Mapped[int]


class Latch(Model, schema="trading"):
    """One row, in which whoever writes references past the matcher meets whoever removes what is referred to."""

    __tablename__ = "latch"

    id: Mapped[int] = mapped_column(SmallInteger, primary_key=True, autoincrement=False)
    turns: Mapped[int] = mapped_column(server_default="0")


class Order(Keyed, Timestamped, Versioned, Model, schema="trading"):
    """A wish to buy or sell a quantity of an asset at a price or better."""

    __tablename__ = "orders"
    __tracked__ = Tracked("full", tags=("asset_id", "user_id"))
    __table_args__ = (
        CheckConstraint("price > 0", name="price", info=_KEPT),
        CheckConstraint("quantity > 0", name="quantity", info=_KEPT),
        CheckConstraint("filled_quantity between 0 and quantity", name="filled_quantity", info=_KEPT),
        # The ledger moves price * quantity when the order is filled: it must be an amount.
        CheckConstraint("price * quantity < 1e38", name="value", info=_KEPT),
        CheckConstraint(
            "case status when 'open' then filled_quantity = 0"
            " when 'partially_filled' then filled_quantity > 0 and filled_quantity < quantity"
            " when 'filled' then filled_quantity = quantity"
            " else filled_quantity < quantity end",
            name="status",
            info=_KEPT,
        ),
        CheckConstraint("(status = 'cancelled') = (cancelled_at is not null)", name="cancelled_at", info=_KEPT),
        Index("orders_user_id_created_at_id_idx", "user_id", "created_at", "id"),
        Index("orders_asset_id_created_at_id_idx", "asset_id", "created_at", "id"),
        Index("orders_created_at_id_idx", "created_at", "id"),
    )

    user_id: Mapped[UUID] = mapped_column(
        ForeignKey("users.id", info={"message": "trading.orders: there is no such user."})
    )
    asset_id: Mapped[UUID] = mapped_column(
        ForeignKey("blockchain.assets.id", info=_KEPT | {"message": "trading.orders: there is no such asset."})
    )
    side: Mapped[Side] = mapped_column(_side)
    price: Mapped[int] = mapped_column(WholeNumber())
    quantity: Mapped[int] = mapped_column(WholeNumber())
    filled_quantity: Mapped[int] = mapped_column(WholeNumber(), server_default="0")
    status: Mapped[OrderStatus] = mapped_column(_order_status, server_default="open")
    cancelled_at: Mapped[datetime | None]


class Trade(Keyed, Model, schema="trading"):
    """A fill: a buy and a sell order met at a price. Never changed."""

    __tablename__ = "trades"
    __tracked__ = Tracked("full", tags=("asset_id",))
    __table_args__ = (
        CheckConstraint("price > 0", name="price", info=_KEPT),
        CheckConstraint("quantity > 0", name="quantity", info=_KEPT),
        CheckConstraint("buy_order_id <> sell_order_id", name="orders", info=_KEPT),
        Index("trades_asset_id_executed_at_id_idx", "asset_id", "executed_at", "id"),
        Index("trades_buy_order_id_idx", "buy_order_id"),
        Index("trades_sell_order_id_idx", "sell_order_id"),
    )

    asset_id: Mapped[UUID] = mapped_column(ForeignKey("blockchain.assets.id", info=_KEPT))
    buy_order_id: Mapped[UUID] = mapped_column(ForeignKey("trading.orders.id", info=_KEPT))
    sell_order_id: Mapped[UUID] = mapped_column(ForeignKey("trading.orders.id", info=_KEPT))
    taker_side: Mapped[Side] = mapped_column(_side)
    price: Mapped[int] = mapped_column(WholeNumber())
    quantity: Mapped[int] = mapped_column(WholeNumber())
    executed_at: Mapped[datetime] = mapped_column(server_default=func.now())


class Escrow(Keyed, Timestamped, Versioned, Model, schema="trading"):
    """Money between a buyer and a seller. Only the ledger's settlement makes and moves these."""

    __tablename__ = "escrows"
    __tracked__ = Tracked("full", tags=("buyer_id", "seller_id"))
    __table_args__ = (
        CheckConstraint("amount > 0", name="amount", info=_KEPT),
        CheckConstraint("buyer_id <> seller_id", name="parties", info=_KEPT),
        CheckConstraint(
            "(state in ('released', 'refunded')) = (settled_at is not null)", name="settled_at", info=_KEPT
        ),
        Index("escrows_buyer_id_idx", "buyer_id"),
        Index("escrows_seller_id_idx", "seller_id"),
    )

    trade_id: Mapped[UUID | None] = mapped_column(ForeignKey("trading.trades.id", info=_KEPT), unique=True)
    buyer_id: Mapped[UUID] = mapped_column(ForeignKey("users.id", info=_KEPT))
    seller_id: Mapped[UUID] = mapped_column(ForeignKey("users.id", info=_KEPT))
    amount: Mapped[int] = mapped_column(WholeNumber())
    state: Mapped[EscrowState] = mapped_column(_escrow_state, server_default="held")
    settled_at: Mapped[datetime | None]
