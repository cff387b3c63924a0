"""What every sampler shares: templates, inputs, seeds, stops, digests, and the calls that wait for groups."""
