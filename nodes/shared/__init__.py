"""What all nodes share: descriptions, the rules of LATENT, loops, scalings, the posterior."""
