"""The generated pages of docs/reference say what the code says."""

import re
from collections.abc import Callable

import pytest

from dualmap.router.apis.routes import _GETS, _POSTS
from dualmap.router.gateway.admin import _PATHS
from dualmap.router.requests.intake import TENANT_HEADER, TIMEOUT_HEADERS, TPOT_SLO_HEADERS, TTFT_SLO_HEADERS
from dualmap.router.scaling.endpoints import METHODS
from dualmap.scheduler.commands import RejectReason
from tests.docs.configuration_page import missing_texts
from tests.docs.errors_page import REJECTED
from tests.docs.reference import FOLDER, PAGES


@pytest.mark.parametrize(("name", "page"), PAGES.items())
def test_a_generated_page_is_what_the_code_says(name: str, page: Callable[[], str]):
    assert page() == (FOLDER / name).read_text(), "make reference"


def test_a_metric_that_a_document_names_is_there():
    """With the endings of a histogram's parts."""
    known = set(re.findall(r"`(dualmap_\w+)`", (FOLDER / "metrics.md").read_text()))
    named = {
        (page.name, name)
        for page in (FOLDER.parent / "how-to").glob("*.md")
        for name in re.findall(r"\bdualmap_[a-z_]+", page.read_text())
    }
    assert len(named) > 20
    assert [(page, name) for page, name in named if not {name, re.sub(r"_(bucket|count|sum)$", "", name)} & known] == []


def test_every_key_of_the_configuration_is_explained():
    assert missing_texts() == []


def test_every_reason_to_reject_a_request_is_explained():
    assert set(REJECTED) == set(RejectReason)


def test_the_http_page_names_every_path_and_header():
    text = (FOLDER / "http-api.md").read_text()
    paths = [*_POSTS, *_GETS, *METHODS, *(p for p in _PATHS if not p.startswith("/ui/"))]
    headers = [name.decode() for name in (*TTFT_SLO_HEADERS, *TPOT_SLO_HEADERS, TENANT_HEADER, *TIMEOUT_HEADERS)]
    assert [name for name in (*paths, *headers) if f"`{name}" not in text and f" {name}`" not in text] == []
