"""Each recipe is killed half-way and resumed: every row has one result."""

from collections.abc import Callable
from pathlib import Path

import pytest

from .jobs import ENGINES, Job, asked, provider, until_asked

ROWS = 600


@pytest.mark.timeout(300)
@pytest.mark.parametrize("engine", ["local", *ENGINES])
def test_a_job_that_is_killed_goes_on(
    engine: str, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """Nothing is lost, nothing is there twice, and few rows were asked twice."""
    rows = 200 if engine == "local" else ROWS
    with provider() as server:
        job = Job(engine, tmp_path, rows, server.base_url())
        process = job.start()
        try:
            until_asked(server, rows // 2, process)
        finally:
            job.end(process)
        before = asked(server)
        job.finish()
        assert job.answers() == [*range(rows)]
        twice = asked(server) - rows
        record_property("asked before it was killed", before)
        record_property("asked twice", twice)
        assert 0 <= twice <= rows // 2
