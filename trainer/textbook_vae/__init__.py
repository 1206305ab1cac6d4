"""The VAE of the textbooks on digits of 28 x 28, its variants, and what can be seen of them."""
