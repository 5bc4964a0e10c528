"""The built-in demo model: its corpus, training, weights and card."""
