"""Collected in its own environment only: `make screenshots`."""

from importlib.util import find_spec

collect_ignore_glob = [] if find_spec("playwright") else ["*"]
