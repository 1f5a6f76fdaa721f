"""A new revision from the models: complete, readable, and nothing left to write after it is applied."""

from __future__ import annotations

from pathlib import Path

import pytest

from headwater.kernel import revision_files
from headwater.kernel.errors import InvalidValue, PendingMigrations
from headwater.kernel.migrations import migrate
from headwater.kernel.module import System
from headwater.kernel.new_revision import new_revision
from headwater.kernel.settings import Settings
from headwater.kernel.tracking import Tracked
from headwater.modules.identity import MODULE as IDENTITY
from headwater.systems.everything import EVERYTHING

from .workshop import Workshop


@pytest.fixture
def workshop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workshop:
    monkeypatch.syspath_prepend(str(tmp_path))
    return Workshop(tmp_path)


_MODELS = """
from __future__ import annotations
import enum
from typing import Any
from uuid import UUID
from sqlalchemy import CheckConstraint, Enum, ForeignKey, Index
from sqlalchemy.orm import Mapped, mapped_column
from headwater.kernel.models import Keyed, Model

class {prefix}Kind(enum.Enum):
    NEW = "new"
    USED = "it's used"

class {prefix}Shelf(Keyed, Model, schema="{schema}"):
    __tablename__ = "shelves"
    name: Mapped[str] = mapped_column(unique=True)

class {prefix}Good(Keyed, Model, schema="{schema}"):
    __tablename__ = "goods"
    __table_args__ = (CheckConstraint("price >= 0", name="price"), Index(None, "shelf_id"))
    shelf_id: Mapped[UUID] = mapped_column(ForeignKey("{schema}.shelves.id"))
    owner_id: Mapped[UUID] = mapped_column(ForeignKey("users.id"))
    price: Mapped[int]
    metadata_: Mapped[dict[str, Any]] = mapped_column("metadata", server_default="{{}}")
    kind: Mapped[{prefix}Kind] = mapped_column(
        Enum({prefix}Kind, name="kind", schema="{schema}", values_callable=lambda k: [m.value for m in k]))
"""


async def test_a_new_revision_is_written_from_the_models_and_then_nothing_is_left_to_write(
    database: str, workshop: Workshop
) -> None:
    shop = workshop.module("shop", "identity")
    schema = workshop.package
    text = _MODELS.format(prefix=schema.title().replace("_", ""), schema=schema)
    (shop.migrations.parent / "models.py").write_text(text)
    system, settings = System("shop", [IDENTITY, shop]), Settings(database_url=database)
    path = await new_revision(system, settings, "shop", "The first goods.")
    assert path.name == "0001_the_first_goods.py"
    written = revision_files.read(system).of("shop")[0]
    assert (written.revision, written.name, written.down) == ("shop_0001", "The first goods", ())
    assert written.depends_on[0] == "kernel_0004"
    assert any(needed.startswith("identity_") for needed in written.depends_on)
    with pytest.raises(PendingMigrations, match="shop_0001"):
        await new_revision(system, settings, "shop", "too early")
    await migrate(system, settings)
    second = await new_revision(system, settings, "shop", "nothing")
    assert second.name == "0002_nothing.py"
    assert second.read_text().rstrip().endswith("def upgrade() -> None:\n    pass")
    assert 'down_revision = "shop_0001"\nbranch_labels = None\ndepends_on = None' in second.read_text()


async def test_what_the_models_say_of_the_change_stream_is_carried_by_the_next_revision(
    database: str, workshop: Workshop
) -> None:
    shop = workshop.module("shop", "identity")
    schema = workshop.package
    text = _MODELS.format(prefix=schema.title().replace("_", ""), schema=schema)
    (shop.migrations.parent / "models.py").write_text(text)
    system, settings = System("shop", [IDENTITY, shop]), Settings(database_url=database)
    model = shop.models[0]
    name = f"{schema}.{model.__tablename__}"
    model.__tracked__ = Tracked("keys")
    first = await new_revision(system, settings, "shop", "tracked")
    assert f"select headwater.track('{name}', 'keys')" in first.read_text()
    await migrate(system, settings)
    assert "track" not in (await new_revision(system, settings, "shop", "nothing")).read_text().partition("def")[2]
    await migrate(system, settings)
    model.__tracked__ = Tracked("off")
    last = await new_revision(system, settings, "shop", "no more")
    assert f"select headwater.untrack('{name}')" in last.read_text()


async def test_a_new_revision_of_an_unknown_module_is_refused(database: str) -> None:
    for module, message in (
        ("shoop", "x"),
        ("trading", "..."),
    ):
        with pytest.raises(InvalidValue):
            await new_revision(EVERYTHING, Settings(database_url=database), module, message)
