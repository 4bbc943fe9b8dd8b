"""A real JupyterLab in Chromium, in an environment of its own: `make screenshots`."""
