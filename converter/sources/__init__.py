"""What lies behind a SOURCE string: raw samples by index, one kind of source a file."""
