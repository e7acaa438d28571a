"""Floor 0: the networks. Module paths are the keys of the official Stable Diffusion v1 checkpoint."""
