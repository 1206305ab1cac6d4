"""Figures of what a VAE makes of photos, and the pictures beside them."""
