"""Loggers of our own for a Trainer."""

# Visdom's setup.py imports pkg_resources, and pip builds with the newest setuptools unless told otherwise.
BUILD_VISDOM = " (should it not build: pip install 'setuptools<81' wheel && pip install --no-build-isolation visdom)"
