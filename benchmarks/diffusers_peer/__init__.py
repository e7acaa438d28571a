"""The peer: diffusers' own modules with this project's weights, and the reference's training loop over them."""
