"""The ORM session: SQLAlchemy's own, inside the caller's transaction, with nothing left behind on the connection."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.orm import selectinload
from tests.kernel.conftest import Opener
from tests.kernel.shop import Color, Product, Review

from headwater.kernel.errors import AlreadyExists, InvalidValue, MissingReference, ProgrammingError
from headwater.kernel.lifecycle import Headwater
from headwater.kernel.orm import orm_session


async def test_session_and_repository_see_each_others_uncommitted_rows(hw: Headwater) -> None:
    products = hw.repository(Product)
    async with hw.transaction() as tx:
        made = await products.create(tx, name="a", data={"x": [1]}, color=Color.DARK_BLUE, tags=["t"])
        async with orm_session(tx) as session:
            loaded = await session.get(Product, made.id)
            assert loaded is not None
            assert (loaded.name, loaded.data, loaded.color, loaded.tags) == ("a", {"x": [1]}, Color.DARK_BLUE, ["t"])
            loaded.name = "b"
            loaded.data = {"y": {"z": None}}
            session.add(Review(product_id=made.id, author="x"))
            await session.flush()
            assert (await products.get(made.id, tx=tx)).name == "b"
        after = await products.get(made.id, tx=tx)
        assert (after.name, after.data, after.version) == ("b", {"y": {"z": None}}, 2)
        assert await hw.repository(Review).count(tx=tx) == 1
        assert await products.count() == 0
    assert await products.get(made.id) == after


async def test_what_the_database_made_can_be_read_after_the_flush(hw: Headwater) -> None:
    async with hw.transaction() as tx, orm_session(tx) as session:
        product = Product(name="a")
        session.add(product)
        await session.flush()
        assert product.id is not None
        assert (product.version, product.color, product.price) == (1, Color.RED, 0)
        product.name = "b"
        await session.flush()
        assert product.version == 2
        assert product.updated_at is not None


async def test_relationships_and_deferred_columns_can_be_loaded(hw: Headwater) -> None:
    made = await hw.repository(Product).create(hw.autocommit, name="a")
    await hw.repository(Review).create(hw.autocommit, product_id=made.id, author="x")
    async with hw.transaction() as tx, orm_session(tx) as session:
        query = select(Product).options(selectinload(Product.reviews))
        (product,) = (await session.scalars(query)).all()
        assert [r.author for r in product.reviews] == ["x"]
        assert await session.scalar(select(Product.manual)) == "a long text"


async def test_json_passes_the_same_connection_unharmed_before_and_after(open_shop: Opener) -> None:
    hw = await open_shop(pool_size_max=1)
    products = hw.repository(Product)
    value: dict[str, Any] = {"a": [1, 2.5, None, "ü", {"b": True}]}
    for turn in range(3):
        made = await products.create(hw.autocommit, name=f"p{turn}", data=value)
        async with hw.transaction() as tx:
            async with orm_session(tx) as session:
                session.add(Product(name=f"o{turn}", data=value, options=None))
            assert [p.data for p in await tx.fetch(select(Product))] == [value] * (2 * turn + 2)
        assert (await products.get(made.id)).data == value
        await products.bulk_insert(hw.autocommit, [{"name": f"b{turn}", "data": value}])
        await products.delete(hw.autocommit, (await products.find_by(Product.name == f"b{turn}")).id)  # type: ignore[union-attr]


async def test_errors_are_translated_and_undo_the_session_alone(hw: Headwater) -> None:
    products = hw.repository(Product)
    async with hw.transaction() as tx:
        made = await products.create(tx, name="a")
        for wrong, kind in (
            (Product(name="a"), AlreadyExists),
            (Review(product_id=Product.__table__.c.id.type.python_type(int=0), author="x"), MissingReference),
            (Product(name="b", price=-1), InvalidValue),
            (Product(name=None), InvalidValue),
        ):
            with pytest.raises(kind):
                async with orm_session(tx) as session:
                    session.add(Product(name="undone"))
                    await session.flush()
                    session.add(wrong)
        with pytest.raises(ProgrammingError):
            async with orm_session(tx) as session:
                await session.execute(select(Product).where(Product.name.op("nonsense")(1)))
        with pytest.raises(ZeroDivisionError):
            async with orm_session(tx) as session:
                session.add(Product(name="undone"))
                await session.flush()
                raise ZeroDivisionError
    assert (await products.list()).items == (made,)


async def test_the_transaction_undoes_what_the_session_committed(hw: Headwater) -> None:
    with pytest.raises(ZeroDivisionError):
        async with hw.transaction() as tx:
            async with orm_session(tx) as session:
                session.add(Product(name="a"))
                await session.commit()
                session.add(Product(name="b"))
                await session.rollback()
            assert await hw.repository(Product).count(tx=tx) == 1
            raise ZeroDivisionError
    assert await hw.repository(Product).count() == 0


async def test_sessions_can_follow_each_other_and_end_with_the_transaction(hw: Headwater) -> None:
    async with hw.transaction() as tx:
        for name in "abc":
            async with orm_session(tx) as session:
                session.add(Product(name=name))
    assert await hw.repository(Product).count() == 3
    with pytest.raises(ProgrammingError, match="has ended"):
        async with orm_session(tx):
            pass


async def test_a_value_is_not_an_orm_object(hw: Headwater) -> None:
    made = await hw.repository(Product).create(hw.autocommit, name="a")
    async with hw.transaction() as tx, orm_session(tx) as session:
        with pytest.raises(InvalidRequestError):
            session.add(made)
