"""The study on disk, in a database or in a bucket: journal, manifest, lease, checkpoints."""
