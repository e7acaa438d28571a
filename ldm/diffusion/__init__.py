"""Floor 1: the noise schedule, guidance, the samplers, and the latent diffusion model that joins the networks."""
