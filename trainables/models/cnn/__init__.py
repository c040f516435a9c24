"""The paper's CNN, generalised."""
