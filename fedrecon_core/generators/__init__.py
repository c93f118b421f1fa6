"""The variational autoencoders of the modalities and the mapping models between their latents."""
