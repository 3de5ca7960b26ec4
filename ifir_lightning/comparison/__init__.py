"""What the command ``compare`` does: run folders -> recipes -> numbers with intervals -> terminal, JSON, HTML."""
