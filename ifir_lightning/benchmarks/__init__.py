"""What a model is evaluated on: one file per benchmark."""
