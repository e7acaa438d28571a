"""The judge, a network that scores images of the toy world: its data, weights and answers."""
