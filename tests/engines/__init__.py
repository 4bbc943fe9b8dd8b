"""The recipes for offline jobs, run on their real engines."""
