"""Fine-tune a VAE decoder: from a folder of photos to a verified file and a report."""
