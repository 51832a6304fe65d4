"""The generated pages of docs/reference, and that of the core in docs/architecture: `python -m tests.docs.reference`
writes them, `make reference` does so."""

import asyncio
from collections.abc import Callable
from pathlib import Path

from tests.docs.command_line_page import command_line_page
from tests.docs.configuration_page import configuration_page
from tests.docs.core_page import core_page
from tests.docs.errors_page import errors_page
from tests.docs.events_page import events_page
from tests.docs.metrics_page import metrics_page
from tests.docs.policies_page import policies_page
from tests.docs.versions_page import versions_page

FOLDER = Path(__file__).parents[2] / "docs" / "reference"
PAGES: dict[str, Callable[[], str]] = {
    "command-line.md": command_line_page,
    "configuration.md": configuration_page,
    "errors.md": errors_page,
    "events.md": events_page,
    "metrics.md": lambda: asyncio.run(metrics_page()),
    "policies.md": policies_page,
    "versions.md": versions_page,
    "../architecture/core.md": core_page,
}

if __name__ == "__main__":
    for name, page in PAGES.items():
        (FOLDER / name).write_text(page())
