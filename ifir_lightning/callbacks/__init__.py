"""What happens beside training: validation, curves, throughput."""
