"""Loggers of our own for a Trainer."""

# Its setup.py imports pkg_resources, and pip builds with the newest setuptools unless told otherwise.
VISDOM_BUILD = " (should it not build: pip install 'setuptools<81' wheel && pip install --no-build-isolation visdom)"
