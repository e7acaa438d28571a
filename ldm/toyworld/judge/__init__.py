"""The network that scores images of the little world: its data, weights and answers."""
