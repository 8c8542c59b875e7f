"""What the tests use beside pytest: machines, meters, programs, readers and samples."""
