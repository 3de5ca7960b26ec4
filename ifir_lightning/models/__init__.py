"""The transformer and what turns its hidden states into scores."""
