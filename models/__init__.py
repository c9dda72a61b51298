"""What is learned: encoders, masked autoencoders, CNN branches, fusion, self-supervised methods."""
