"""Tables and tasks, and how they become batches."""
