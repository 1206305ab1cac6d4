"""Ways between latents: directions, timelines, easing."""
