"""Docs: one page, every operation, nothing from elsewhere."""

from __future__ import annotations

import httpx


async def test_the_docs_page_names_every_path_and_loads_nothing_from_elsewhere(anyone: httpx.AsyncClient) -> None:
    page = await anyone.get("/docs")
    document = (await anyone.get("/openapi.json")).json()
    for path in document["paths"]:
        assert path in page.text
    assert "http://" not in page.text
    assert "https://" not in page.text
    assert "<script" not in page.text
    assert page.headers["content-security-policy"].startswith("default-src 'none'")
