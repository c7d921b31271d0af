"""The paper: Q-Former, canvas, masking, the denoising loop, losses, recognition."""
