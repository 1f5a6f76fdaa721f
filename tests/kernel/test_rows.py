"""Values: immutable instances of their model's class, equal by value, that travel anywhere."""

from __future__ import annotations

import copy
import pickle
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from sqlalchemy.orm.exc import UnmappedInstanceError
from tests.kernel.shop import Category, Color, Product, Shelf

from headwater.kernel.errors import ProgrammingError
from headwater.kernel.lifecycle import Headwater
from headwater.kernel.models import Model
from headwater.kernel.queries import Queries
from headwater.kernel.rows import as_dict, bind_processor, model_of, result_processor, row_class, shape

KEY = UUID("01890000-0000-7000-8000-000000000001")


def a_product(**changes: Any) -> Product:
    names = shape(Product).names
    given = dict.fromkeys(names) | {"id": KEY, "name": "gripper", "price": 7, "color": Color.RED, "data": {"a": [1]}}
    return shape(Product).restore([(given | changes)[name] for name in names])  # type: ignore[no-any-return]


def test_a_value_is_an_instance_of_its_model_without_orm_machinery() -> None:
    value = a_product()
    assert isinstance(value, Product)
    assert isinstance(value, Model)
    assert model_of(value) is Product
    assert model_of(Product()) is Product
    assert type(value).__name__ == "Product"
    assert value.title == "Gripper"  # what the class defines works
    assert not hasattr(value, "_sa_instance_state")
    assert value.__dict__ == {}
    with pytest.raises(UnmappedInstanceError):
        sa.orm.Session().add(value)


def test_a_value_cannot_be_changed() -> None:
    value = a_product()
    for name in ("name", "price", "nonsense"):
        with pytest.raises(AttributeError, match=r"immutable. Write with Repository.update"):
            setattr(value, name, "x")
        with pytest.raises(AttributeError, match="immutable"):
            delattr(value, name)
    assert value.name == "gripper"


def test_values_are_equal_by_value_and_hash_by_key() -> None:
    assert a_product() == a_product()
    assert a_product() != a_product(price=8)
    assert hash(a_product()) == hash(a_product(price=8))
    assert len({a_product(), a_product(), a_product(price=8)}) == 2
    assert a_product() != "gripper"
    shelf = shape(Shelf).restore(["a", 1, ""])
    assert hash(shelf) == hash(shape(Shelf).restore(["a", 1, "other"]))
    assert shape(Category).restore([1, "a", None]) != shelf


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_value_survives_pickling(protocol: int) -> None:
    value = a_product()
    again = pickle.loads(pickle.dumps(value, protocol))
    assert again == value
    assert type(again) is type(value)
    assert again.color is Color.RED


def test_a_value_pickled_with_other_columns_is_refused() -> None:
    restore, (model, values) = a_product().__reduce__()  # type: ignore[misc]
    with pytest.raises(ProgrammingError, match="other columns than when"):
        restore(model, values[:-1])


def test_copies_are_equal_and_a_deep_copy_shares_nothing() -> None:
    value = a_product()
    assert copy.copy(value) == value
    deep = copy.deepcopy(value)
    assert deep == value
    deep.data["a"].append(2)
    assert value.data == {"a": [1]}


def test_a_changed_copy_leaves_the_value_as_it_is() -> None:
    value = a_product()
    changed = value.__replace__(price=8)  # type: ignore[attr-defined]  # what copy.replace calls, from Python 3.13
    assert (changed.price, changed.name, value.price) == (8, "gripper", 7)
    with pytest.raises(TypeError, match="no attribute pric"):
        value.__replace__(pric=8)  # type: ignore[attr-defined]
    with pytest.raises(TypeError):
        replace(value, price=8)  # type: ignore[type-var]  # it is no dataclass


def test_a_value_can_be_matched_by_position_and_by_name() -> None:
    match shape(Shelf).restore(["a", 1, "top"]):
        case Shelf(warehouse=w, label="top"):
            assert w == "a"
        case _:
            pytest.fail("no match")
    match shape(Shelf).restore(["a", 1, "top"]):
        case object(warehouse="b"):
            pytest.fail("no match")
    assert shape(Shelf).value_class.__match_args__ == ("warehouse", "number", "label")


def test_private_columns_are_hidden_from_view() -> None:
    value = a_product(secret="hush")
    assert value.secret == "hush"
    assert "hush" not in repr(value)
    assert "secret=***" in repr(value)
    assert "secret" not in as_dict(value)
    assert repr(shape(Shelf).restore(["a", 1, ""])) == "Shelf(warehouse='a', number=1, label='')"


def test_what_is_not_read_says_so() -> None:
    for name in ("reviews", "manual"):
        with pytest.raises(AttributeError, match=rf"Product\.{name} is not part of a value"):
            getattr(a_product(), name)


def test_values_stand_in_the_order_of_the_table() -> None:
    names = shape(Product).names
    assert names[0] == "id"
    assert names[-3:] == ("created_at", "updated_at", "version")
    assert "metadata_" in names
    assert "manual" not in names
    assert shape(Product).label == "shop.products"


def test_what_is_no_entity_has_no_shape() -> None:
    with pytest.raises(ProgrammingError, match="not an entity"):
        shape(Model)


def test_an_attribute_belongs_to_its_own_entity() -> None:
    known = shape(Product)
    for item in ("name", Product.name, Product.__table__.c.name):
        assert known.attribute(item) == "name"
    assert known.attribute(Product.metadata_) == known.attribute(Product.__table__.c.metadata) == "metadata_"
    for item in (Category.name, Category.__table__.c.name, "nonsense", 5, None, sa.func.lower(Product.name)):
        assert known.attribute(item) is None


def test_plain_types_need_no_processing_either_way() -> None:
    for kind in (sa.Uuid(), sa.Text(), sa.BigInteger(), sa.Boolean(), sa.DateTime(timezone=True), sa.JSON()):
        assert bind_processor(kind) is None
        assert result_processor(kind) is None
    for listed in (sa.ARRAY(sa.Text()), sa.ARRAY(sa.BigInteger())):
        assert bind_processor(listed) is None
        assert result_processor(listed) is None


# -- rows with names -------------------------------------------------------------------------------------------------


def test_a_row_is_reached_by_place_by_name_and_by_attribute() -> None:
    row: Any = row_class(("id", "count", "index", "no name"))([1, 2, 3, 4])
    assert (row.id, row.count, row.index) == (1, 2, 3)
    assert (row["id"], row["count"], row["no name"], row[0], row[-1], row[1:3]) == (1, 2, 4, 1, 4, (2, 3))
    assert row == (1, 2, 3, 4)
    assert repr(row) == "Row(id=1, count=2, index=3, no name=4)"
    assert pickle.loads(pickle.dumps(row)) == copy.copy(row) == row
    assert pickle.loads(pickle.dumps(row)).count == 2
    with pytest.raises(KeyError):
        row["nonsense"]
    with pytest.raises(AttributeError, match="has no column 'nonsense'; it has id, count"):
        _ = row.nonsense
    with pytest.raises(AttributeError):
        row.id = 5


def test_of_two_columns_with_one_name_the_first_is_meant() -> None:
    row: Any = row_class(("a", "a"))([1, 2])
    assert (row.a, row["a"], row[1]) == (1, 1, 2)


def test_the_classes_of_rows_are_made_once_and_bounded() -> None:
    assert row_class(("a", "b")) is row_class(("a", "b"))
    from headwater.kernel.rows import _ROWS

    for i in range(2_100):
        row_class((f"made_up_{i}",))
    assert len(_ROWS) <= 2_000
    _ROWS.clear()


async def test_a_record_of_a_named_query_is_reached_the_same_way(hw: Headwater) -> None:
    query = Queries.parse("-- name: q\nselect 1 as count, 2 as index, 3 as keys, 'x' as name")["q"]
    (record,) = await hw.postgres.fetch(query)
    assert (record.count, record.index, record["keys"], record.name, record[0]) == (1, 2, 3, "x", 1)
    with pytest.raises(AttributeError, match="has no column 'nonsense'; it has count, index, keys, name"):
        _ = record.nonsense
