"""Train, validate and explain retrievers that follow instructions."""

__version__ = "0.1.0"
