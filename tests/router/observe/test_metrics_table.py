"""docs/metrics.md says what /metrics serves."""

from pathlib import Path

from tests.router.metrics_table import made_table

TABLE = Path(__file__).parents[3] / "docs" / "metrics.md"


async def test_every_metric_is_in_the_table_as_it_is_served():
    assert (await made_table()) == TABLE.read_text(), "make metrics-table"
