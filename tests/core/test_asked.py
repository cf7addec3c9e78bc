"""What an error says of the place that was asked."""

from __future__ import annotations

import pytest
from every import every

from llmstream._core.asked import bare_url, place_asked
from llmstream._core.classify import error_from_status

URL = "http://me:secret@host.test:8000/v1/responses?key=secret#secret"
BARE = "http://host.test:8000/v1/responses"


@every(
    ("url", "bare"),
    [
        (URL, BARE),
        ("https://[::1]:1/v1", "https://[::1]:1/v1"),
        ("ftp://host/x", ""),
        ("http://", ""),
        ("http://[", ""),
        ("http://host/a\nb", ""),
        ("", ""),
    ],
)
def test_a_url_is_shown_without_secrets(url: str, bare: str) -> None:
    """Scheme, host, port and path; nothing of what is not a URL."""
    assert bare_url(url) == bare


@pytest.mark.parametrize("status", [404, 405])
def test_a_page_that_is_not_there(status: int) -> None:
    """The URL is named, and base_url only where the API itself has not answered."""
    error = error_from_status(status, b'{"detail": "Not Found"}', {}, 0.0, URL)
    assert f"{BARE}: check base_url" in str(error)
    coded = b'{"error": {"code": "model_not_found", "message": "no such model"}}'
    error = error_from_status(status, coded, {}, 0.0, URL)
    assert BARE in str(error)
    assert "base_url" not in str(error)
    assert "secret" not in str(error)


@every("status", [300, 301, 302, 303, 307, 308])
@every(
    ("location", "shown"),
    [
        ("https://you:secret@new.test/v2?token=secret#secret", "https://new.test/v2:"),
        ("/v2/responses?token=secret", "http://host.test:8000/v2/responses:"),
        ("//new.test/v1", "http://new.test/v1:"),
    ],
)
def test_a_redirect_says_where_to(status: int, location: str, shown: str) -> None:
    """Without the query and the user of its Location, and says to change base_url."""
    error = error_from_status(status, b"", {"location": location}, 0.0, URL)
    assert f"redirects to {shown}" in str(error)
    assert "base_url" in str(error)
    assert "secret" not in str(error)


@pytest.mark.parametrize("location", ["", "http://[", "javascript:alert(1)", "mailto:a@b"])
def test_a_redirect_to_nowhere(location: str) -> None:
    """Where there is no Location that can be one, what was asked is named all the same."""
    error = error_from_status(301, b"", {"location": location}, 0.0, URL)
    assert f"{BARE}: change base_url" in str(error)


def test_other_statuses_name_no_place() -> None:
    """And none is made up where the URL is not known."""
    assert place_asked(500, False, {}, URL, "") == ""
    assert place_asked(404, False, {}, "", "") == ""
    assert "the proxy X" in place_asked(403, False, {}, URL, "the proxy X")
    assert place_asked(403, True, {}, URL, "the proxy X") == ""
