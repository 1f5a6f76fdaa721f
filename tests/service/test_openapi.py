"""OpenAPI: the document is complete, and schemathesis finds no request that the service treats otherwise."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest_asyncio
from tests.service.conftest import serve

from headwater.kernel import seeds
from headwater.kernel.lifecycle import Headwater
from headwater.service.app import create_app


async def test_it_documents_every_operation_with_what_it_takes_and_answers(anyone: httpx.AsyncClient) -> None:
    document = (await anyone.get("/openapi.json")).json()
    assert document["openapi"] == "3.1.0"
    create = document["paths"]["/v1/shop/products"]["post"]
    assert create["security"] == [{"bearer": ["shop:part:write"]}, {"apiKey": ["shop:part:write"]}]
    assert [p["name"] for p in create["parameters"]] == ["Idempotency-Key"]
    body = document["components"]["schemas"]["NewPart"]
    assert body["additionalProperties"] is False
    assert set(body["required"]) == {"sku", "name", "price"}
    assert set(body["properties"]) == {"sku", "name", "price", "stock", "colour", "tags", "specifications"}
    assert body["properties"]["stock"]["maximum"] == 1_000_000
    assert set(create["responses"]) == {"201", "400", "401", "403", "409", "413", "415", "422", "500", "503"}
    shown = document["components"]["schemas"]["Part"]["properties"]
    assert "cost" not in shown
    assert shown["created_at"] == {"type": "string", "format": "date-time"}
    read = document["paths"]["/v1/shop/products/{part_id}"]["get"]
    assert {"200", "304", "401", "404", "422"} <= set(read["responses"])
    assert "security" not in read
    listed = document["paths"]["/v1/shop/products"]["get"]
    assert {"sku", "colour", "limit"} <= {p["name"] for p in listed["parameters"]}


async def test_references_of_the_document_lead_somewhere(anyone: httpx.AsyncClient) -> None:
    document = (await anyone.get("/openapi.json")).json()

    def references(value: Any) -> list[str]:
        if isinstance(value, dict):
            return [v for k, v in value.items() if k == "$ref"] + [r for v in value.values() for r in references(v)]
        return [r for v in value for r in references(v)] if isinstance(value, list) else []

    for reference in references(document):
        at = document
        for step in reference.removeprefix("#/").split("/"):
            at = at[step]


async def test_generators_of_clients_get_cursors_and_if_match_as_parameters(anyone: httpx.AsyncClient) -> None:
    strict = (await anyone.get("/openapi.json")).json()["paths"]["/v1/shop/products"]["get"]
    assert strict["x-issued-parameters"] == [{"$ref": "#/components/parameters/Cursor"}]
    loose = (await anyone.get("/openapi.json?for=clients")).json()["paths"]
    assert {"$ref": "#/components/parameters/Cursor"} in loose["/v1/shop/products"]["get"]["parameters"]
    assert {"$ref": "#/components/parameters/IfMatch"} in loose["/v1/shop/products/{part_id}"]["patch"]["parameters"]


@pytest_asyncio.fixture
async def whole(headwater: Headwater) -> AsyncIterator[tuple[str, str]]:
    """The address of the whole product, served with its seeds, and an admin key."""
    from headwater.modules.identity.repository import ensure_admin_key

    await seeds.seed(headwater)
    key = await ensure_admin_key(headwater)
    async with serve(create_app(headwater)) as address:
        yield address, key


async def test_examples_of_reads_are_true_of_the_seeds(whole: tuple[str, str]) -> None:
    address, key = whole
    async with httpx.AsyncClient(base_url=address, headers={"X-API-Key": key}) as client:
        document = (await client.get("/openapi.json")).json()
        for path, item in document["paths"].items():
            operation = item.get("get")
            if operation is None or path == "/api/admin/keys/{key_id}":
                continue  # keys are not seeded
            parameters = operation.get("parameters", [])
            target = path
            for one in parameters:
                if one["in"] == "path":
                    target = target.replace(f"{{{one['name']}}}", one["example"])
            query = {one["name"]: one["example"] for one in parameters if one["in"] == "query" and "example" in one}
            response = await client.get(target, params=query)
            assert response.status_code == 200, f"{target} {query}: {response.text}"


async def test_schemathesis_finds_nothing(whole: tuple[str, str], tmp_path: Path) -> None:
    import asyncio

    address, key = whole
    options = (
        "--checks all --phases examples,fuzzing,stateful --max-examples 3 --seed 1 --no-shrink --no-color "
        "--generation-database none --request-timeout 60"
    )
    command = [str(Path(sys.executable).with_name("schemathesis")), "run", f"{address}/openapi.json"]
    command += ["--header", f"Authorization: Bearer {key}", *options.split()]
    process = await asyncio.create_subprocess_exec(
        *command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=tmp_path
    )
    said, _ = await process.communicate()
    assert process.returncode == 0, said.decode()[-6_000:]
