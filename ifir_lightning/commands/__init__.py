"""One file per command that is not a Trainer method."""
