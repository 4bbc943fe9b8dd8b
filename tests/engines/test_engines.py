"""Jobs on the engines, killed in the middle and resumed: every row has exactly one result."""

import os
import signal
import sqlite3
from contextlib import closing

import pytest

from .conftest import TOLD, engines
from .jobs import Job, lines
from .provider import Provider

pytestmark = [engines, pytest.mark.timeout(400)]

ROWS = 800
AT = 350
"""Of them, the answers after which the driver is killed."""


def resumed(job: Job) -> None:
    job.kill_after(AT)
    answered = job.provider.statuses[200]
    assert answered < ROWS, "it was killed in the middle"
    job.run()


def tell(job: Job, most: int) -> None:
    """How many were asked twice, which is bounded by what was under way."""
    TOLD.append(f"{job.recipe}: {job.asked_twice} of {job.rows} rows were asked twice")
    assert job.asked_twice <= most
    assert max(job.provider.asked.values()) <= 2


def test_dask_goes_on_with_the_parts_that_have_no_file() -> None:
    """A killed Dask job asks again only for the parts that were under way."""
    with Provider(0.02) as provider, Job("dask_partitions.py", provider, ROWS) as job:
        resumed(job)
        job.check(lines(*(job.folder / "answers").glob("*.jsonl")))
        tell(job, most=200)  # two workers, a hundred rows each


def test_dbos_goes_on_with_the_rows_that_were_under_way() -> None:
    """A killed DBOS job asks again only for the rows that were under way."""
    with Provider(0.02) as provider, Job("dbos_rows.py", provider, ROWS) as job:
        resumed(job)
        job.check(lines(job.folder / "answers.jsonl"))
        tell(job, most=50)  # `worker_concurrency`


def test_dbos_keeps_to_its_limit() -> None:
    """In no second are more rows taken from the queue than its limit allows."""
    with Provider(0.02) as provider, Job("dbos_rows.py", provider, 300) as job:
        job.run()
        with closing(sqlite3.connect(job.folder / "answers.sqlite")) as db:
            rows = db.execute("SELECT started_at_epoch_ms FROM workflow_status").fetchall()
        times = [moment for (moment,) in rows]
        assert len(times) == 300
        assert max(sum(t <= u < t + 1000 for u in times) for t in times) <= 100


def parquet(job: Job) -> list[tuple[int, str]]:
    from pyarrow.parquet import read_table  # noqa: PLC0415 - not everywhere installed

    rows = read_table(job.folder / "answers").to_pylist()
    assert not any(row["failed"] for row in rows)
    return [(row["id"], row["answer"]) for row in rows]


def test_ray_goes_on_from_its_checkpoint() -> None:
    """A killed Ray job asks again only for what was not yet written."""
    with Provider(0.02) as provider, Job("ray_data.py", provider, 2 * ROWS) as job:
        resumed(job)
        job.check(parquet(job))
        tell(job, most=2 * ROWS)


def test_ray_survives_the_death_of_an_actor() -> None:
    """A killed actor is replaced, in the same run, and its rows are asked again."""
    with Provider(0.02) as provider, Job("ray_data.py", provider, ROWS) as job:
        process = job.start()
        provider.wait_for(150)
        actor = next(pid for pid, name in job.tree.names().items() if "(Answer)" in name)
        os.kill(actor, signal.SIGKILL)
        job.wait(process)
        job.check(parquet(job))
        tell(job, most=ROWS)
