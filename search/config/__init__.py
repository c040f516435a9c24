"""The configuration of a study: schema, loading, search space."""
