"""Whether this process is likely one of several."""

import multiprocessing
import os
import sys


def several() -> tuple[str, int | None] | None:
    """A sign that there are several processes, and how many if that is told; `None`: no sign."""
    workers = os.environ.get("WEB_CONCURRENCY", "")
    if workers.isdecimal() and len(workers) < 6 and int(workers) > 1:  # noqa: PLR2004
        return f"WEB_CONCURRENCY is {int(workers)}", int(workers)
    if os.environ.get("SERVER_SOFTWARE", "").startswith("gunicorn"):
        return "this is a worker of gunicorn", None
    if "ray" in sys.modules and "default_worker" in (sys.argv or [""])[0]:
        return "this is a worker of Ray", None
    if multiprocessing.parent_process() is not None:  # uvicorn's workers, a pool's
        return "this is a worker process", None
    return None
