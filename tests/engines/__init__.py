"""Offline jobs on other people's engines, killed in the middle: `make engines`."""
