"""What every sampler shares: templates, inputs, seeds, stops, digests, and calls that wait."""
