"""A resource over HTTP: declare the routes, and the service parses, answers and documents them."""

from __future__ import annotations

import asyncio
from typing import Annotated
from uuid import UUID

import httpx
import msgspec
from sqlalchemy.orm import Mapped
from throwaway import create_tables, database

from headwater import Headwater, JsonPage, Keyed, Model, Repository, Settings, System, Timestamped, Versioned
from headwater.kernel.errors import InvalidValue, NotFound
from headwater.kernel.routes import Route
from headwater.service.app import create_app


class Note(Keyed, Timestamped, Versioned, Model):
    """A note on a board."""

    __tablename__ = "notes"

    text: Mapped[str]


class Paging(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Where in the listing."""

    limit: Annotated[int, msgspec.Meta(ge=1, le=100)] = 50
    cursor: str | None = None


async def get_note(note_id: UUID, notes: Repository[Note]) -> Note:
    return await notes.get(note_id)


async def list_notes(query: Paging, notes: Repository[Note]) -> JsonPage[Note]:
    return await notes.list_json(limit=query.limit, cursor=query.cursor)


# A module keeps these in its routes.py; `routes=` of create_app is for operations that belong to no module.
ROUTES = (
    Route(method="GET", path="/api/notes", handler=list_notes, summary="List notes", raises=(InvalidValue,)),
    Route(method="GET", path="/api/notes/{note_id}", handler=get_note, summary="Read a note", raises=(NotFound,)),
)


async def main() -> None:
    async with database() as dsn, Headwater.open(System("board", []), Settings(database_url=dsn)) as headwater:
        await create_tables(headwater, Note)
        note = await headwater.repository(Note).create(headwater.autocommit, text="Buy bearings")

        transport = httpx.ASGITransport(app=create_app(headwater, routes=ROUTES))
        async with httpx.AsyncClient(transport=transport, base_url="http://board") as client:
            answer = await client.get(f"/api/notes/{note.id}")
            print(answer.status_code, answer.json()["text"])
            again = await client.get(f"/api/notes/{note.id}", headers={"If-None-Match": answer.headers["ETag"]})
            print(again.status_code, "unchanged")

            wrong = await client.get("/api/notes/17")
            print(wrong.status_code, wrong.headers["content-type"])
            print((await client.get("/api/notes", params={"limit": 0})).status_code, "limit out of range")
            print((await client.get("/api/notes", params={"colour": "red"})).status_code, "unknown parameter")
            document = (await client.get("/openapi.json")).json()
            print(document["openapi"], [path for path in document["paths"] if path.startswith("/api/notes")])


asyncio.run(main())

# It prints:
# 200 Buy bearings
# 304 unchanged
# 422 application/problem+json
# 422 limit out of range
# 422 unknown parameter
# 3.1.0 ['/api/notes', '/api/notes/{note_id}']
