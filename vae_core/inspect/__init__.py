"""What is in a latent, in numbers and words."""
