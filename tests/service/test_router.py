"""Router: exact segments win, parameters are taken as they come, and what is declared twice is refused."""

from __future__ import annotations

import pytest

from headwater.kernel.errors import ProgrammingError
from headwater.service.router import Router


def made(*paths: str) -> Router[str]:
    router: Router[str] = Router()
    for path in paths:
        router.add("GET", path, path)
    return router


def found(router: Router[str], path: str) -> tuple[str, list[str]] | None:
    at = router.find(path)
    return None if at is None else (at[0].by_method["GET"], at[1])


def test_exact_segments_win_and_lead_back_when_they_end_nowhere() -> None:
    router = made("/users/{id}", "/users/wallet/{address}", "/users/{id}/stats", "/users/{id}/{what}/{which}")
    assert found(router, "/users/7") == ("/users/{id}", ["7"])
    assert found(router, "/users/wallet") == ("/users/{id}", ["wallet"])
    assert found(router, "/users/wallet/abc") == ("/users/wallet/{address}", ["abc"])
    assert found(router, "/users/wallet/abc/def") == ("/users/{id}/{what}/{which}", ["wallet", "abc", "def"])
    assert found(router, "/users/7/stats") == ("/users/{id}/stats", ["7"])
    assert found(router, "/users/7/other") is None
    assert found(router, "/users") is None
    assert found(router, "/users/") is None


def test_segments_decoded_one_by_one_may_hold_slashes() -> None:
    router = made("/files/{name}")
    at = router.find("/files/a/b", ["", "files", "a/b"])
    assert at is not None
    assert at[1] == ["a/b"]


@pytest.mark.parametrize("path", ["users", "/users/", "/users/{id}.json", "/users/x{id}"])
def test_a_path_of_the_wrong_form_is_refused(path: str) -> None:
    with pytest.raises(ProgrammingError):
        made(path)


def test_two_names_for_one_parameter_are_one_path() -> None:
    with pytest.raises(ProgrammingError, match="declared twice"):
        made("/users/{id}", "/users/{user_id}")
