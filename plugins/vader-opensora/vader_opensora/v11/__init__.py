"""Open-Sora 1.1: STDiT2, its conditions and its image autoencoder; texts, sizes and references are 1.2's."""
