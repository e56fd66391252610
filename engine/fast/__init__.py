"""What makes training fast. The plain path computes the same; tests hold the two together."""
