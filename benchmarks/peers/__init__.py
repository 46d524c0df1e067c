"""What people write today for the same job: held against Preheat, in the same rounds."""
