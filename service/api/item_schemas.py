"""What the reader process says of items and codes, as OpenAPI shows it."""
