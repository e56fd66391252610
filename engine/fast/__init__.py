"""What makes training fast on a processor. The plain path computes the same; tests hold the two together."""
