"""Token ids in, token ids out: sampling, stopping, incremental text, forward passes and the decode loop."""
