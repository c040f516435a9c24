"""Samplers propose a trial's parameters; shares decide which architecture the trial trains."""
